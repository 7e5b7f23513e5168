"""`--fallback`: nodes of a graph that an FP16 engine computes in FP32.

A weakly typed builder receives their names. A strongly typed one takes the types of the graph, so
the graph is rewritten for it: with casts around the nodes, and their weights in FP32 (of the values
they have in FP16).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

from sr_deploy.core.errors import BuildError, MissingPackageError, did_you_mean
from sr_deploy.core.files import native_path

HEAD_AND_TAIL = "head-tail"


def fp32_nodes(onnx_file: Path, fallback: str) -> Tuple[str, ...]:
    """Return the nodes that `fallback` selects: the first and last convolution for `head-tail`, or
    the names in `NODE,NODE`. Raises BuildError.
    """
    if not fallback:
        return ()
    nodes = _onnx().load(str(onnx_file)).graph.node
    if fallback == HEAD_AND_TAIL:
        convolutions = [node.name for node in nodes if node.op_type in ("Conv", "ConvTranspose")]
        if not convolutions:
            raise BuildError(f"{onnx_file.name} has no convolution to keep in FP32")
        return tuple(dict.fromkeys((convolutions[0], convolutions[-1])))
    names = [node.name for node in nodes if node.op_type not in ("Constant", "Cast")]
    selected = tuple(dict.fromkeys(name.strip() for name in fallback.split(",")))
    for name in selected:
        if name not in names:
            raise BuildError(
                f"{onnx_file.name} has no node '{name}' to keep in FP32",
                hint=did_you_mean(name, names)
                or f"give {HEAD_AND_TAIL}, or names of its nodes, separated by commas",
            )
    return selected


def with_fp32_nodes(onnx_file: Path, names: Tuple[str, ...], result: Path) -> None:
    """Write an FP16 graph with the named nodes in FP32, and casts before and after each."""
    onnx = _onnx()
    from onnx import TensorProto, helper, numpy_helper

    with native_path(onnx_file) as name:
        model = onnx.load(name)
    constants = {t.name: t for t in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    fp16 = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes: List[Any] = []

    def add_cast(source: str, target: str, name: str, to: int) -> None:
        nodes.append(helper.make_node("Cast", [source], [target], name=name, to=to))

    for node in model.graph.node:
        if node.name not in names:
            nodes.append(node)
            continue
        for i, source in enumerate(node.input):
            fp32_name = f"{node.name}/fp32/{i}"
            if source in constants and constants[source].data_type == TensorProto.FLOAT16:
                weight = numpy_helper.to_array(constants[source]).astype("float32")
                model.graph.initializer.append(numpy_helper.from_array(weight, fp32_name))
                node.input[i] = fp32_name
            elif source in fp16:
                add_cast(source, fp32_name, f"{node.name}/to_fp32/{i}", TensorProto.FLOAT)
                node.input[i] = fp32_name
        nodes.append(node)
        for i, output in enumerate(node.output):
            if output in fp16:
                node.output[i] = f"{node.name}/fp32/out/{i}"
                add_cast(node.output[i], output, f"{node.name}/to_fp16/{i}", TensorProto.FLOAT16)
    used = {name for node in nodes for name in node.input}
    initializers = [t for t in model.graph.initializer if t.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initializers)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(result))


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as e:
        raise MissingPackageError("onnx", needed_for="--fallback", cause=e) from e
    return onnx
