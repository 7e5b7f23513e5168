"""Probes ONNX graphs without a manifest: ends, sizes and scale, by a few small runs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import CannotRunHereError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.manifest import manifest_path
from sr_deploy.core.session import SizeContract
from sr_deploy.core.sizes import HW, hw_text

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
"""The element types that sessions feed and read, by ONNX Runtime's names."""
PROBED_SIDES = ((32, 48), (64, 96), (128, 192))
"""Pairs of LR sides to run at; the first pair that runs decides."""
_FLOAT16 = 10
"""TensorProto.FLOAT16."""
MULTIPLES = (1, 2, 4, 8, 16)
SMALLEST_SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24)
"""In multiples."""
_HINT = "convert it to one input (1, 3, H, W) and one output (1, 3, s*H, s*W), float RGB in 0..1"

Run = Callable[[HW], Optional[HW]]
"""Runs the graph at an LR size; returns the size of its output, None if the run fails."""


@dataclass(frozen=True)
class GraphContract:
    """How a graph is run: RGB in 0..1, (1, 3, H, W) -> (1, 3, scale*H, scale*W)."""

    input: str
    output: str
    input_dtype: str
    output_dtype: str
    scale: int
    sizes: SizeContract
    precision: str
    """See `graph_precision`."""


_CONTRACTS: Dict[str, GraphContract] = {}
"""By identity of the graph: each is probed once a process."""


def graph_identity(path: Path) -> str:
    """Return the SHA-256 of all files of a graph: the file itself and its external data."""
    files = [file for file in _external_files(path) if file.is_file()]
    if not files:
        return sha256_of(path)
    digests = " ".join(sha256_of(file) for file in (path, *files))
    return hashlib.sha256(digests.encode("ascii")).hexdigest()


def _external_files(path: Path) -> List[Path]:
    graph = _load_graph(path)
    if graph is None:  # onnx is not installed: the files that exporters write beside a graph
        own = {path, manifest_path(path)}
        return sorted(set(path.parent.glob(f"{path.name}*")) - own)
    locations = {
        entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [path.parent / location for location in sorted(locations)]


def _load_graph(path: Path) -> Any:
    """Return the GraphProto without external data; empty if it is damaged, None without onnx."""
    try:
        import onnx
    except ImportError:
        return None
    try:
        return onnx.load(str(path), load_external_data=False).graph
    except Exception:  # protobuf's errors; the runtime reports the damage
        return onnx.GraphProto()


def graph_precision(path: Path) -> str:
    """Return `int8` for a graph with quantised operators, `fp16` if its weights are, else `fp32`.

    Without onnx it cannot be read, and counts as `fp32`.
    """
    graph = _load_graph(path)
    if graph is None:
        return "fp32"
    names = {node.op_type for node in graph.node}
    if any("Quantize" in name or "QLinear" in name or "Integer" in name for name in names):
        return "int8"
    return "fp16" if any(t.data_type == _FLOAT16 for t in graph.initializer) else "fp32"


def probe_graph(path: Path, session: Any) -> GraphContract:
    """Return the contract of a graph that is open as an onnxruntime InferenceSession.

    Raises CannotRunHereError for a graph that sessions cannot serve, with what was found: another
    number of inputs or outputs, another layout, type or batch, a scale that is not a whole number,
    or an output smaller than scale times the input.
    """
    identity = graph_identity(path)
    if identity not in _CONTRACTS:
        _CONTRACTS[identity] = _probe(path, session)
    return _CONTRACTS[identity]


def graph_ends(path: Path, session: Any) -> Tuple[Any, Any]:
    """Return input and output of an open graph. Raises CannotRunHereError as `probe_graph`."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise _unsupported(path, session, "expected one input and one output")
    source, target = inputs[0], outputs[0]
    if len(source.shape) != 4 or len(target.shape) != 4:
        raise _unsupported(path, session, "expected tensors of four dimensions")
    for end, tensor in (("input", source), ("output", target)):
        batch, channels, _, last = tensor.shape
        if tensor.type not in DTYPES:
            problem = f"the {end} is {tensor.type[7:-1]}; expected float or float16"
        elif last in (1, 3, 4) and channels != 3:
            problem = f"the {end} is NHWC with {last} channels; expected NCHW with 3"
        elif isinstance(channels, int) and channels != 3:
            problem = f"the {end} has {channels} channels; expected 3 (RGB)"
        elif isinstance(batch, int) and batch != 1:
            problem = f"the batch of the {end} is {batch}; expected 1"
        else:
            continue
        raise _unsupported(path, session, problem)
    return source, target


def _probe(path: Path, session: Any) -> GraphContract:
    source, target = graph_ends(path, session)

    def run(hw: HW) -> Optional[HW]:
        x = np.zeros((1, 3, *hw), DTYPES[source.type])
        try:
            y = session.run([target.name], {source.name: x})[0]
        except Exception:  # onnxruntime raises its own kinds, which share no base class
            return None
        return (y.shape[2], y.shape[3]) if y.ndim == 4 and y.shape[:2] == (1, 3) else None

    fixed: Tuple[Optional[int], ...] = tuple(
        n if isinstance(n, int) else None for n in source.shape[2:]
    )
    small, large = _sizes_that_run(path, session, run, fixed)
    scale = _scale(path, session, small, large)
    multiple = _multiple(run, small[0], fixed, scale)
    least = _smallest(run, small[0], fixed, scale, multiple)
    free = all(n is None for n in fixed)
    max_hw = None if free else tuple(_UNLIMITED if n is None else n for n in fixed)
    return GraphContract(
        source.name,
        target.name,
        DTYPES[source.type],
        DTYPES[target.type],
        scale,
        SizeContract(min_hw=least, max_hw=max_hw, align_px=multiple, multiple=multiple),
        graph_precision(path),
    )


_UNLIMITED = 1 << 20
"""The largest side along a free axis where the other axis is fixed."""

Sized = Tuple[HW, HW]
"""An LR size, and the size of the output."""


def _sizes_that_run(
    path: Path, session: Any, run: Run, fixed: Sequence[Optional[int]]
) -> Tuple[Sized, Sized]:
    """Return two LR sizes with the sizes of their outputs; twice the same for a fixed size."""
    for sides in PROBED_SIDES:
        sized = []
        for side in sides:
            hw = _hw(side, fixed)
            output_hw = run(hw)
            if output_hw is not None:
                sized.append((hw, output_hw))
        if len(sized) == 2:
            return sized[0], sized[1]
    tried = ", ".join(hw_text(_hw(side, fixed)) for pair in PROBED_SIDES for side in pair)
    raise _unsupported(path, session, f"it does not run as (1, 3, H, W) at any of {tried}")


def _scale(path: Path, session: Any, small: Sized, large: Sized) -> int:
    scales, crops = [], []
    for axis in (0, 1):
        n, out, more, more_out = small[0][axis], small[1][axis], large[0][axis], large[1][axis]
        scale = (more_out - out) / (more - n) if more > n else max(out // n, 1)
        scales.append(scale)
        crops.append(scale * n - out)
    at = f"{hw_text(small[0])} becomes {hw_text(small[1])}"
    if large != small:
        at += f" and {hw_text(large[0])} becomes {hw_text(large[1])}"
    if scales[0] != scales[1] or scales[0] < 1 or scales[0] != int(scales[0]):
        raise _unsupported(path, session, f"{at}: expected one whole scale of at least 1")
    if any(crops):
        lost = " and ".join(f"{crop:g}" for crop in dict.fromkeys(crops))
        raise _unsupported(
            path, session, f"{at}: {lost} pixels less than x{scales[0]:g} (unpadded convolutions?)"
        )
    return int(scales[0])


def _multiple(run: Run, hw: HW, fixed: Sequence[Optional[int]], scale: int) -> int:
    """Return the number that free sides must be multiples of: 2 for a pixel-unshuffle of 2."""
    if None not in fixed:
        return 1
    base = max(n for n, size in zip(hw, fixed) if size is None)
    for multiple in MULTIPLES:
        if _runs(run, _hw(base + multiple, fixed), scale):
            return multiple
    return base


def _smallest(run: Run, hw: HW, fixed: Sequence[Optional[int]], scale: int, multiple: int) -> HW:
    base = max((n for n, size in zip(hw, fixed) if size is None), default=0)
    for side in (n * multiple for n in SMALLEST_SIDES if n * multiple < base):
        if _runs(run, _hw(side, fixed), scale):
            # Sessions mirror smaller images up to the next multiple.
            return _hw(side - multiple + 1, fixed)
    return hw


def _runs(run: Run, hw: HW, scale: int) -> bool:
    return run(hw) == (scale * hw[0], scale * hw[1])


def _hw(side: int, fixed: Sequence[Optional[int]]) -> HW:
    h, w = (side if n is None else n for n in fixed)
    return h, w


def _tensors(tensors: Sequence[Any]) -> str:
    return ", ".join(f"{t.name} {t.type[7:-1]} {list(t.shape)}" for t in tensors) or "nothing"


def _unsupported(path: Path, session: Any, problem: str) -> CannotRunHereError:
    ends = f"{_tensors(session.get_inputs())} -> {_tensors(session.get_outputs())}"
    return CannotRunHereError(
        f"{path} cannot be run as a super-resolution network: {problem} (the graph: {ends})",
        hint=_HINT,
    )
