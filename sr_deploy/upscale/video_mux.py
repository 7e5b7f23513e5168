"""The output file: the encoded parts at the source's timestamps, and its other streams, copied."""

from __future__ import annotations

import contextlib
import heapq
import io
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, Generator, Iterator, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.video_encode import configure_encoder
from sr_deploy.upscale.video_parts import Part, VideoTask, packets_file
from sr_deploy.upscale.video_source import VideoFacts, ffmpeg_reason, open_container, pyav

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Suffix -> FFmpeg's name, for containers that store a timestamp per frame."""
_STALE_TAGS = (  # fmt: skip
    "encoder", "duration", "bps", "number_of_", "_statistics_",
    "major_brand", "minor_version", "compatible_brands", "creation_time",
)  # fmt: skip
"""Prefixes of tags that describe the source file and not its content."""
_SHORT_S = 0.5
"""How much shorter than stated a file may be. Containers round, and end streams differently."""


def check_streams(task: VideoTask) -> List[str]:
    """Return what will be missing in the output, a line each.

    Raises InputError if the container cannot hold the video, sound or subtitles, which writing its
    header shows.
    """
    with open_container(task.source) as container:
        with _open_output(io.BytesIO(), task.suffix, task.facts.time_base) as out:
            _, _, losses = _add_streams(container, out, task)
        return losses


def write_video(output: Path, task: VideoTask, parts: Sequence[Part], *, complete: bool) -> str:
    """Write the parts and the source's other streams to `output`, in the task's container.

    complete: the parts cover the source. Returns where the source turns out to be cut off or
    damaged, or "". If not complete, the other streams end where the parts do, and "" is returned.
    Raises InputError.
    """
    av, facts = pyav(), task.facts
    end_s = None
    if parts and not complete:
        end_s = parts[-1].pts[-1] * facts.time_base + 1 / facts.rate
    with open_container(task.source) as container:
        reader = _SourceReader(container, facts)
        try:
            with _open_output(str(output), task.suffix, facts.time_base) as out:
                video, copies, _ = _add_streams(container, out, task)
                with contextlib.closing(_video_packets(task, parts, video)) as packets:
                    copied = _copied_packets(reader.packets(), copies, end_s)
                    for packet in heapq.merge(packets, copied, key=_time_s):
                        out.mux(packet)
        except (av.error.FFmpegError, ValueError) as e:
            # The disk is full, or the container rejects the packets.
            raise InputError(
                f"cannot write {task.suffix[1:]}: {ffmpeg_reason(e)}",
                hint="the finished parts are kept",
            ) from e
    return reader.problem() if complete else ""


class _SourceReader:
    """Reads all packets of a source, and records whether it is as long as it states."""

    def __init__(self, container: Any, facts: VideoFacts) -> None:
        self._container = container
        self._index = facts.index
        # From 0 in Matroska, from the first packet in others. The smaller reading is used.
        self._stated_s = (container.duration or 0) / 1e6
        self._stated_packets = container.streams[facts.index].frames
        self._video_packets = 0
        self._end_s = 0.0
        self._damage = ""

    def packets(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux():
                if packet.dts is None:
                    if packet.pts is None:  # the empty packets at the end
                        continue
                    packet.dts = packet.pts
                end = (packet.pts or packet.dts) + (packet.duration or 0)
                self._end_s = max(self._end_s, float(end * packet.time_base))
                self._video_packets += packet.stream_index == self._index
                if packet.is_corrupt:
                    time_s = float(packet.dts * packet.time_base)
                    self._damage = f"is cut off or damaged at {time_s:.2f} s"
                else:
                    yield packet
        except pyav().error.FFmpegError as e:
            self._damage = f"cannot be read after {self._end_s:.2f} s: {e.strerror or e}"

    def problem(self) -> str:
        """Return where the source is damaged, or "". Valid after all packets were read."""
        if self._damage:
            return self._damage
        if self._stated_s - self._end_s > _SHORT_S:
            return f"is cut off: it ends at {self._end_s:.2f} s, but states {self._stated_s:.2f} s"
        if self._video_packets < (self._stated_packets or 0):
            frames = f"{self._video_packets} of the stated {self._stated_packets} frames"
            return f"is cut off: it has {frames}, up to {self._end_s:.2f} s"
        return ""


def _copied_packets(
    packets: Iterator[Any], copies: Dict[int, Any], end_s: Optional[Fraction]
) -> Iterator[Any]:
    """Yield the packets of copied streams that begin before `end_s`, assigned to their copies."""
    for packet in packets:
        stream = copies.get(packet.stream_index)
        if stream is None:
            continue
        if end_s is None or _time_s(packet) < end_s:
            packet.stream = stream
            yield packet
        elif _time_s(packet) > end_s + 2:  # streams are interleaved within less than that
            return


def _time_s(packet: Any) -> Fraction:
    return packet.dts * packet.time_base


def decoding_times(pts: Sequence[int]) -> List[int]:
    """Return a decoding time per packet, given the presentation times in decoding order.

    They are the sorted presentation times, delayed by as many packets as needed for none to be
    later than its packet's pts. The first ones extrapolate to before the start. The encoders' own
    times cannot be used, since each part restarts them.
    """
    ordered = sorted(pts)
    rank = {t: i for i, t in enumerate(ordered)}
    delay = max((i - rank[t] for i, t in enumerate(pts)), default=0)
    step = ordered[1] - ordered[0] if len(ordered) > 1 else 1
    return [ordered[0] - (delay - i) * step for i in range(delay)] + ordered[: len(ordered) - delay]


def _video_packets(
    task: VideoTask, parts: Sequence[Part], stream: Any
) -> Generator[Any, None, None]:
    av, facts = pyav(), task.facts
    times = [part.pts[n] for part in parts for n in part.numbers]
    ordered = sorted(times)
    usual = max(round(1 / facts.rate / facts.time_base), 1)
    durations = dict(zip(ordered, [b - a for a, b in zip(ordered, ordered[1:])] + [usual]))
    dts = iter(decoding_times(times))
    for number, part in enumerate(parts):
        with open(packets_file(task.parts_folder, number), "rb") as f:
            for n, size, key in zip(part.numbers, part.sizes, part.keys):
                packet = av.Packet(f.read(size))
                packet.stream, packet.time_base = stream, facts.time_base
                packet.pts, packet.dts = part.pts[n], next(dts)
                packet.duration = durations[part.pts[n]]
                packet.is_keyframe = bool(key)
                yield packet


def _add_streams(
    container: Any, out: Any, task: VideoTask
) -> Tuple[Any, Dict[int, Any], List[str]]:
    """Add the streams in the source's order and write the header.

    Returns the video stream, the copied streams by the source's index, and what is lost, a line
    each.
    """
    av, suffix = pyav(), task.suffix
    losses: List[str] = []
    copies: Dict[int, Any] = {}
    video: Any = None
    for stream in container.streams:
        codec = f", {stream.codec_context.name}" if stream.codec_context else ""
        name = f"stream {stream.index} ({stream.type}{codec})"
        if stream.index == task.facts.index:
            video = _add_video(out, task)
            _copy_metadata(stream, video)
        elif stream.type in ("audio", "subtitle"):
            try:
                copies[stream.index] = _add_copy(out, stream)
            except (av.error.FFmpegError, ValueError, AttributeError) as e:
                raise InputError(
                    f"{suffix[1:]} cannot hold the source's {name} without re-encoding: {e}",
                    hint="give an output ending in .mkv",
                ) from e
            _copy_metadata(stream, copies[stream.index])
        elif (
            stream.type == "attachment"
            and suffix == ".mkv"
            and hasattr(out, "add_stream_from_template")
        ):
            out.add_stream_from_template(stream)
        else:
            losses.append(f"{name} is not copied")
    out.metadata.update(_lasting(container.metadata))
    if hasattr(out, "set_chapters"):
        out.set_chapters(container.chapters())
    else:
        losses.append(f"PyAV {av.__version__} cannot write chapters and stream dispositions")
    _write_header(out, suffix)
    return video, copies, losses


def _write_header(out: Any, suffix: str) -> None:
    try:
        out.start_encoding()
    except (pyav().error.FFmpegError, ValueError) as e:
        codecs = ", ".join(sorted({s.codec_context.name for s in out.streams if s.codec_context}))
        raise InputError(
            f"{suffix[1:]} cannot hold these streams ({codecs}): {ffmpeg_reason(e)}",
            hint="give an output ending in .mkv",
        ) from e


def _add_video(out: Any, task: VideoTask) -> Any:
    encoding = task.encoding
    try:
        stream = out.add_stream(encoding.codec, rate=encoding.rate)
    except ValueError as e:
        raise InputError(
            f"{task.suffix[1:]} cannot hold {encoding.codec}",
            hint="give an output ending in .mkv, or another --codec",
        ) from e
    configure_encoder(stream.codec_context, encoding)
    stream.time_base = task.facts.time_base
    if task.facts.matrix:
        if not hasattr(stream, "set_display_matrix"):
            raise InputError(
                f"the video is marked as rotated, which PyAV {pyav().__version__} cannot write",
                hint="install a newer PyAV (Python 3.10+), or rotate the video: ffmpeg -i IN OUT",
            )
        stream.set_display_matrix(task.facts.matrix)
    return stream


def _add_copy(out: Any, stream: Any) -> Any:
    if hasattr(out, "add_stream_from_template"):
        return out.add_stream_from_template(stream)
    return out.add_stream(template=stream)


def _copy_metadata(source: Any, target: Any) -> None:
    target.metadata.update(_lasting(source.metadata))
    if hasattr(source, "disposition"):
        target.disposition = source.disposition


def _lasting(metadata: Dict[str, str]) -> Dict[str, str]:
    return {k: v for k, v in metadata.items() if not k.lower().startswith(_STALE_TAGS)}


@contextlib.contextmanager
def _open_output(file: Union[str, io.BytesIO], suffix: str, time_base: Fraction) -> Iterator[Any]:
    """Yield the output container and close it. An earlier error hides one of closing."""
    # Sound may start before 0 (encoder padding). By default Matroska would then shift all streams.
    options = {"avoid_negative_ts": "disabled"}
    if suffix in (".mp4", ".m4v", ".mov"):
        # The unit in which the starts of streams are written. The default is 1 ms.
        options["movie_timescale"] = str(time_base.denominator)
    out = pyav().open(file, "w", format=CONTAINERS[suffix], container_options=options)
    try:
        yield out
    except BaseException:
        with contextlib.suppress(Exception):
            out.close()
        raise
    out.close()
