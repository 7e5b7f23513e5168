"""Hidden alpha and layers, animations, HDR by side data, and data beside the samples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")

from reports import Reports  # noqa: E402
from video_files import Repeat, frames_of  # noqa: E402

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.upscale.video import upscale_video  # noqa: E402
from sr_deploy.upscale.video_checks import (  # noqa: E402
    check_dynamic_range,
    check_layers,
    lost_data,
    side_data,
)


def packet(data, block=None):
    def get(kind):
        return block

    class Packet(bytes):
        has_sidedata = staticmethod(lambda kind: block is not None)
        get_sidedata = staticmethod(get)

    return Packet(data)


def stream(codec, extradata=None):
    coder = SimpleNamespace(name=codec, extradata=extradata)
    return SimpleNamespace(metadata={}, codec_context=coder)


def test_alpha_that_the_decoder_hides_is_refused(tmp_path):
    source = stream("vp9")
    source.metadata["alpha_mode"] = "1"
    with pytest.raises(InputError, match="alpha channel .*vp9.* would be lost"):
        check_layers(tmp_path, source, packet(b"x"))


def test_the_shared_video_with_hidden_alpha_is_refused(tmp_path, shared_dir):
    source = shared_dir / "cases" / "videos" / "alpha.webm"
    if not source.is_file():
        pytest.skip("shared/cases is not there")
    with pytest.raises(InputError, match="alpha channel .*vp9.* would be lost"):
        upscale_video(source, tmp_path / "out.mp4", Repeat())


BASE, SECOND = b"\x02\x01\xaa\xbb", b"\x02\x09\xaa\xbb"  # NAL units of the layers 0 and 1


@pytest.mark.parametrize(
    "codec, extradata, data, block, reason",
    [
        ("vp9", None, b"x", b"\0" * 7 + b"\1..", "alpha channel"),
        ("vp9", None, b"x", b"\0" * 7 + b"\4..", None),
        ("hevc", None, b"\0\0\0\1" + BASE + b"\0\0\1" + SECOND, None, "second layer"),
        ("hevc", None, b"\0\0\0\1" + BASE, None, None),
        ("hevc", b"\1" + b"\3" * 30, b"\0\0\0\4" + BASE + b"\0\0\0\4" + SECOND, None, "second"),
        ("hevc", b"\1" + b"\3" * 30, b"\0\0\0\4" + BASE + b"\0\0\0\4" + BASE, None, None),
        ("h264", None, b"\0\0\0\1" + SECOND, None, None),
    ],
)
def test_second_layers_are_refused(tmp_path, codec, extradata, data, block, reason):
    if reason is None:
        check_layers(tmp_path, stream(codec, extradata), packet(data, block))
        return
    with pytest.raises(InputError, match=reason):
        check_layers(tmp_path, stream(codec, extradata), packet(data, block))


class Frame:
    color_trc = 2

    def __init__(self, *kinds):
        self._kinds = kinds

    @property
    def side_data(self):
        if "?" in self._kinds:
            raise ValueError("36 is not a valid Type")
        return [SimpleNamespace(type=SimpleNamespace(name=kind)) for kind in self._kinds]


@pytest.mark.parametrize(
    "kinds, transfer, hdr",
    [
        (["DYNAMIC_HDR_PLUS"], 1, "HDR10"),
        (["DOVI_RPU_BUFFER"], 1, "Dolby Vision"),
        (["MASTERING_DISPLAY_METADATA"], 2, "without a transfer function"),
        (["MASTERING_DISPLAY_METADATA"], 1, ""),
        ([], 16, "PQ"),
    ],
)
def test_hdr_is_also_recognised_by_its_side_data(tmp_path, kinds, transfer, hdr):
    coder = SimpleNamespace(color_trc=transfer)
    if not hdr:
        check_dynamic_range(tmp_path, Frame(*kinds), coder)
        return
    with pytest.raises(InputError, match=hdr):
        check_dynamic_range(tmp_path, Frame(*kinds), coder)


def test_data_beside_the_samples_is_said():
    assert lost_data(Frame("A53_CC", "SEI_UNREGISTERED", "DISPLAYMATRIX")) == {
        "closed captions inside the pictures (CEA-608 and 708)"
    }
    assert "does not know" in str(lost_data(Frame("?"))) and "A53_CC" not in side_data(Frame("?"))


def animation(path, alpha):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    frames = []
    for n in range(3):
        rgba = np.full((16, 24, 4), 255, np.uint8)
        rgba[:, : 4 * n + 4, 0] = 0
        rgba[:4, :4, 3] = alpha
        frames.append(image.fromarray(rgba))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 80, 500], loop=0)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_animations_become_videos_with_the_pause_at_their_end(tmp_path, suffix):
    source = animation(tmp_path / f"in{suffix}", 255)
    for output in ("out.mp4", "out.mkv"):
        reports = Reports()
        upscale_video(
            source,
            tmp_path / output,
            Repeat(),
            codec="ffv1" if "mkv" in output else "libx264",
            reporter=reports.reporter,
        )
        assert "the animation's repetition is not kept" in reports.lines
        assert [float(t) for t, _ in frames_of(tmp_path / output)] == [0, 0.04, 0.12]
        with av.open(str(tmp_path / output)) as made:
            assert made.duration == pytest.approx(620000, abs=1000)


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_animations_with_transparent_pixels_are_refused(tmp_path, suffix):
    source = animation(tmp_path / f"in{suffix}", 0)
    with pytest.raises(InputError, match="transparent pixels"):
        upscale_video(source, tmp_path / "out.mp4", Repeat())


@pytest.mark.parametrize("suffix", [".webp", ".png", ".jpg"])
def test_pictures_are_no_videos_and_the_hint_says_what_works(tmp_path, suffix):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.new("RGB", (24, 16)).save(tmp_path / f"in{suffix}")
    with pytest.raises(InputError, match="is a picture") as caught:
        upscale_video(tmp_path / f"in{suffix}", tmp_path / "out.mp4", Repeat())
    assert ".png for a picture, or a GIF file for an animation" in caught.value.hint
