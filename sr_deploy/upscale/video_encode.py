"""How the upscaled frames are encoded: the encoder's settings, chosen by the source, and packets out of RGB frames."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.upscale.video_colour import Colour, frame_planes, planes_from_rgb
from sr_deploy.upscale.video_source import VideoFacts, pyav

CODECS: Dict[str, Tuple[Optional[int], Dict[str, str]]] = {
    "libx264": (18, {"preset": "medium"}),
    "libx265": (20, {"preset": "medium", "x265-params": "log-level=error"}),
    "libsvtav1": (25, {"preset": "8"}),
    "libvpx-vp9": (24, {"deadline": "good", "cpu-used": "4", "row-mt": "1"}),
    "ffv1": (None, {"level": "3"}),
}
"""What is offered: the default CRF (None: lossless, it takes none) and the other options."""
HOLDS = {"libx264": 80, "libx265": 105, "libsvtav1": 120, "libvpx-vp9": 120, "ffv1": 20}
"""How many RGB images of a frame's size an encoder's memory makes at most: 70, 95, 60 to 111 and 16 were measured, of 4:2:0 at
1024x576 (svtav1 at 2560x1440 too), and a little is added; libvpx-vp9 was not measured."""
_GLOBAL_HEADER = 1 << 22
"""AV_CODEC_FLAG_GLOBAL_HEADER: all the containers written here want it."""


@dataclass(frozen=True)
class Encoding:
    """All that decides what an encoder makes of the same frames."""

    codec: str
    options: Tuple[Tuple[str, str], ...]
    pix_fmt: str
    hw: Tuple[int, int]
    colour: Colour
    tags: Tuple[int, int]
    rate: Fraction
    aspect: Optional[Fraction]
    gop: int

    def __str__(self) -> str:
        said = ", ".join(f"{k} {v}" for k, v in self.options if k in ("crf", "preset"))
        return f"{self.codec}{' ' if said else ''}{said}, {self.pix_fmt}, {self.hw[1]}x{self.hw[0]}"


def encoding_for(
    facts: VideoFacts, scale: int, *, codec: str, crf: Optional[int], gop: int
) -> Encoding:
    """Choose how to encode the upscaled video: in the source's chroma layout, depth, matrix and range.

    Grey becomes 4:2:0 without colour; RGB becomes 4:4:4 of BT.709. Raises InputError when the codec is unknown or not in this
    FFmpeg, or takes neither that format, nor that size, nor the CRF.
    """
    av = pyav()
    if codec not in CODECS:
        raise InputError(
            f"unknown codec '{codec}'; there are: {', '.join(CODECS)}",
            hint=did_you_mean(codec, CODECS),
        )
    if codec not in av.codecs_available:
        raise InputError(
            f"the FFmpeg of this PyAV {av.__version__} has no {codec}",
            hint=f"take another: {', '.join(CODECS)}",
        )
    default, options = CODECS[codec]
    if default is None and crf is not None:
        raise InputError(f"{codec} is lossless and takes no CRF, got {crf}")
    if default is not None:
        options = {**options, "crf": str(default if crf is None else crf)}
    source = facts.colour
    layout = {"gray": "420", "rgb": "444"}.get(source.layout, source.layout)
    pix_fmt = f"yuv{layout}p" + ("" if source.depth == 8 else f"{source.depth}le")
    if not _takes(codec, pix_fmt):
        others = [c for c in CODECS if c in av.codecs_available and _takes(c, pix_fmt)]
        raise InputError(
            f"{codec} cannot hold the source's {pix_fmt}",
            hint=f"take {' or '.join(others)}" if others else "",
        )
    matrix, full = (1, False) if source.layout == "rgb" else (source.matrix, source.full)
    hw = (facts.hw[0] * scale, facts.hw[1] * scale)
    encoding = Encoding(
        codec,
        tuple(options.items()),
        pix_fmt,
        hw,
        Colour(layout, source.depth, matrix, full),
        facts.tags,
        facts.rate,
        facts.aspect,
        gop,
    )
    if codec != "ffv1" and layout != "444" and (hw[1] % 2 or (hw[0] % 2 and layout == "420")):
        raise InputError(
            f"the upscaled video would be {hw[1]}x{hw[0]}, and {pix_fmt} of {codec} needs even sizes",
            hint="take --codec ffv1, or a scale of 2 or 4",
        )
    try:
        encoder(encoding).encode(None)
    except (av.error.FFmpegError, ValueError) as e:
        raise InputError(
            f"{codec} does not take {encoding.hw[1]}x{encoding.hw[0]} {pix_fmt} with {options}: {e}"
        ) from e
    return encoding


def configure(context: Any, encoding: Encoding) -> None:
    """Set up PyAV's context of an encoder. Two of the same encoding have the same header.

    They also make the same of the same frames, but for libx264 on a CPU with AVX-512: its macroblock tree is not repeatable.
    """
    os.environ.setdefault(
        "SVT_LOG", "1"
    )  # errors: SVT-AV1 asks no one else before it prints its settings to stderr
    context.height, context.width = encoding.hw
    context.pix_fmt = encoding.pix_fmt
    # Frames are numbered, not timed: not every codec takes every time base. Their times are put on when the file is written.
    context.framerate, context.time_base = encoding.rate, 1 / encoding.rate
    context.gop_size = encoding.gop
    context.bit_rate = 0
    context.colorspace, context.color_range = (
        encoding.colour.matrix,
        2 if encoding.colour.full else 1,
    )
    context.color_primaries, context.color_trc = encoding.tags
    if encoding.aspect is not None:
        context.sample_aspect_ratio = encoding.aspect
    context.options = dict(encoding.options)
    context.flags |= _GLOBAL_HEADER


def encoder(encoding: Encoding) -> Any:
    """Return an open encoder."""
    context = pyav().CodecContext.create(encoding.codec, "w")
    configure(context, encoding)
    context.open()
    return context


def packets(context: Any, encoding: Encoding, number: int, rgb: Optional[np.ndarray]) -> List[Any]:
    """Hand over the frame of that number, or None at the end, and return the packets that are ready; their pts is the number."""
    if rgb is None:
        return context.encode(None)
    if rgb.shape[:2] != encoding.hw or rgb.dtype != encoding.colour.dtype:
        raise InputError(
            f"a frame came back as {rgb.shape} {rgb.dtype}, expected {encoding.hw} {np.dtype(encoding.colour.dtype)}"
        )
    frame = pyav().VideoFrame(encoding.hw[1], encoding.hw[0], encoding.pix_fmt)
    for view, plane in zip(frame_planes(frame), planes_from_rgb(rgb, encoding.colour)):
        view[:] = plane
    frame.colorspace, frame.color_range = encoding.colour.matrix, 2 if encoding.colour.full else 1
    frame.pts, frame.time_base = number, 1 / encoding.rate
    return context.encode(frame)


def _takes(codec: str, pix_fmt: str) -> bool:
    return pix_fmt in [f.name for f in pyav().codec.Codec(codec, "w").video_formats or ()]
