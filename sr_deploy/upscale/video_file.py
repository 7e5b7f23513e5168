"""Video files: opening them for FFmpeg, and the evidence that one is cut off.

FFmpeg gets paths with a protocol. It would take that of `Alien: 1979.mp4` for the protocol Alien.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, Optional, Union

from sr_deploy.core.errors import InputError, MissingPackageError

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix -> FFmpeg's name, for containers that store a timestamp per frame."""
_LISTS = (b"#EXTM3U", b"ffconcat version")
_ISO_MEDIA = (b"mdat", b"moov", b"moof")
_ISO_OTHER = (
    b"ftyp styp free skip wide uuid sidx ssix mfra meta pnot prft emsg udta pdin"  # fmt: skip
).split()
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class BrokenOffError(InputError):
    """The video cannot be read beyond some time. The frames before it have been yielded."""


def pyav() -> Any:
    """Return the package av. Raises MissingPackageError."""
    # Its logging stays off, as by default: otherwise FFmpeg's threads call Python, and closing a
    # container was seen to deadlock.
    try:
        import av
        import cv2  # noqa: F401
    except ImportError as e:
        name = e.name or "av"
        raise MissingPackageError(name, needed_for="video", cause=e) from e
    return av


def ffmpeg_reason(error: BaseException) -> str:
    """Return the text of an error of PyAV or of the system."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """Yield PyAV's container of a file. Raises InputError if it cannot be opened."""
    av = pyav()
    try:
        with open(path, "rb") as f:
            head = f.read(64)
        if not head:
            raise InputError(f"{path} is empty (0 bytes)")
        if head.startswith(_LISTS):
            raise InputError(
                f"{path} is a list of other files", hint="join them first: ffmpeg -i IN -c copy OUT"
            )
        # Other lists of files must not open anything from the network.
        options = {"protocol_whitelist": "file"}
        container = av.open(_url(path), metadata_errors="replace", container_options=options)
    except (av.error.FFmpegError, ValueError, OSError) as e:
        raise InputError(
            f"{path} cannot be read as a video: {ffmpeg_reason(e)}",
            hint="it may have another format, or be cut off (an MP4 file may need its end)",
        ) from e
    with container:
        yield container


@contextlib.contextmanager
def open_output(
    file: Union[Path, io.BytesIO], suffix: str, options: Dict[str, str]
) -> Iterator[Any]:
    """Yield an output container in `file` and close it. An earlier error hides one of closing."""
    name = _url(file) if isinstance(file, Path) else file
    out = pyav().open(name, "w", format=CONTAINERS[suffix], container_options=options)
    try:
        yield out
    except BaseException:
        with contextlib.suppress(Exception):
            out.close()
        raise
    out.close()


def _url(path: Path) -> str:
    # Not a file object: PyAV would print a traceback where a damaged file makes FFmpeg seek to an
    # impossible position, and Ctrl-C is lost in calls from FFmpeg.
    return f"file:{path}"


def missing_bytes(path: Path) -> int:
    """Return how many bytes a file lacks of those that its outermost units declare. 0: none.

    The units are boxes of MP4 and MOV, lists of AVI, the segment of Matroska, the data of ASF, tags
    of FLV, and packets of MPEG-TS.
    Counters of frames and durations are no evidence: AVI counts frames without data.
    """
    try:
        with open(path, "rb") as f:
            size = os.fstat(f.fileno()).st_size
            head = f.read(16)
            if head[:4] == b"RIFF":
                end = _riff_end(f, size)
            elif head[:4] == _EBML:
                end = _ebml_end(f)
            elif head == _ASF_HEADER:
                end = _asf_end(f, size)
            elif head[:4] == b"FLV\1":
                end = _flv_end(f, size)
            elif head[:1] == b"G" and head[:4] != b"GIF8":
                end = _ts_end(f, size)
            else:
                end = _iso_end(f, size)
    except (struct.error, OSError):
        return 0
    return max(end - size, 0)


def _iso_end(f: BinaryIO, size: int) -> int:
    """Return where the last box with media ends, by its own size."""
    position = end = 0
    while position + 8 <= size:
        f.seek(position)
        length, kind = struct.unpack(">I4s", f.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", f.read(8))
        if kind not in _ISO_MEDIA and kind not in _ISO_OTHER or length < 8:
            break  # not such a file, junk at its end, or a box up to the end (0)
        position += length
        if kind in _ISO_MEDIA:
            end = position
    return end


def _riff_end(f: BinaryIO, size: int) -> int:
    """Return where the last list of frames ends. The sizes of RIFF chunks are often a bit off."""
    position = end = 0
    while position + 12 <= size:
        f.seek(position)
        kind, length, form = struct.unpack("<4sI4s", f.read(12))
        if kind == b"RIFF" and form in (b"AVI ", b"AVIX"):
            position += 12
            continue
        if not kind.isalnum():
            break
        position += 8 + length + length % 2
        if form == b"movi" and kind == b"LIST" and length > 4:
            end = position
    return end


def _asf_end(f: BinaryIO, size: int) -> int:
    position = 0
    while position + 24 <= size:
        f.seek(position)
        kind, length = struct.unpack("<16sQ", f.read(24))
        if length < 24:  # 0: being recorded
            break
        position += length
        if kind == _ASF_DATA:
            return position
    return 0


def _flv_end(f: BinaryIO, size: int) -> int:
    position = 13
    while position + 4 <= size:
        f.seek(position)
        position += 15 + (struct.unpack(">I", f.read(4))[0] & 0xFFFFFF)
    return position


def _ts_end(f: BinaryIO, size: int) -> int:
    position = size - size % 188
    for packet in (188, position):
        f.seek(packet)
        if f.read(1) not in (b"G", b""):
            return 0
    return size if position == size else position + 188


def _ebml_end(f: BinaryIO) -> int:
    f.seek(4)
    length = _ebml_size(f)
    f.seek(length or 0, os.SEEK_CUR)
    if f.read(4) != _SEGMENT:
        return 0
    length = _ebml_size(f)
    return 0 if length is None else f.tell() + length


def _ebml_size(f: BinaryIO) -> Optional[int]:
    """Read a size. None: unknown, as in a stream that is being recorded."""
    (first,) = struct.unpack("B", f.read(1))
    extra = 8 - first.bit_length()
    rest = f.read(extra)
    if first == 0 or len(rest) < extra:
        raise struct.error
    bits = 7 * (extra + 1)
    value = int.from_bytes(bytes([first]) + rest, "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is a cover picture."""
    if hasattr(stream, "disposition"):
        return bool(int(stream.disposition) & 0x400)
    # Older PyAV has no dispositions. There a picture codec without a frame rate indicates a cover.
    coder = stream.codec_context
    return coder is not None and coder.name in ("mjpeg", "png", "bmp") and not stream.average_rate
