"""Small networks that state correctly how far an output depends on its surroundings."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.session import Session


def box(x, radius):
    """The mean over (2r+1)^2 pixels, zeros outside."""
    size = 2 * radius + 1
    padded = np.pad(x, ((0, 0), (0, 0), (radius, radius), (radius, radius)))
    rows = sum(padded[:, :, i : i + x.shape[2]] for i in range(size))
    return sum(rows[:, :, :, i : i + x.shape[3]] for i in range(size)) / np.float32(size * size)


class Blur(Session):
    """Each output pixel depends on the LR pixels up to 3 away."""

    backend, backend_version, precision, scale = "test", "1", "fp32", 2
    halo_px = 3

    def __init__(self):
        self.fed = []

    def _run(self, x_nchw):
        self.fed.append(x_nchw.shape[2:])
        return (
            self.network(x_nchw)
            .repeat(self.scale, axis=2)
            .repeat(self.scale, axis=3)
            .astype(np.float32)
        )

    def network(self, x):
        return box(box(x, 1), 2)


class Windows(Blur):
    """A pixel depends on its whole 8x8 window of a blurred map. Zeros fill border windows."""

    halo_px, align_px = 8 + 2, 8

    def network(self, x):
        x = box(x, 1)
        h, w = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (0, -h % 8), (0, -w % 8)))
        cells = padded.reshape(1, 3, padded.shape[2] // 8, 8, padded.shape[3] // 8, 8)
        means = np.broadcast_to(cells.mean(axis=(3, 5), keepdims=True), cells.shape).reshape(
            padded.shape
        )
        return box(x + means[:, :, :h, :w], 2)


class Unshuffled(Blur):
    """Cells of 4x4 pixels are averaged and blurred; other sizes than multiples of 4 fail."""

    halo_px, align_px, multiple = 4, 4, 4

    def network(self, x):
        h, w = x.shape[2:]
        cells = x.reshape(1, 3, h // 4, 4, w // 4, 4).mean(axis=(3, 5))
        return x + box(cells, 1).repeat(4, axis=2).repeat(4, axis=3)


class Whole(Blur):
    """An output depends on the whole image."""

    halo_px = None

    def network(self, x):
        return x * np.float32(0.5) + x.mean(axis=(2, 3), keepdims=True) * np.float32(0.5)


@pytest.fixture()
def sessions():
    return {"blur": Blur, "windows": Windows, "unshuffled": Unshuffled, "whole": Whole}


@pytest.fixture()
def noise():
    """A function: (h, w) -> a noisy image, the same each time."""

    def make(hw, dtype=np.uint8):
        values = np.random.default_rng(0).random((*hw, 3))
        return (
            values.astype(np.float32)
            if dtype == np.float32
            else (values * np.iinfo(dtype).max).astype(dtype)
        )

    return make
