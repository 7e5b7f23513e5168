"""The pictures and the clip of the demo, and its commands."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("cv2", reason="the demo's pictures need OpenCV")

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.images import image_files, imresize, read_rgb  # noqa: E402
from sr_deploy.deploy import demo  # noqa: E402
from sr_deploy.deploy.demo import demo_steps, make_media  # noqa: E402


def test_the_pictures_are_their_originals_at_a_quarter_of_the_size(tmp_path):
    media = make_media(tmp_path / "new")
    originals = image_files(tmp_path / "new" / "originals")
    pictures = image_files(tmp_path / "new" / "photos")
    assert [p.name for p in originals] == [p.name for p in pictures] and len(pictures) >= 3
    for original, picture in zip(originals, pictures):
        assert read_rgb(picture).shape[:2] == media.size
        assert (read_rgb(picture) == imresize(read_rgb(original), scale=0.25)).all()
    assert (tmp_path / "new" / "photo.png").is_file()


def test_the_clip_lasts_two_seconds_and_moves(tmp_path):
    pytest.importorskip("av", reason="the clip needs PyAV")
    from sr_deploy.upscale.video_source import probe_video, read_frames

    assert make_media(tmp_path).no_clip == ""
    facts = probe_video(tmp_path / "clip.mp4")
    frames = [rgb for _, rgb in read_frames(tmp_path / "clip.mp4", facts)]
    assert len(frames) == 48 and facts.hw == frames[0].shape[:2]
    assert abs(frames[24].astype(int) - frames[0]).mean() > 5


def test_the_crops_of_the_package_do_where_there_are_no_other_photographs(tmp_path, monkeypatch):
    from sr_deploy.core.samples import shipped_crops

    monkeypatch.setattr(demo, "sample_files", shipped_crops)
    assert make_media(tmp_path).size == (64, 64)
    assert len(image_files(tmp_path / "photos")) == 3


def test_without_pyav_there_is_no_clip_and_no_step_for_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    media = make_media(tmp_path)
    assert "pip install" in media.no_clip
    assert not (tmp_path / "clip.mp4").exists()
    assert not [step for step in demo_steps(media, ["cpu"]) if "clip.mp4" in step.words]


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("text")
    with pytest.raises(InputError, match="already exists"):
        make_media(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_each_target_of_the_machine_gets_engines(tmp_path):
    media = make_media(tmp_path)
    steps = list(map(str, demo_steps(media, ["cpu", "rtx"])))
    for target in ("cpu", "rtx"):
        assert f"srdeploy build-engine engines/graphs/{target} --target {target}" in steps
    assert not [step for step in demo_steps(media, []) if "--fps" in step.words]
