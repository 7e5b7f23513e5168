"""Encoding of upscaled frames, with settings that match the source."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.upscale.video_colour import Colour, frame_planes, planes_from_rgb
from sr_deploy.upscale.video_file import pyav
from sr_deploy.upscale.video_source import VideoFacts

CODECS: Dict[str, Tuple[Optional[int], Dict[str, str]]] = {
    "libx264": (18, {"preset": "medium"}),
    "libx265": (20, {"preset": "medium", "x265-params": "log-level=error"}),
    "libsvtav1": (25, {"preset": "8"}),
    "libvpx-vp9": (24, {"deadline": "good", "cpu-used": "4", "row-mt": "1"}),
    "ffv1": (None, {"level": "3"}),
}
"""Per codec: the default CRF (None: lossless, without a CRF) and the other options."""
_RESULTS = {"libx264": 80, "libx265": 105, "libsvtav1": 120, "libvpx-vp9": 120, "ffv1": 20}
"""An encoder's memory, in RGB images of a frame's size. Measured with 4:2:0 at 1024x576 (svtav1
also at 2560x1440): 70, 95, 60 to 111, and 16. The values here are a little larger. libvpx-vp9 was
not measured."""
_GLOBAL_HEADER = 1 << 22
"""AV_CODEC_FLAG_GLOBAL_HEADER, which all containers written here require."""


@dataclass(frozen=True)
class Encoding:
    """The encoder's settings. Runs store them as JSON, and resume only if they are equal."""

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
        options = ", ".join(f"{k} {v}" for k, v in self.options if k in ("crf", "preset"))
        codec = f"{self.codec} {options}".strip()
        return f"{codec}, {self.pix_fmt}, {self.hw[1]}x{self.hw[0]}"


def encoder_results(codec: str) -> int:
    """Return an encoder's memory in upscaled frames."""
    return _RESULTS.get(codec, 0)


def choose_encoding(
    facts: VideoFacts, hw: Tuple[int, int], *, codec: str, crf: Optional[int], gop: int
) -> Encoding:
    """Return the encoding of frames of (h, w), as the source in layout, depth, matrix and range.

    Grey becomes 4:2:0 without colour, RGB becomes 4:4:4 in BT.709. Raises InputError if the codec
    is unknown or missing in this FFmpeg, or does not take the pixel format, the size or the CRF.
    """
    av = pyav()
    options = _codec_options(codec, crf)
    source = facts.colour
    layout = {"gray": "420", "rgb": "444"}.get(source.layout, source.layout)
    pix_fmt = f"yuv{layout}p" + ("" if source.depth == 8 else f"{source.depth}le")
    if not takes(codec, pix_fmt):
        others = [c for c in CODECS if c in av.codecs_available and takes(c, pix_fmt)]
        raise InputError(
            f"{codec} does not support the source's pixel format {pix_fmt}",
            hint=f"use --codec {' or '.join(others)}" if others else "",
        )
    matrix, full = (1, False) if source.layout == "rgb" else (source.matrix, source.full)
    h, w = hw
    colour = Colour(layout, source.depth, matrix, full)
    tail = (facts.tags, facts.rate, facts.aspect, gop)
    encoding = Encoding(codec, tuple(options.items()), pix_fmt, (h, w), colour, *tail)
    if codec != "ffv1" and layout != "444" and (w % 2 or (h % 2 and layout == "420")):
        raise InputError(
            f"the upscaled video would be {w}x{h}, but {pix_fmt} in {codec} needs even sizes",
            hint="use --codec ffv1, a network of scale 2 or 4, or --outscale: it makes them even",
        )
    try:
        open_encoder(encoding).encode(None)
    except (av.error.FFmpegError, ValueError) as e:
        raise InputError(f"{codec} rejected {w}x{h} {pix_fmt} with {options}: {e}") from e
    return encoding


def configure_encoder(context: Any, encoding: Encoding) -> None:
    """Set up PyAV's codec context. Encoders of the same encoding write the same header.

    They also make the same packets of the same frames, except for libx264 on a CPU with AVX-512,
    whose macroblock tree is not deterministic.
    """
    # SVT-AV1 prints its settings to stderr unless this variable limits it to errors.
    os.environ.setdefault("SVT_LOG", "1")
    context.height, context.width = encoding.hw
    context.pix_fmt = encoding.pix_fmt
    # Frames are numbered here, and the muxer sets their times: codecs do not take every time base.
    context.framerate, context.time_base = encoding.rate, 1 / encoding.rate
    context.gop_size = encoding.gop
    context.bit_rate = 0
    context.colorspace = encoding.colour.matrix
    context.color_range = 2 if encoding.colour.full else 1
    context.color_primaries, context.color_trc = encoding.tags
    if encoding.aspect is not None:
        context.sample_aspect_ratio = encoding.aspect
    context.options = dict(encoding.options)
    context.flags |= _GLOBAL_HEADER


def open_encoder(encoding: Encoding) -> Any:
    """Return an open encoder."""
    context = pyav().CodecContext.create(encoding.codec, "w")
    configure_encoder(context, encoding)
    context.open()
    return context


def encode_frame(encoder: Any, encoding: Encoding, number: int, rgb: np.ndarray) -> List[Any]:
    """Encode a frame. Return the packets that are ready, with their frames' numbers as pts."""
    h, w = encoding.hw
    if rgb.shape[:2] != encoding.hw or rgb.dtype != encoding.colour.dtype:
        raise InputError(
            f"the network returned a frame of {rgb.shape} {rgb.dtype}, "
            f"expected {(h, w, 3)} {np.dtype(encoding.colour.dtype)}"
        )
    frame = pyav().VideoFrame(w, h, encoding.pix_fmt)
    for view, plane in zip(frame_planes(frame), planes_from_rgb(rgb, encoding.colour)):
        view[:] = plane
    frame.colorspace, frame.color_range = encoding.colour.matrix, 2 if encoding.colour.full else 1
    frame.pts, frame.time_base = number, 1 / encoding.rate
    return encoder.encode(frame)


def _codec_options(codec: str, crf: Optional[int]) -> Dict[str, str]:
    av = pyav()
    if codec not in CODECS:
        raise InputError(
            f"unknown codec '{codec}'; expected one of {', '.join(CODECS)}",
            hint=did_you_mean(codec, CODECS),
        )
    if codec not in av.codecs_available:
        raise InputError(
            f"the FFmpeg of this PyAV {av.__version__} has no {codec}",
            hint=f"use another codec: {', '.join(c for c in CODECS if c in av.codecs_available)}",
        )
    default_crf, options = CODECS[codec]
    if default_crf is None:
        if crf is not None:
            raise InputError(f"{codec} is lossless and takes no CRF, got {crf}")
        return options
    return {**options, "crf": str(default_crf if crf is None else crf)}


def takes(codec: str, pix_fmt: str) -> bool:
    """Return whether an encoder takes a pixel format."""
    return pix_fmt in [f.name for f in pyav().codec.Codec(codec, "w").video_formats or ()]
