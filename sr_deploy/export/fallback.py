"""`export --fallback`: chooses the nodes of a graph that compute in FP32."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional, Tuple

import onnx

from sr_deploy.core.errors import BuildError, ExportError, SrDeployError
from sr_deploy.core.sizes import HW, Sizes, hw_text
from sr_deploy.export.fp32_search import Fp32Nodes, search_fp32_nodes
from sr_deploy.export.half import prepared
from sr_deploy.export.verify import check_images
from sr_deploy.runtime.fallback import select_nodes
from sr_deploy.runtime.ort import raw_session

AUTO = "auto"
_SMALL_PX = 48


@dataclass(frozen=True)
class Fallback:
    """The nodes that a graph computes in FP32 by request, and a manifest's record of them."""

    nodes: Tuple[str, ...] = ()
    record: Dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Searchable:
    """A prepared FP32 graph in which nodes can be searched."""

    plain: onnx.ModelProto
    session: Any
    """Of the FP32 graph."""
    sizes: Sizes
    multiple: int
    io_dtype: str
    at: Callable[[HW], onnx.ModelProto]
    """Returns the network's FP32 graph for another size. Raises an SrDeployError if it cannot."""


def choose_fp32_nodes(fallback: str, graph: Searchable, name: str) -> Fallback:
    """Return the nodes for `--fallback`: `auto`, `head-tail`, `NODE,...`, or empty for none.

    Raises ExportError for a node that does not exist, or if no choice helps.
    """
    if not fallback:
        return Fallback()
    if fallback != AUTO:
        try:
            nodes = select_nodes(graph.plain, fallback, name)
        except BuildError as e:
            raise ExportError(e.message, hint=e.hint) from e
        return Fallback(nodes, {"asked": fallback, "nodes": list(nodes)})
    first = _small_search(graph)
    last = _search(graph.plain, graph.session, graph.sizes.opt, graph, first)
    found = first or last
    record: Dict[str, object] = {
        "asked": AUTO,
        "nodes": list(last.nodes),
        "fewest": last.fewest and found.fewest,
        "runs": last.runs + (first.runs if first else 0),
        "psnr_db_without": found.psnr_db_without,
        "psnr_db_with": last.psnr_db_with,
        "overflows_without": [str(overflow) for overflow in found.overflows],
        "confirmed_at": hw_text(graph.sizes.opt),
    }
    return Fallback(last.nodes, record)


def _small_search(graph: Searchable) -> Optional[Fp32Nodes]:
    """Search on small photographs; None where the graph is small itself, or cannot be smaller."""
    step = graph.multiple
    low = graph.sizes.min if graph.sizes.dynamic else (1, 1)
    h, w = (
        min(max(-(-_SMALL_PX // step) * step, least), side)
        for least, side in zip(low, graph.sizes.opt)
    )
    if h * w * 2 > graph.sizes.opt[0] * graph.sizes.opt[1]:
        return None
    if graph.sizes.dynamic:
        return _search(graph.plain, graph.session, (h, w), graph, None)
    try:
        model = graph.at((h, w))
        plain = prepared(model)
    except SrDeployError:  # such as a graph of anyone's that has one size only
        return None
    if _nodes(plain) != _nodes(graph.plain):
        return None
    return _search(plain, raw_session(plain.SerializeToString()), (h, w), graph, None)


def _search(
    plain: onnx.ModelProto, session: Any, hw: HW, graph: Searchable, first: Optional[Fp32Nodes]
) -> Fp32Nodes:
    images = check_images(hw)
    source = session.get_inputs()[0].name
    references = [session.run(None, {source: x})[0] for x in images]
    start = first.nodes if first else ()
    return search_fp32_nodes(plain, images, references, io_dtype=graph.io_dtype, start=start)


def _nodes(plain: onnx.ModelProto) -> Any:
    return [(node.name, node.op_type) for node in plain.graph.node]
