"""Which value of a graph is the first that is not a number, or infinite."""

from __future__ import annotations

import numpy as np
import onnx

from sr_deploy.core.errors import ExportError
from sr_deploy.runtime.ort import raw_session


def not_finite_error(model: onnx.ModelProto, x: np.ndarray, *, name: str = "") -> ExportError:
    """Return the error that names the first value of an FP32 graph that is not finite at `x`.

    x: (1, 3, H, W) float32. name: of the file that would be made, for the message.
    """
    node = _first(model, x)
    where = ""
    if node is not None:
        where = f", first those of node '{node.name or node.output[0]}' ({node.op_type})"
    return ExportError(
        f"{name}{': ' if name else ''}the network yields values that are not finite numbers{where}",
        hint="its weights are damaged, or its training diverged",
    )


def _first(model: onnx.ModelProto, x: np.ndarray) -> onnx.NodeProto | None:
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    makers = {name: node for node in model.graph.node for name in node.output if name}
    probed.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in makers if name not in known
    )
    session = raw_session(probed.SerializeToString(), optimise=False)
    values = session.run(list(makers), {session.get_inputs()[0].name: x})
    for name, value in zip(makers, values):
        array = np.asarray(value)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return makers[name]
    return None
