from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.session import Session


class Nearest(Session):
    backend, backend_version, precision, scale = "test", "1", "fp32", 2
    factor = 2

    def _run(self, x_nchw):
        self.fed = x_nchw
        return x_nchw.repeat(self.factor, axis=2).repeat(self.factor, axis=3)


def x(h, w, dtype=np.float32):
    return np.zeros((1, 3, h, w), dtype)


def test_a_good_input_is_passed_on():
    assert Nearest().run(x(3, 4)).shape == (1, 3, 6, 8)
    assert Nearest().fixed_hw is None


@pytest.mark.parametrize(
    "array",
    [
        x(3, 4, np.float64),
        x(3, 4, np.float16),
        x(3, 4, np.uint8),
        x(3, 4)[0],
        np.zeros((2, 3, 4, 4), np.float32),
        np.zeros((1, 1, 4, 4), np.float32),
    ],
)
def test_another_shape_or_type_is_refused_with_what_was_seen(array):
    with pytest.raises(
        InputError, match=r"expected a \(1, 3, H, W\) float32 array, got \(.*" + str(array.dtype)
    ):
        Nearest().run(array)


@pytest.mark.parametrize(
    "hw, words",
    [
        ((7, 9), "too small"),
        ((8, 8), "too small"),
        ((8, 33), "at most 16x32, not 8x33"),
        ((17, 32), "at most 16x32"),
    ],
)
def test_a_size_outside_the_range_is_refused(hw, words):
    session = Nearest()
    session.min_hw, session.max_hw = (8, 9), (16, 32)
    for good in ((8, 9), (16, 32)):
        session.run(x(*good))
    with pytest.raises(InputError, match=words):
        session.run(x(*hw))


@pytest.mark.parametrize("hw", [(7, 9), (9, 9), (9, 8)])
def test_a_static_graph_takes_its_one_size(hw):
    session = Nearest()
    session.min_hw = session.max_hw = (8, 9)
    assert session.fixed_hw == (8, 9)
    session.run(x(8, 9))
    with pytest.raises(InputError, match=f"takes 8x9 only, not {hw[0]}x{hw[1]}"):
        session.run(x(*hw))


def test_a_network_of_another_scale_is_found_out():
    session = Nearest()
    session.factor = 3
    with pytest.raises(ArtifactError, match=r"returned \(1, 3, 9, 12\).*expected \(1, 3, 6, 8\)"):
        session.run(x(3, 4))


@pytest.mark.parametrize("hw, fed", [((8, 8), (8, 8)), ((5, 8), (8, 8)), ((9, 3), (12, 4))])
def test_other_sizes_than_multiples_are_mirrored_up_and_cropped(hw, fed):
    session = Nearest()
    session.multiple = 4
    image = np.random.default_rng(0).random((1, 3, *hw), dtype=np.float32)
    y = session.run(image)
    assert session.fed.shape[2:] == fed
    np.testing.assert_array_equal(y, image.repeat(2, axis=2).repeat(2, axis=3))
    more = [(0, 0), (0, 0), (0, fed[0] - hw[0]), (0, fed[1] - hw[1])]
    np.testing.assert_array_equal(session.fed, np.pad(image, more, mode="symmetric"))
