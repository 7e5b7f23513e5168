"""A static network as a clean ONNX graph: input `lr`, output `sr`, NCHW RGB 0..1, FP32, no traces of where it was made."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Iterator, Optional, Sequence

import onnx
import torch
from torch import Tensor, nn

from sr_deploy.core.errors import ExportError
from sr_deploy.core.sizes import Sizes
from sr_deploy.export import opset as opsets


def graph_from_network(net: nn.Module, sizes: Sizes, *, opset: int) -> onnx.ModelProto:
    """Return the FP32 graph of `net` (1, 3, H, W) -> (1, 3, sH, sW) in `opset`, checked. Raises ExportError."""
    dims = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC} if sizes.dynamic else {}
    model = graph_of(
        net,
        (torch.zeros(1, 3, *sizes.opt),),
        inputs=["lr"],
        outputs=["sr"],
        dynamic=(dims,),
        opset=opset,
    )
    if sizes.dynamic:
        _name_dims(model)
    return model


def graph_of(
    net: nn.Module,
    given: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Sequence[dict],
    opset: int,
) -> onnx.ModelProto:
    """Return the graph of a module of any inputs, `given` as an example, in `opset`, checked. Raises ExportError.

    dynamic: for each input the dimensions that are free, as torch.export takes them.
    """
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                net,
                tuple(given),
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=opsets.EXPORTED,
                dynamo=True,
                dynamic_shapes=tuple(dynamic) if any(dynamic) else None,
                verbose=False,
            )
    except (
        Exception
    ) as e:  # torch's exporter raises its own and many others, and wraps even an interruption
        cause: Optional[BaseException] = e
        while cause is not None:
            if isinstance(cause, (KeyboardInterrupt, SystemExit)):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise ExportError(
            f"torch could not export the network: {type(e).__name__}: {str(e).splitlines()[0]}"
        ) from e
    model = program.model_proto
    opsets.check(model, opsets.EXPORTED)
    _strip(model)
    model = opsets.lower(model, opset)
    opsets.check(model, opset)
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove source paths and stack traces: they differ from machine to machine and say nothing about the function."""
    model.doc_string = ""
    model.producer_name, model.producer_version = "srdeploy", ""
    model.graph.doc_string = ""
    model.graph.name = "sr"
    for container in (model, model.graph):
        del container.metadata_props[:]
    for items in (
        model.graph.node,
        model.graph.initializer,
        model.graph.input,
        model.graph.output,
        model.graph.value_info,
    ):
        for item in items:
            item.doc_string = ""
            del item.metadata_props[:]
    del model.graph.value_info[:]


def _name_dims(model: onnx.ModelProto) -> None:
    for value, names in (
        (model.graph.input[0], ("h", "w")),
        (model.graph.output[0], ("sr_h", "sr_w")),
    ):
        for dim, name in zip(value.type.tensor_type.shape.dim[2:], names):
            dim.Clear()
            dim.dim_param = name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress on stdout, which is ours for data."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
