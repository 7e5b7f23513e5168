"""Graphs written as text, as other exporters write them."""

from __future__ import annotations

import numpy as np
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.runtime.ort import raw_session


def graph(body: str, *, opset: int = 13, constants: str = "", hw: str = "8,8") -> onnx.ModelProto:
    """Return a network `lr` -> `sr` of the nodes in `body`. hw: LR size."""
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": {opset}]>\n'
        f"net (float[1,3,{hw}] lr) => (float[1,3,out_h,out_w] sr) <{constants}> {{ {body} }}"
    )


def run(model, x, *, as_written=False):
    """Return the output of a graph by ONNX Runtime; x: the input in the graph's type.

    as_written: no nodes are merged, so quantised layers compute in floating point.
    """
    session = raw_session(model.SerializeToString(), optimise=not as_written)
    return session.run(None, {model.graph.input[0].name: x})[0]


def chain(*weights):
    """1x1 convolutions of 3 to 3 channels; a number stands for that multiple of the identity."""
    nodes, constants, last = [], [], "lr"
    for i, weight in enumerate(weights):
        matrix = np.eye(3) * weight if np.isscalar(weight) else weight
        constants.append(
            numpy_helper.from_array(
                np.asarray(matrix, dtype=np.float32).reshape(3, 3, 1, 1), f"w{i}"
            )
        )
        output = "sr" if i == len(weights) - 1 else f"t{i}"
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [output], name=f"conv{i}"))
        last = output
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 6, 7])
        for name in ("lr", "sr")
    ]
    return helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
