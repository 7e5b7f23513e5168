"""INT8 on a DLA: it reads no Q/DQ pairs, so the builder gets floats and a calibration cache.

The scales of the cache are those of the pairs. Values that have none, such as the results of
convolutions, have what is largest in them for a few photographs.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import HW
from sr_deploy.runtime.fallback import load_onnx
from sr_deploy.runtime.graph_nodes import free_name, name_nodes
from sr_deploy.runtime.quantised_graph import (
    activation_scales,
    quantised_nodes,
    without_quantisation,
)

DLA_INT8 = "a build for the DLA with INT8 and a calibration cache: it reports no types of layers"
DLA_LAYERS = "which layers on the DLA compute in INT8"
_IMAGES = 3
_LEAST = 2.0**-100
"""Scales are above zero."""


def unquantised_convolutions(onnx: Path) -> Tuple[str, ...]:
    """Return the names of an INT8 graph's convolutions that are not quantised.

    Raises MissingPackageError without onnx.
    """
    model, _ = load_onnx(onnx)
    quantised = quantised_nodes(model)
    nodes = (n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose"))
    return tuple(node.name for node in nodes if node.name not in quantised)


def floats_and_scales(onnx: Path, hw: HW, floats: Path) -> Dict[str, float]:
    """Write an INT8 graph without its Q/DQ pairs to `floats`; return the scales of its values.

    A scale is the value of one step: 127 of them are the largest value. Raises MissingPackageError
    without onnx or onnxruntime.
    """
    model, library = load_onnx(onnx)
    plain = without_quantisation(model)
    library.save(plain, str(floats))
    images = [nchw_from_rgb(rgb) for rgb in sample_lr(hw, count=_IMAGES)]
    known = activation_scales(model)
    return {
        name: known.get(name, max(largest / 127, _LEAST))
        for name, largest in _largest_values(plain, images).items()
    }


def cache_lines(scales: Dict[str, float]) -> str:
    """Return the lines of a calibration cache below its first: `name: 3c010204`.

    A number is the scale's bytes as a big-endian float, in hexadecimal digits.
    """
    return "".join(f"{name}: {struct.pack('>f', n).hex()}\n" for name, n in scales.items())


def calibration_cache(scales: Dict[str, float], version: str) -> bytes:
    """Return a calibration cache for a version of TensorRT, `8.5.2.2`; others ignore it."""
    major, minor, patch = (int(n) for n in version.split(".")[:3])
    digits = f"{major}{minor}{patch:02}" if major < 10 else f"{major}{minor:02}{patch:02}"
    return f"TRT-{digits}-EntropyCalibration2\n{cache_lines(scales)}".encode()


def calibrator(trt: Any, cache: bytes) -> Any:
    """Return a calibrator of TensorRT 8 to 10 that knows all ranges from a cache."""

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            super().__init__()

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: List[str]) -> None:
            return None  # there are no pictures: only the cache

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, cache: Any) -> None:
            pass

    return Calibrator()


def _largest_values(model: Any, images: List[np.ndarray]) -> Dict[str, float]:
    """Return the largest absolute value of each floating value of an FP32 graph, by its name."""
    import onnx
    from onnx import TensorProto, helper

    from sr_deploy.runtime.ort import raw_session

    work = onnx.shape_inference.infer_shapes(model)
    name_nodes(work)
    graph = work.graph
    values = [*graph.input, *graph.value_info, *graph.output]
    names = [v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    taken = {name for node in graph.node for name in (node.name, *node.output)}
    ends: Dict[str, str] = {}
    for name in dict.fromkeys(names):
        sizes, end = free_name(f"{name}_abs", taken), free_name(f"{name}_max", taken)
        graph.node.append(helper.make_node("Abs", [name], [sizes], name=sizes))
        graph.node.append(helper.make_node("ReduceMax", [sizes], [end], name=end, keepdims=0))
        ends[name] = end
    image = graph.input[0].name
    del graph.output[:]
    for end in ends.values():
        graph.output.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, []))
    session = raw_session(work.SerializeToString())
    runs = [session.run(None, {image: x}) for x in images]
    return {name: float(max(run[i] for run in runs)) for i, name in enumerate(ends)}
