"""Probes ONNX graphs of unknown origin: interface, sizes and scale, by a few small runs.

Sizes are LR (h, w). Both sides are varied together, so that what holds for one holds for the other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import ArtifactError, CannotRunHereError
from sr_deploy.core.interface import Interface
from sr_deploy.core.onnx_file import BFLOAT16, FLOAT16, artifact_sha256, onnx_facts, weight_files
from sr_deploy.core.providers import PROVIDERS
from sr_deploy.core.session import SizeContract
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.graph_child import GraphChild, GraphRunError, RunGraph, may_crash
from sr_deploy.runtime.graph_interface import (
    ASSUMED,
    GIVEN,
    NO_WISHES,
    ContractError,
    DeclaredEnd,
    Wishes,
    find_values,
    interfaces,
    nchw_of,
    network_input,
)
from sr_deploy.runtime.ort_providers import short_reason

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
"""The element types that sessions feed and read, by ONNX Runtime's names."""
PROBED_SIDES = (
    32, 48, 64, 60, 84, 96, 120, 100, 72, 88, 104, 108, 112, 128, 140, 192, 256, 384, 512,
)  # fmt: skip
"""The sides to run at; together they have all divisors that windows and strides usually have."""
PROBED_STRIP = 1024
"""The length of the strips that find out whether there is a largest size."""
DECLARED_PX = 512 * 512
"""A graph of one fixed size above this is not run: its declared shapes give the scale."""
PROBE_S, PROBE_RUN_S = 20.0, 120.0
"""After the first no more is refined; after the second runs are ended."""
PROBE_BYTES = 4 << 30
"""Of address space that the probe may take, beside that of the threads."""
PHOTOGRAPH_SIDE = 64
"""About the LR side of the photographs that show the values of black and white."""
SERVED = (
    "expected one image in and one out, RGB or luma, such as (1, 3, H, W) and (1, 3, s*H, s*W); "
    "of several outputs choose one: srdeploy import-onnx FILE --output-name NAME -o DIR"
)
_FLOATS = {BFLOAT16: "bf16", FLOAT16: "fp16"}
_FP8 = {17, 18, 19, 20}
"""TensorProto's types of 8-bit floats."""
_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_ENOUGH = 10
"""The sizes that may run without a whole scale before the graph is given up."""
_UNLIMITED = 1 << 20
"""The largest side along a free axis where the other axis is limited."""

Run = Callable[[HW], Optional[Tuple[int, ...]]]
"""Runs the graph at an LR size; returns the shape of its output, None if the run fails."""


@dataclass(frozen=True)
class Fit:
    """The sizes that a graph takes, and its scale."""

    scale: int
    sizes: SizeContract


@dataclass(frozen=True)
class GraphContract:
    """How a graph is run."""

    scale: int
    sizes: SizeContract
    interface: Interface
    values_from: str
    """How the values of black and white were found: `declared`, `given`, `photographs`, or
    `assumed` where the network's outputs resemble its inputs with none."""


CONTRACTS: Dict[str, GraphContract] = {}
"""By identity of the graph: each is probed once. Worker processes get their parent's."""
_REASONS: Dict[Tuple[str, str], str] = {}
"""By identity and provider: why a graph has no contract."""


def graph_precision(path: Path) -> str:
    """Return what a graph is made to compute in, by its operators and the types of its weights.

    `int8` or `fp8` where activations are quantised (weights alone are not: those are computed in
    float); `mixed: int8, fp32` if integer operators stand beside convolutions or products in float;
    else `bf16`, `fp16` or `fp32`.
    """
    facts = onnx_facts(path)
    kinds = [name for number, name in _FLOATS.items() if number in facts.types]
    kind = kinds[0] if kinds else "fp32"
    integer = [n for n in facts.operators if n.startswith("QLinear") or n.endswith("Integer")]
    if integer and _PRODUCTS & set(facts.operators):
        return f"mixed: int8, {kind}"
    if integer or any("Quantize" in name for name in facts.operators):
        return "fp8" if _FP8 & set(facts.types) else "int8"
    return kind


def probe_graph(path: Path, session: Any, wishes: Wishes = NO_WISHES) -> GraphContract:
    """Return the contract of a graph that is open as an onnxruntime InferenceSession.

    Raises CannotRunHereError for a graph that sessions cannot serve, with what was found: other
    ends, another type or batch, a scale that is not a whole number, or an output smaller than scale
    times the input.
    """
    if wishes != NO_WISHES:
        try:
            return _probe(path, session, wishes)
        except ContractError as e:
            raise _unsupported(path, session, str(e)) from e
    identity = artifact_sha256(path)
    key = (identity, session.get_providers()[0])
    if identity not in CONTRACTS and key not in _REASONS:
        try:
            CONTRACTS[identity] = _probe(path, session, wishes)
        except ContractError as e:
            _REASONS[key] = str(e)
        except UnicodeDecodeError as e:
            raise ArtifactError(f"{path} is damaged: a name in it is not UTF-8") from e
    if identity not in CONTRACTS:
        raise _unsupported(path, session, _REASONS[key])
    return CONTRACTS[identity]


def graph_ends(path: Path, session: Any) -> Tuple[Any, Any]:
    """Return input and output of an open graph with standard ends.

    Raises CannotRunHereError as `probe_graph`.
    """
    try:
        found = interfaces(*_ends(session))[0]
    except ContractError as e:
        raise _unsupported(path, session, str(e)) from e
    except UnicodeDecodeError as e:
        raise ArtifactError(f"{path} is damaged: a name in it is not UTF-8") from e
    if not found.is_standard:
        raise _unsupported(path, session, "its manifest does not describe these ends")
    return session.get_inputs()[0], session.get_outputs()[0]


def _ends(session: Any) -> Tuple[List[DeclaredEnd], List[DeclaredEnd]]:
    inputs, outputs = (
        [DeclaredEnd(t.name, t.type, t.shape) for t in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def _probe(path: Path, session: Any, wishes: Wishes) -> GraphContract:
    """Return the contract with the first interface that runs. Raises ContractError."""
    if session.get_providers() == [PROVIDERS["onnxruntime"].name] and may_crash(path):
        with GraphChild(path) as child:
            return _probe_by(child.run, session, wishes)
    return _probe_by(functools.partial(_run_here, session), session, wishes)


def _probe_by(run_graph: RunGraph, session: Any, wishes: Wishes) -> GraphContract:
    inputs, outputs = _ends(session)
    ends_at = time.monotonic() + PROBE_RUN_S
    problem = ""
    for interface in interfaces(inputs, outputs, wishes):
        source = inputs[0].shape
        target = next(end.shape for end in outputs if end.name == interface.output.name)
        runs = _Runs(run_graph, interface, ends_at)
        try:
            fixed = _sides(source, interface.input.axes_hw)
            fit = _declared(fixed, _sides(target, interface.output.axes_hw)) or find_contract(
                runs, fixed
            )
            _check_declared(fit, list(target), interface)
        except ContractError as e:
            problem = problem or f"{e}{runs.why}"
            continue
        found, how = _with_values(runs, interface, fit, wishes)
        return GraphContract(fit.scale, fit.sizes, found, how)
    raise ContractError(problem)


def _with_values(
    runs: _Runs, interface: Interface, fit: Fit, wishes: Wishes
) -> Tuple[Interface, str]:
    if wishes.values is not None:
        return interface, GIVEN
    hw = photograph_hw(fit.sizes)
    if hw[0] * hw[1] > DECLARED_PX:
        return interface, ASSUMED
    return find_values(runs.array, interface, fit.scale, hw)


def photograph_hw(sizes: SizeContract) -> HW:
    """Return an LR size (h, w) at which a network can be shown photographs."""
    h, w = (
        low if low == high else max(min(-(-max(low, PHOTOGRAPH_SIDE) // n), high // n), 1) * n
        for low, high, n in zip(
            sizes.min_hw, sizes.max_hw or (_UNLIMITED, _UNLIMITED), (sizes.multiple,) * 2
        )
    )
    return h, w


class _Runs:
    """Runs a graph; `why` has the first failure, for messages."""

    def __init__(self, run_graph: RunGraph, interface: Interface, ends_at: float) -> None:
        self._run_graph, self._interface, self._ends_at = run_graph, interface, ends_at
        self.why = ""

    def __call__(self, hw: HW) -> Optional[Tuple[int, ...]]:
        """Run on black; return the shape of the output, as NCHW with 3 channels for an image."""
        y = self.array(network_input(np.zeros((1, 3, *hw), np.float32), self._interface))
        if y is None:
            return None
        shape = nchw_of(y, self._interface.output).shape
        is_image = len(shape) == 4 and shape[:2] == (1, self._interface.channels)
        return (1, 3, *shape[2:]) if is_image else tuple(y.shape)

    def array(self, x: np.ndarray) -> Optional[np.ndarray]:
        """Run on the graph's own array; None if that fails."""
        ends, left_s = self._interface, max(self._ends_at - time.monotonic(), 0.0)
        try:
            return self._run_graph(ends.output.name, {ends.input.name: x}, left_s)
        except GraphRunError as e:
            reason = short_reason(e)[:200]
        if time.monotonic() >= self._ends_at:
            reason = f"it takes more than {PROBE_RUN_S:g} s"
        hw = [x.shape[axis] for axis in ends.input.axes_hw]
        self.why = self.why or f"; at {hw[0]}x{hw[1]}: {reason}"
        return None


def _run_here(
    session: Any, output: str, inputs: Dict[str, np.ndarray], limit_s: float
) -> np.ndarray:
    """Run an open graph in this process. Raises GraphRunError."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4  # failures are expected
    timer = threading.Timer(limit_s, setattr, (options, "terminate", True))
    timer.daemon = True
    try:
        timer.start()
        y: np.ndarray = session.run([output], inputs, options)[0]
    except Exception as e:  # onnxruntime raises its own kinds, which share no base class
        raise GraphRunError(str(e) or type(e).__name__) from e
    finally:
        timer.cancel()
    return y


@contextlib.contextmanager
def bounded_memory(path: Path) -> Iterator[None]:
    """Let allocations fail beyond what a graph needs at small sizes, where the system can.

    Raises ArtifactError if the files of its weights cannot be used.
    """
    files = [path, *(path.parent / name for name in weight_files(path))]
    try:
        resource: Any = importlib.import_module("resource")  # which Windows lacks
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = sum(file.stat().st_size for file in files)
    limit = taken + PROBE_BYTES + 4 * size + (256 << 20) * usable_cores()
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _sides(shape: Sequence[Any], axes: Tuple[int, int]) -> Tuple[Optional[int], Optional[int]]:
    """Return the declared height and width; None where they are free."""
    if not shape:
        return None, None
    h, w = (n if isinstance(n, int) and n > 0 else None for n in (shape[a] for a in axes))
    return h, w


def _declared(fixed: Sequence[Optional[int]], outer: Sequence[Optional[int]]) -> Optional[Fit]:
    """Return the fit of a large fixed size by its declared shapes, None where it is to run."""
    h, w = fixed
    if h is None or w is None or h * w <= DECLARED_PX:
        return None
    scale = (outer[0] or 0) // h
    if scale < 1 or list(outer) != [scale * h, scale * w]:
        return None
    return Fit(scale, SizeContract((h, w), (h, w)))


def _check_declared(fit: Fit, target: List[Any], interface: Interface) -> None:
    """Raise ContractError if the output's declared shape, to which it is bound, is another one."""
    sizes = fit.sizes
    for axis, n in enumerate(_sides(target, interface.output.axes_hw)):
        least, most = sizes.min_hw[axis], (sizes.max_hw or (None, None))[axis]
        if n is not None and not fit.scale * least == n == fit.scale * (most or 0):
            raise ContractError(
                f"it declares an output of {target}, but computes x{fit.scale} of its input"
            )


def find_contract(run: Run, fixed: Sequence[Optional[int]]) -> Fit:
    """Return the scale and sizes of a graph by running it. fixed: its declared height and width.

    Raises ContractError with what was found.
    """
    return _Search(run, fixed).contract()


class _Search:
    def __init__(self, run: Run, fixed: Sequence[Optional[int]]) -> None:
        self._run_at, self._fixed = run, fixed
        self._shapes: Dict[HW, Optional[Tuple[int, ...]]] = {}
        self._refine_until = time.monotonic() + PROBE_S

    def contract(self) -> Fit:
        if None not in self._fixed:
            hw = self._hw(0)
            return Fit(self._scale_of([hw]), SizeContract(hw, hw))
        ran: List[HW] = []
        for side in PROBED_SIDES:
            hw = self._hw(side)
            scale = self._ratio(hw)
            if self._shape(hw) is not None:
                ran.append(hw)
            multiple = self._multiple(side, scale) if scale else None
            if multiple is not None:
                return self._of_several_sizes(scale, side, multiple)
            if len(ran) == _ENOUGH or (ran and not self._in_time):
                break
        if len(ran) > 1:
            raise ContractError(f"{self._what(ran[:2])}{self._crop(ran)}")
        return Fit(self._scale_of(ran), SizeContract(ran[0], ran[0]))

    def _of_several_sizes(self, scale: int, side: int, multiple: int) -> Fit:
        hw = self._hw(side)
        self._check_oblong(scale, hw, multiple)
        least = multiple * self._first(
            side // multiple, lambda n: self._fits(scale, self._hw(n * multiple))
        )
        most = self._most(scale, side, least, multiple)
        # Sessions mirror other sizes up to the next multiple.
        min_hw = self._hw(least - multiple + 1)
        bounded = most is not None or any(n is not None for n in self._fixed)
        max_hw = self._hw(most or _UNLIMITED) if bounded else None
        return Fit(scale, SizeContract(min_hw, max_hw, align_px=multiple, multiple=multiple))

    def _multiple(self, side: int, scale: int) -> Optional[int]:
        """Return the smallest divisor of `side` by which it can be changed; None if there is none.

        2 for a pixel-unshuffle of 2, 8 for windows of 8 pixels.
        """
        for n in (n for n in range(1, side + 1) if side % n == 0):
            if not self._in_time:
                return side
            up, down, further = (self._hw(max(m, 0)) for m in (side + n, side - n, side + 2 * n))
            # All that run, since one may fit by chance: 16 and 32, where a network pads to 24s.
            if any(self._fits(scale, hw) for hw in (up, down)) and all(
                self._shape(hw) is None or self._fits(scale, hw) for hw in (up, down, further)
            ):
                return n
        return None

    def _check_oblong(self, scale: int, hw: HW, multiple: int) -> None:
        """Raise ContractError for graphs of square images only, or that exchange the sides."""
        if any(n is not None for n in self._fixed):
            return
        options = [(hw[0], hw[1] + n) for n in (multiple, -multiple) if hw[1] + n]
        if not any(self._fits(scale, option) for option in options):
            tried = self._what([hw, options[0]])
            raise ContractError(f"{tried}: expected other sizes than squares")

    def _most(self, scale: int, side: int, least: int, multiple: int) -> Optional[int]:
        """Return the largest side, in steps of `multiple`; None if there seems to be no limit."""
        far = PROBED_STRIP // multiple * multiple
        strips = [(far, least), (least, far)]
        h, w = self._fixed
        if h is not None or w is not None:
            strips = [self._hw(far)]
        if far <= side or all(self._fits(scale, strip) for strip in strips):
            return None
        low, high = side // multiple, far // multiple
        while high - low > 1 and self._in_time:
            middle = (low + high) // 2
            if self._fits(scale, self._hw(middle * multiple)):
                low = middle
            else:
                high = middle
        return low * multiple

    def _first(self, last: int, fits: Callable[[int], bool]) -> int:
        """Return the smallest of 1..last that fits, where all above it do; `last` does."""
        low, high = 0, last
        while high - low > 1 and self._in_time:
            middle = 1 if low == 0 and high == last else (low + high) // 2
            if fits(middle):
                high = middle
            else:
                low = middle
        return high

    @property
    def _in_time(self) -> bool:
        return time.monotonic() < self._refine_until

    def _shape(self, hw: HW) -> Optional[Tuple[int, ...]]:
        if hw not in self._shapes:
            self._shapes[hw] = self._run_at(hw) if min(hw) else None
        return self._shapes[hw]

    def _fits(self, scale: int, hw: HW) -> bool:
        return self._shape(hw) == (1, 3, scale * hw[0], scale * hw[1])

    def _ratio(self, hw: HW) -> int:
        """Return the whole scale at a size; 0 if there is none."""
        shape = self._shape(hw)
        scale = shape[2] // hw[0] if shape is not None and len(shape) == 4 else 0
        return scale if scale and self._fits(scale, hw) else 0

    def _scale_of(self, ran: Sequence[HW]) -> int:
        """Return the scale of the only size that ran. Raises ContractError where it has none."""
        if not ran or self._shape(ran[0]) is None:
            sizes = list(map(hw_text, self._shapes))
            tried = ", ".join(sizes[:3] + [f"... {sizes[-1]}"] if len(sizes) > 4 else sizes)
            raise ContractError(f"it does not run as (1, 3, H, W) at any of {tried}")
        scale = self._ratio(ran[0])
        if scale:
            return scale
        raise ContractError(f"{self._what(ran)}{self._crop(ran)}")

    def _crop(self, ran: Sequence[HW]) -> str:
        """Return what is wrong with the outputs: the pixels that a network cuts off."""
        (a, a_out), (b, b_out) = ((hw, self._shape(hw) or ()) for hw in (ran[0], ran[-1]))
        if not len(a_out) == len(b_out) == 4 or a_out[:2] != (1, 3):
            return ": expected (1, 3, H, W)"
        axis = 1 if self._fixed[1] is None else 0
        if b[axis] > a[axis]:
            scale = (b_out[2 + axis] - a_out[2 + axis]) / (b[axis] - a[axis])
            lost = scale * a[axis] - a_out[2 + axis]
            if scale >= 1 and scale == int(scale) and lost:
                word = "less" if lost > 0 else "more"
                cause = " (unpadded convolutions?)" if lost > 0 else ""
                return f": {abs(lost):g} pixels {word} than x{scale:g}{cause}"
        return ": expected one whole scale of at least 1"

    def _what(self, sizes: Sequence[HW]) -> str:
        parts = []
        for hw in sizes:
            shape = self._shape(hw)
            image = shape is not None and len(shape) == 4 and shape[:2] == (1, 3)
            became = hw_text(shape[2:]) if shape is not None and image else str(shape)
            parts.append(f"{hw_text(hw)} " + (f"becomes {became}" if shape else "does not run"))
        return " and ".join(parts)

    def _hw(self, side: int) -> HW:
        h, w = (side if n is None else n for n in self._fixed)
        return h, w


def _tensors(tensors: Sequence[Any]) -> str:
    return ", ".join(f"{t.name} {t.type[7:-1]} {list(t.shape)}" for t in tensors) or "nothing"


def _unsupported(path: Path, session: Any, problem: str) -> CannotRunHereError:
    ends = f"{_tensors(session.get_inputs())} -> {_tensors(session.get_outputs())}"
    return CannotRunHereError(
        f"{path} cannot be run as a super-resolution network: {problem} (the graph: {ends})",
        hint=SERVED,
    )
