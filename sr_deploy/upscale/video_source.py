"""The source video: its properties, checks, and frames with their timestamps."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Iterator, Optional, Set, Tuple

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.video_checks import (
    check_dynamic_range,
    check_layers,
    check_opaque,
    check_progressive,
    find_colour,
    lost_data,
    side_data,
)
from sr_deploy.upscale.video_colour import Colour, rgb_from_frame
from sr_deploy.upscale.video_file import (
    BrokenOffError,
    ffmpeg_reason,
    is_cover,
    open_container,
    pyav,
)


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

    @property
    def turned(self) -> bool:
        """Whether players swap the sides."""
        return bool(self.matrix) and abs(self.matrix[1]) > abs(self.matrix[0])


def probe_video(path: Path) -> VideoFacts:
    """Return the properties of a video, from its container and first frame.

    Raises InputError with the reason if it cannot be upscaled correctly.
    """
    with open_container(path) as container:
        _check_kind(container, path)
        stream = _video_stream(container, path)
        try:
            frame = next(_decode(container, stream, path), None)
        except (pyav().error.FFmpegError, ValueError, OSError) as e:
            raise InputError(f"{path}: cannot decode the first frame: {ffmpeg_reason(e)}") from e
        if frame is None:
            raise InputError(f"{path} has a video stream without frames")
        coder = stream.codec_context
        check_dynamic_range(path, frame, coder)
        check_progressive(path, frame, 0.0)
        colour, guessed = find_colour(path, frame, coder)
        check_opaque(path, frame, 0.0)
        rate = _rate(stream, frame)
        own = stream.duration
        duration_s = own * stream.time_base if own else Fraction(container.duration or 0, 1000000)
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
            matrix=_display_matrix(frame),
        )


def _check_kind(container: Any, path: Path) -> None:
    """Raise InputError for pictures, and for animations that PyAV does not decode."""
    name, brand = container.format.name, container.metadata.get("major_brand", "")
    heif = brand in ("avif", "avis", "heic", "heix", "hevc", "mif1", "msf1")
    if heif or name.endswith("_pipe") or name == "image2":
        raise InputError(
            f"{path} is a picture, or an animation that is not read as a video",
            hint="give an output ending in .png for a picture, or a GIF file for an animation",
        )


def _rate(stream: Any, frame: Any) -> Fraction:
    """Return the frame rate as stated or guessed; of a single frame, from its duration."""
    rate = stream.average_rate or stream.base_rate or stream.guessed_rate
    duration = getattr(frame, "duration", 0)
    return rate or (1 / (duration * stream.time_base) if duration else Fraction(25))


def _display_matrix(frame: Any) -> Tuple[int, ...]:
    matrix = side_data(frame).get("DISPLAYMATRIX")
    if matrix is not None:
        return tuple(map(int, np.frombuffer(matrix, np.int32)))
    angle = math.radians(getattr(frame, "rotation", 0))  # where PyAV hides the side data
    if not angle:
        return ()
    c, s = round(math.cos(angle) * 65536), round(math.sin(angle) * 65536)
    return (c, -s, 0, s, c, 0, 0, 0, 1 << 30)


@dataclass(frozen=True)
class FrameMark:
    """Identifies a decoded frame, to resume after it."""

    pts: int
    crc32: int


def fingerprint(rgb: np.ndarray) -> int:
    """Return the CRC-32 of a picture."""
    return zlib.crc32(np.ascontiguousarray(rgb).data)


def read_frames(
    path: Path,
    facts: VideoFacts,
    after: Optional[FrameMark] = None,
    lost: Optional[Set[str]] = None,
) -> Iterator[Tuple[int, np.ndarray]]:
    """Yield (pts, (H, W, 3) RGB), in order of time, of all frames or those `after` one.

    Seeks to the keyframe before `after`, and starts from the beginning if the frame does not decode
    to the same picture from there. Raises BrokenOffError where decoding fails, and where the size,
    pixel format or interlacing changes. Adds to `lost` what is lost of the frames, in words.
    """
    lost = set() if lost is None else lost
    if after is not None:
        try:
            yield from _read_after(path, facts, after, lost, seek=True)
            return
        except _MarkNotFoundError:
            pass
    try:
        yield from _read_after(path, facts, after, lost, seek=False)
    except _MarkNotFoundError as e:
        raise InputError(
            f"{path}: the frame at {_time_text(after.pts if after else 0, facts)} has changed",
            hint="use the original file",
        ) from e


class _MarkNotFoundError(Exception):
    """The frame to resume after was not found."""


def _read_after(
    path: Path, facts: VideoFacts, after: Optional[FrameMark], lost: Set[str], *, seek: bool
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
                    lost |= lost_data(frame)
                    yield pts, rgb_from_frame(frame, facts.colour)
                last = pts
        except (av.error.FFmpegError, OSError) as e:
            if not found:
                raise _MarkNotFoundError from e
            time = _time_text(last or 0, facts)
            reason = ffmpeg_reason(e)
            raise BrokenOffError(f"{path}: cannot decode after {time}: {reason}") from e
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
    check_progressive(path, frame, float(pts * facts.time_base))
    check_opaque(path, frame, float(pts * facts.time_base))


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
        check_layers(path, stream, packet)
        yield from packet.decode()


def _video_stream(container: Any, path: Path) -> Any:
    """Return the first video stream that is not a cover picture."""
    for stream in container.streams.video:
        if stream.codec_context is None:
            raise InputError(
                f"{path}: FFmpeg has no decoder for its video", hint="convert it to H.264 first"
            )
        if not is_cover(stream):
            return stream
    types = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
    raise InputError(f"{path} has no video stream (it contains: {types})")


def _time_text(pts: int, facts: VideoFacts) -> str:
    return f"{float(pts * facts.time_base):.3f} s"
