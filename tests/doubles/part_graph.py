"""A handmade part of an adaptive network: two inputs, two outputs, tiles of any number and size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Optional

import numpy as np

from sr_deploy.core.onnx_file import artifact_sha256
from sr_deploy.core.parts import AdaptivePlan, PlanEngine, PlanPart


@dataclass(frozen=True)
class TwoPartPlan(AdaptivePlan):
    """A plan of a kind of its own."""

    model: str = "small"
    scale: int = 2
    parent_sha256: str = "0"
    parts: Dict[str, PlanPart] = field(default_factory=dict)
    target: str = ""
    precision: str = "fp16"
    checks: Dict[str, Any] = field(default_factory=dict)
    engine: Optional[PlanEngine] = None
    kind = "two"

    def roles(self):
        return ["first", "second"]

    def problems(self):
        return iter(())


PLAN = TwoPartPlan()


def part_model(*, half=False):
    """Return the model: `half` (convolved features, FP16 if `half`) and `sum` of its inputs."""
    from onnx import TensorProto, helper, numpy_helper

    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    weight = (np.random.default_rng(0).standard_normal((4, 4, 1, 1)) / 4).astype(dtype)
    nodes = [
        helper.make_node("Conv", ["features", "weight"], ["convolved"], name="conv"),
        helper.make_node("Mul", ["convolved", "inside"], ["masked"], name="mask"),
        helper.make_node("ReduceMean", ["features"], ["mean"], name="mean", axes=[1], keepdims=1),
    ]
    info = helper.make_tensor_value_info
    inputs = [
        info("features", kind, ["N", 4, "H", "W"]),
        info("inside", kind, ["N", 1, "H", "W"]),
    ]
    outputs = [
        info("masked", kind, ["N", 4, "H", "W"]),
        info("mean", kind, ["N", 1, "H", "W"]),
    ]
    initializers = [numpy_helper.from_array(weight, "weight")]
    graph = helper.make_graph(nodes, "part", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def plan_part(path):
    """Return the plan's entry of such a graph, or of an engine of it."""
    return PlanPart(
        path.name,
        artifact_sha256(path),
        {"features": ("N", 4, "H", "W"), "inside": ("N", 1, "H", "W")},
        {"masked": ("N", 4, "H", "W"), "mean": ("N", 1, "H", "W")},
        {"N": (1, 2, 8), "H": (4, 8, 32), "W": (4, 8, 32)},
        opset=17,
    )
