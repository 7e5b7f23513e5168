"""The output file: the encoded parts at the source's timestamps, and its other streams, copied."""

from __future__ import annotations

import contextlib
import heapq
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, Generator, Iterator, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.video_file import (
    ffmpeg_reason,
    missing_bytes,
    open_container,
    open_output,
    pyav,
)
from sr_deploy.upscale.video_parts import Part, VideoTask, packets_file
from sr_deploy.upscale.video_source import VideoFacts
from sr_deploy.upscale.video_streams import add_streams, lost_tags

_SHORT_S = 0.5
"""How much shorter than stated a file may be without a note. Containers round."""


def write_video(
    output: Path, task: VideoTask, parts: Sequence[Part], *, complete: bool
) -> Tuple[str, List[str]]:
    """Write the parts and the source's other streams to `output`, in the task's container.

    complete: the parts cover the source. Returns where the source turns out to be cut off or
    damaged, or "", and what is lost or odd, a line each. If not complete, the other streams end
    where the parts do, and nothing is returned. Raises InputError.
    """
    av, facts = pyav(), task.facts
    end_s = None
    if parts and not complete:
        end_s = parts[-1].pts[-1] * facts.time_base + 1 / facts.rate
    with open_container(task.source) as container:
        reader = _SourceReader(container, facts)
        try:
            with open_output(output, task.suffix, task.mux_options) as out:
                made = add_streams(container, out, task)
                video_packets = _video_packets(task, parts, made.video, reader)
                with contextlib.closing(video_packets) as packets:
                    copied = _copied_packets(reader.packets(), made.copies, end_s)
                    for packet in heapq.merge(packets, copied, key=_time_s):
                        out.mux(packet)
        except (av.error.FFmpegError, ValueError) as e:
            # The disk is full, or the container rejects the packets.
            raise InputError(
                f"cannot write {task.suffix[1:]}: {ffmpeg_reason(e)}",
                hint="the finished parts are kept; leave a stream out by --drop, "
                "or free some disk space",
            ) from e
        if not complete:
            return "", []
        with open_container(output) as written:
            notes = lost_tags(container, written, task, list(made.copies))
        return reader.problem(missing_bytes(task.source)), notes + reader.notes()


class _SourceReader:
    """Reads all packets of a source, and records where it is damaged."""

    def __init__(self, container: Any, facts: VideoFacts) -> None:
        self._container = container
        self._index = facts.index
        # From 0 in Matroska, from the first packet in others. The smaller reading is used.
        self._stated_s = (container.duration or 0) / 1e6
        self._stated_packets = container.streams[facts.index].frames or 0
        self._video_packets = 0
        self.last_pts: Optional[int] = None  # of the video, among the packets read so far
        self.last_duration = 0
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
                if packet.stream_index == self._index:
                    self._add_video(packet)
                if packet.is_corrupt:
                    time_s = float(packet.dts * packet.time_base)
                    self._damage = f"is cut off or damaged at {time_s:.2f} s"
                else:
                    yield packet
        except (pyav().error.FFmpegError, OSError) as e:
            self._damage = f"cannot be read after {self._end_s:.2f} s: {ffmpeg_reason(e)}"

    def _add_video(self, packet: Any) -> None:
        self._video_packets += 1
        if packet.pts is not None and (self.last_pts is None or packet.pts > self.last_pts):
            self.last_pts, self.last_duration = packet.pts, packet.duration or 0

    def problem(self, missing: int) -> str:
        """Return where the source is damaged, or "". Valid after all packets were read."""
        if not self._damage and missing:
            return f"is cut off at {self._end_s:.2f} s: its last {missing} bytes are missing"
        return self._damage

    def notes(self) -> List[str]:
        """Return in which respects the container's counters differ, a line each."""
        if self._video_packets < self._stated_packets:
            frames = f"{self._stated_packets} frames, and has {self._video_packets}"
            return [f"the source states {frames}: frames without data are no frames"]
        if self._stated_s - self._end_s > _SHORT_S:
            return [f"the source states {self._stated_s:.2f} s, and ends at {self._end_s:.2f} s"]
        return []


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
    task: VideoTask, parts: Sequence[Part], stream: Any, reader: _SourceReader
) -> Generator[Any, None, None]:
    av, facts = pyav(), task.facts
    times = [part.pts[n] for part in parts for n in part.numbers]
    ordered = sorted(times)
    usual = max(round(1 / facts.rate / facts.time_base), 1)
    durations = dict(zip(ordered, [b - a for a, b in zip(ordered, ordered[1:])] + [usual]))
    dts = decoding_times(times)
    following = iter(dts)
    for number, part in enumerate(parts):
        with open(packets_file(task.parts_folder, number), "rb") as f:
            for n, size, key in zip(part.numbers, part.sizes, part.keys):
                packet = av.Packet(f.read(size))
                packet.stream, packet.time_base = stream, facts.time_base
                packet.pts, packet.dts = part.pts[n], next(following)
                packet.duration = durations[part.pts[n]]
                last = usual
                if reader.last_pts == ordered[-1] and reader.last_duration > 0:
                    last = reader.last_duration
                if packet.pts == ordered[-1]:
                    packet.duration = last
                if packet.dts == dts[-1] and task.decoding_times:
                    # MP4 stores decoding times, and the last packet's duration ends the stream.
                    packet.duration = ordered[-1] + last - ordered[0] - (dts[-1] - dts[0])
                packet.is_keyframe = bool(key)
                yield packet
