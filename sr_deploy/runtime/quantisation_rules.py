"""Rules of the preflight for QuantizeLinear and DequantizeLinear.

Sources, besides those of `preflight`: [guide 8] TensorRT's developer guide of release 8, explicit
quantisation; [rtx] networks given to tensorrt_rtx 1.7.1, and the layers that its builder logged;
[N] an issue of NVIDIA/TensorRT.
"""

from __future__ import annotations

from typing import Iterator, Optional

import numpy as np

from sr_deploy.runtime.onnx_view import Graph, Node
from sr_deploy.runtime.parser_rules import EXPORT, RTX, Parser, Rule, not_read

_PAIR = "QuantizeLinear DequantizeLinear"
_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
"""The axis of the output channels in the weights."""


def _maker(node: Node, index: int) -> Optional[Node]:
    """Return the node that makes an input, behind casts; None for constants and the image."""
    maker = node.graph.makers.get(node.input(index))
    while maker is not None and maker.op == "Cast":
        maker = node.graph.makers.get(maker.input(0))
    return maker


def _is_quantised(node: Optional[Node]) -> bool:
    """Return whether a node is a convolution of dequantised values."""
    if node is None or node.op not in _CHANNEL_AXIS:
        return False
    makers = (_maker(node, 0), _maker(node, 1))
    return all(maker is not None and maker.op == "DequantizeLinear" for maker in makers)


def _is_of_weights(node: Node) -> bool:
    """Return whether a QuantizeLinear or DequantizeLinear has a constant, quantised or not."""
    maker = _maker(node, 0)
    return node.constant(0) is not None or (
        maker is not None and maker.op == "QuantizeLinear" and maker.constant(0) is not None
    )


@Rule(EXPORT, _PAIR)
def _signed(node: Node, to: Parser) -> Iterator[str]:
    if node.op == "QuantizeLinear":
        without = "UINT8" if not node.attributes.get("output_dtype") else ""
        kind = node.type(node.input(2)) if node.input(2) else without
    else:
        kind = node.type(node.input(0))
    if kind == "UINT8":
        yield "it is of UINT8: only signed INT8 is read"


@Rule(EXPORT, _PAIR)
def _symmetric(node: Node, to: Parser) -> Iterator[str]:
    zero = node.constant(2)
    if zero is not None and zero.any() and node.type(node.input(2)) != "UINT8":
        value = int(zero.ravel()[np.flatnonzero(zero)[0]])
        yield f"its zero point is {value}: only symmetric quantisation, about 0, is read"


@Rule(EXPORT, _PAIR)
def _positive(node: Node, to: Parser) -> Iterator[str]:
    # [rtx; code] The parser refuses it. One of Xavier ended in quantizeBiasCommon, without an error
    # that names the node [4527].
    scale = node.constant(1)
    bad = 0 if scale is None else int((~(np.isfinite(scale) & (scale > 0))).sum())
    if bad and scale is not None:
        yield f"{bad} of its {scale.size} scales are not above zero"


@Rule(EXPORT, _PAIR)
def _per_channel(node: Node, to: Parser) -> Iterator[str]:
    # [rtx] It is read, but the convolution computes in FP32.
    scale = node.constant(1)
    if scale is None or scale.size < 2:
        return
    if not _is_of_weights(node):
        yield "a value that is computed has one scale per channel: only weights can"
        return
    axis = node.attributes.get("axis", 1)
    for reader in node.graph.nodes:
        expected = _CHANNEL_AXIS.get(reader.op)
        if expected is not None and axis != expected and _maker(reader, 1) is node:
            yield f"its scales are of axis {axis} of the weights of '{reader.name}'; expected " + (
                f"axis {expected}, the output channels"
            )


@Rule(EXPORT, "DequantizeLinear")
def _bias(node: Node, to: Parser) -> Iterator[str]:
    if node.type(node.input(0)) == "INT32":  # a bias, of onnxruntime's quantisation [rtx]
        yield "it is of INT32: the bias of a convolution must stay a float"


@Rule(EXPORT, "DequantizeLinear", before=(10, 0))
def _weights(node: Node, to: Parser) -> Iterator[str]:
    # [guide 8]
    if node.constant(0) is not None and node.type(node.input(0)) == "INT8":
        yield f"weights of INT8 are {not_read((10, 0))}: they must be floats, and then quantised"


@Rule("give it a zero point of 0", _PAIR, before=(9, 0))
def _three_inputs(node: Node, to: Parser) -> Iterator[str]:
    if not node.input(2):  # [code 8]
        yield f"it has no zero point, which is {not_read((9, 0))}"


@Rule("keep the convolution in higher precision with --keep", "Sigmoid", before=(8, 6))
def _depthwise_sigmoid(node: Node, to: Parser) -> Iterator[str]:
    conv = _maker(node, 0)  # [3385]
    groups = conv.attributes.get("group", 1) if conv is not None and _is_quantised(conv) else 1
    if conv is not None and groups > 1:
        shape = conv.shape(conv.outputs[0]) or [None, None]
        if shape[1] == groups:
            yield f"TensorRT 8.5 has no INT8 kernel for it and the depthwise '{conv.name}'"


@Rule("train with another activation, or measure it against FP16", subject="graph", before=(8, 4),
      severity="warning")  # fmt: skip
def _leaky_relu(graph: Graph, to: Parser) -> Iterator[str]:
    # [993] Conv and LeakyRelu are one INT8 kernel from CUDA 11 on.
    found = [n for n in graph.nodes if n.op == "LeakyRelu" and _is_quantised(_maker(n, 0))]
    if found:
        yield (
            f"{len(found)} LeakyRelu, the first is '{found[0].name}', cannot join the INT8 kernel "
            "of the convolution before it: that needs CUDA 11, and JetPack 4 has 10.2"
        )


@Rule(EXPORT, "Concat", severity="warning")
def _concat(node: Node, to: Parser) -> Iterator[str]:
    # [4366] Else each input is converted: up to 30 % slower.
    makers = [_maker(node, index) for index in range(len(node.inputs))]
    scales = [m.constant(1) for m in makers if m is not None and m.op == "DequantizeLinear"]
    values = {float(s.ravel()[0]) for s in scales if s is not None and s.size}
    if len(values) > 1:
        yield f"its inputs are quantised with {len(values)} different scales: each is converted"


@Rule(EXPORT, subject="graph")
def _quantised(graph: Graph, to: Parser) -> Iterator[str]:
    if to.precision == "int8" and not any(map(_is_quantised, graph.nodes)):
        yield "no convolution in it has quantised inputs: the engine would not compute in INT8"


@Rule(EXPORT, "ConvTranspose", runtimes=RTX, severity="warning")
def _transposed(node: Node, to: Parser) -> Iterator[str]:
    if _is_quantised(node):  # [rtx]
        yield "a quantised transposed convolution is computed in the type of its output"


@Rule("build for newer GPUs", subject="graph", runtimes=RTX)
def _turing(graph: Graph, to: Parser) -> Iterator[str]:
    if to.precision == "int8" and 75 in to.target.compute_capabilities:
        yield "on Turing (SM 7.5) quantised convolutions are computed in FP32"  # [rtx]
