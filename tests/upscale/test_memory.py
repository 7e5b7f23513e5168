from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.pictures.formats import format_for
from sr_deploy.upscale import memory
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.output_size import OutputSize, parse_wh
from sr_deploy.upscale.pictures import Picture, upscale_pixels
from sr_deploy.upscale.upscaler import Upscaler

linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is measured on Linux only"
)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2GiB", 2 << 30),
        ("800 MiB", 800 << 20),
        ("1.5GB", 1_500_000_000),
        ("512mb", 512_000_000),
        ("64kib", 65536),
        ("1048576", 1 << 20),
    ],
)
def test_amounts_of_memory(text, expected):
    assert memory.parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "2 giraffes", "-1GiB", "0GiB", "GiB", "1e9", "2GiB each"])
def test_invalid_amounts_of_memory_are_refused(text):
    with pytest.raises(InputError, match="not an amount of memory; expected for example 2GiB"):
        memory.parse_bytes(text)


def test_amounts_are_shown_in_one_unit():
    assert memory.bytes_text(2 << 30) == "2.00 GiB" and memory.bytes_text(300 << 20) == "300 MiB"


def test_a_containers_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    4096 kB\n")
    (tmp_path / "max").write_text("3145728\n")
    (tmp_path / "current").write_text("1048576\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", ((tmp_path / "max", tmp_path / "current"),))
    assert memory.available_bytes() == 2 << 20
    (tmp_path / "max").write_text("max\n")
    assert memory.available_bytes() == 4 << 20
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    assert memory.available_bytes() is None


def hungry(blur, bytes_per_px):
    class Hungry(blur):
        def network(self, x):
            np.ones(x.shape[2] * x.shape[3] * bytes_per_px, np.uint8)
            return x

    return Hungry()


@linux
def test_the_memory_need_is_measured(sessions):
    need = memory.measure_need(
        hungry(sessions["blur"], 4000), Upscaler(hungry(sessions["blur"], 4000))._probe
    )
    assert 3000 < need.bytes_per_px < 9000


@linux
def test_tiles_fit_the_bound_and_the_estimate_holds(sessions):
    image = np.zeros((1500, 1500, 3), np.uint8)
    bound = memory.resident_bytes() + (400 << 20)
    upscaler = Upscaler(hungry(sessions["blur"], 2000), max_memory=bound)
    upscaler(image)
    plan = upscaler.plan(image.shape[:2])
    assert not plan.whole and plan.exact
    assert memory.peak_bytes() <= upscaler.estimated_bytes <= bound
    assert "OVER" not in upscaler.memory_report() and "bound" in upscaler.memory_report()


@linux
def test_a_bound_that_cannot_be_kept_is_refused_with_the_smallest(sessions):
    upscaler = Upscaler(hungry(sessions["blur"], 2000), max_memory=1 << 20)
    with pytest.raises(
        InputError, match="100x100 cannot be upscaled within 1 MiB.*need about"
    ) as caught:
        upscaler(np.zeros((100, 100, 3), np.uint8))
    smallest = memory.parse_bytes(caught.value.hint.split()[3].rstrip(","))
    Upscaler(hungry(sessions["blur"], 2000), max_memory=smallest + (64 << 20))(
        np.zeros((100, 100, 3), np.uint8)
    )


@linux
def test_the_result_counts_against_the_bound(sessions):
    bound = memory.resident_bytes() + (200 << 20)
    with pytest.raises(InputError, match="cannot be upscaled within"):
        Upscaler(sessions["blur"](), max_memory=bound).plan((10000, 5000))


@linux
def test_further_memory_of_the_caller_counts(sessions, monkeypatch):
    monkeypatch.setattr("sr_deploy.upscale.upscaler.resident_bytes", lambda: 64 << 30)
    image, estimates = np.zeros((300, 300, 3), np.uint8), []
    upscaler = Upscaler(sessions["blur"](), max_memory=65 << 30)
    for more in (0, 100):
        upscaler.upscale_rgb(image, more_per_px=more)
        estimates.append(upscaler.estimated_bytes)
    assert estimates[1] - estimates[0] == 100 * 600 * 600


@linux
def test_the_large_result_of_a_small_picture_counts(sessions):
    picture = Picture(np.zeros((24, 32, 3), np.uint8), alpha=np.zeros((24, 32), np.uint8))
    for size, alpha in itertools.product(["999999x999999", "300000x300000"], [picture.alpha, None]):
        with pytest.raises(InputError, match="24x32 cannot be upscaled within"):
            upscale_pixels(
                dataclasses.replace(picture, alpha=alpha),
                Upscaler(sessions["blur"]()),
                format_for(Path("a.png")),
                OutputSize(box=parse_wh(size)),
            )


def test_the_default_bound_is_a_share_of_the_available_memory(sessions, monkeypatch):
    monkeypatch.setattr("sr_deploy.upscale.upscaler.available_bytes", lambda: 4 << 30)
    upscaler = Upscaler(sessions["blur"]())
    upscaler(np.zeros((129, 129, 3), np.uint8))
    if memory.resident_bytes() is not None:
        assert 1 << 30 <= upscaler.max_memory <= (1 << 30) + memory.resident_bytes() + (64 << 20)


@linux
def test_processes_share_the_default_bound_and_a_given_one(sessions, monkeypatch):
    monkeypatch.setattr("sr_deploy.upscale.upscaler.available_bytes", lambda: 4 << 30)
    monkeypatch.setattr("sr_deploy.upscale.upscaler.resident_bytes", lambda: 1 << 30)
    upscaler = Upscaler(sessions["blur"](), sharing=MemorySharing(processes=4))
    upscaler.plan((129, 129))
    assert upscaler.max_memory == (1 << 30) + (256 << 20)
    given = Upscaler(sessions["blur"](), max_memory=8 << 30, sharing=MemorySharing(processes=4))
    assert given.max_memory == 2 << 30


def test_where_memory_cannot_be_measured_a_bound_is_refused_and_the_rest_works(
    sessions, monkeypatch
):
    for name in ("resident_bytes", "available_bytes", "peak_bytes"):
        monkeypatch.setattr(f"sr_deploy.upscale.upscaler.{name}", lambda: None)
    monkeypatch.setattr("sr_deploy.upscale.upscaler.measure_need", lambda session, run: None)
    with pytest.raises(InputError, match="cannot be measured on this system"):
        Upscaler(sessions["blur"](), max_memory=1 << 30)
    upscaler = Upscaler(sessions["blur"](), tile=20)
    assert upscaler(np.zeros((50, 50, 3), np.uint8)).shape == (100, 100, 3)
    assert "cannot be measured" in upscaler.memory_report()


@linux
def test_large_images_are_to_be_held_alone(sessions):
    upscaler = Upscaler(
        sessions["blur"](), max_memory=600 << 20, sharing=MemorySharing(queued_results=2)
    )
    assert not upscaler.must_run_alone((1000, 1000)) and upscaler.must_run_alone((3000, 5000))


@linux
def test_a_need_is_measured_once_for_a_network_and_small_images_need_no_probes(
    sessions, tmp_path, monkeypatch
):
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path))
    session = sessions["blur"]()
    upscaler = Upscaler(session, identity="abc")
    upscaler(np.zeros((128, 128, 3), np.uint8))
    assert session.fed == [(128, 128)]
    assert upscaler.memory_report().startswith("memory: peak ")
    upscaler(np.zeros((129, 128, 3), np.uint8))
    assert len(session.fed) == 6  # four probes
    again = sessions["blur"]()
    Upscaler(again, identity="abc")(np.zeros((129, 128, 3), np.uint8))
    assert len(again.fed) == 1
    other = sessions["blur"]()
    Upscaler(other, identity="abcd")(np.zeros((129, 128, 3), np.uint8))
    assert len(other.fed) == 5


@linux
def test_a_model_by_name_keeps_its_need_too(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path))
    upscaler = Upscaler("asrn_x2")
    upscaler.plan((200, 200))
    upscaler.close()
    assert len(list((tmp_path / "memory").iterdir())) == 1
    monkeypatch.setattr("sr_deploy.upscale.upscaler.measure_need", None)
    Upscaler("asrn_x2").plan((200, 200))
