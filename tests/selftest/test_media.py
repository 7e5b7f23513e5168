from __future__ import annotations

import dataclasses
import sys

import pytest

pytest.importorskip("torch", reason="the checks run checkpoints by torch")

from doubles.torch_cuda import StandInTorchCuda  # noqa: E402

from sr_deploy.core.errors import MissingPackageError  # noqa: E402
from sr_deploy.selftest import media  # noqa: E402
from sr_deploy.selftest.checks import Check, Way  # noqa: E402
from sr_deploy.selftest.media import check_tiles, check_video  # noqa: E402

CPU = dataclasses.asdict(Way("torch cpu", {"device": "cpu", "precision": "fp32"}))


def test_tiles_equal_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(media, "PICTURE_HW", {False: (60, 70)})
    monkeypatch.setattr(media, "TILE", {False: 40})
    found = check_tiles(Check("tiles", "tiles", CPU, "asrn_x4"), tmp_path)
    assert found["found"].startswith("60x70: whole ") and "at most " in found["found"]
    assert set(found["ms"]) == {"whole", "tiles"}


def test_tiles_on_a_stand_in_for_a_gpu(tmp_path, monkeypatch):
    StandInTorchCuda(monkeypatch)
    monkeypatch.setattr(media, "PICTURE_HW", {True: (60, 70)})
    monkeypatch.setattr(media, "TILE", {True: 40})
    way = Way("torch cuda:0 fp32", {"device": "cuda:0", "precision": "fp32"}, device=True)
    found = check_tiles(Check("tiles", "tiles", dataclasses.asdict(way), "fsrcnn-w16_x4"), tmp_path)
    assert set(found["ms"]) == {"whole", "tiles"}


def test_a_short_video_is_upscaled_twice_in_one_folder(tmp_path, monkeypatch):
    pytest.importorskip("av", reason="videos need PyAV")
    monkeypatch.setattr(media, "FRAMES", 2)
    for _ in range(2):
        found = check_video(Check("video", "video", CPU, "fsrcnn-w16_x4"), tmp_path)
        assert found["found"].startswith("2 frames to 256x384 in ")


def test_without_pyav_the_pip_line_is_given(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackageError, match="a video needs the package 'av'"):
        check_video(Check("video", "video", CPU, "fsrcnn-w16_x4"), tmp_path)
