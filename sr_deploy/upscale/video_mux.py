"""The output file: the encoded parts, each frame at its source's time, with the source's other streams copied packet by packet."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.video_encode import Encoding, configure
from sr_deploy.upscale.video_parts import Part, packets_file
from sr_deploy.upscale.video_source import VideoFacts, opened, pyav

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Those that hold a time for each frame."""
_STALE = (
    "encoder",
    "duration",
    "bps",
    "number_of_",
    "_statistics_",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "creation_time",
)
"""Beginnings of tags that are of the file they were in."""
_SHORT_S = 0.5
"""What a file may end before the duration it gives: containers round, and count the streams' ends differently."""


def check_streams(source: Path, facts: VideoFacts, encoding: Encoding, suffix: str) -> List[str]:
    """Return what of the source will not be in the output, a sentence each.

    Raises InputError when the container cannot hold the video, a sound or subtitles: seen by writing its header.
    """
    with opened(source) as container:
        with _writing(io.BytesIO(), suffix, facts.time_base) as out:
            _, _, lost = _streams(container, out, facts, encoding, suffix)
        return lost


def write_video(
    output: Path,
    suffix: str,
    source: Path,
    facts: VideoFacts,
    encoding: Encoding,
    folder: Path,
    parts: Sequence[Part],
    *,
    whole: bool,
) -> str:
    """Write the parts and the source's other streams to `output`, as the container of `suffix`.

    whole: the parts are all of the source, and where that is cut off or damaged is returned, empty when it is not; otherwise
    the other streams end where the parts do, and nothing is returned. Raises InputError.
    """
    av = pyav()
    length = sum(len(p.pts) for p in parts)
    end_s = None if whole or not length else parts[-1].pts[-1] * facts.time_base + 1 / facts.rate
    with opened(source) as container:
        try:
            with _writing(str(output), suffix, facts.time_base) as out:
                video, copies, _ = _streams(container, out, facts, encoding, suffix)
                with contextlib.ExitStack() as stack:
                    ours = _Packets(
                        stack.enter_context(
                            contextlib.closing(_video_packets(folder, parts, facts, video))
                        )
                    )
                    reading = _Reading(container, facts)
                    for packet in reading.packets():
                        copy = copies.get(packet.stream_index)
                        if copy is None:
                            continue
                        at = packet.dts * packet.time_base
                        if end_s is not None and at >= end_s:
                            if at > end_s + 2:  # the other streams are never far away
                                break
                            continue
                        for video_packet in ours.until(at):
                            out.mux(video_packet)
                        packet.stream = copy
                        out.mux(packet)
                    for video_packet in ours.until(None):
                        out.mux(video_packet)
        except (av.error.FFmpegError, ValueError) as e:
            # The file is written in the folder that `atomic_path` checked: this is the disk, or packets that do not fit.
            raise InputError(
                f"cannot write {suffix[1:]}: {getattr(e, 'strerror', None) or e}",
                hint="the finished parts are kept",
            ) from e
    return reading.broken() if whole else ""


class _Reading:
    """Reads all packets of a source and notes whether all is there that the file says."""

    def __init__(self, container: Any, facts: VideoFacts) -> None:
        self._container = container
        self._facts = facts
        self._stated = container.duration
        self._stated_packets = container.streams[facts.index].frames
        self._video_packets = 0
        self._end_s = 0.0
        self._damaged = ""

    def packets(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux():
                if packet.dts is None:
                    if packet.pts is None:  # the empty packets at the end
                        continue
                    packet.dts = packet.pts
                self._end_s = max(
                    self._end_s,
                    float(((packet.pts or packet.dts) + (packet.duration or 0)) * packet.time_base),
                )
                self._video_packets += packet.stream_index == self._facts.index
                if packet.is_corrupt:
                    self._damaged = (
                        f"is cut off or damaged at {float(packet.dts * packet.time_base):.2f} s"
                    )
                else:
                    yield packet
        except pyav().error.FFmpegError as e:
            self._damaged = f"cannot be read after {self._end_s:.2f} s: {e.strerror or e}"

    def broken(self) -> str:
        if self._damaged:
            return self._damaged
        stated_s = (
            self._stated or 0
        ) / 1e6  # from 0 in Matroska, from the first packet in others: taken for the smaller
        if stated_s - self._end_s > _SHORT_S:
            return (
                f"ends at {self._end_s:.2f} s of the {stated_s:.2f} s it says it has: it is cut off"
            )
        if self._stated_packets and self._video_packets < self._stated_packets:
            return f"has {self._video_packets} of the {self._stated_packets} frames it says it has, up to {self._end_s:.2f} s: it is cut off"
        return ""


class _Packets:
    """An iterator of packets that can be taken up to a time."""

    def __init__(self, packets: Iterator[Any]) -> None:
        self._packets = packets
        self._next = next(packets, None)

    def until(self, time_s: Optional[Fraction]) -> Iterator[Any]:
        while self._next is not None and (
            time_s is None or self._next.dts * self._next.time_base <= time_s
        ):
            packet, self._next = self._next, next(self._packets, None)
            yield packet


def decoding_times(pts: Sequence[int]) -> List[int]:
    """Return a decoding time for each packet from the presentation times in the order of decoding.

    They are the same times, sorted, and so much later in the row that none is after its packet's own; the first ones go on
    before the beginning. The parts' encoders cannot give them: each begins before its part does.
    """
    ordered = sorted(pts)
    rank = {t: i for i, t in enumerate(ordered)}
    delay = max((i - rank[t] for i, t in enumerate(pts)), default=0)
    step = ordered[1] - ordered[0] if len(ordered) > 1 else 1
    return [ordered[0] - (delay - i) * step for i in range(delay)] + ordered[: len(ordered) - delay]


def _video_packets(
    folder: Path, parts: Sequence[Part], facts: VideoFacts, stream: Any
) -> Iterator[Any]:
    av = pyav()
    times = [part.pts[n] for part in parts for n in part.numbers]
    ordered = sorted(times)
    usual = max(round(1 / facts.rate / facts.time_base), 1)
    length = dict(zip(ordered, [b - a for a, b in zip(ordered, ordered[1:])] + [usual]))
    dts = iter(decoding_times(times))
    for number, part in enumerate(parts):
        with open(packets_file(folder, number), "rb") as f:
            for n, size, key in zip(part.numbers, part.sizes, part.keys):
                packet = av.Packet(f.read(size))
                packet.stream, packet.time_base = stream, facts.time_base
                packet.pts, packet.dts, packet.duration = (
                    part.pts[n],
                    next(dts),
                    length[part.pts[n]],
                )
                packet.is_keyframe = bool(key)
                yield packet


def _streams(
    container: Any, out: Any, facts: VideoFacts, encoding: Encoding, suffix: str
) -> Tuple[Any, Dict[int, Any], List[str]]:
    """Add the streams in the source's order and write the header; return the video's, the copies by index, and what is lost."""
    av = pyav()
    lost: List[str] = []
    copies: Dict[int, Any] = {}
    video: Any = None
    for stream in container.streams:
        what = f"stream {stream.index} ({stream.type}{', ' + stream.codec_context.name if stream.codec_context else ''})"
        if stream.index == facts.index:
            video = _add_video(out, encoding, facts, suffix)
            _keep(stream, video)
        elif stream.type in ("audio", "subtitle"):
            try:
                made = copies[stream.index] = _add_copy(out, stream)
            except (av.error.FFmpegError, ValueError, AttributeError) as e:
                raise InputError(
                    f"{suffix[1:]} cannot hold the source's {what}, which is copied as it is: {e}",
                    hint="give an output ending in .mkv",
                ) from e
            _keep(stream, made)
        elif (
            stream.type == "attachment"
            and suffix == ".mkv"
            and hasattr(out, "add_stream_from_template")
        ):
            out.add_stream_from_template(stream)
        else:
            lost.append(f"{what} is not copied")
    out.metadata.update(_lasting(container.metadata))
    if hasattr(out, "set_chapters"):
        out.set_chapters(container.chapters())
    else:
        lost.append(
            f"chapters and the streams' dispositions are not kept: PyAV {av.__version__} cannot write them"
        )
    try:
        out.start_encoding()
    except (av.error.FFmpegError, ValueError) as e:
        codecs = ", ".join(sorted({s.codec_context.name for s in out.streams if s.codec_context}))
        raise InputError(
            f"{suffix[1:]} cannot hold these streams ({codecs}): {getattr(e, 'strerror', None) or e}",
            hint="give an output ending in .mkv",
        ) from e
    return video, copies, lost


def _add_video(out: Any, encoding: Encoding, facts: VideoFacts, suffix: str) -> Any:
    try:
        stream = out.add_stream(encoding.codec, rate=encoding.rate)
    except ValueError as e:
        raise InputError(
            f"{suffix[1:]} cannot hold {encoding.codec}",
            hint="give an output ending in .mkv, or another --codec",
        ) from e
    configure(stream.codec_context, encoding)
    stream.time_base = facts.time_base
    if facts.matrix:
        if not hasattr(stream, "set_display_matrix"):
            raise InputError(
                f"the video is to be shown rotated, which PyAV {pyav().__version__} cannot write",
                hint="install a newer one (Python 3.10+), or rotate the video first: ffmpeg -i IN OUT",
            )
        stream.set_display_matrix(facts.matrix)
    return stream


def _add_copy(out: Any, stream: Any) -> Any:
    if hasattr(out, "add_stream_from_template"):
        return out.add_stream_from_template(stream)
    return out.add_stream(template=stream)


def _keep(stream: Any, made: Any) -> None:
    made.metadata.update(_lasting(stream.metadata))
    if hasattr(stream, "disposition"):
        made.disposition = stream.disposition


def _lasting(metadata: Dict[str, str]) -> Dict[str, str]:
    return {k: v for k, v in metadata.items() if not k.lower().startswith(_STALE)}


@contextlib.contextmanager
def _writing(file: Union[str, io.BytesIO], suffix: str, time_base: Fraction) -> Iterator[Any]:
    """Yield the output container, closed in the end: with an error when there was none before and the last bytes do not fit."""
    # Sound may begin before 0 (an encoder's padding): without this Matroska moves everything, so that it does not.
    options = {"avoid_negative_ts": "disabled"}
    if suffix in (".mp4", ".m4v", ".mov"):
        options["movie_timescale"] = str(
            time_base.denominator
        )  # in which it writes when a stream begins, else to 1 ms
    out = pyav().open(file, "w", format=CONTAINERS[suffix], container_options=options)
    try:
        yield out
    except BaseException:
        with contextlib.suppress(Exception):
            out.close()
        raise
    out.close()
