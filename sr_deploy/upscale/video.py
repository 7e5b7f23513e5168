"""Upscaling of videos: frames keep their timestamps, and the other streams are copied.

Decoding, the network and encoding overlap. The encoded frames are kept in parts beside the output
(`video_parts`), from which a killed run resumes. At the end, or at Ctrl-C, the parts and the copied
streams are written into one file (`video_mux`).
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Deque, FrozenSet, Iterator, List, Optional, Set, Tuple, Union

import numpy as np

from sr_deploy.core.claims import claim_file, read_holder
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import check_new, make_output_folder, sha256_of, side_path
from sr_deploy.upscale.folder import DEFAULT_RESULT, ResultOptions
from sr_deploy.upscale.governor import Governor
from sr_deploy.upscale.output_size import resample
from sr_deploy.upscale.overlap import WriteBehind, read_ahead
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.upscaler import Upscaler
from sr_deploy.upscale.video_encode import choose_encoding
from sr_deploy.upscale.video_file import CONTAINERS, BrokenOffError, pyav
from sr_deploy.upscale.video_mux import write_video
from sr_deploy.upscale.video_parts import (
    PART_FRAMES,
    PartWriter,
    ResumeKey,
    VideoTask,
    load_parts,
)
from sr_deploy.upscale.video_source import probe_video, read_frames
from sr_deploy.upscale.video_streams import check_streams

VideoUpscaler = Union[Upscaler, Governor]


@dataclass(frozen=True)
class VideoSummary:
    """The result of a run."""

    output: Path
    frames: int
    resumed_frames: int  # how many of them earlier runs have made
    seconds: float
    encoding: str

    def __str__(self) -> str:
        new = self.frames - self.resumed_frames
        earlier = f" (and {self.resumed_frames} by earlier runs)" if self.resumed_frames else ""
        fps = new / max(self.seconds, 1e-9)
        return f"{new} frames{earlier} in {self.seconds:.1f} s, {fps:.2f} frames/s; {self.encoding}"


def upscale_video(
    source: Path,
    output: Path,
    upscaler: VideoUpscaler,
    *,
    codec: str = "libx264",
    crf: Optional[int] = None,
    drop: FrozenSet[int] = frozenset(),
    result: ResultOptions = DEFAULT_RESULT,
    reporter: Reporter = Reporter(),  # noqa: B008 - frozen
) -> VideoSummary:
    """Upscale a video into `output` (MP4, MOV, Matroska or WebM).

    codec: see `CODECS`. crf: its quality; None: its default. drop: the numbers of the source's
    streams to leave out. result: the size of the frames, and whether an existing output is
    replaced.

    Resumes from the parts that a killed run of the same source, upscaler and encoder left in
    `OUTPUT.parts`. At Ctrl-C, and where the source breaks off, the frames so far are written to
    `NAME.partial.SUFFIX`. Raises InputError; BrokenOffError if the source breaks off;
    MissingPackageError without PyAV or OpenCV.
    """
    source, output = Path(source), Path(output)
    check_paths(source, output, result.force)
    facts = probe_video(source)
    hw = result.size.of(facts.hw, upscaler.scale, turned=facts.turned, even=True)
    encoding = choose_encoding(facts, hw, codec=codec, crf=crf, gop=PART_FRAMES)
    task = VideoTask(source, output, facts, encoding, drop)
    losses = check_streams(task)
    upscaler.plan(facts.hw)
    h, w = facts.hw
    assumed = f"; its colour is not fully tagged, assumed: {facts.guessed}" if facts.guessed else ""
    reporter.log(f"{source}: {w}x{h} {facts.pix_fmt}, {float(facts.rate):.5g} frames/s{assumed}")
    reporter.log(f"encoding with {encoding}; audio and subtitles are copied")
    for line in losses:
        reporter.log(line)
    make_output_folder(output.parent)
    claim = side_path(output, ".claim")
    with claim_file(claim) as ours:
        if not ours:
            pid, host = read_holder(claim)
            raise InputError(
                f"{output} is being written by process {pid} on {host}",
                hint=f"if that process has ended, remove {claim}",
            )
        return _run(task, upscaler, reporter)


def _run(task: VideoTask, upscaler: VideoUpscaler, reporter: Reporter) -> VideoSummary:
    started = time.monotonic()
    library = ".".join(map(str, pyav().library_versions["libavcodec"]))
    settings = json.dumps([asdict(task.encoding), f"libavcodec {library}"], default=str)
    identity = f"{upscaler.identity}, x{upscaler.scale}"
    parts = load_parts(task.parts_folder, ResumeKey(sha256_of(task.source), identity, settings))
    writer = PartWriter(task, parts)
    resumed = writer.frames
    if resumed:
        reporter.log(f"resuming after {resumed} frames of an earlier run")
    try:
        _upscale_frames(task, upscaler, writer, reporter)
        writer.finish(resumable=True)
    except (KeyboardInterrupt, SystemExit, BrokenOffError) as e:
        writer.finish(resumable=False)
        _keep_partial(task, writer, reporter, e)
        raise
    for line in _write_output(task, writer, complete=True):
        reporter.log(line)
    shutil.rmtree(str(task.parts_folder), ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        task.partial.unlink()  # left by an interrupted run
    seconds = time.monotonic() - started
    return VideoSummary(task.output, writer.frames, resumed, seconds, str(task.encoding))


def _upscale_frames(
    task: VideoTask, upscaler: VideoUpscaler, writer: PartWriter, reporter: Reporter
) -> None:
    network_hw = (task.facts.hw[0] * upscaler.scale, task.facts.hw[1] * upscaler.scale)

    def encode(item: Tuple[int, np.ndarray, np.ndarray]) -> None:
        pts, lr, hr = item
        if hr.shape[:2] == network_hw:  # frames of other sizes are refused by the encoder
            hr = resample(hr, task.encoding.hw)
        writer.add(pts, lr, hr)

    behind = WriteBehind(encode)
    after = writer.parts[-1].last if writer.parts else None
    lost: Set[str] = set()
    decoded = read_ahead(read_frames(task.source, task.facts, after, lost))
    frames: Deque[Tuple[int, np.ndarray]] = collections.deque()
    broken_off: Optional[BrokenOffError] = None

    def images() -> Iterator[np.ndarray]:
        nonlocal broken_off
        try:
            for pts, lr in decoded:
                frames.append((pts, lr))
                yield lr
        except BrokenOffError as e:
            broken_off = e  # the frames that are on their way come first

    try:
        with contextlib.closing(decoded), reporter.progress.track(
            "upscaling", task.facts.frames, unit="frames", done=writer.frames
        ) as advance:
            for upscaled in upscaler.frames(images()):
                behind.put((*frames.popleft(), upscaled))
                advance()
        if broken_off is not None:
            raise broken_off
    finally:
        behind.close()
        for what in sorted(lost):
            reporter.log(f"not kept: {what}")


def _keep_partial(
    task: VideoTask, writer: PartWriter, reporter: Reporter, cause: BaseException
) -> None:
    """Write the frames of a run that ended early to the partial output, and report that."""
    if not writer.parts:
        shutil.rmtree(str(task.parts_folder), ignore_errors=True)
        return
    _write_output(task, writer, complete=False)
    kept = f"{task.partial} has the {writer.frames} frames so far"
    if isinstance(cause, BrokenOffError):
        remove = f"remove {task.parts_folder} if you do not resume"
        cause.hint = "; ".join(filter(None, (cause.hint, kept, remove)))
    else:
        reporter.log(f"interrupted: {kept}; the same command resumes from {task.parts_folder}")


def _write_output(task: VideoTask, writer: PartWriter, *, complete: bool) -> List[str]:
    """Write the output, or the partial output if the frames are not complete.

    Returns what is lost or odd, a line each.
    Raises BrokenOffError if reading the other streams shows that the source is cut off.
    """
    temporary = task.parts_folder / "output"  # on the same disk, and removed with the folder
    target = task.partial
    try:
        problem, notes = write_video(temporary, task, writer.parts, complete=complete)
        if complete and not problem:
            target = task.output
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except OSError as e:
        error = f"cannot write {target}: {e.strerror or e}"
        raise InputError(error, hint="the finished parts are kept") from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    if problem:
        raise BrokenOffError(
            f"{task.source} {problem}",
            hint=f"{target} has the frames before that; "
            f"remove {task.parts_folder} if you do not resume",
        )
    return notes


def check_paths(source: Path, output: Path, force: bool) -> None:
    """Raise InputError if a video or its output cannot be used, by their names."""
    if not source.is_file():
        raise InputError(f"{source}: {'is a folder' if source.is_dir() else 'no such file'}")
    if output.suffix.lower() not in CONTAINERS:
        raise InputError(
            f"{output}: unknown video format '{output.suffix}'",
            hint=f"give an output ending in {', '.join(CONTAINERS)}",
        )
    if os.path.exists(str(output)) and os.path.samefile(str(source), str(output)):
        raise InputError(f"{output} is the input itself", hint="give another output")
    check_new(output, force=force)
