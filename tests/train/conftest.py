"""Small images, and recipes that take a second."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sr_deploy.train.recipes import Recipe

TINY = Recipe(
    arch="asrn", scale=2, variant="d2", method="deep-supervision", psd=0.1, elastic=True, steps=6, patch_hr=12, batch_size=4, lr=1e-3,
    schedule="one-cycle", ema=0.9, clip_norm=1.0, valid_every=2,
)  # fmt: skip


def write_images(folder, sizes, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i, (h, w) in enumerate(sizes):
        small = rng.integers(0, 256, (h // 4 + 1, w // 4 + 1, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of three HR images."""
    return write_images(tmp_path_factory.mktemp("train") / "hr", [(64, 61), (33, 64), (40, 40)])


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache of decoded images for all runs."""
    return tmp_path_factory.mktemp("cache")
