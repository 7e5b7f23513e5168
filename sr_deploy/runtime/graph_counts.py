"""Counts of an ONNX graph by the counters of `nets.complexity`, node by node.

A graph has the numbers of the torch network that it was exported from where it tells them:

- It does not tell a module from a function. `hooks` takes every Conv and ConvTranspose of two
  dimensions, every product with a constant matrix, every Relu, LeakyRelu, PRelu, Elu and Clip to
  0..6, and every BatchNormalization of images as a module.
- A mean over both sides of an image is adaptive pooling to one pixel, which `fvcore` counts.
- Attention, one call of torch that `fvcore` leaves out, is counted as the products that it is.
- Layers that were folded or merged are counted as they are in the graph, such as a BatchNorm2d in a
  convolution. A LayerNorm over the last axis or a GroupNorm that is written as sums is one again.
- Quantised and fused operators count as those that they replace.

Parameters are the elements of the constants that are learned: weights, biases, slopes, scales and
tables, also those reached through other constant nodes, such as a Transpose, or quantised. Not
learned are running means and variances, quantisation scales and integers; in plain arithmetic also
single numbers, three (a mean colour), and tables of one value or of whole numbers (masks). A layer
that runs several times has its parameters once. Exporters merge and copy tensors, so layers are
told apart by the values of all their tensors; those of one value are counted for each layer.

Only nodes that the output needs and that depend on the image are counted. Importable without onnx.
"""

from __future__ import annotations

import collections
import contextlib
import tempfile
import threading
from pathlib import Path
from typing import Any, Counter, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.counts import COUNTERS, NTIRE_HW, Counts, counts_record
from sr_deploy.core.errors import ArtifactError, first_line
from sr_deploy.core.interface import Interface
from sr_deploy.core.parts import PlanPart
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.graph_params import Params
from sr_deploy.runtime.graph_patterns import is_bias
from sr_deploy.runtime.graph_probe import bounded_memory
from sr_deploy.runtime.graph_rules import MOVES, UnknownShapeError, work_of
from sr_deploy.runtime.graph_walk import GraphWalk, Shape, Step, input_of
from sr_deploy.runtime.onnx_view import load_graph
from sr_deploy.runtime.ort import raw_session

_RUN_S = 60.0
"""The longest run to find shapes."""


def count_graph(
    graph: Union[Path, Any], hw: HW = NTIRE_HW, interface: Optional[Interface] = None
) -> Dict[str, Any]:
    """Return the counts of a graph as a manifest has them, without `deployed`.

    graph: a file, or an onnx.ModelProto. hw: the LR size; a side that is fixed in the graph is
    counted at its own, and `hw` of the result then says the size. interface: how the graph takes
    images; None: by its shape. Raises ArtifactError for a graph that cannot be counted or does not
    take the size, MissingPackageError without onnx.
    """
    model = load_graph(graph) if isinstance(graph, Path) else graph
    what = str(graph) if isinstance(graph, Path) else "the graph"
    outputs = None if interface is None else [interface.output.name]
    with _errors(what, hw):
        shape, hw = _input_shape(model, hw, interface)
        walk = GraphWalk(model, {input_of(model).name: shape})
        try:
            return counts_record(_count(walk, outputs), hw)
        except UnknownShapeError:
            known = _shapes_by_running(model, shape, _unknown_names(walk, outputs))
            walk = GraphWalk(model, {input_of(model).name: shape}, known)
            return counts_record(_count(walk, outputs), hw)


def count_part(folder: Path, part: PlanPart, hw: HW) -> Dict[str, Any]:
    """Return the counts of a plan's graph for one image or patch of (h, w) LR pixels.

    A side that is fixed in the graph is counted at its own. Raises as `count_graph`.
    """
    sizes = {"N": 1, "H": hw[0], "W": hw[1]}
    shapes = {
        name: tuple(sizes[n] if isinstance(n, str) else n for n in shape)
        for name, shape in part.inputs.items()
    }
    with _errors(str(folder / part.file), hw):
        walk = GraphWalk(load_graph(folder / part.file), shapes)
        h, w = next(iter(shapes.values()))[2:]
        return counts_record(_count(walk, None), (h, w))


@contextlib.contextmanager
def _errors(what: str, hw: HW) -> Iterator[None]:
    """Turn what fails for a damaged graph into ArtifactErrors."""
    try:
        yield
    except ArtifactError as e:
        raise ArtifactError(f"{what} cannot be counted at {hw_text(hw)}: {e.message}") from e
    except Exception as e:  # of many kinds
        problem = f"it is damaged: {type(e).__name__}: {first_line(e)}"
        raise ArtifactError(f"{what} cannot be counted at {hw_text(hw)}: {problem}") from e


def _input_shape(model: Any, hw: HW, interface: Optional[Interface]) -> Tuple[Shape, HW]:
    """Return the shape of the input at an LR size, and the size that it then has."""
    declared = [
        d.dim_value if d.HasField("dim_value") else 0
        for d in input_of(model).type.tensor_type.shape.dim
    ]
    declared = declared or [0] * 4
    layout = _layout(declared) if interface is None else interface.input.layout
    if len(declared) != len(layout):
        raise ArtifactError(f"expected an image as input, found {len(declared)} dimensions")
    channels = 3 if interface is None else interface.channels
    sizes = {"n": 1, "c": channels, "h": hw[0], "w": hw[1]}
    sizes = {axis: n if n > 0 else sizes[axis] for axis, n in zip(layout, declared)}
    return tuple(sizes[axis] for axis in layout), (sizes["h"], sizes["w"])


def _layout(shape: Sequence[int]) -> str:
    """Return the order of the axes of an image, by those with one or three channels."""
    last = len(shape) > 2 and shape[-1] in (1, 3) and shape[-3] not in (1, 3)
    return ("n" if len(shape) == 4 else "") + ("hwc" if last else "chw")


def _count(walk: GraphWalk, outputs: Optional[Iterable[str]]) -> Dict[str, Counts]:
    total = _Total(walk.constants)
    for step in walk.steps(outputs):
        if any(tensor.computed for tensor in step.outputs):
            total.add(step)
    return {counter: total.counts(counter) for counter in COUNTERS}


class _Total:
    """The sums over nodes."""

    def __init__(self, constants: Dict[str, Any]) -> None:
        self._params = Params(constants)
        self._macs: Counter[str] = collections.Counter()
        self._acts: Dict[str, List[int]] = {counter: [] for counter in COUNTERS}
        self._ignored: Dict[str, Counter[str]] = {c: collections.Counter() for c in COUNTERS}
        self._missing: Dict[str, Counter[str]] = {c: collections.Counter() for c in COUNTERS}

    def add(self, step: Step) -> None:
        self._params.add(step)
        if step.op in MOVES or is_bias(step):
            return
        work = work_of(step)
        for counter, macs in (("hooks", work.hooks), ("fvcore", work.fvcore)):
            self._macs[counter] += macs or 0
            if work.acts is not None and macs is not None:
                self._acts[counter].append(work.acts)
            missing = max(work.products - (macs or 0), 0)
            if macs is None or missing:
                self._ignored[counter][step.op] += 1
                self._missing[counter][step.op] += missing

    def counts(self, counter: str) -> Counts:
        acts = self._acts[counter]
        missing = {op: macs for op, macs in self._missing[counter].items() if macs}
        return Counts(
            self._params.total,
            self._macs[counter],
            sum(acts),
            len(acts),
            counter,
            dict(self._ignored[counter]),
            missing,
        )


def _unknown_names(walk: GraphWalk, outputs: Optional[Iterable[str]]) -> List[str]:
    """Return the tensors of the main graph whose shapes are not known."""
    of_graph = {name for node in walk.model.graph.node for name in node.output}
    names = []
    with contextlib.suppress(ArtifactError):  # of what follows from unknown shapes
        for step in walk.steps(outputs):
            names += [t.name for t in step.outputs if t.shape is None and t.name in of_graph]
    return names


def _shapes_by_running(model: Any, shape: Shape, names: List[str]) -> Dict[str, Shape]:
    """Return the shapes of tensors by running the graph. Raises ArtifactError if that fails."""
    import onnx
    import onnxruntime

    model = onnx.ModelProto.FromString(model.SerializeToString())
    del model.graph.output[:]
    for i, name in enumerate(names):
        model.graph.node.add(op_type="Shape", input=[name], output=[f"srdeploy.shape.{i}"])
        model.graph.output.add(name=f"srdeploy.shape.{i}")
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # a failure is reported here
    source = input_of(model)
    x = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type))
    timer = threading.Timer(_RUN_S, setattr, (options, "terminate", True))
    timer.daemon = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shapes.onnx"
        try:
            onnx.save(model, str(path))
            with bounded_memory(path):
                timer.start()
                found = raw_session(str(path)).run(None, {source.name: x}, options)
        except Exception as e:  # of onnx, protobuf and onnxruntime, without a common base class
            what = f"the shape of '{names[0]}' does not follow from it"
            raise ArtifactError(f"{what}, and the graph does not run: {first_line(e)}") from e
        finally:
            timer.cancel()
    return {name: tuple(int(n) for n in values) for name, values in zip(names, found)}
