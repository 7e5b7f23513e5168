"""A video to be upscaled: what it is, whether it can be done rightly, and its frames one by one with their timestamps."""

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
_MATRICES = {
    0: "RGB",
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE 2085",
    12: "chroma-derived",
    13: "chroma-derived",
    14: "ICtCp",
}
_CENTRED = ("mjpeg", "mpeg1video", "theora")
"""Codecs whose chroma lies between the luma columns; PyAV does not tell the stream's own word."""
_COMPUTED = re.compile(r"(?:yuvj?(420|422|444)p|(gray)|(gbrp))(?:(9|10|12|14|16)le)?$")
_PACKED = ("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr")


class BrokenOffError(InputError):
    """The video cannot be read beyond some time; what was before it has been handed out."""


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video once its first frame is decoded."""

    index: int
    """Of its stream in the file."""
    hw: Tuple[int, int]
    pix_fmt: str
    colour: Colour
    guessed: str
    """What the file does not say of its colour and what was taken for it; empty: it says everything."""
    tags: Tuple[int, int]
    """The numbers of ITU-T H.273 for its primaries and transfer; 2: not said."""
    rate: Fraction
    """Frames a second, on average."""
    time_base: Fraction
    frames: int
    """As the file says; an estimate by its duration where it does not; 0: unknown."""
    aspect: Optional[Fraction]
    """Of a pixel; None: square or not said."""
    matrix: Tuple[int, ...] = ()
    """The display matrix (rotation, flips), nine integers; empty: none."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield PyAV's container of the file. Raises InputError, also for what FFmpeg says meanwhile; MissingPackageError."""
    av = pyav()
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        container = av.open(str(path), metadata_errors="replace")
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from e
    except (av.error.FFmpegError, ValueError) as e:
        raise InputError(
            f"{path} is no video that can be read: {getattr(e, 'strerror', None) or e}",
            hint="it is of another kind, or cut off before its table of contents (an MP4's may come last)",
        ) from e
    with container:
        yield container


def pyav() -> Any:
    """Return the package av. Raises MissingPackageError.

    Its log stays off, as it is by default: one that is switched on calls Python from FFmpeg's threads, and was seen to wait
    for ever on a container being closed.
    """
    try:
        import av
        import cv2  # noqa: F401
    except ImportError as e:
        raise MissingPackageError(
            e.name or "av", needed_for="upscaling video", extra="upscale", cause=e
        ) from e
    return av


def video_stream(container: Any, path: Path) -> Any:
    """Return the first stream that is a film, not a cover. Raises InputError when there is none."""
    for stream in container.streams.video:
        if not _is_cover(stream):
            return stream
    held = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
    raise InputError(f"{path} has no video stream (it holds: {held})")


def video_facts(path: Path) -> VideoFacts:
    """Look at the file and its first frame. Raises InputError where it cannot be upscaled rightly, with the reason."""
    with opened(path) as container:
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise InputError(f"{path} is a picture, not a video")
        stream = video_stream(container, path)
        frame = next(_decoded(container, stream, path), None)
        if frame is None:
            raise InputError(f"{path} has a video stream without a single frame")
        coder = stream.codec_context
        if coder.color_trc in _HDR:
            raise InputError(
                f"{path} is HDR, {_HDR[coder.color_trc]}: networks trained on SDR pictures would get its brightness wrong",
                hint="tone-map it to SDR first",
            )
        if any("DOVI" in str(data.type) for data in frame.side_data):
            raise InputError(
                f"{path} is HDR, Dolby Vision: its colours cannot be told from its frames",
                hint="tone-map it to SDR first",
            )
        _check_progressive(path, frame, 0.0)
        colour, guessed = _colour(path, frame, coder)
        rate = stream.average_rate or stream.base_rate or stream.guessed_rate
        if not rate:
            raise InputError(f"{path} does not say how many frames a second it has")
        return VideoFacts(
            index=stream.index,
            hw=(frame.height, frame.width),
            pix_fmt=frame.format.name,
            colour=colour,
            guessed=guessed,
            tags=(coder.color_primaries, coder.color_trc),
            rate=rate,
            time_base=stream.time_base,
            frames=stream.frames or int(_duration_s(container, stream) * rate),
            aspect=stream.sample_aspect_ratio or None,
            matrix=_display_matrix(frame),
        )


@dataclass(frozen=True)
class Seen:
    """A frame that was decoded before: where to go on after."""

    pts: int
    crc32: int


def fingerprint(rgb: np.ndarray) -> int:
    """Return the CRC-32 of a picture."""
    return zlib.crc32(np.ascontiguousarray(rgb))


def frames(
    path: Path, facts: VideoFacts, after: Optional[Seen] = None
) -> Iterator[Tuple[int, np.ndarray]]:
    """Yield (pts, (H, W, 3) RGB), in order of time; `pts` in `facts.time_base`. `after`: only what follows that frame.

    Goes to the keyframe before it, and to the file's beginning when from there the frame does not come out the same. Raises
    BrokenOffError at what cannot be decoded, and where size, format or progressiveness change.
    """
    if after is not None:
        try:
            yield from _frames(path, facts, after, seek=True)
            return
        except _LostError:
            pass
    try:
        yield from _frames(path, facts, after, seek=False)
    except _LostError as e:
        raise InputError(
            f"{path}: the frame at {_at(after.pts, facts)} is not what it was",
            hint="has the file changed?",
        ) from e


class _LostError(Exception):
    """The frame to go on after was not met."""


def _frames(
    path: Path, facts: VideoFacts, after: Optional[Seen], *, seek: bool
) -> Iterator[Tuple[int, np.ndarray]]:
    av = pyav()
    last: Optional[int] = None
    met = after is None
    with opened(path) as container:
        stream = container.streams[facts.index]
        stream.thread_type = "AUTO"
        try:
            if seek and after is not None:
                container.seek(after.pts, stream=stream)
            for frame in _decoded(container, stream, path):
                pts = _time(frame, last, facts)
                if pts is None:
                    if seek:
                        raise _LostError
                    pts = 0
                if not met and after is not None:
                    if pts > after.pts:
                        raise _LostError
                    met = pts == after.pts
                    if met and fingerprint(rgb_from_frame(frame, facts.colour)) != after.crc32:
                        raise _LostError
                    last = pts
                    continue
                time = _at(pts, facts)
                if last is not None and pts <= last:
                    raise BrokenOffError(
                        f"{path}: at {time} the timestamps go back",
                        hint="remux it: ffmpeg -i IN -c copy OUT",
                    )
                last = pts
                if (frame.height, frame.width) != facts.hw or frame.format.name != facts.pix_fmt:
                    (h, w), now = facts.hw, f"{frame.width}x{frame.height} {frame.format.name}"
                    raise BrokenOffError(
                        f"{path}: at {time} the video changes from {w}x{h} {facts.pix_fmt} to {now}",
                        hint="cut it there into two files",
                    )
                _check_progressive(path, frame, float(pts * facts.time_base))
                yield pts, rgb_from_frame(frame, facts.colour)
        except av.error.FFmpegError as e:
            if not met:
                raise _LostError from e
            raise BrokenOffError(
                f"{path}: cannot be decoded after {_at(last or 0, facts)}: {e.strerror or e}"
            ) from e
    if not met:
        raise _LostError


def _time(frame: Any, last: Optional[int], facts: VideoFacts) -> Optional[int]:
    """Return the frame's pts in `facts.time_base`; None for the first one of a raw stream, which carries no times.

    Where one has none, or not a later one than the frame before (MPEG program streams), it is put after that.
    """
    step = max(round(1 / facts.rate / facts.time_base), 1)
    pts = frame.dts if frame.pts is None else frame.pts
    if last is None or (pts is not None and not 0 <= last - pts < 1 / facts.time_base):
        return pts
    return last + (step if frame.pts is None else max(step // 2, 1))


def _decoded(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise BrokenOffError(
                f"{path}: is cut off or damaged at {float((packet.pts or packet.dts or 0) * stream.time_base):.2f} s"
            )
        yield from packet.decode()


def _colour(path: Path, frame: Any, coder: Any) -> Tuple[Colour, str]:
    name = frame.format.name
    known = _COMPUTED.match(name)
    if any(c.is_alpha for c in frame.format.components):
        raise InputError(
            f"{path} has an alpha channel ({name}), which would be lost",
            hint="remove it first: ffmpeg -i IN -vf format=yuv444p OUT",
        )
    if name in _PACKED:
        return Colour("rgb", 8, full=True), ""
    if known is None:
        raise InputError(
            f"{path} has the pixel format {name}, which is not known here",
            hint="convert it first: ffmpeg -i IN -vf format=yuv420p OUT",
        )
    depth = int(known[4] or 8)
    if known[3]:
        return Colour("rgb", depth, full=True), ""
    guessed = []
    matrix, full = frame.colorspace, name.startswith("yuvj") or frame.color_range == 2
    if not full and frame.color_range == 0:
        guessed.append("limited range")
    if known[2] and matrix not in KR_KB:
        matrix = 1  # grey has none
    if matrix in (2, 3):
        # As players do. It is written into the output, whose height would make them take another.
        matrix = 1 if frame.height >= 720 else 6
        guessed.append(f"{'BT.709' if matrix == 1 else 'BT.601'} by its {frame.height} lines")
    if matrix not in KR_KB:
        raise InputError(
            f"{path} has the colour matrix {_MATRICES.get(matrix, matrix)}, which is not known here",
            hint="convert it to BT.709 first",
        )
    return Colour(known[1] or "gray", depth, matrix, full, coder.name in _CENTRED), ", ".join(
        guessed
    )


def _check_progressive(path: Path, frame: Any, time_s: float) -> None:
    if frame.interlaced_frame:
        raise BrokenOffError(
            f"{path} is interlaced (at {time_s:.2f} s): a network would take its two half pictures for one",
            hint="deinterlace it first: ffmpeg -i IN -vf bwdif OUT",
        )


def _display_matrix(frame: Any) -> Tuple[int, ...]:
    data = frame.side_data.get("DISPLAYMATRIX")
    return () if data is None else tuple(int(n) for n in np.frombuffer(data, np.int32))


def _duration_s(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6


def _is_cover(stream: Any) -> bool:
    # Older PyAV shows no dispositions: there a cover is told by being a picture without a rate.
    if hasattr(stream, "disposition"):
        return bool(int(stream.disposition) & 0x400)
    return (
        stream.codec_context is not None
        and stream.codec_context.name in ("mjpeg", "png", "bmp")
        and not stream.average_rate
    )


def _at(pts: int, facts: VideoFacts) -> str:
    return f"{float(pts * facts.time_base):.3f} s"
