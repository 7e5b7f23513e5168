"""`Interface`, how a graph of unknown origin takes and gives images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Tuple

CHANNELS = {"rgb": 3, "bgr": 3, "y": 1}
"""The channels of an image by its colours. y: luma of BT.601; the network sees nothing else."""
LAYOUTS = ("nchw", "nhwc", "chw", "hwc")
DTYPES = ("fp32", "fp16", "uint8")
UNIT = (0.0, 1.0)
STUDIO = (16 / 255, 235 / 255)
"""Black and white of the luma that papers use: MATLAB's `rgb2ycbcr`."""
LUMA = (0.299, 0.587, 0.114)
"""Of BT.601, for R, G and B."""
_LARGEST = 65535.0
"""The largest value of an image in use, white of 16 bits."""


@dataclass(frozen=True)
class ImageEnd:
    """The input or the output of a graph."""

    name: str
    layout: str = "nchw"
    """Order of the axes: batch, channels, height, width. A batch is 1."""
    dtype: str = "fp32"
    values: Tuple[float, float] = UNIT
    """The values of black and white."""

    @property
    def axes_hw(self) -> Tuple[int, int]:
        """The axes of height and width."""
        return self.layout.index("h"), self.layout.index("w")


@dataclass(frozen=True)
class Interface:
    """The ends of a graph, from which `runtime.standard_graph` makes the standard ones.

    The standard is (1, 3, H, W) float32 RGB, 0..1, to (1, 3, scale*H, scale*W).
    """

    input: ImageEnd
    output: ImageEnd
    colours: str = "rgb"
    """Of both ends, a key of `CHANNELS`."""
    other_outputs: Tuple[str, ...] = ()
    """Outputs of the file that are not used."""

    @property
    def channels(self) -> int:
        return CHANNELS[self.colours]

    @property
    def is_standard(self) -> bool:
        """Whether sessions can take the file as it is; they feed FP16 and FP32."""
        return (self.colours, self.other_outputs) == ("rgb", ()) and all(
            (end.layout, end.values) == ("nchw", UNIT) and end.dtype != "uint8"
            for end in (self.input, self.output)
        )

    def problems(self) -> Iterator[str]:
        """Yield what is not valid; values are read from a file."""
        if self.colours not in CHANNELS:
            yield f"the colours '{self.colours[:20]}'"
        for what, end in (("input", self.input), ("output", self.output)):
            if not end.name:
                yield f"an {what} without a name"
            if end.layout not in LAYOUTS:
                yield f"the layout '{end.layout[:20]}' of the {what}"
            if end.dtype not in DTYPES:
                yield f"the type '{end.dtype[:20]}' of the {what}"
            if not valid_values(end.values):
                yield f"the values {end.values} of the {what}"


def valid_values(values: Tuple[float, float]) -> bool:
    """Return whether these can be the values of black and white."""
    low, high = values
    return -_LARGEST <= low < high <= _LARGEST


def values_text(values: Tuple[float, float]) -> str:
    """Return the values of black and white as text: `0..1`, `16..235`."""
    if values == STUDIO:
        return "16/255..235/255"
    return f"{values[0]:.4g}..{values[1]:.4g}"
