"""`--fallback`: nodes of a graph that an FP16 engine computes in FP32.

A weakly typed builder is told their names. A strongly typed one takes the types of the graph, so there the graph is rewritten:
casts round the nodes, whose weights become FP32 (of the values that FP16 had left them).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

from sr_deploy.core.errors import BuildError, MissingPackageError, did_you_mean

HEAD_AND_TAIL = "head-tail"


def fp32_nodes(onnx_file: Path, fallback: str) -> Tuple[str, ...]:
    """Return the nodes meant by `head-tail` (the first and last convolution) or `NODE,NODE`. Raises BuildError."""
    if not fallback:
        return ()
    nodes = _load(onnx_file).graph.node
    names = [node.name for node in nodes if node.op_type not in ("Constant", "Cast")]
    if fallback == HEAD_AND_TAIL:
        convolutions = [node.name for node in nodes if node.op_type in ("Conv", "ConvTranspose")]
        if not convolutions:
            raise BuildError(f"{onnx_file.name} has no convolution to keep in FP32")
        return tuple(dict.fromkeys((convolutions[0], convolutions[-1])))
    wanted = tuple(dict.fromkeys(name.strip() for name in fallback.split(",")))
    for name in wanted:
        if name not in names:
            raise BuildError(
                f"{onnx_file.name} has no node '{name}' to keep in FP32",
                hint=did_you_mean(name, names)
                or f"give {HEAD_AND_TAIL}, or names of its nodes, separated by commas",
            )
    return wanted


def with_fp32_nodes(onnx_file: Path, names: Tuple[str, ...], result: Path) -> None:
    """Write an FP16 graph with the named nodes in FP32, casts before and after each. Raises BuildError."""
    onnx = _onnx()
    from onnx import TensorProto, helper, numpy_helper

    model = _load(onnx_file)
    constants = {t.name: t for t in model.graph.initializer}
    types = {
        v.name: v.type.tensor_type.elem_type
        for graph in [onnx.shape_inference.infer_shapes(model, strict_mode=True).graph]
        for v in [*graph.value_info, *graph.input, *graph.output]
    }
    nodes: List[Any] = []
    for node in model.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        for i, source in enumerate(node.input):
            wide = f"{node.name}/fp32/{i}"
            if source in constants and constants[source].data_type == TensorProto.FLOAT16:
                model.graph.initializer.append(
                    numpy_helper.from_array(
                        numpy_helper.to_array(constants[source]).astype("float32"), wide
                    )
                )
                node.input[i] = wide
            elif types.get(source) == TensorProto.FLOAT16:
                nodes.append(
                    helper.make_node(
                        "Cast",
                        [source],
                        [wide],
                        name=f"{node.name}/to_fp32/{i}",
                        to=TensorProto.FLOAT,
                    )
                )
                node.input[i] = wide
        nodes.append(node)
        for i, output in enumerate(node.output):
            if types.get(output) == TensorProto.FLOAT16:
                wide = f"{node.name}/fp32/out/{i}"
                node.output[i] = wide
                nodes.append(
                    helper.make_node(
                        "Cast",
                        [wide],
                        [output],
                        name=f"{node.name}/to_fp16/{i}",
                        to=TensorProto.FLOAT16,
                    )
                )
    used = {name for node in nodes for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(result))


def _load(path: Path) -> Any:
    return _onnx().load(str(path))


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as e:
        raise MissingPackageError("onnx", needed_for="--fallback", extra="export", cause=e) from e
    return onnx
