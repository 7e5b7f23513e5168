"""The source video: its properties, checks, and frames with their timestamps."""

from __future__ import annotations

import contextlib
import re
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Iterator, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.upscale.video_colour import KR_KB, Colour, rgb_from_frame

_HDR = {16: "PQ (SMPTE 2084)", 18: "HLG (ARIB STD-B67)"}
_MATRICES = {  # fmt: skip
    0: "RGB", 8: "YCgCo", 10: "BT.2020 constant luminance", 11: "SMPTE 2085",
    12: "chroma-derived", 13: "chroma-derived", 14: "ICtCp",
}  # fmt: skip
_CENTRED = ("mjpeg", "mpeg1video", "theora")
"""Codecs with chroma between the luma columns. PyAV does not expose the stream's own value."""
_COMPUTED = re.compile(r"(?:yuvj?(420|422|444)p|(gray)|(gbrp))(?:(9|10|12|14|16)le)?$")
_PACKED = ("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr")


class BrokenOffError(InputError):
    """The video cannot be read beyond some time. The frames before it have been yielded."""


@dataclass(frozen=True)
class VideoFacts:
    """The properties of a video."""

    index: int  # of its stream in the file
    hw: Tuple[int, int]
    pix_fmt: str
    colour: Colour
    guessed: str  # the colour properties that the file does not state, with the values assumed
    tags: Tuple[int, int]  # primaries and transfer function by ITU-T H.273; 2: not stated
    rate: Fraction  # frames per second, on average
    time_base: Fraction
    frames: int  # as stated, else estimated from the duration; 0: unknown
    aspect: Optional[Fraction]  # of a pixel; None: square or not stated
    matrix: Tuple[int, ...] = ()  # the display matrix (rotation, flips), nine integers, if any


@contextlib.contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """Yield PyAV's container of a file. Raises InputError if it cannot be opened."""
    av = pyav()
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        container = av.open(str(path), metadata_errors="replace")
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from e
    except (av.error.FFmpegError, ValueError) as e:
        raise InputError(
            f"{path} cannot be read as a video: {ffmpeg_reason(e)}",
            hint="it may have another format, or be cut off (an MP4 file may need its end)",
        ) from e
    with container:
        yield container


def pyav() -> Any:
    """Return the package av. Raises MissingPackageError."""
    # Its logging stays off, as by default: otherwise FFmpeg's threads call Python, and closing a
    # container was seen to deadlock.
    try:
        import av
        import cv2  # noqa: F401
    except ImportError as e:
        name = e.name or "av"
        raise MissingPackageError(name, needed_for="video", extra="upscale", cause=e) from e
    return av


def ffmpeg_reason(error: Exception) -> str:
    """Return the text of an error of PyAV, which may be a ValueError."""
    return getattr(error, "strerror", None) or str(error)


def probe_video(path: Path) -> VideoFacts:
    """Return the properties of a video, from its container and first frame.

    Raises InputError with the reason if it cannot be upscaled correctly.
    """
    with open_container(path) as container:
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise InputError(f"{path} is a picture, not a video")
        stream = _video_stream(container, path)
        try:
            frame = next(_decode(container, stream, path), None)
        except pyav().error.FFmpegError as e:
            reason = ffmpeg_reason(e)
            raise BrokenOffError(f"{path}: cannot decode its first frame: {reason}") from e
        if frame is None:
            raise InputError(f"{path} has a video stream without frames")
        coder = stream.codec_context
        _check_sdr(path, frame, coder)
        _check_progressive(path, frame, 0.0)
        colour, guessed = _colour(path, frame, coder)
        rate = stream.average_rate or stream.base_rate or stream.guessed_rate
        if not rate:
            raise InputError(f"{path} does not state its frame rate")
        own = stream.duration
        duration_s = own * stream.time_base if own else Fraction(container.duration or 0, 1000000)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return VideoFacts(
            index=stream.index,
            hw=(frame.height, frame.width),
            pix_fmt=frame.format.name,
            colour=colour,
            guessed=guessed,
            tags=(coder.color_primaries, coder.color_trc),
            rate=rate,
            time_base=stream.time_base,
            frames=stream.frames or int(duration_s * rate),
            aspect=stream.sample_aspect_ratio or None,
            matrix=() if matrix is None else tuple(map(int, np.frombuffer(matrix, np.int32))),
        )


@dataclass(frozen=True)
class FrameMark:
    """Identifies a decoded frame, to resume after it."""

    pts: int
    crc32: int


def fingerprint(rgb: np.ndarray) -> int:
    """Return the CRC-32 of a picture."""
    return zlib.crc32(np.ascontiguousarray(rgb).data)


def read_frames(
    path: Path, facts: VideoFacts, after: Optional[FrameMark] = None
) -> Iterator[Tuple[int, np.ndarray]]:
    """Yield (pts, (H, W, 3) RGB), in order of time, of all frames or those `after` one.

    Seeks to the keyframe before `after`, and starts from the beginning if the frame does not decode
    to the same picture from there. Raises BrokenOffError where decoding fails, and where the size,
    pixel format or interlacing changes.
    """
    if after is not None:
        try:
            yield from _read_after(path, facts, after, seek=True)
            return
        except _MarkNotFoundError:
            pass
    try:
        yield from _read_after(path, facts, after, seek=False)
    except _MarkNotFoundError as e:
        raise InputError(
            f"{path}: the frame at {_time_text(after.pts if after else 0, facts)} has changed",
            hint="use the original file",
        ) from e


class _MarkNotFoundError(Exception):
    """The frame to resume after was not found."""


def _read_after(
    path: Path, facts: VideoFacts, after: Optional[FrameMark], *, seek: bool
) -> Iterator[Tuple[int, np.ndarray]]:
    av = pyav()
    last: Optional[int] = None
    found = after is None
    with open_container(path) as container:
        stream = container.streams[facts.index]
        stream.thread_type = "AUTO"
        try:
            if seek and after is not None:
                container.seek(after.pts, stream=stream)
            for frame in _decode(container, stream, path):
                pts = _pts_of(frame, last, facts)
                if pts is None:
                    if seek:
                        raise _MarkNotFoundError
                    pts = 0
                if not found and after is not None:
                    found = _is_marked(frame, pts, after, facts)
                else:
                    _check_unchanged(path, frame, pts, last, facts)
                    yield pts, rgb_from_frame(frame, facts.colour)
                last = pts
        except av.error.FFmpegError as e:
            if not found:
                raise _MarkNotFoundError from e
            time = _time_text(last or 0, facts)
            raise BrokenOffError(f"{path}: cannot decode after {time}: {e.strerror or e}") from e
    if not found:
        raise _MarkNotFoundError


def _is_marked(frame: Any, pts: int, mark: FrameMark, facts: VideoFacts) -> bool:
    """Return whether this is the marked frame. Raises _MarkNotFoundError if it cannot follow."""
    if pts < mark.pts:
        return False
    if pts > mark.pts or fingerprint(rgb_from_frame(frame, facts.colour)) != mark.crc32:
        raise _MarkNotFoundError
    return True


def _check_unchanged(
    path: Path, frame: Any, pts: int, last: Optional[int], facts: VideoFacts
) -> None:
    """Raise BrokenOffError if time goes back, or the size, pixel format or interlacing changes."""
    time = _time_text(pts, facts)
    if last is not None and pts <= last:
        hint = "remux it: ffmpeg -i IN -c copy OUT"
        raise BrokenOffError(f"{path}: the timestamps go back at {time}", hint=hint)
    if (frame.height, frame.width) != facts.hw or frame.format.name != facts.pix_fmt:
        before = f"{facts.hw[1]}x{facts.hw[0]} {facts.pix_fmt}"
        now = f"{frame.width}x{frame.height} {frame.format.name}"
        raise BrokenOffError(
            f"{path}: the video changes from {before} to {now} at {time}",
            hint="cut it there into two files",
        )
    _check_progressive(path, frame, float(pts * facts.time_base))


def _pts_of(frame: Any, last: Optional[int], facts: VideoFacts) -> Optional[int]:
    """Return the frame's pts in `facts.time_base`. None for the first frame of a raw stream.

    A frame without a pts, or with one not after the previous frame's (MPEG program streams), is
    placed after that one.
    """
    step = max(round(1 / facts.rate / facts.time_base), 1)
    pts = frame.dts if frame.pts is None else frame.pts
    if last is None or (pts is not None and not 0 <= last - pts < 1 / facts.time_base):
        return pts
    return last + (step if frame.pts is None else max(step // 2, 1))


def _decode(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            time_s = float((packet.pts or packet.dts or 0) * stream.time_base)
            raise BrokenOffError(f"{path} is cut off or damaged at {time_s:.2f} s")
        yield from packet.decode()


def _colour(path: Path, frame: Any, coder: Any) -> Tuple[Colour, str]:
    """Return the colour properties, and which of them were guessed."""
    name = frame.format.name
    if any(c.is_alpha for c in frame.format.components):
        raise InputError(
            f"{path} has an alpha channel ({name}), which would be lost",
            hint="remove it first: ffmpeg -i IN -vf format=yuv444p OUT",
        )
    if name in _PACKED:
        return Colour("rgb", 8, full=True), ""
    match = _COMPUTED.match(name)
    if match is None:
        raise InputError(
            f"{path} has the unsupported pixel format {name}",
            hint="convert it first: ffmpeg -i IN -vf format=yuv420p OUT",
        )
    subsampling, grey, planar_rgb, bits = match.groups()
    depth = int(bits or 8)
    if planar_rgb:
        return Colour("rgb", depth, full=True), ""
    guessed = []
    matrix, full = frame.colorspace, name.startswith("yuvj") or frame.color_range == 2
    if not full and frame.color_range == 0:
        guessed.append("limited range")
    if grey and matrix not in KR_KB:
        matrix = 1  # grey has no matrix
    if matrix in (2, 3):
        # As players do. The output states it, for its height would suggest another matrix.
        matrix = 1 if frame.height >= 720 else 6
        guessed.append(f"{'BT.709' if matrix == 1 else 'BT.601'} by its {frame.height} lines")
    if matrix not in KR_KB:
        raise InputError(
            f"{path} has the unsupported colour matrix {_MATRICES.get(matrix, matrix)}",
            hint="convert it to BT.709 first",
        )
    centred = coder.name in _CENTRED
    return Colour(subsampling or "gray", depth, matrix, full, centred), ", ".join(guessed)


def _check_sdr(path: Path, frame: Any, coder: Any) -> None:
    hint = "tone-map it to SDR first"
    if coder.color_trc in _HDR:
        raise InputError(
            f"{path} is HDR, {_HDR[coder.color_trc]}: networks trained on SDR pictures would "
            "change its brightness",
            hint=hint,
        )
    if any("DOVI" in str(data.type) for data in frame.side_data):
        raise InputError(
            f"{path} is HDR, Dolby Vision: its frames have no final colours", hint=hint
        )


def _check_progressive(path: Path, frame: Any, time_s: float) -> None:
    if frame.interlaced_frame:
        raise BrokenOffError(
            f"{path} is interlaced (at {time_s:.2f} s): its two fields are not one picture",
            hint="deinterlace it first: ffmpeg -i IN -vf bwdif OUT",
        )


def _video_stream(container: Any, path: Path) -> Any:
    """Return the first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if not _is_cover(stream):
            return stream
    types = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
    raise InputError(f"{path} has no video stream (it contains: {types})")


def _is_cover(stream: Any) -> bool:
    if hasattr(stream, "disposition"):
        return bool(int(stream.disposition) & 0x400)
    # Older PyAV has no dispositions. There a picture codec without a frame rate indicates a cover.
    coder = stream.codec_context
    return coder is not None and coder.name in ("mjpeg", "png", "bmp") and not stream.average_rate


def _time_text(pts: int, facts: VideoFacts) -> str:
    return f"{float(pts * facts.time_base):.3f} s"
