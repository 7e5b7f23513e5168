"""Videos of any name, damaged ones, and what counts as cut off."""

from __future__ import annotations

import os
import random

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")

from reports import Reports  # noqa: E402
from video_files import Repeat, frames_of, make_video  # noqa: E402

from sr_deploy.core.errors import InputError, SrDeployError  # noqa: E402
from sr_deploy.upscale.video import upscale_video  # noqa: E402
from sr_deploy.upscale.video_file import (  # noqa: E402
    BrokenOffError,
    missing_bytes,
    open_container,
)

NAMES = [
    "Alien: 1979",
    "-o",
    "\N{GRINNING FACE}",
    "a\nb",
    "%03d",
    "concat:a|b",
    "[a]*?{1,2}",
    "\udce9",
    "x" * 246,
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_videos_of_any_name_are_read_resumed_and_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # a relative name is where a colon ends a protocol
    source, output = make_video(tmp_path / "in.mp4", 4).rename(f"{name}.mp4"), f"{name}.mkv"

    def stop(n):
        if n == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, source.with_name(output), Repeat(before=stop))
    (partial,) = [p for p in tmp_path.iterdir() if ".partial" in p.name]
    assert len(frames_of(partial)) == 2
    assert upscale_video(source, source.with_name(output), Repeat()).frames == 4
    assert sorted(os.listdir()) == sorted([f"{name}.mp4", output])


def test_null_frames_and_other_counters_are_no_evidence(tmp_path):
    times = [0, 40, 160, 200, 240]
    source = make_video(tmp_path / "in.avi", 5, codec="mpeg4", times=times)
    reports = Reports()
    summary = upscale_video(source, tmp_path / "out.mp4", Repeat(), reporter=reports.reporter)
    assert summary.frames == 5
    assert [round(float(t), 3) for t, _ in frames_of(tmp_path / "out.mp4")] == [
        t / 1000 for t in times
    ]
    assert any("frames without data are no frames" in line for line in reports.lines)


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.wmv", "wmv2"),
        ("a.flv", "flv"),
        ("a.ts", "mpeg2video"),
    ],
)
def test_missing_bytes_are_found_in_every_container(tmp_path, name, codec):
    options = {"movflags": "faststart"} if name == "a.mp4" else {}
    source = make_video(tmp_path / name, 12, codec=codec, container_options=options)
    assert missing_bytes(source) == 0
    data = source.read_bytes()
    end = data.find(b"idx1") if name == "a.avi" else len(data)
    source.write_bytes(data[: end - 300])
    assert missing_bytes(source) > 0
    with pytest.raises(BrokenOffError, match=r"cut off .*at \d\.\d\d s"):
        upscale_video(source, tmp_path / "out.mkv", Repeat())


def test_lists_of_files_are_refused(tmp_path):
    make_video(tmp_path / "a.ts", 3)
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n")
    with pytest.raises(InputError, match="list of other files"), open_container(
        tmp_path / "a.m3u8"
    ):
        pass


@pytest.mark.parametrize(
    "name, codec",
    [("a.mp4", "libx264"), ("a.mkv", "ffv1"), ("a.avi", "mpeg4"), ("a.mov", "mjpeg")],
)
def test_damaged_videos_give_clear_errors(tmp_path, capfd, name, codec):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    data = make_video(tmp_path / name, 6, codec=codec, pix_fmt=pix_fmt).read_bytes()
    for seed in range(25):
        rng = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 3, 30])):
            at = rng.choice([rng.randrange(len(data)), rng.randrange(800), -rng.randrange(1, 800)])
            damaged[at] = rng.randrange(256)
        if seed % 4 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        (tmp_path / name).write_bytes(damaged)
        try:
            upscale_video(tmp_path / name, tmp_path / f"{seed}.mkv", Repeat())
        except SrDeployError as e:
            assert len(str(e)) > 10, seed
    assert "Traceback" not in capfd.readouterr().err
