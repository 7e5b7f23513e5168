"""A handmade part of an adaptive network: two inputs, two outputs, tiles of any number and size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, Optional

import numpy as np

from sr_deploy.core.depth_plan import DepthPlan
from sr_deploy.core.jsonio import to_json
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


def write_depth_plan(folder):
    """Write the plan of a small AdaDSR for FP16 engines of a weakly typed builder; return its path.

    Its graphs are handmade; one has two outputs.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    random = np.random.default_rng(0)
    h_w = ("H", "W")
    features, map_ = (1, 4, *h_w), (1, 1, *h_w)
    sizes = {"H": (4, 8, 32), "W": (4, 8, 32)}
    image, wide = (1, 3, *h_w), ("N", 4, *h_w)
    ends = {  # the inputs and the outputs
        "map": ({"lr": image, "depth": (1,)}, {"features": features, "depth_map": map_}),
        "whole": ({"lr": image, "depth_map": map_}, {"sr": image}),
        "head": ({"lr": image}, {"features": features}),
        "end": ({"y": features, "features": features}, {"sr": image}),
        "b1": ({"y": wide, "depth_map": ("N", 1, *h_w)}, {"y_out": wide}),
    }
    plan = DepthPlan("ada", 1, 1, "0", 1, 1, 1, depths=(1,), precision="fp16")
    parts = {}
    for role, (inputs, outputs) in ends.items():
        (x, *_), second, (y, *rest) = inputs, list(inputs)[-1], outputs
        shape = (outputs[y][1], inputs[x][1], 1, 1)
        weight = (random.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
        nodes = [helper.make_node("Conv", [x, "weight"], ["made"], name="conv")]
        # The second input counts, whatever its shape is.
        axes = list(range(1, len(inputs[second])))
        nodes += [
            helper.make_node("ReduceMean", [second], ["all"], name="all", keepdims=1, axes=axes)
            if axes
            else helper.make_node("Identity", [second], ["all"], name="all"),
            helper.make_node("Add", ["made", "all"], [y], name="add"),
        ]
        for name in rest:
            nodes.append(helper.make_node("ReduceMean", [y], [name], name="map", axes=[1]))
        info = helper.make_tensor_value_info
        tensors = [
            [info(name, TensorProto.FLOAT, list(dims)) for name, dims in shapes.items()]
            for shapes in (inputs, outputs)
        ]
        graph = helper.make_graph(
            nodes, role, *tensors, [numpy_helper.from_array(weight, "weight")]
        )
        opset = [helper.make_opsetid("", 17)]
        path = folder / f"ada.{role}.onnx"
        save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
        free = {"N": (1, 2, 8), **sizes} if role == "b1" else sizes
        parts[role] = PlanPart(path.name, artifact_sha256(path), inputs, outputs, free, opset=17)
    path = folder / plan.file_name
    path.write_text(to_json(replace(plan, parts=parts)))
    return path


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
