"""Finds how a graph of unknown origin takes and gives images: from its declared ends, by running.

Types, layouts and channels are declared, or tried. The values of black and white are those with
which photographs look the same when they are enlarged and shrunk again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.interface import LAYOUTS, LUMA, STUDIO, UNIT, ImageEnd, Interface
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import HW

TYPES = {"tensor(float)": "fp32", "tensor(float16)": "fp16", "tensor(uint8)": "uint8"}
"""By ONNX Runtime's names."""
NUMPY = {"fp32": np.float32, "fp16": np.float16, "uint8": np.uint8}
LARGEST_SIDE = 16384
BYTES = (0.0, 255.0)
STUDIO_BYTES = (16.0, 235.0)
_FULL = (UNIT, BYTES, (-1.0, 1.0))
_LIMITED = (STUDIO, STUDIO_BYTES)
CLEAR_DB = 6.0
"""A network must resemble its input by this much more than a grey image does."""
GOOD_DB = 30.0
"""Where a network resembles its input by this with the usual values, no others are considered:
with random weights, whatever hides them is better."""
BETTER_DB = 3.0
"""By which other values must be better than the usual ones."""
_EDGE_PX = 8
"""LR pixels that are not compared: near the edges, what is padded differs with the values."""
DECLARED, BY_PHOTOGRAPHS, ASSUMED, GIVEN = "declared", "photographs", "assumed", "given"

Values = Tuple[float, float]


class ContractError(Exception):
    """Why a graph cannot be served."""


@dataclass(frozen=True)
class Wishes:
    """What the user of a graph says of it."""

    output: Optional[str] = None
    """Which of several outputs is the image."""
    values: Optional[Tuple[Values, Values]] = None
    """Of black and white, in the input and in the output; None: found by photographs."""
    bgr: bool = False


NO_WISHES = Wishes()


@dataclass(frozen=True)
class DeclaredEnd:
    """An input or output as declared."""

    name: str
    kind: str
    """Such as `tensor(float)`."""
    shape: Sequence[Any]
    """Whole numbers, or anything else for free sides; empty: unknown."""


def interfaces(
    inputs: Sequence[DeclaredEnd], outputs: Sequence[DeclaredEnd], wishes: Wishes = NO_WISHES
) -> List[Interface]:
    """Return the interfaces that a graph with these ends may have, the likeliest first.

    Raises ContractError where no network from one image to one image has such ends.
    """
    source, target = _one_input(inputs), _one_output(outputs, wishes.output)
    found = []
    pairs = [(a, b) for a in _images("input", source) for b in _images("output", target)]
    for (a, channels), (b, channels_out) in sorted(pairs, key=lambda p: p[0][0] != p[1][0]):
        if channels == channels_out:
            colours = "y" if channels == 1 else "bgr" if wishes.bgr else "rgb"
            others = tuple(end.name for end in outputs if end is not target)
            end_in = ImageEnd(source.name, a, TYPES[source.kind])
            end_out = ImageEnd(target.name, b, TYPES[target.kind])
            usual = Interface(end_in, end_out, colours, others)
            found.append(_with_values(usual, *(wishes.values or values_choices(usual)[0])))
    if not found:
        (_, channels), (_, channels_out) = pairs[0]
        raise ContractError(f"the input has {channels} channels, but the output {channels_out}")
    if wishes.bgr and found[0].colours == "y":
        raise ContractError("it takes luma, which has no order of colours")
    return found


def _one_input(inputs: Sequence[DeclaredEnd]) -> DeclaredEnd:
    if len(inputs) != 1:
        names = ", ".join(end.name[:80] for end in inputs)
        raise ContractError(
            f"expected one input, the image, found {len(inputs)}" + (f": {names}" if names else "")
        )
    return inputs[0]


def _one_output(outputs: Sequence[DeclaredEnd], wanted: Optional[str]) -> DeclaredEnd:
    names = ", ".join(end.name[:80] for end in outputs)
    if wanted is None and len(outputs) != 1:
        raise ContractError(
            f"expected one output, the image, found {len(outputs)}"
            + (f": {names}" if names else "")
        )
    for end in outputs:
        if wanted in (None, end.name):
            return end
    raise ContractError(f"it has no output '{wanted}'; it has {names}")


def _images(what: str, end: DeclaredEnd) -> List[Tuple[str, int]]:
    """Return the possible (layout, channels) of an end. Raises ContractError if there are none."""
    if end.kind not in TYPES:
        name = end.kind[7:-1] if end.kind.startswith("tensor(") else end.kind
        raise ContractError(f"the {what} is {name}; expected float, float16 or uint8")
    shape = list(end.shape)
    if not shape:
        return [(layout, n) for n in (3, 1) for layout in LAYOUTS]
    if len(shape) == 5:
        raise ContractError(
            f"the {what} has 5 dimensions, as of video networks (N, T, C, H, W); expected one image"
        )
    if len(shape) not in (3, 4):
        raise ContractError(
            f"the {what} has {len(shape)} dimensions; expected an image, such as (1, 3, H, W)"
        )
    if len(shape) == 4 and isinstance(shape[0], int) and shape[0] > 1:
        raise ContractError(f"the batch of the {what} is {shape[0]}; expected 1")
    layouts = ("nchw", "nhwc") if len(shape) == 4 else ("chw", "hwc")
    channels = {layout: shape[layout.index("c")] for layout in layouts}
    declared = {layout: n for layout, n in channels.items() if isinstance(n, int) and n > 0}
    found = [(layout, n) for layout, n in declared.items() if n in (1, 3)]
    if declared and not found:
        raise ContractError(_other_channels(what, shape))
    found = found or [(layout, n) for n in (3, 1) for layout in layouts]
    if what == "input":
        _check_sides(ImageEnd(end.name, found[0][0]), shape)
    return found


def _other_channels(what: str, shape: Sequence[Any]) -> str:
    first, last = shape[-3], shape[-1]
    few = isinstance(last, int) and last <= 16 and not (isinstance(first, int) and first <= 16)
    return f"the {what} has {last if few else first} channels; expected 3 (RGB) or 1 (luma)"


def _check_sides(end: ImageEnd, shape: Sequence[Any]) -> None:
    for side, axis in zip(("height", "width"), end.axes_hw):
        n = shape[axis]
        if isinstance(n, int) and n != -1 and not 1 <= n <= LARGEST_SIDE:
            raise ContractError(f"the {side} of the input is {n}; expected 1 to {LARGEST_SIDE}")


def network_input(x_nchw: np.ndarray, interface: Interface) -> np.ndarray:
    """Return what the graph takes for an image: (1, 3, H, W) float32 RGB, 0..1.

    This is what the nodes of `standard_graph` compute, in NumPy.
    """
    end = interface.input
    low, high = end.values
    if interface.colours == "y":
        x_nchw = luma_nchw(x_nchw)
    elif interface.colours == "bgr":
        x_nchw = x_nchw[:, ::-1]
    x = x_nchw * np.float32(high - low) + np.float32(low)
    if end.dtype == "uint8":
        x = np.clip(np.rint(x), 0, 255)
    if end.layout in ("nhwc", "hwc"):
        x = x.transpose(0, 2, 3, 1)
    x = x if len(end.layout) == 4 else x[0]
    return np.ascontiguousarray(x, NUMPY[end.dtype])


def network_image(y: np.ndarray, interface: Interface) -> np.ndarray:
    """Return the graph's output as (1, C, H, W) float32, 0..1; luma where it computes luma only."""
    end = interface.output
    low, high = end.values
    y = nchw_of(y, end).astype(np.float32)
    y = (y - np.float32(low)) / np.float32(high - low)
    return y[:, ::-1] if interface.colours == "bgr" else y


def nchw_of(y: np.ndarray, end: ImageEnd) -> np.ndarray:
    """Return an array of this layout as NCHW; one of another rank as it is."""
    if y.ndim != len(end.layout):
        return y
    y = y if y.ndim == 4 else y[None]
    return y.transpose(0, 3, 1, 2) if end.layout in ("nhwc", "hwc") else y


def luma_nchw(x_nchw: np.ndarray) -> np.ndarray:
    """(1, 3, H, W) RGB, 0..1 -> (1, 1, H, W) luma of BT.601, 0..1, of the same type."""
    weights = np.array(LUMA, x_nchw.dtype).reshape(1, 3, 1, 1)
    return (x_nchw * weights).sum(axis=1, keepdims=True)


def values_choices(interface: Interface) -> List[Tuple[Values, Values]]:
    """Return the values of black and white that input and output may have, the usual ones first."""
    return [
        (source, target)
        for known in ((_LIMITED, _FULL) if interface.colours == "y" else (_FULL,))
        for source in known
        for target in known
        if _fits(interface.input, source) and _fits(interface.output, target)
    ]


def _fits(end: ImageEnd, values: Values) -> bool:
    return end.dtype != "uint8" or values in (BYTES, STUDIO_BYTES)


def _with_values(interface: Interface, source: Values, target: Values) -> Interface:
    return replace(
        interface,
        input=replace(interface.input, values=source),
        output=replace(interface.output, values=target),
    )


def find_values(
    run: Callable[[np.ndarray], Optional[np.ndarray]], interface: Interface, scale: int, hw: HW
) -> Tuple[Interface, str]:
    """Return the interface with the values of black and white, and how they were found.

    run: takes and returns the graph's own arrays; None where that fails. hw: the LR size at which
    photographs are enlarged.
    """
    choices = values_choices(interface)
    if len(choices) == 1:
        return _with_values(interface, *choices[0]), DECLARED
    images = [nchw_from_rgb(rgb) for rgb in sample_lr(hw, count=2)]
    ran: Dict[Tuple[Values, int], Optional[np.ndarray]] = {}  # the output's values are free

    def score(choice: Tuple[Values, Values]) -> float:
        chosen = _with_values(interface, *choice)
        for i, x in enumerate(images):
            if (choice[0], i) not in ran:
                ran[choice[0], i] = run(network_input(x, chosen))
        outputs = [ran[choice[0], i] for i in range(len(images))]
        return min(resemblance_db(x, y, chosen, scale) for x, y in zip(images, outputs))

    scored = [(score(choice), choice) for choice in choices]
    usual_db = scored[0][0]
    best_db, best = max(scored, key=lambda item: item[0])
    grey_db = min(_psnr(image, image.mean((2, 3), keepdims=True)) for image in images)
    if not best_db >= grey_db + CLEAR_DB:
        return _with_values(interface, *choices[0]), ASSUMED
    others = usual_db < GOOD_DB and best_db >= usual_db + BETTER_DB
    chosen = best if others else choices[0]
    return _with_values(interface, *chosen), BY_PHOTOGRAPHS


def resemblance_db(
    x: np.ndarray, y: Optional[np.ndarray], interface: Interface, scale: int
) -> float:
    """Return the PSNR in dB of an image and a graph's output for it, shrunk by averaging.

    x: (1, 3, H, W) float32 RGB, 0..1. y: as the graph gives it. -inf for None, another size or NaN.
    """
    if y is None:
        return float("-inf")
    reference = luma_nchw(x) if interface.colours == "y" else x
    n, c, h, w = reference.shape
    with np.errstate(over="ignore", invalid="ignore"):
        image = network_image(y, interface)
        if image.shape != (n, c, h * scale, w * scale):
            return float("-inf")
        shrunk = image.reshape(n, c, h, scale, w, scale).mean((3, 5))
    top, left = (min(_EDGE_PX, side // 4) for side in (h, w))
    inner = (..., slice(top, h - top), slice(left, w - left))
    return _psnr(shrunk[inner], reference[inner])


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Return the PSNR in dB, peak 1, of values that need not be in 0..1; -inf for NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        mse = float(np.mean((a.astype(np.float64) - b) ** 2))
    return -10 * float(np.log10(max(mse, 1e-12))) if np.isfinite(mse) else float("-inf")
