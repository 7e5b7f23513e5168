"""Whole runs over small videos: times, streams, colour, going on, and what is refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.upscale import video, video_parts
from sr_deploy.upscale.video import upscale_video
from sr_deploy.upscale.video_mux import decoding_times
from sr_deploy.upscale.video_source import (
    BrokenOffError,
    FrameMark,
    fingerprint,
    probe_video,
    read_frames,
)

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")

from reports import Reports  # noqa: E402
from video_files import Repeat, frames_of, make_video, repeatable, streams_of  # noqa: E402

NEW = hasattr(av.container.OutputContainer, "add_stream_from_template")
LENGTH = 300
"""Frames: two whole parts of 120 and a piece."""


def times_of(path):
    return sorted(t for t, _ in streams_of(path)[0]["packets"])


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """A video with sound of three parts, and what a run at one go makes of it."""
    folder = tmp_path_factory.mktemp("long")
    source = make_video(folder / "in.mp4", LENGTH, sound=True)
    with repeatable():
        upscale_video(source, folder / "whole.mp4", Repeat())
        yield source, folder / "whole.mp4"


@pytest.mark.smoke
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_keep_their_times_and_sound_its_packets(tmp_path, suffix):
    times = [40 * n + 17 * (n % 3) for n in range(50)]
    source = make_video(tmp_path / "in.mkv", 50, times=times, sound=True)
    summary = upscale_video(source, tmp_path / f"out{suffix}", Repeat())
    made = streams_of(summary.output)
    assert [s["type"] for s in made] == ["video", "audio"]
    assert times_of(summary.output) == [Fraction(t, 1000) for t in times]
    assert [data for _, data in made[1]["packets"]] == [
        data for _, data in streams_of(source)[1]["packets"]
    ]
    assert summary.frames == 50 and "libx264 preset medium" in str(summary)
    frames = frames_of(summary.output)
    assert frames[0][1].shape == (48, 64, 3)
    error = [
        np.abs(b.astype(int) - a.repeat(2, 0).repeat(2, 1)).mean()
        for (_, a), (_, b) in zip(frames_of(source), frames)
    ]
    assert max(error) < 8  # at 32x24 and crf 18
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("out")] == [f"out{suffix}"]


@pytest.mark.parametrize("source", ["in.ts", "in.avi", "in.h264"])
def test_other_containers_and_raw_streams(tmp_path, source):
    codec = "mpeg4" if source.endswith("avi") else "libx264"
    make_video(tmp_path / source, 30, codec=codec, sound=source.endswith("ts"))
    summary = upscale_video(tmp_path / source, tmp_path / "out.mkv", Repeat())
    times = times_of(summary.output)
    assert len(times) == 30
    assert {round(float(b - a), 3) for a, b in zip(times, times[1:])} == {0.04}


@pytest.mark.parametrize("frames", [1, 2, 119, 120, 121, 240])
def test_every_number_of_frames(tmp_path, frames):
    source = make_video(tmp_path / "in.mp4", frames)
    assert upscale_video(source, tmp_path / "out.mp4", Repeat()).frames == frames
    assert times_of(tmp_path / "out.mp4") == times_of(source)
    with av.open(str(source)) as one, av.open(str(tmp_path / "out.mp4")) as two:
        assert one.duration == two.duration


def test_frames_that_are_begun_ahead_are_encoded_in_order(tmp_path):
    source = make_video(tmp_path / "in.mp4", 7)
    for ahead in (0, 1):
        upscale_video(source, tmp_path / f"{ahead}.mkv", Repeat(ahead=ahead))
    assert streams_of(tmp_path / "0.mkv") == streams_of(tmp_path / "1.mkv")


def test_a_time_that_does_not_begin_at_zero_is_kept(tmp_path):
    source = make_video(tmp_path / "in.mkv", 20, times=[1234 + 41 * n for n in range(20)])
    upscale_video(source, tmp_path / "out.mp4", Repeat())
    assert [float(t) for t in times_of(tmp_path / "out.mp4")] == pytest.approx(
        [1.234 + 0.041 * n for n in range(20)], abs=1e-9
    )


def test_subtitles_languages_and_chapters(tmp_path):
    (tmp_path / "in.srt").write_text(
        "1\n00:00:00,100 --> 00:00:00,900\nhello\n\n2\n00:00:01,000 --> 00:00:01,100\nagain\n"
    )

    def prepare(container, context):
        container.metadata["title"] = "A title"
        container.streams[0].metadata["language"] = "nor"
        if NEW:
            chapter = {
                "id": 1,
                "start": 0,
                "end": 500,
                "time_base": Fraction(1, 1000),
                "metadata": {"title": "First"},
            }
            container.set_chapters([chapter])

    source = make_video(tmp_path / "in.mkv", 30, subtitles=tmp_path / "in.srt", prepare=prepare)
    upscale_video(source, tmp_path / "out.mkv", Repeat())
    video_stream, subtitles = streams_of(tmp_path / "out.mkv")
    assert (video_stream["type"], subtitles["type"]) == ("video", "subtitle")
    assert [data for _, data in subtitles["packets"]] == [b"hello", b"again"]
    assert video_stream["metadata"]["language"] == "nor"
    with av.open(str(tmp_path / "out.mkv")) as made:
        assert made.metadata["title"] == "A title"
        if NEW:
            assert [c["metadata"]["title"] for c in made.chapters()] == ["First"]
    with pytest.raises(InputError, match="mp4 cannot hold .*subtitle, (srt|subrip)") as caught:
        upscale_video(source, tmp_path / "out.mp4", Repeat())
    assert ".mkv" in caught.value.hint


@pytest.mark.skipif(not NEW, reason="this PyAV cannot write a display matrix")
def test_rotation_and_pixel_aspect_are_kept(tmp_path):
    def prepare(container, context):
        container.streams[0].set_display_rotation(90)
        context.sample_aspect_ratio = Fraction(4, 3)

    source = make_video(tmp_path / "in.mp4", 5, prepare=prepare)
    upscale_video(source, tmp_path / "out.mp4", Repeat())
    with av.open(str(tmp_path / "out.mp4")) as made:
        frame = next(made.decode(video=0))
        assert frame.rotation == 90
        assert (frame.width, frame.height) == (64, 48)
        assert made.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("by", ["SIGKILL", "SIGINT"])
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_stopped_run_resumes_and_writes_the_same_file(tmp_path, long_video, by):
    source, whole = long_video
    output = tmp_path / "out.mp4"
    script = (
        "import sys, time; from pathlib import Path; from video_files import Repeat, repeatable;"
        "from sr_deploy.upscale.video import upscale_video;"
        "settings = repeatable(); settings.__enter__();"
        "wait = lambda n: n == 150 and time.sleep(60);"
        "upscale_video(Path(sys.argv[1]), Path(sys.argv[2]), Repeat(before=wait))"
    )
    here = Path(__file__).resolve()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[2]), str(here.parent)])}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(source), str(output)], env=env, stderr=subprocess.DEVNULL
    )
    # Now the first part is complete, the second is begun, and the network waits in frame 150.
    whole_part, begun_part = (
        tmp_path / "out.mp4.parts" / name for name in ("000000.json", "000001.bin")
    )
    while not (whole_part.exists() and begun_part.exists()) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(getattr(signal, by))
    assert process.wait(timeout=60) != 0, "it had finished before"
    assert not output.exists()
    partial = tmp_path / "out.partial.mp4"
    assert partial.exists() == (by == "SIGINT")
    if by == "SIGINT":
        begun = streams_of(partial)
        assert 120 <= len(frames_of(partial)) <= 150
        end = max(t for t, _ in begun[0]["packets"])
        assert max(t for t, _ in begun[1]["packets"]) == pytest.approx(end, abs=0.1)
    reports = Reports()
    upscaler = Repeat()
    summary = upscale_video(source, output, upscaler, reporter=reports.reporter)
    assert (
        summary.resumed_frames == 120
        and summary.resumed_frames + len(upscaler.seen) == summary.frames == LENGTH
    )
    assert any("resuming after" in line for line in reports.lines)
    assert streams_of(output) == streams_of(whole)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_a_resumed_run_gets_the_same_frames(tmp_path):
    """By a lossless encoder: every sample is what a run at one go gives it."""
    source = make_video(tmp_path / "in.mkv", 130)
    upscale_video(source, tmp_path / "whole.mkv", Repeat(), codec="ffv1")

    def stop(n):
        if n == 125:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, tmp_path / "out.mkv", Repeat(before=stop), codec="ffv1")
    assert upscale_video(source, tmp_path / "out.mkv", Repeat(), codec="ffv1").resumed_frames >= 120
    made, whole = frames_of(tmp_path / "out.mkv"), frames_of(tmp_path / "whole.mkv")
    assert len(made) == len(whole) == 130
    assert all(a == b and (x == y).all() for (a, x), (b, y) in zip(made, whole))


def interrupted(tmp_path, source, at=150):
    def stop(n):
        if n == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_video(source, tmp_path / "out.mp4", Repeat(before=stop))


@pytest.mark.parametrize("name", ["in.ts", "in.avi", "in.h264", "in.mkv", "in.mp4", "in.mpg"])
def test_reading_resumes_after_any_frame(tmp_path, name):
    codec = {"in.avi": "mpeg4", "in.mpg": "mpeg2video"}.get(name, "libx264")
    source = make_video(tmp_path / name, 60, codec=codec, options={"g": "12"})
    facts = probe_video(source)
    whole = list(read_frames(source, facts))
    assert len(whole) >= 59
    for n in (0, 11, 12, 30, len(whole) - 1):
        rest = list(read_frames(source, facts, FrameMark(whole[n][0], fingerprint(whole[n][1]))))
        assert [pts for pts, _ in rest] == [pts for pts, _ in whole[n + 1 :]]
        assert all((a == b).all() for (_, a), (_, b) in zip(rest, whole[n + 1 :]))
    with pytest.raises(InputError, match="has changed"):
        list(read_frames(source, facts, FrameMark(whole[20][0], 0)))


def test_ctrl_c_keeps_all_frames_done(tmp_path, long_video):
    interrupted(tmp_path, long_video[0])
    assert len(frames_of(tmp_path / "out.partial.mp4")) == 150


def test_ctrl_c_before_the_first_frame_leaves_nothing(tmp_path, long_video):
    interrupted(tmp_path, long_video[0], at=0)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_end_keeps_all_parts(tmp_path, long_video, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video.os, "replace", full)
    monkeypatch.setattr(video_parts, "write_text", lambda path, text: path.write_text(text))
    with pytest.raises(InputError, match="No space left"):
        upscale_video(long_video[0], tmp_path / "out.mp4", Repeat())
    monkeypatch.undo()
    assert not (tmp_path / "out.mp4.parts" / "output").exists()
    upscaler = Repeat()
    assert upscale_video(long_video[0], tmp_path / "out.mp4", upscaler).resumed_frames == LENGTH
    assert upscaler.seen == []
    assert streams_of(tmp_path / "out.mp4") == streams_of(long_video[1])


def test_resuming_with_changed_inputs_is_refused(tmp_path, long_video):
    source, _ = long_video
    interrupted(tmp_path, source)
    with pytest.raises(
        InputError,
        match="cannot resume .*the network or its settings and the encoder settings changed",
    ) as caught:
        upscale_video(source, tmp_path / "out.mp4", Repeat(scale=2).__class__(4))
    assert "out.mp4.parts" in caught.value.hint
    with pytest.raises(InputError, match="the encoder settings changed"):
        upscale_video(source, tmp_path / "out.mp4", Repeat(), crf=30)
    other = make_video(tmp_path / "other.mp4", 130)
    with pytest.raises(InputError, match="the source file changed"):
        upscale_video(other, tmp_path / "out.mp4", Repeat())
    (tmp_path / "out.mp4.parts" / "000000.bin").write_bytes(b"short")
    with pytest.raises(InputError, match="000000.bin is damaged"):
        upscale_video(source, tmp_path / "out.mp4", Repeat())


def test_a_full_disk_keeps_the_finished_parts(tmp_path, long_video, monkeypatch):
    source, whole = long_video
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 3:  # the run's file, a part and its list
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(video_parts.os, "fsync", full)
    with pytest.raises(InputError, match="No space left") as caught:
        upscale_video(source, tmp_path / "out.mp4", Repeat())
    assert "resumes" in caught.value.hint
    assert not (tmp_path / "out.mp4").exists()
    monkeypatch.setattr(video_parts.os, "fsync", real)
    assert upscale_video(source, tmp_path / "out.mp4", Repeat()).resumed_frames == 120
    assert streams_of(tmp_path / "out.mp4") == streams_of(whole)


@pytest.mark.parametrize("suffix, options", [(".mkv", {}), (".mp4", {"movflags": "faststart"})])
def test_a_video_that_is_cut_off_is_never_silently_short(tmp_path, suffix, options):
    source = make_video(
        tmp_path / f"in{suffix}", 100, size="64x48", sound=True, container_options=options
    )
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(BrokenOffError, match=r"\d s") as caught:
        upscale_video(source, tmp_path / f"out{suffix}", Repeat())
    partial = tmp_path / f"out.partial{suffix}"
    assert str(partial) in caught.value.hint and f"out{suffix}.parts" in caught.value.hint
    assert 10 < len(frames_of(partial)) < 100
    assert not (tmp_path / f"out{suffix}").exists()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_size_that_changes_is_named_with_its_time(tmp_path, ahead):
    one, two = (
        make_video(tmp_path / "1.h264", 20),
        make_video(tmp_path / "2.h264", 20, size="64x48"),
    )
    (tmp_path / "in.h264").write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(BrokenOffError, match=r"from 32x24 .*64x48 .*at 0\.800 s"):
        upscale_video(tmp_path / "in.h264", tmp_path / "out.mp4", Repeat(ahead=ahead))
    assert len(frames_of(tmp_path / "out.partial.mp4")) == 20


def write(path, data):
    path.write_bytes(data)
    return path


def sound_only(path):
    with av.open(str(path), "w") as out, av.open("sine=duration=1", format="lavfi") as sine:
        stream = out.add_stream("aac", rate=44100)
        for frame in sine.decode(audio=0):
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def no_frames(path):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        out.start_encoding()
    return path


def unfinished(path):
    make_video(path, 100)
    return write(path, path.read_bytes()[:-2000])


def hdr(number):
    def prepare(container, context):
        context.color_trc, context.color_primaries, context.colorspace = number, 9, 9

    return lambda path: make_video(path, 5, codec="libx264", pix_fmt="yuv420p10le", prepare=prepare)


@pytest.mark.parametrize(
    "name, make, reason",
    [
        ("a.mp4", lambda p: write(p, b""), "0 bytes"),
        ("a.mp4", lambda p: write(p, b"this is a text\n" * 50), "cannot be read as a video"),
        ("a.mp4", unfinished, "cannot be read as a video"),
        ("a.m4a", sound_only, "no video stream .*audio"),
        ("a.mp4", no_frames, "frame|no video"),
        ("a.mov", lambda p: make_video(p, 3, codec="png", pix_fmt="rgba"), "alpha"),
        ("a.mkv", lambda p: make_video(p, 5, codec="ffv1", pix_fmt="yuva420p"), "alpha"),
        ("a.mkv", lambda p: make_video(p, 5, codec="ffv1", pix_fmt="yuv410p"), "yuv410p"),
        ("a.png", lambda p: make_video(p, 1, codec="png", pix_fmt="rgb24"), "a picture"),
        ("a.mp4", hdr(16), "HDR, PQ"),
        ("a.mp4", hdr(18), "HDR, HLG"),
        (
            "a.mp4",
            lambda p: make_video(p, 5, options={"x264-params": "interlaced=1"}),
            "interlaced",
        ),
    ],
)
def test_unsupported_sources_are_refused_with_the_reason(tmp_path, name, make, reason):
    source = make(tmp_path / name)
    with pytest.raises(InputError, match=reason):
        upscale_video(source, tmp_path / "out.mp4", Repeat())
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_invalid_outputs_are_refused(tmp_path):
    source = make_video(tmp_path / "in.mp4", 5)
    for output, reason in (
        ("in.mp4", "the input itself"),
        ("out.avi", "unknown video format"),
        ("there.mp4", "already exists"),
    ):
        (tmp_path / "there.mp4").touch()
        with pytest.raises(InputError, match=reason):
            upscale_video(source, tmp_path / output, Repeat())
    with pytest.raises(InputError, match="no such file"):
        upscale_video(tmp_path / "none.mp4", tmp_path / "out.mp4", Repeat())
    with pytest.raises(InputError, match="cannot write"):
        upscale_video(source, source / "in" / "out.mp4", Repeat())
    upscale_video(source, tmp_path / "new" / "folder" / "out.mp4", Repeat())
    assert (tmp_path / "new" / "folder" / "out.mp4").is_file()


def test_unsuitable_encoders_are_refused(tmp_path):
    source = make_video(tmp_path / "in.mkv", 5, codec="ffv1", pix_fmt="yuv422p10le", size="33x24")
    for codec, crf, reason in (
        ("libx2640", None, "unknown codec"),
        ("libvpx-vp9", None, "does not support the source's pixel format yuv422p10le"),
        ("ffv1", 20, "lossless"),
        ("libx264", None, "needs even sizes"),
    ):
        with pytest.raises(InputError, match=reason):
            upscale_video(source, tmp_path / "out.mkv", Repeat(3), codec=codec, crf=crf)
    with pytest.raises(InputError, match="webm cannot hold ffv1"):
        upscale_video(source, tmp_path / "out.webm", Repeat(3), codec="ffv1")


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1"])
def test_every_codec_offered(tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    source = make_video(tmp_path / "in.mkv", 130, size="64x64")
    upscale_video(source, tmp_path / "out.mkv", Repeat(), codec=codec)
    assert times_of(tmp_path / "out.mkv") == times_of(source)
    got, wanted = frames_of(tmp_path / "out.mkv"), frames_of(source)
    assert len(got) == 130
    assert (
        max(
            np.abs(g.astype(int) - w.repeat(2, 0).repeat(2, 1)).mean()
            for (_, g), (_, w) in zip(got, wanted)
        )
        < 12
    )


def test_memory_and_order_do_not_depend_on_who_is_slow(tmp_path):
    source = make_video(tmp_path / "in.mp4", 40)
    most = []
    upscale_video(
        source, tmp_path / "out.mp4", Repeat(before=lambda n: (most.append(n), time.sleep(0.002)))
    )
    assert most == list(range(40))


def test_two_runs_do_not_write_one_output(tmp_path):
    source = make_video(tmp_path / "in.mp4", 5)

    def again(n):
        with pytest.raises(InputError, match="being written"):
            upscale_video(source, tmp_path / "out.mp4", Repeat())

    upscale_video(source, tmp_path / "out.mp4", Repeat(before=again))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_frames_are_counted_for_the_progress(tmp_path):
    reports = Reports()
    upscale_video(
        make_video(tmp_path / "in.mp4", 10),
        tmp_path / "out.mp4",
        Repeat(),
        reporter=reports.reporter,
    )
    assert reports.counts == [(0, 10)] and len(reports.advances) == 10


@pytest.mark.parametrize(
    "pts, dts",
    [
        ([0, 1, 2], [0, 1, 2]),
        ([0, 4, 2, 1, 3, 5], [-2, -1, 0, 1, 2, 3]),
        ([10, 30, 20, 35, 90, 70], [0, 10, 20, 30, 35, 70]),
        ([5], [5]),
        ([], []),
    ],
)
def test_decoding_times_rise_and_are_never_late(pts, dts):
    assert decoding_times(pts) == dts
    assert all(d <= p for d, p in zip(dts, pts)) and dts == sorted(set(dts))
