from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.output_size import OutputSize, parse_wh, resample


@pytest.mark.parametrize(
    "size, hw, expected",
    [
        (OutputSize(), (3, 5), (12, 20)),
        (OutputSize(factor=3.5), (10, 21), (35, 74)),
        (OutputSize(factor=1), (3, 5), (3, 5)),
        (OutputSize(box=(2160, 3840)), (480, 640), (2160, 2880)),
        (OutputSize(box=(2160, 3840)), (1080, 1920), (2160, 3840)),
        (OutputSize(box=(2160, 3840)), (333, 1000), (1279, 3840)),
        (OutputSize(box=(100, 100)), (1, 100), (1, 100)),
    ],
)
def test_sizes(size, hw, expected):
    assert size.of(hw, 4) == expected


def test_a_box_is_as_the_picture_is_shown():
    size = OutputSize(box=(600, 400))
    assert size.of((64, 128), 4, turned=True) == (300, 600)
    assert size.of((64, 128), 4) == (200, 400)


def test_sizes_of_videos_are_even_and_within_the_box():
    assert OutputSize(factor=2.7).of((24, 32), 4, even=True) == (64, 86)
    assert OutputSize(box=(101, 101)).of((24, 24), 4, even=True) == (100, 100)
    assert OutputSize().of((5, 5), 3, even=True) == (15, 15), "as the network makes them"


def test_what_is_refused():
    with pytest.raises(InputError, match="both given"):
        OutputSize(2.0, (3, 3))
    for factor in (0, 0.5, -1, float("nan"), 65):
        with pytest.raises(InputError, match="expected 1 to 64"):
            OutputSize(factor)
    with pytest.raises(InputError, match="200x100 pixels .*do not fit into --outsize 100x100"):
        OutputSize(box=(100, 100)).of((100, 200), 4)
    for text in ("4K", "3840", "0x5", "3840x2160x3", "-3x4", "3.5x4"):
        with pytest.raises(InputError, match="expected WIDTHxHEIGHT"):
            parse_wh(text)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("hw", [(56, 70), (20, 25), (90, 90), (64, 80)])
def test_resampling_keeps_flat_and_smooth_parts(dtype, hw):
    pytest.importorskip("cv2", reason="OpenCV resamples")
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    ramp = np.linspace(0.2, 0.8, 80)[None, :, None].repeat(64, 0).repeat(3, 2)
    image = (ramp * white).astype(dtype)
    result = resample(image, hw)
    assert result.shape == (*hw, 3) and result.dtype == dtype
    x = (np.arange(hw[1]) + 0.5) / hw[1] * 80 - 0.5
    expected = (0.2 + 0.6 * x / 79) * white
    inner = slice(hw[1] // 5, -(hw[1] // 5))  # filters see the border elsewhere
    assert np.abs(result[0, inner, 0] - expected[inner]).max() <= 0.01 * white
    assert resample(image[:, :, 0], hw).shape == hw
