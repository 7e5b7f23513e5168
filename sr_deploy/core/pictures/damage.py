"""Damage of picture files: in their structure, and what decoders hide.

OpenCV and the libraries in it fill missing parts of JPEG files with grey and of TIFF strips with
black. They read PNG chunks with wrong checksums. Other formats they refuse.
"""

from __future__ import annotations

import struct
from typing import Callable, Optional

import numpy as np

from sr_deploy.core.pictures.containers import jpeg, png, tiff
from sr_deploy.core.pictures.formats import content_format

Decode = Callable[[bytes], Optional[np.ndarray]]
_SHORT = "a part of its picture data is missing"


def find_damage(data: bytes) -> str:
    """Return the evidence of damage in a PNG or JPEG file's structure, or an empty string."""
    check = {"PNG": png.find_damage, "JPEG": jpeg.find_damage}.get(content_format(data[:64]))
    try:
        return check(data) if check is not None else ""
    except (struct.error, IndexError, KeyError):
        return "it ends inside a header"


def find_hidden_damage(data: bytes, image: np.ndarray, decode: Decode) -> str:
    """Return the evidence that a decoder hid damage. `image` is what `decode(data)` returned."""
    kind = content_format(data[:64])
    try:
        if kind == "JPEG":
            return _SHORT if _short_jpeg(data, image, decode) else ""
        if kind == "TIFF":
            short = tiff.short_strip(data) or _differs(
                tiff.with_garbage(data, jpeg.GARBAGE), data, image, decode
            )
            return _SHORT if short else ""
    except (struct.error, ValueError, IndexError):
        pass  # a structure that only the decoder understands
    return ""


def _short_jpeg(data: bytes, image: np.ndarray, decode: Decode) -> bool:
    everywhere = jpeg.has_parts(data) and _ffmpeg_complains(data)
    return _differs(jpeg.with_garbage(data, everywhere=everywhere), data, image, decode)


def _differs(probe: bytes, data: bytes, image: np.ndarray, decode: Decode) -> bool:
    if probe == data:
        return False
    other = decode(probe)
    return other is None or other.shape != image.shape or not np.array_equal(other, image)


def _ffmpeg_complains(data: bytes) -> bool:
    """Return whether FFmpeg finds an error in a JPEG file, or is not installed."""
    try:
        import av
    except ImportError:
        return True
    try:
        decoder = av.CodecContext.create("mjpeg", "r")
        decoder.options = {"err_detect": "explode"}
        decoder.thread_count = 1
        return not decoder.decode(av.Packet(data)) + decoder.decode(None)
    except (av.error.FFmpegError, ValueError):
        return True
