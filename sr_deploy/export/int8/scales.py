"""Scales and zero points of 8-bit values. All scales are above zero."""

from __future__ import annotations

from typing import Mapping, Optional, Tuple

import numpy as np
from onnx import TensorProto

from sr_deploy.core.device import products_saturate
from sr_deploy.core.errors import ExportError
from sr_deploy.core.target import Int8Rules

Ranges = Mapping[str, Tuple[float, float]]
"""The least and the largest number of each value, by name."""

_LEAST, _LEAST_HALF = 2.0**-100, 2.0**-14
"""Runtimes may take smaller numbers for zero."""


def activation_scale(
    low: float, high: float, rules: Int8Rules, kind: int = TensorProto.FLOAT
) -> Tuple[np.ndarray, np.ndarray]:
    """Return the scale and the zero point of numbers from `low` to `high`, of shape ().

    The range is widened to hold zero, which has an integer of its own. kind: the element type of
    the scale. Raises ExportError for a range that is not finite.
    """
    if not np.isfinite([low, high]).all():
        raise ExportError(f"a range of {low:g} to {high:g} cannot be quantised")
    low, high = min(low, 0.0), max(high, 0.0)
    dtype = np.uint8 if rules.activations == "uint8" else np.int8
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    if rules.symmetric:
        scale = storable(np.array(max(-low, high) / 127), kind)
        return scale, np.array((least + most + 1) // 2, dtype)
    scale = storable(np.array((high - low) / 255), kind)
    zero = np.clip(np.rint(least - low / float(scale)), least, most)
    return scale, np.array(zero, dtype)


def most_weight(rules: Int8Rules) -> int:
    """Return the largest integer of weights: half of it where sums of products may overflow."""
    return 64 if rules.reduce_range and products_saturate() else 127


def weight_scales(
    weights: np.ndarray, axis: Optional[int], most: int, least: np.ndarray
) -> np.ndarray:
    """Return the scale of each channel of weights, float64; of shape () where axis is None.

    most: the largest integer. least: lower limits. A channel whose weights are all zero takes the
    largest scale of the others.
    """
    if axis is None:
        peaks = np.abs(weights).max(initial=0.0)
    else:
        others = tuple(i for i in range(weights.ndim) if i != axis)
        peaks = np.abs(weights).max(axis=others, initial=0.0)
    scales = np.maximum(peaks.astype(np.float64) / most, least)
    harmless = scales.max(initial=0.0) or 1.0
    return np.where(scales > 0, scales, harmless)


def storable(scale: np.ndarray, kind: int) -> np.ndarray:
    """Return scales in an element type, none of them zero."""
    half = kind == TensorProto.FLOAT16
    dtype, least = (np.float16, _LEAST_HALF) if half else (np.float32, _LEAST)
    result: np.ndarray = np.maximum(scale, least).astype(dtype)
    return result
