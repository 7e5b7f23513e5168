"""The other streams of a video: kept, said, left out on demand, and hints that work."""

from __future__ import annotations

import re

import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")

from reports import Reports  # noqa: E402
from video_files import Repeat, make_video, streams_of  # noqa: E402

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.upscale.options import UpscaleOptions, parse_streams  # noqa: E402
from sr_deploy.upscale.video import upscale_video  # noqa: E402


@pytest.fixture()
def subtitled(tmp_path):
    """A video with sound in AAC, and subtitles that only Matroska holds."""
    (tmp_path / "in.srt").write_text("1\n00:00:00,000 --> 00:00:00,100\nhello\n")
    return make_video(tmp_path / "in.mkv", 5, sound=True, subtitles=tmp_path / "in.srt")


@pytest.mark.parametrize(
    "suffix, refused, hint",
    [
        (".mp4", "stream 1 .*(subrip|srt)", r"ending in \.mkv, or use --drop 1"),
        (".mov", "stream 1 .*(subrip|srt)", r"ending in \.mkv, or use --drop 1"),
        (".webm", "libx264 and stream 1 .*and stream 2", r"\.mkv, or use --codec \S+ --drop 1,2"),
    ],
)
def test_hints_name_what_holds_the_streams(tmp_path, subtitled, suffix, refused, hint):
    output = tmp_path / f"out{suffix}"
    with pytest.raises(InputError, match=f"{suffix[1:]} cannot hold {refused}") as caught:
        upscale_video(subtitled, output, Repeat())
    assert re.search(hint, caught.value.hint) and suffix not in caught.value.hint
    drop = parse_streams(re.findall(r"--drop (\d+(?:,\d+)*)", caught.value.hint)[0])
    codec = re.findall(r"--codec (\S+)", caught.value.hint) or ["libx264"]
    reports = Reports()
    upscale_video(subtitled, output, Repeat(), codec=codec[0], drop=drop, reporter=reports.reporter)
    assert len(streams_of(output)) == 3 - len(drop)
    for number in drop:
        assert any(re.match(f"stream {number} .*left out", line) for line in reports.lines)
    upscale_video(subtitled, tmp_path / "hint.mkv", Repeat())
    assert len(streams_of(tmp_path / "hint.mkv")) == 3


def test_where_no_container_holds_a_stream_only_dropping_it_is_named(tmp_path):
    source = make_video(tmp_path / "in.wmv", 5, codec="wmv2", sound="wmav2")
    for suffix in (".mkv", ".mp4"):
        with pytest.raises(InputError, match="stream 1 .audio, wmav2") as caught:
            upscale_video(source, tmp_path / f"out{suffix}", Repeat())
        assert caught.value.hint == "use --drop 1, which leaves out what it cannot hold"
    upscale_video(source, tmp_path / "out.mp4", Repeat(), drop=frozenset([1]))


@pytest.mark.parametrize(
    "drop, reason",
    [({0}, "the video to upscale"), ({3}, "has the streams 0 to 2"), ({1, 9}, "--drop 9")],
)
def test_only_other_streams_can_be_dropped(tmp_path, subtitled, drop, reason):
    with pytest.raises(InputError, match=reason):
        upscale_video(subtitled, tmp_path / "out.mkv", Repeat(), drop=frozenset(drop))


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "1;2", "\N{SUPERSCRIPT TWO}"])
def test_lists_of_streams_are_checked(text):
    with pytest.raises(InputError, match="expected numbers of streams"):
        parse_streams(text)


def test_drop_is_for_videos():
    assert parse_streams("2,3") == {2, 3}
    with pytest.raises(InputError, match="--drop are for videos"):
        UpscaleOptions(model="m", drop=frozenset([1])).check_inputs(["picture"], named=True)


def test_tags_and_marks_that_the_output_loses_are_said(tmp_path):
    def prepare(container, context):
        container.metadata.update({"title": "A", "mood": "blue"})
        container.streams[0].metadata["language"] = "nor"

    source = make_video(tmp_path / "in.mkv", 3, prepare=prepare)
    for suffix, lost in ((".mkv", []), (".mp4", ["mood (blue)"])):
        reports = Reports()
        upscale_video(source, tmp_path / f"o{suffix}", Repeat(), reporter=reports.reporter)
        lines = [line for line in reports.lines if "does not keep" in line]
        assert [line.split(": ")[1].lower() for line in lines] == lost
