from __future__ import annotations

import sys

import numpy as np
import pytest

from sr_deploy.core.errors import MissingPackageError
from sr_deploy.core.samples import sample_files, sample_lr


@pytest.mark.parametrize("hw", [(24, 24), (16, 40), (700, 600)])
def test_the_photographs_are_there_at_any_size(hw):
    pytest.importorskip(
        "skimage", reason="scikit-image is not installed; it carries the photographs"
    )
    pytest.importorskip("cv2", reason="opencv is not installed; it reads them")
    assert all(path.is_file() for path in sample_files())
    first, second = sample_lr(hw, count=2)
    assert first.shape == second.shape == (*hw, 3) and first.dtype == np.uint8
    assert not np.array_equal(first, second) and first.std() > 0


def test_without_scikit_image_the_pip_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingPackageError, match="scikit-image") as e:
        sample_files()
    assert "pip install" in e.value.hint
