"""Ranges of tensors, from which the scales of INT8 graphs follow."""

from __future__ import annotations

from typing import Dict, Mapping, Sequence, Tuple

import numpy as np
import onnx

Ranges = Mapping[str, Tuple[float, float]]
"""{name of a tensor: (lowest, highest value)}"""


def collect_ranges(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> Dict[str, Ranges]:
    """Return the ranges of all tensors that depend on pixels, by method of calibration.

    model: FP32. images: (1, 3, H, W) float32 each. Raises ExportError if a value is not finite.
    """
    raise NotImplementedError
