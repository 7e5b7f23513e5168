"""Colours by the numbers of the standards, not by swscale."""

from __future__ import annotations

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")

from reports import Reports  # noqa: E402
from video_files import Repeat, make_video  # noqa: E402

from sr_deploy.upscale.video import upscale_video  # noqa: E402
from sr_deploy.upscale.video_colour import (  # noqa: E402
    KR_KB,
    Colour,
    frame_planes,
    planes_from_rgb,
    rgb_from_frame,
)
from sr_deploy.upscale.video_source import probe_video  # noqa: E402

FORMATS = {
    ("gray", 8): "gray",
    ("rgb", 8): "gbrp",
    ("gray", 10): "gray10le",
    ("rgb", 12): "gbrp12le",
}


def frame_of(planes, colour):
    suffix = "" if colour.depth == 8 else f"{colour.depth}le"
    name = FORMATS.get((colour.layout, colour.depth), f"yuv{colour.layout}p{suffix}")
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], name)
    for view, plane in zip(frame_planes(frame), planes):
        view[:] = plane
    return frame


@pytest.mark.parametrize(
    "colour, yuv, rgb",
    [
        # BT.709 limited: white, black and its red, by the equations of ITU-R BT.709, item 3.
        (Colour("444", 8, 1), (235, 128, 128), (255, 255, 255)),
        (Colour("444", 8, 1), (16, 128, 128), (0, 0, 0)),
        (Colour("444", 8, 1), (63, 102, 240), (255, 1, 0)),
        # The same red of BT.601, and of the full range (JFIF).
        (Colour("444", 8, 6), (81, 90, 240), (254, 0, 0)),
        (Colour("444", 8, 6, full=True), (76, 85, 255), (254, 0, 0)),
        (Colour("444", 10, 1), (940, 512, 512), (65535, 65535, 65535)),
        (Colour("444", 10, 1), (502, 512, 512), (32768, 32768, 32768)),
        # Below black and above white is clipped.
        (Colour("444", 8, 1), (5, 128, 128), (0, 0, 0)),
        (Colour("444", 8, 1), (250, 128, 128), (255, 255, 255)),
    ],
)
def test_numbers_of_the_standards(colour, yuv, rgb):
    planes = [np.full((4, 6), value, colour.dtype) for value in yuv]
    made = rgb_from_frame(frame_of(planes, colour), colour)
    assert made.dtype == colour.dtype and made.shape == (4, 6, 3)
    assert np.abs(made[0, 0].astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("matrix", KR_KB)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "layout, depth",
    [("444", 8), ("422", 8), ("420", 8), ("420", 10), ("444", 12), ("gray", 8), ("rgb", 12)],
)
def test_there_and_back(layout, depth, full, matrix):
    colour = Colour(layout, depth, matrix, full)
    rng = np.random.default_rng(0)
    top = np.iinfo(colour.dtype).max
    for _ in range(5):
        rgb = np.tile(rng.integers(0, top + 1, (1, 1, 3)), (7, 9, 1)).astype(colour.dtype)
        if layout == "gray":
            rgb[:] = rgb[..., :1]
        back = rgb_from_frame(frame_of(planes_from_rgb(rgb, colour), colour), colour)
        assert np.abs(back.astype(int) - rgb).max() <= 2.2 * top / 2**depth


def test_the_bluest_blue_of_the_full_range_does_not_wrap():
    colour = Colour("444", 10, 6, full=True)
    blue = np.zeros((2, 2, 3), np.uint16)
    blue[..., 2] = 65535
    assert planes_from_rgb(blue, colour)[1].max() == 1023


@pytest.mark.parametrize("centred", [False, True])
def test_chroma_lies_where_it_belongs(centred):
    """A ramp: where chroma is taken for elsewhere, it comes out shifted."""
    colour = Colour("420", 8, 6, full=True, centred=centred)
    columns = np.arange(0, 40, 2) + (0.5 if centred else 0)
    chroma = np.tile(100 + 2 * columns, (10, 1)).astype(np.uint8)
    planes = [np.full((20, 40), 128, np.uint8), np.full((10, 20), 128, np.uint8), chroma]
    red = rgb_from_frame(frame_of(planes, colour), colour)[..., 0].astype(float)
    wanted = 128 + 1.402 * (100 + 2 * np.arange(40) - 128)
    assert np.abs(red - wanted)[:, 3:-3].max() < 1.5
    back = planes_from_rgb(rgb_from_frame(frame_of(planes, colour), colour), colour)[2].astype(int)
    assert np.abs(back - chroma)[:, 2:-2].max() <= 1


@pytest.mark.parametrize(
    "matrix, primaries, transfer, full",
    [(1, 1, 1, 0), (5, 5, 6, 0), (6, 6, 6, 1), (9, 9, 14, 0), (7, 7, 7, 0)],
)
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_output_is_tagged_as_the_source(tmp_path, matrix, primaries, transfer, full, suffix):
    def prepare(container, context):
        context.colorspace, context.color_range = matrix, 2 if full else 1
        context.color_primaries, context.color_trc = primaries, transfer

    source = make_video(tmp_path / "in.mkv", 3, prepare=prepare)
    facts = probe_video(source)
    assert (facts.colour.matrix, facts.colour.full, facts.tags) == (
        matrix,
        bool(full),
        (primaries, transfer),
    )
    upscale_video(source, tmp_path / f"out{suffix}", Repeat())
    made = probe_video(tmp_path / f"out{suffix}")
    assert (made.colour, made.tags, made.guessed) == (facts.colour, facts.tags, "")


@pytest.mark.parametrize("size, matrix", [("64x36", 6), ("1280x720", 1)])
def test_unstated_colour_is_assumed_by_the_height_and_stated_in_the_output(tmp_path, size, matrix):
    source = make_video(tmp_path / "in.mkv", 2, size=size)
    reports = Reports()
    upscale_video(source, tmp_path / "out.mkv", Repeat(), reporter=reports.reporter)
    assert probe_video(tmp_path / "out.mkv").colour.matrix == matrix
    lines = "BT.709 by its 720 lines" if matrix == 1 else "BT.601 by its 36 lines"
    assert reports.lines[0].endswith(
        f"its colour is not fully tagged, assumed: limited range, {lines}"
    )


@pytest.mark.parametrize(
    "codec, pix_fmt, made",
    [
        ("ffv1", "yuv420p10le", "yuv420p10le"),
        ("ffv1", "yuv422p", "yuv422p"),
        ("ffv1", "gray", "yuv420p"),
        ("ffv1", "gbrp10le", "yuv444p10le"),
        ("ffv1", "bgr0", "yuv444p"),
        ("mjpeg", "yuvj420p", "yuv420p"),
    ],
)
def test_depth_and_layout_are_kept(tmp_path, codec, pix_fmt, made):
    source = make_video(tmp_path / "in.mkv", 2, codec=codec, pix_fmt=pix_fmt)
    upscaler = Repeat()
    upscale_video(source, tmp_path / "out.mkv", upscaler)
    assert upscaler.seen[0].dtype == (np.uint16 if "10" in pix_fmt else np.uint8)
    facts = probe_video(tmp_path / "out.mkv")
    assert facts.pix_fmt in (made, made.replace("yuv", "yuvj"))
    assert facts.colour.full == (codec == "mjpeg")


def test_a_lossless_codec_preserves_the_networks_output(tmp_path):
    def prepare(container, context):
        context.colorspace, context.color_range = 1, 1

    source = make_video(
        tmp_path / "in.mkv", 2, codec="ffv1", pix_fmt="yuv444p10le", prepare=prepare
    )
    upscaler = Repeat(3)
    upscale_video(source, tmp_path / "out.mkv", upscaler, codec="ffv1")
    again = Repeat()
    upscale_video(tmp_path / "out.mkv", tmp_path / "again.mkv", again, codec="ffv1")
    wanted = upscaler.seen[0].repeat(3, 0).repeat(3, 1)
    assert np.abs(again.seen[0].astype(int) - wanted).max() <= 2.2 * 64
