"""Ranges of the values of a graph, from which the scales of INT8 graphs follow."""

from __future__ import annotations

from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple, Union

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.target import Int8Rules
from sr_deploy.export.int8.plan import planned, values_with_ranges
from sr_deploy.export.int8.scales import Ranges, activation_scale
from sr_deploy.export.not_finite import not_finite_error
from sr_deploy.runtime.ort import raw_session

Fed = Union[np.ndarray, Mapping[str, np.ndarray]]
MIN_MAX, PERCENTILE, MSE = "min-max", "percentile", "mse"
_PERCENT = 99.99
_SAMPLED = 29
"""Of all numbers, one in so many is kept for a distribution; prime, so that all columns are met."""
_BINS = 2048
_NARROWER = np.linspace(1.0, 0.3, 36)
"""The fractions of a range that are tried for the least error."""


def collect_ranges(
    model: onnx.ModelProto, images: Sequence[Fed], rules: Int8Rules
) -> Dict[str, Ranges]:
    """Return the ranges of the values that the rules quantise, by method of calibration.

    - `min-max`: all that occurs
    - `percentile`: without the lowest and the highest 0.01 %
    - `mse`: the range with the least squared error of the quantised numbers

    model: FP32, of `placement.ready_to_quantise`. images: (1, 3, H, W) float32 each, or
    inputs by name. Raises ExportError if a value is not finite.
    """
    names = values_with_ranges(model, rules)
    seen = _observed(model, names, images)
    return {
        MIN_MAX: {name: (s.low, s.high) for name, s in seen.items()},
        PERCENTILE: {name: _percentile(s) for name, s in seen.items()},
        MSE: {name: _least_error(s, rules) for name, s in seen.items()},
    }


def with_learnt(ranges: Ranges, learnt: Ranges, model: onnx.ModelProto, rules: Int8Rules) -> Ranges:
    """Return ranges in which those that training learnt replace the measured ones.

    A value keeps its measured range if an operator without a learnt one reads it in 8 bits: a
    convolution may learn to cut what an addition has to pass on.

    learnt: of the input of convolutions, by the name of the convolution's node. model, rules: as
    for `collect_ranges`.
    """
    replaced = {}
    for name, readers in planned(model, rules).readers.items():
        if all(node in learnt for node in readers):
            lows, highs = zip(*(learnt[node] for node in readers))
            replaced[name] = (min(lows), max(highs))
    return {**ranges, **replaced}


class _Seen(NamedTuple):
    """The numbers of a value, over all images."""

    low: float
    high: float
    sample: np.ndarray


def _observed(
    model: onnx.ModelProto, names: Sequence[str], images: Sequence[Fed]
) -> Dict[str, _Seen]:
    """Run a graph and return what its values were.

    The graph itself computes the ends and picks the samples, so that a run takes no more memory
    than any other.
    """
    probed, ends = _probed(model, names)
    session = raw_session(probed.SerializeToString())
    lows: Dict[str, List[float]] = {name: [] for name in names}
    highs: Dict[str, List[float]] = {name: [] for name in names}
    samples: Dict[str, List[np.ndarray]] = {name: [] for name in names}
    source = session.get_inputs()[0].name
    for image in images:
        feeds = image if isinstance(image, Mapping) else {source: image}
        found = dict(zip(ends, session.run(ends, feeds)))
        for i, name in enumerate(names):
            low, high, total = (float(found[f"{end}_{i}"]) for end in _ENDS)
            if not np.isfinite(low + high + total):
                raise not_finite_error(model, feeds[source])
            lows[name].append(low)
            highs[name].append(high)
            samples[name].append(found[f"{_SAMPLE}_{i}"])
    return {
        name: _Seen(min(lows[name]), max(highs[name]), np.concatenate(samples[name]))
        for name in names
    }


_ENDS = ("srdeploy_low", "srdeploy_high", "srdeploy_sum")
_SAMPLE = "srdeploy_sample"


def _probed(model: onnx.ModelProto, names: Sequence[str]) -> Tuple[onnx.ModelProto, List[str]]:
    """Return a graph that also gives the ends, the sum and a sample of some values."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    graph = probed.graph
    numbers = {"flat": [-1], "from": [0], "to": [2**31 - 1], "axis": [0], "step": [_SAMPLED]}
    for key, value in numbers.items():
        array = np.array(value, np.int64)
        graph.initializer.append(numpy_helper.from_array(array, f"srdeploy_{key}"))
    outputs = []
    for i, name in enumerate(names):
        for op, end in zip(("ReduceMin", "ReduceMax", "ReduceSum"), _ENDS):
            graph.node.append(helper.make_node(op, [name], [f"{end}_{i}"], keepdims=0))
            outputs.append(f"{end}_{i}")
        flat, picked = f"srdeploy_flat_{i}", f"{_SAMPLE}_{i}"
        graph.node.append(helper.make_node("Reshape", [name, "srdeploy_flat"], [flat]))
        part = [flat, *(f"srdeploy_{key}" for key in ("from", "to", "axis", "step"))]
        graph.node.append(helper.make_node("Slice", part, [picked]))
        outputs.append(picked)
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] if _SAMPLE in name else [])
        for name in outputs
    )
    return probed, outputs


def _percentile(seen: _Seen) -> Tuple[float, float]:
    low, high = np.percentile(seen.sample, [100 - _PERCENT, _PERCENT])
    return max(float(low), seen.low), min(float(high), seen.high)


def _least_error(seen: _Seen, rules: Int8Rules) -> Tuple[float, float]:
    """Return the range whose quantised numbers differ least from the sample, in squares."""
    counts, edges = np.histogram(seen.sample, _BINS)
    centres, weights = (edges[1:] + edges[:-1]) / 2, counts / max(seen.sample.size, 1)
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)

    def error(a: float, b: float) -> float:
        scale, zero = activation_scale(a, b, rules)
        limits = np.iinfo(zero.dtype)
        steps = np.clip(np.rint(centres / scale) + float(zero), limits.min, limits.max)
        return float(weights @ ((steps - float(zero)) * scale - centres) ** 2)

    if rules.symmetric:
        fraction = min(_NARROWER, key=lambda f: error(f * low, f * high))
        return fraction * low, fraction * high
    high *= min(_NARROWER, key=lambda f: error(low, f * high))
    return low * min(_NARROWER, key=lambda f: error(f * low, high)), high
