"""Upscale a video: its frames through the network and an encoder, at their own times, with all else of the file copied.

Decoding, the network and encoding overlap. What is encoded is kept in parts beside the output (`video_parts`), so that a run
that was killed goes on; in the end, or at Ctrl-C, parts and copied streams are written into one file (`video_mux`).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional

from sr_deploy.core.claims import read_holder
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, sha256_of
from sr_deploy.upscale.overlap import Behind, ahead
from sr_deploy.upscale.video_encode import Encoding, encoding_for
from sr_deploy.upscale.video_mux import CONTAINERS, check_streams, write_video
from sr_deploy.upscale.video_parts import (
    FRAMES,
    Part,
    PartWriter,
    Run,
    finished_parts,
    remove_parts,
)
from sr_deploy.upscale.video_source import BrokenOffError, VideoFacts, frames, pyav, video_facts

SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".mkv",
    ".webm",
    ".avi",
    ".ts",
    ".m2ts",
    ".mpg",
    ".mpeg",
    ".flv",
    ".wmv",
    ".y4m",
    ".ogv",
    ".3gp",
)
"""By which a file is taken for a video."""
_STATUS_EVERY_S = 0.5


@dataclass(frozen=True)
class VideoSummary:
    """What was done."""

    output: Path
    frames: int
    resumed_frames: int
    """Of them made by earlier runs."""
    seconds: float
    encoding: str

    def __str__(self) -> str:
        new = self.frames - self.resumed_frames
        earlier = f" (and {self.resumed_frames} of an earlier run)" if self.resumed_frames else ""
        return f"{new} frames{earlier} in {self.seconds:.1f} s, {new / max(self.seconds, 1e-9):.2f} a second; {self.encoding}"


def upscale_video(
    source: Path,
    output: Path,
    upscaler: Any,
    *,
    codec: str = "libx264",
    crf: Optional[int] = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[str], None] = lambda line: None,
) -> VideoSummary:
    """Upscale the video `source` into `output` (MP4, MOV, Matroska or WebM by its suffix), which must not exist.

    upscaler: called with (H, W, 3) RGB, uint8, or uint16 for more than 8 bits, returns the same type `upscaler.scale` times
    as large; `upscaler.identity` names the network and its settings. codec: see CODECS; crf: its quality, None: the
    default. say: is told what was chosen and what is lost; progress: a status line, twice a second.

    Goes on with what a killed run of the same source, upscaler and encoder left in `OUTPUT.parts`. On Ctrl-C, and where the
    source breaks off, what is done is written to `NAME.partial.SUFFIX`. Raises InputError; BrokenOffError where the source
    breaks off; MissingPackageError without PyAV or OpenCV.
    """
    source, output = Path(source), Path(output)
    _check_paths(source, output)
    facts = video_facts(source)
    encoding = encoding_for(facts, upscaler.scale, codec=codec, crf=crf, gop=FRAMES)
    lost = check_streams(source, facts, encoding, output.suffix.lower())
    if hasattr(upscaler, "plan"):
        upscaler.plan(facts.hw)  # a size it cannot take is refused now
    h, w = facts.hw
    taken = f"; it does not say its colours, taken for {facts.guessed}" if facts.guessed else ""
    say(f"{source}: {w}x{h} {facts.pix_fmt}, {float(facts.rate):.5g} frames a second{taken}")
    say(f"encoding by {encoding}; sound and subtitles are copied")
    for line in lost:
        say(line)
    make_output_folder(output.parent)
    claim = output.with_name(output.name + ".claim")
    with claim(claim) as mine:
        if not mine:
            pid, host = read_holder(claim)
            raise InputError(
                f"{output} is being written by the process {pid} on {host}",
                hint=f"if that is gone, remove {claim}",
            )
        return _run(_Job(source, output, facts, encoding), upscaler, say, progress)


@dataclass(frozen=True)
class _Job:
    source: Path
    output: Path
    facts: VideoFacts
    encoding: Encoding

    @property
    def folder(self) -> Path:
        return self.output.with_name(self.output.name + ".parts")

    @property
    def partial(self) -> Path:
        return self.output.with_name(f"{self.output.stem}.partial{self.output.suffix}")


def _run(
    job: _Job, upscaler: Any, say: Callable[[str], None], progress: Callable[[str], None]
) -> VideoSummary:
    started = time.monotonic()
    run = Run(
        sha256_of(job.source), f"{upscaler.identity}, x{upscaler.scale}", _settings(job.encoding)
    )
    done = finished_parts(job.folder, run)
    resumed = sum(len(p.pts) for p in done)
    if resumed:
        say(f"going on after {resumed} frames of an earlier run")
    writer = PartWriter(job.folder, job.encoding, done)
    try:
        _upscale_frames(job, upscaler, writer, progress)
        writer.end(kept=True)
    except (KeyboardInterrupt, SystemExit, BrokenOffError) as e:
        writer.end(kept=False)
        if writer.parts:
            _write(job, writer.parts, whole=False)
            kept = f"{job.partial} has the {sum(len(p.pts) for p in writer.parts)} frames before"
            if isinstance(e, BrokenOffError):
                e.hint = "; ".join(
                    filter(
                        None,
                        (
                            e.hint,
                            f"{kept}, and {job.folder} its parts: remove that if you do not go on",
                        ),
                    )
                )
            else:
                say(f"interrupted: {kept}; the same command goes on with {job.folder}")
        else:
            remove_parts(job.folder)
        raise
    finally:
        progress("")
    _write(job, writer.parts, whole=True)
    remove_parts(job.folder)
    with contextlib.suppress(FileNotFoundError):
        job.partial.unlink()  # of an interrupted run
    return VideoSummary(
        job.output,
        sum(len(p.pts) for p in writer.parts),
        resumed,
        time.monotonic() - started,
        str(job.encoding),
    )


def _upscale_frames(
    job: _Job, upscaler: Any, writer: PartWriter, progress: Callable[[str], None]
) -> None:
    done = sum(len(p.pts) for p in writer.parts)
    begun = shown = time.monotonic()
    encode = Behind(lambda item: writer.add(*item))
    try:
        after = writer.parts[-1].last if writer.parts else None
        with contextlib.closing(ahead(frames(job.source, job.facts, after))) as decoded:
            for n, (pts, lr) in enumerate(decoded, 1):
                encode.put((pts, lr, upscaler(lr)))
                now = time.monotonic()
                if now - shown >= _STATUS_EVERY_S:
                    shown = now
                    progress(_status(done + n, job.facts.frames, n / (now - begun)))
    finally:
        encode.close()


def _status(frame: int, frames_in_all: int, fps: float) -> str:
    if not frames_in_all:
        return f"frame {frame}, {fps:.2f} a second"
    left_s = round(max(frames_in_all - frame, 0) / fps)
    left = f"{left_s // 3600}:{left_s // 60 % 60:02d}:{left_s % 60:02d}"
    return f"frame {frame} of {frames_in_all}, {fps:.2f} a second, {left} left"


def _write(job: _Job, parts: List[Part], *, whole: bool) -> None:
    """Write OUTPUT, or NAME.partial.SUFFIX where that is not all. Raises BrokenOffError when reading on finds the source cut off."""
    temporary = job.folder / "output"  # on the same disk, and gone with the folder
    suffix = job.output.suffix.lower()
    target = job.partial
    try:
        broken = write_video(
            temporary, suffix, job.source, job.facts, job.encoding, job.folder, parts, whole=whole
        )
        if whole and not broken:
            target = job.output
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except OSError as e:
        raise InputError(
            f"cannot write {target}: {e.strerror or e}", hint="the finished parts are kept"
        ) from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    if broken:
        raise BrokenOffError(
            f"{job.source} {broken}",
            hint=f"{target} has what came before, and {job.folder} its parts: remove that if you do not go on",
        )


def _settings(encoding: Encoding) -> str:
    library = ".".join(map(str, pyav().library_versions["libavcodec"]))
    return json.dumps([asdict(encoding), f"libavcodec {library}"], default=str)


def _check_paths(source: Path, output: Path) -> None:
    if not source.is_file():
        raise InputError(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}")
    if output.suffix.lower() not in CONTAINERS:
        raise InputError(
            f"{output}: unknown kind of video '{output.suffix}'",
            hint=f"give an output ending in {', '.join(CONTAINERS)}",
        )
    if output.exists():
        same = os.path.samefile(str(source), str(output))
        raise InputError(
            f"{output} is the input itself" if same else f"{output} exists already",
            hint="give another output" + ("" if same else ", or remove it"),
        )
