"""Where QuantizeLinear and DequantizeLinear go in a graph, by the rules of its target."""

from __future__ import annotations

from typing import Collection, List

import onnx

from sr_deploy.core.target import Int8Rules
from sr_deploy.export.int8.ranges import Ranges


def quantisable(model: onnx.ModelProto, rules: Int8Rules) -> List[str]:
    """Return the names of the nodes with weights that the rules allow to quantise, in order."""
    raise NotImplementedError


def placed(
    model: onnx.ModelProto, ranges: Ranges, rules: Int8Rules, *, kept: Collection[str] = ()
) -> onnx.ModelProto:
    """Return an FP32 (or FP16) graph with Q/DQ pairs.

    kept: names of nodes with weights that are not quantised. Raises ExportError if a scale would
    not be above zero.
    """
    raise NotImplementedError
