"""What the machine can do at most: multiplications in each precision, and copies."""

from __future__ import annotations

import time
from typing import Callable, Dict, List, Tuple

import numpy as np

SIDE, CHANNELS, LAYERS = 128, 64, 8
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
"""Of a number in a map, by precision."""


def timed(run: Callable[[], object]) -> Callable[[], float]:
    def measured() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1000

    return measured


def measure_ceilings() -> Tuple[Dict[str, float], float]:
    """Return GMAC/s by precision, and GB/s."""
    return {precision: mac_ceiling(precision) for precision in BYTES}, byte_ceiling()


def mac_ceiling(precision: str) -> float:
    """Return GMAC/s of eight 3x3 convolutions, 64 to 64 channels at 128x128, best of twenty.

    The best of OpenVINO and, for FP32, onnxruntime; NaN where this CPU lacks the precision.
    """
    import onnx
    from onnx import helper, numpy_helper
    from runtimes import OPENVINO, openers, quantised

    rng = np.random.default_rng(0)
    shapes = [(CHANNELS, 3 if i == 0 else CHANNELS, 3, 3) for i in range(LAYERS + 1)]
    weights = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in shapes]
    nodes: List[onnx.NodeProto] = []
    for i in range(LAYERS + 1):
        last = "sr" if i == LAYERS else f"y{i}"
        source = "lr" if i == 0 else f"y{i - 1}"
        conv = [source, f"w{i}"]
        nodes.append(helper.make_node("Conv", conv, [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [last], f"relu{i}"))
    graph = helper.make_graph(
        nodes,
        "ceiling",
        [helper.make_tensor_value_info("lr", 1, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("sr", 1, [1, CHANNELS, SIDE, SIDE])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = rng.random((1, 3, SIDE, SIDE), dtype=np.float32)
    if precision == "int8":
        model = quantised(model, x, "cpu-openvino")
    times = []
    for runtime in (OPENVINO, "onnxruntime") if precision == "fp32" else (OPENVINO,):
        run, _ = openers()[runtime](model.SerializeToString(), precision)
        if run is not None:
            once = timed(lambda run=run: run(x))
            times += [once() for _ in range(20)]
    macs = sum(w[0].size * CHANNELS for w in weights) * SIDE * SIDE
    return macs / min(times, default=float("nan")) / 1e6


def byte_ceiling() -> float:
    """Return GB/s read and written by torch's copy of 256 MiB with all threads, best of ten."""
    import torch

    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    run = timed(lambda: target.copy_(source))
    run()
    return 2 * source.numel() * 4 / min(run() for _ in range(10)) / 1e6
