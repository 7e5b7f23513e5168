"""Export of modules to clean ONNX graphs: NCHW RGB 0..1, FP32, without source paths."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import warnings
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple

import onnx
import torch
from torch import Tensor, nn

from sr_deploy.core.errors import ExportError
from sr_deploy.core.sizes import Sizes
from sr_deploy.export import opset as opsets
from sr_deploy.export.layer_norm import LAYER_NORM_OPSET, split_layer_norms


def graph_from_network(
    net: nn.Module, sizes: Sizes, *, opset: int, multiple: int = 1
) -> onnx.ModelProto:
    """Export `net`, (1, 3, H, W) -> (1, 3, sH, sW), to a checked FP32 graph. Raises ExportError.

    multiple: H and W are multiples of this.
    """
    example = torch.zeros(1, 3, *sizes.opt)
    dims = {2: torch.export.Dim("h") * multiple, 3: torch.export.Dim("w") * multiple}
    inputs = {"lr": (dims if multiple > 1 else dynamic_dims(2, 3)) if sizes.dynamic else {}}
    model = export_module(net, (example,), inputs=inputs, outputs=["sr"], opset=opset)
    if sizes.dynamic:
        _name_dims(model)
    return model


def ranges_of_nodes(
    model: onnx.ModelProto, ranges: Mapping[str, Tuple[float, float]]
) -> Dict[str, Tuple[float, float]]:
    """Return ranges of layers' inputs by the names of the nodes that compute the layers.

    ranges: by the layers' names in the fused network. A form of it that has several convolutions
    for a layer names them after it, as `LAYER.parts.0`, and all read a part of its input.
    """
    found: Dict[str, Tuple[float, float]] = {}
    for node in model.graph.node if ranges else ():
        layer = node.input[1] if node.op_type in ("Conv", "ConvTranspose") else ""
        while layer and layer not in ranges:
            layer = layer.rpartition(".")[0]
        if layer:
            found[node.name] = ranges[layer]
    return found


def dynamic_dims(*dims: int) -> dict:
    """Return the dynamic dimensions of an input in the notation of torch.export."""
    return {dim: torch.export.Dim.DYNAMIC for dim in dims}


def export_module(
    net: nn.Module,
    example: Sequence[Tensor],
    *,
    inputs: Mapping[str, dict],
    outputs: Sequence[str],
    opset: int,
) -> onnx.ModelProto:
    """Export a module with any inputs to a checked graph. Raises ExportError.

    inputs: names with their `dynamic_dims`.
    """
    try:
        with _quiet(), torch.no_grad():
            net(*example)  # one that writes its weights when it runs has written them
        with _quiet(), torch.no_grad(), _weights_kept():
            program = torch.onnx.export(
                net,
                tuple(example),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=opsets.EXPORTED,
                dynamo=True,
                dynamic_shapes=tuple(inputs.values()) if any(inputs.values()) else None,
                custom_translation_table=_translations(),
                verbose=False,
            )
    except Exception as e:  # the exporter raises many kinds, and wraps even an interruption
        raise ExportError(f"torch could not export the network: {_reason(e)}") from e
    assert program is not None
    model = program.model_proto
    opsets.check(model, opsets.EXPORTED)
    _strip(model)
    if opset < LAYER_NORM_OPSET:
        model = split_layer_norms(model)
    model = opsets.lower(model, opset)
    opsets.check(model, opset)
    return model


def _reason(error: BaseException) -> str:
    """Return the first cause of an error of the exporter. Raises an interruption that it wraps."""
    cause: Optional[BaseException] = error
    reason = ""
    while cause is not None:
        if isinstance(cause, (KeyboardInterrupt, SystemExit)):
            raise cause from None
        lines = re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).strip().splitlines()
        reason = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
        cause = cause.__cause__ or cause.__context__
    return reason


def _translations() -> Dict[Callable, Callable]:
    """Return what torch's exporter lacks: stable sorts, and powers of a tensor's value."""
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops import core

    def sort_stable(x: Any, *, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
        # TopK puts the lower of two equal elements first, as a stable sort does.
        return core.aten_sort(x, dim, descending)

    def power(x: Any, exponent: Any) -> Any:
        if isinstance(exponent, (int, float)):
            return core.aten_pow_tensor_scalar(x, exponent)
        return op.Pow(x, op.CastLike(exponent, x))

    aten = torch.ops.aten
    return {aten.sort.stable: sort_stable, aten.pow.Tensor_Scalar: power}


def _strip(model: onnx.ModelProto) -> None:
    """Remove source paths and stack traces, which differ between machines."""
    model.doc_string = ""
    model.producer_name, model.producer_version = "srdeploy", ""
    model.graph.doc_string = ""
    model.graph.name = "sr"
    for container in (model, model.graph):
        del container.metadata_props[:]
    graph = model.graph
    for items in (graph.node, graph.initializer, graph.input, graph.output, graph.value_info):
        for item in items:
            item.doc_string = ""
            del item.metadata_props[:]
    del model.graph.value_info[:]


def _name_dims(model: onnx.ModelProto) -> None:
    ends = (model.graph.input[0], ("h", "w")), (model.graph.output[0], ("sr_h", "sr_w"))
    for value, names in ends:
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], names):
            dim.Clear()
            dim.dim_param = name


@contextlib.contextmanager
def _weights_kept() -> Iterator[None]:
    """Trace a network that assigns to the `data` of its weights: ignore that, and read a copy.

    Convolutions that are trained as several paths, such as SPAN's, merge them anew in every run. A
    trace does not follow `data`, and torch crashes on weights without values.
    """
    data: Any = torch.Tensor.data  # a descriptor of the base class

    def called_by_torch() -> bool:
        caller = sys._getframe(2).f_globals.get("__name__", "")
        return bool(caller.partition(".")[0] == "torch")

    def read(tensor: Tensor) -> Tensor:
        return data.__get__(tensor) if called_by_torch() else tensor.detach()

    def assign(tensor: Tensor, value: Tensor) -> None:
        if called_by_torch():
            data.__set__(tensor, value)

    torch.Tensor.data = property(read, assign)  # type: ignore[assignment]
    try:
        yield
    finally:
        del torch.Tensor.data  # that of the base class is left


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints its progress on stdout."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
