"""The finished parts of a video run: groups of encoded frames that start with a keyframe.

`NNNNNN.bin` holds the packets of a part, `NNNNNN.json` the `Part` that describes them. The JSON
file is written last: without it a part does not count. All parts but the last have the same length,
wherever a run was killed. A resumed run therefore cuts and encodes as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, side_path, write_hint, write_text
from sr_deploy.core.jsonio import read_dataclass, to_json
from sr_deploy.upscale.video_encode import Encoding, encode_frame, open_encoder
from sr_deploy.upscale.video_source import FrameMark, VideoFacts, fingerprint

PART_FRAMES = 120
"""Frames per part: the most that a killed run loses, and the distance between keyframes."""
_KEY_NAMES = {
    "source_sha256": "source file",
    "upscaler": "network or its settings",
    "encoding": "encoder settings",
}


@dataclass(frozen=True)
class VideoTask:
    """A video to upscale, its output and its encoding."""

    source: Path
    output: Path
    facts: VideoFacts
    encoding: Encoding
    drop: FrozenSet[int] = frozenset()  # the numbers of the source's streams to leave out

    @property
    def suffix(self) -> str:
        return self.output.suffix.lower()

    @property
    def parts_folder(self) -> Path:
        return side_path(self.output, ".parts")

    @property
    def partial(self) -> Path:
        """The file for the frames of a run that ended early."""
        return side_path(self.output.with_suffix(""), f".partial{self.output.suffix}")

    @property
    def decoding_times(self) -> bool:
        """Whether the container stores durations between decoding times, as MP4 does."""
        return self.suffix in (".mp4", ".m4v", ".mov")

    @property
    def mux_options(self) -> Dict[str, str]:
        """The options of the output container."""
        # Sound may start before 0 (encoder padding). By default Matroska would then shift all
        # streams.
        options = {"avoid_negative_ts": "disabled"}
        if self.decoding_times:
            # The unit in which the starts of streams are written. The default is 1 ms.
            options["movie_timescale"] = str(self.facts.time_base.denominator)
        return options


@dataclass(frozen=True)
class ResumeKey:
    """The inputs that must be unchanged for a run to resume. Stored as `run.json`."""

    source_sha256: str
    upscaler: str
    encoding: str  # all settings of the encoder, and the library's version
    part_frames: int = PART_FRAMES


@dataclass(frozen=True)
class Part:
    """Consecutive encoded frames. All tuples but `pts` are per packet, in decoding order."""

    pts: Tuple[int, ...]  # of the frames, ascending, in the source's time base
    numbers: Tuple[int, ...]  # the index of the packet's frame within the part
    sizes: Tuple[int, ...]  # in bytes
    keys: Tuple[int, ...]  # 1 for a keyframe
    source_crc32: int  # of the last frame, before upscaling

    @property
    def last(self) -> FrameMark:
        """The frame after which to resume."""
        return FrameMark(self.pts[-1], self.source_crc32)


def load_parts(folder: Path, key: ResumeKey) -> List[Part]:
    """Return the finished parts in `folder`, or create it. Raises InputError for another run's."""
    state = folder / "run.json"
    if not state.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(
                f"{folder} exists and does not contain the parts of a run",
                hint="give another output, or remove it",
            )
        make_output_folder(folder)
        write_text(state, to_json(key))
        return []
    before = read_dataclass(ResumeKey, state, InputError)
    changed = [
        _KEY_NAMES.get(name, name)
        for name, value in dataclasses.asdict(key).items()
        if getattr(before, name) != value
    ]
    if changed:
        raise InputError(
            f"cannot resume from {folder}: the {' and the '.join(changed)} changed",
            hint=f"use the former ones, give another output, or remove the folder {folder}",
        )
    parts: List[Part] = []
    while (folder / f"{len(parts):06d}.json").is_file():
        path = folder / f"{len(parts):06d}.json"
        part = read_dataclass(Part, path, InputError)
        data = packets_file(folder, len(parts))
        if not data.is_file() or data.stat().st_size != sum(part.sizes):
            raise InputError(
                f"{data} is damaged: its size does not match its description",
                hint=f"remove the folder {folder}",
            )
        parts.append(part)
        if len(part.pts) < key.part_frames:
            break
    return parts


def packets_file(folder: Path, number: int) -> Path:
    """Return the path of a part's packets."""
    return folder / f"{number:06d}.bin"


class PartWriter:
    """Encodes frames into parts. Not thread-safe."""

    def __init__(self, task: VideoTask, finished: Sequence[Part]) -> None:
        self.parts = list(finished)
        self._folder, self._encoding = task.parts_folder, task.encoding
        self._open: Optional[_OpenPart] = None

    @property
    def frames(self) -> int:
        """The number of frames in all parts."""
        return sum(len(part.pts) for part in self.parts)

    def add(self, pts: int, lr: np.ndarray, hr: np.ndarray) -> None:
        """Encode a frame `hr`, upscaled from `lr`. Raises InputError if the disk is full."""
        with self._disk_errors():
            if self._open is None:
                self._open = _OpenPart(packets_file(self._folder, len(self.parts)), self._encoding)
            self._open.add(pts, lr, hr)
            if len(self._open.pts) == PART_FRAMES:
                self.finish(resumable=True)

    def finish(self, *, resumable: bool) -> None:
        """Finish the open part, if any. If not `resumable`, a later run makes its frames again."""
        if self._open is None:
            return
        with self._disk_errors():
            part, self._open = self._open.finish(), None
            if resumable:
                write_text(self._folder / f"{len(self.parts):06d}.json", to_json(part))
            self.parts.append(part)

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise InputError(
                f"cannot write to {self._folder}: {e.strerror or e}",
                hint=f"{write_hint(e)}; the same command resumes after the last finished part",
            ) from e


class _OpenPart:
    def __init__(self, path: Path, encoding: Encoding) -> None:
        self.pts: List[int] = []
        self._encoding = encoding
        self._encoder = open_encoder(encoding)
        self._file = open(path, "wb")
        self._packets: List[Tuple[int, int, int]] = []
        self._last_lr: Optional[np.ndarray] = None

    def add(self, pts: int, lr: np.ndarray, hr: np.ndarray) -> None:
        self._write(encode_frame(self._encoder, self._encoding, len(self.pts), hr))
        self.pts.append(pts)
        self._last_lr = lr

    def finish(self) -> Part:
        self._write(self._encoder.encode(None))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        numbers, sizes, keys = zip(*self._packets) if self._packets else ((), (), ())
        if sorted(numbers) != list(range(len(self.pts))) or not keys[0]:
            raise InputError(
                f"cannot use {self._encoding.codec}: it encoded {len(self.pts)} frames "
                f"as packets of the frames {sorted(numbers)}"
            )
        assert self._last_lr is not None
        return Part(tuple(self.pts), numbers, sizes, keys, fingerprint(self._last_lr))

    def _write(self, packets: List[Any]) -> None:
        for packet in packets:
            self._file.write(bytes(packet))
            self._packets.append((packet.pts, packet.size, int(packet.is_keyframe)))
