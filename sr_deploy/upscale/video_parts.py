"""What a run has finished: parts of so many frames, each from a keyframe to its end, in a folder beside the output.

`NNNNNN.bin` holds a part's packets one after the other, `NNNNNN.json` (a `Part`) what they are. The second is written when the
first is whole: a part without it is none. All parts but the last are of the same length, wherever a run was killed: a
resumed run cuts, and so encodes, as an uninterrupted one.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, write_text
from sr_deploy.core.jsonio import from_dict, read_json, to_json
from sr_deploy.upscale.video_encode import Encoding, encoder, packets
from sr_deploy.upscale.video_source import Seen, fingerprint

FRAMES = 120
"""Of a part. What a killed run loses at most, and the longest way between two keyframes."""


@dataclass(frozen=True)
class Run:
    """What must be the same for a run to go on."""

    source_sha256: str
    upscaler: str
    encoding: str
    """All settings of the encoder, and the library's version."""
    part_frames: int = FRAMES


@dataclass(frozen=True)
class Part:
    """Consecutive frames, encoded. The lists are by packet, in the order of decoding, but for `pts`."""

    pts: Tuple[int, ...]
    """Of the frames, in the source's time base, in order of time."""
    numbers: Tuple[int, ...]
    """Which of the frames the packet is."""
    sizes: Tuple[int, ...]
    """Bytes."""
    keys: Tuple[int, ...]
    """1 for a keyframe."""
    source_crc32: int
    """Of the last frame before it was upscaled."""

    @property
    def last(self) -> Seen:
        """The frame to go on after."""
        return Seen(self.pts[-1], self.source_crc32)


def finished_parts(folder: Path, run: Run) -> List[Part]:
    """Return the finished parts of this run in `folder`, which is made where it is not. Raises InputError for another run's."""
    state = folder / "run.json"
    if not state.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(
                f"{folder} exists and is not a run's", hint="give another output, or remove it"
            )
        make_output_folder(folder)
        write_text(state, to_json(run))
        return []
    before = from_dict(Run, read_json(state, InputError), source=state, error=InputError)
    names = {
        "source_sha256": "source file",
        "upscaler": "network or its settings",
        "encoding": "encoder's settings",
    }
    other = [names.get(k, k) for k, v in dataclasses.asdict(run).items() if getattr(before, k) != v]
    if other:
        raise InputError(
            f"{folder} holds an unfinished run that cannot be gone on with: another {', another '.join(other)}",
            hint=f"give what it was begun with, another output, or remove the folder {folder}",
        )
    found: List[Part] = []
    while (folder / f"{len(found):06d}.json").is_file():
        path = folder / f"{len(found):06d}.json"
        part = from_dict(Part, read_json(path, InputError), source=path, error=InputError)
        data = packets_file(folder, len(found))
        if not data.is_file() or data.stat().st_size != sum(part.sizes):
            raise InputError(f"{data} is not what was written", hint=f"remove the folder {folder}")
        found.append(part)
        if len(part.pts) < run.part_frames:
            break
    return found


def packets_file(folder: Path, number: int) -> Path:
    """Return the path of a part's packets."""
    return folder / f"{number:06d}.bin"


class PartWriter:
    """Encodes frames into parts. Used by one thread."""

    def __init__(
        self, folder: Path, encoding: Encoding, done: Sequence[Part], frames: int = FRAMES
    ) -> None:
        self.parts = list(done)
        self._folder = folder
        self._encoding = encoding
        self._frames = frames
        self._open: Optional[_OpenPart] = None

    def add(self, pts: int, lr: np.ndarray, hr: np.ndarray) -> None:
        """Encode a frame; `lr` is what it was upscaled from. Raises InputError when the disk is full."""
        try:
            if self._open is None:
                self._open = _OpenPart(packets_file(self._folder, len(self.parts)), self._encoding)
            self._open.add(pts, lr, hr)
            if len(self._open.pts) == self._frames:
                self._finish(kept=True)
        except OSError as e:
            raise _cannot_write(self._folder, e) from e

    def end(self, *, kept: bool) -> None:
        """Finish the part begun. Not `kept`: it is for the file at hand only, a resumed run makes it again."""
        try:
            if self._open is not None:
                self._finish(kept=kept)
        except OSError as e:
            raise _cannot_write(self._folder, e) from e

    def _finish(self, *, kept: bool) -> None:
        assert self._open is not None
        part = self._open.finish()
        self._open = None
        if kept:
            write_text(self._folder / f"{len(self.parts):06d}.json", to_json(part))
        self.parts.append(part)


class _OpenPart:
    def __init__(self, path: Path, encoding: Encoding) -> None:
        self.pts: List[int] = []
        self._encoding = encoding
        self._encoder = encoder(encoding)
        self._file = open(path, "wb")
        self._made: List[Tuple[int, int, int]] = []
        self._last: Optional[np.ndarray] = None

    def add(self, pts: int, lr: np.ndarray, hr: np.ndarray) -> None:
        self._write(packets(self._encoder, self._encoding, len(self.pts), hr))
        self.pts.append(pts)
        self._last = lr

    def finish(self) -> Part:
        self._write(packets(self._encoder, self._encoding, len(self.pts), None))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        numbers, sizes, keys = zip(*self._made) if self._made else ((), (), ())
        if sorted(numbers) != list(range(len(self.pts))) or not keys[0]:
            raise InputError(
                f"{self._encoding.codec} made packets {sorted(numbers)} of {len(self.pts)} frames: this codec cannot be used"
            )
        assert self._last is not None
        return Part(tuple(self.pts), numbers, sizes, keys, fingerprint(self._last))

    def _write(self, made: List) -> None:
        for packet in made:
            self._file.write(bytes(packet))
            self._made.append((packet.pts, packet.size, int(packet.is_keyframe)))


def remove_parts(folder: Path) -> None:
    """Take the folder away."""
    shutil.rmtree(str(folder), ignore_errors=True)


def _cannot_write(folder: Path, e: OSError) -> InputError:
    return InputError(
        f"cannot write to {folder}: {e.strerror or e}",
        hint="free some space and start again: it goes on with the last finished part",
    )
