"""`--fallback`: nodes of a graph that an FP16 engine computes in FP32.

A weakly typed builder receives their names. A strongly typed one takes the types of the graph, so
the graph is rewritten for it: with casts where the type changes, and their weights in FP32 (of the
values they have in FP16).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

from sr_deploy.core.errors import BuildError, MissingPackageError, did_you_mean
from sr_deploy.core.files import native_path
from sr_deploy.runtime.graph_nodes import all_nodes, name_nodes
from sr_deploy.runtime.graph_types import FLOAT, retyped

HEAD_AND_TAIL = "head-tail"


def fp32_nodes(onnx_file: Path, fallback: str) -> Tuple[str, ...]:
    """Return the nodes that `fallback` selects in a file. Raises BuildError."""
    if not fallback:
        return ()
    with native_path(onnx_file) as name:
        model = _onnx().load(name, load_external_data=False)
    name_nodes(model)
    return select_nodes(model, fallback, onnx_file.name)


def select_nodes(model: Any, fallback: str, what: str) -> Tuple[str, ...]:
    """Return the nodes that `fallback` selects: the first and last convolution for `head-tail`, or
    the names in `NODE,NODE`. what: the graph, for the error. Raises BuildError.
    """
    nodes = list(all_nodes(model.graph))
    if fallback == HEAD_AND_TAIL:
        convolutions = [node.name for node in nodes if node.op_type in ("Conv", "ConvTranspose")]
        if not convolutions:
            raise BuildError(f"{what} has no convolution to keep in FP32")
        return tuple(dict.fromkeys((convolutions[0], convolutions[-1])))
    names = [node.name for node in nodes if node.op_type not in ("Constant", "Cast")]
    selected = tuple(dict.fromkeys(name.strip() for name in fallback.split(",")))
    for name in selected:
        if name not in names:
            raise BuildError(
                f"{what} has no node '{name}' to keep in FP32",
                hint=did_you_mean(name, names)
                or f"give {HEAD_AND_TAIL}, or names of its nodes, separated by commas",
            )
    return selected


def with_fp32_nodes(onnx_file: Path, names: Tuple[str, ...], result: Path) -> None:
    """Write an FP16 graph with the named nodes in FP32, and casts where the type changes."""
    model, onnx = load_onnx(onnx_file)
    name_nodes(model)
    mixed = retyped(model, lambda node: FLOAT if node.name in names else None).model
    onnx.checker.check_model(mixed, full_check=True)
    onnx.save(mixed, str(result))


def load_onnx(onnx_file: Path) -> Tuple[Any, Any]:
    """Return a graph and the package onnx. Raises MissingPackageError."""
    onnx = _onnx()
    with native_path(onnx_file) as name:
        return onnx.load(name), onnx


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as e:
        raise MissingPackageError("onnx", needed_for="rewriting a graph", cause=e) from e
    return onnx
