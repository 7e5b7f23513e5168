from __future__ import annotations

import sys

import numpy as np
import pytest

from sr_deploy.core.images import read_rgb
from sr_deploy.core.samples import (
    CROP_SET,
    SAMPLE_SET,
    sample_files,
    sample_lr,
    sample_set,
    shipped_crops,
)


@pytest.mark.parametrize("hw", [(24, 24), (16, 40), (700, 600)])
def test_the_photographs_are_there_at_any_size(hw):
    assert all(path.is_file() for path in sample_files())
    first, second = sample_lr(hw, count=2)
    assert first.shape == second.shape == (*hw, 3) and first.dtype == np.uint8
    assert not np.array_equal(first, second) and first.std() > 0


@pytest.mark.parametrize("missing", ["skimage", "cv2"])
def test_without_scikit_image_or_opencv_the_shipped_crops_are_used(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    assert (sample_set(), sample_files()) == (CROP_SET, shipped_crops())
    assert [rgb.shape for rgb in sample_lr((20, 300), count=3)] == [(20, 300, 3)] * 3


def test_the_crops_are_parts_of_the_photographs():
    pytest.importorskip("skimage", reason="scikit-image carries the photographs")
    pytest.importorskip("cv2", reason="OpenCV reads them")
    assert sample_set() == SAMPLE_SET
    whole = {path.stem: read_rgb(path) for path in sample_files()}
    for path, (y, x) in zip(shipped_crops(), ((16, 96), (20, 100), (60, 180))):
        assert np.array_equal(read_rgb(path), whole[path.stem][y : y + 256, x : x + 256])
