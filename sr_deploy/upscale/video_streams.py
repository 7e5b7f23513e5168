"""The streams of an output: the upscaled video, copies of the others, and what is left out."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, Dict, List, Sequence

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.video_checks import ANIMATIONS
from sr_deploy.upscale.video_encode import CODECS, configure_encoder, takes
from sr_deploy.upscale.video_file import (
    CONTAINERS,
    ffmpeg_reason,
    is_cover,
    open_container,
    open_output,
    pyav,
)
from sr_deploy.upscale.video_parts import VideoTask

_STALE_TAGS = (  # fmt: skip
    "encoder", "duration", "bps", "number_of_", "_statistics_",
    "major_brand", "minor_version", "compatible_brands", "creation_time",
)  # fmt: skip
"""Prefixes of tags that describe the source file and not its content."""
_DEFAULT_TAGS = ("handler_name", "vendor_id", "alpha_mode")
"""Tags whose loss is not reported: containers fill them in."""


@dataclass
class OutputStreams:
    """The streams of an output container whose header is written."""

    video: Any
    copies: Dict[int, Any] = field(default_factory=dict)  # by the source's index
    losses: List[str] = field(default_factory=list)  # what is missing, a line each


def check_streams(task: VideoTask) -> List[str]:
    """Return what will be missing in the output, a line each.

    Raises InputError if `task.drop` names no streams that can be dropped, or if the container
    cannot hold the video, sound or subtitles. The hint names what holds them.
    """
    with open_container(task.source) as container:
        _check_drop(container, task)
        _check_container(container, task)
        with open_output(io.BytesIO(), task.suffix, task.mux_options) as out:
            return add_streams(container, out, task).losses


def add_streams(container: Any, out: Any, task: VideoTask) -> OutputStreams:
    """Add the streams in the source's order and write the header. Raises InputError."""
    av = pyav()
    made = OutputStreams(None)
    for stream in container.streams:
        if stream.index == task.facts.index:
            made.video = _add_video(out, task)
            _copy_metadata(stream, made.video)
            if stream.codec_context.name in ANIMATIONS:
                made.losses.append("the animation's repetition is not kept")
        elif stream.index in task.drop:
            made.losses.append(f"{stream_name(stream)} is left out, as --drop says")
        elif _is_copied(stream):
            made.copies[stream.index] = _add_copy(out, stream)
            _copy_metadata(stream, made.copies[stream.index])
        elif stream.type == "attachment" and task.suffix == ".mkv" and _copies_templates(out):
            out.add_stream_from_template(stream)
        else:
            made.losses.append(f"{stream_name(stream)} is not copied")
    out.metadata.update(lasting_tags(container.metadata))
    if hasattr(out, "set_chapters"):
        out.set_chapters(container.chapters())
    else:
        made.losses.append(f"PyAV {av.__version__} cannot write chapters and stream dispositions")
    try:
        out.start_encoding()
    except (av.error.FFmpegError, ValueError) as e:
        codecs = ", ".join(sorted({s.codec_context.name for s in out.streams if s.codec_context}))
        raise InputError(
            f"{task.suffix[1:]} cannot hold these streams together ({codecs}): {ffmpeg_reason(e)}",
            hint="leave one out by --drop, or give an output of another format",
        ) from e
    return made


def stream_name(stream: Any) -> str:
    """Return a stream's number and content for messages."""
    kind = "cover picture" if stream.type == "video" and is_cover(stream) else stream.type
    codec = f", {stream.codec_context.name}" if stream.codec_context else ""
    return f"stream {stream.index} ({kind}{codec})"


def lasting_tags(tags: Dict[str, str]) -> Dict[str, str]:
    """Return the tags that describe the content, not the source's file."""
    return {k: v for k, v in tags.items() if not k.lower().startswith(_STALE_TAGS)}


def lost_tags(source: Any, out: Any, task: VideoTask, copies: Sequence[int]) -> List[str]:
    """Compare a written file with its source. Return the tags and marks it lacks, a line each."""
    pairs = [("the file", source, out)]
    kept = sorted([task.facts.index, *copies])
    media = [s for s in out.streams if s.type in ("video", "audio", "subtitle")]
    pairs += [(stream_name(source.streams[i]), source.streams[i], s) for i, s in zip(kept, media)]
    lines = []
    for name, before, after in pairs:
        there = {k.lower(): v for k, v in after.metadata.items()}
        tags = {k: v for k, v in lasting_tags(before.metadata).items() if v not in ("und", "")}
        lost = [
            f"{k} ({v})" if len(v) <= 40 and v.isprintable() else k
            for k, v in sorted(tags.items())
            if k.lower() not in _DEFAULT_TAGS and there.get(k.lower()) != v
        ]
        if lost:
            lines.append(f"{task.suffix[1:]} does not keep these tags of {name}: {', '.join(lost)}")
        if hasattr(before, "disposition"):
            marks = before.disposition & ~after.disposition & ~1  # all but `default`
            if marks:
                lines.append(f"{task.suffix[1:]} does not keep the mark {marks.name} of {name}")
    if hasattr(source, "chapters") and len(source.chapters()) != len(out.chapters()):
        lines.append(f"{len(out.chapters())} of {len(source.chapters())} chapters are kept")
    return lines


def _check_drop(container: Any, task: VideoTask) -> None:
    for number in sorted(task.drop):
        if number >= len(container.streams):
            raise InputError(
                f"--drop {number}: {task.source} has the streams 0 to {len(container.streams) - 1}",
                hint="give numbers of streams, as the messages name them",
            )
        if number == task.facts.index:
            raise InputError(
                f"--drop {number}: this is the video to upscale", hint="drop other streams only"
            )


def _check_container(container: Any, task: VideoTask) -> None:
    """Raise InputError if the container cannot hold the streams, with what can be done."""
    copied = [s for s in container.streams if _is_copied(s) and s.index not in task.drop]
    copied = [s for s in copied if s.index != task.facts.index]
    codec = task.encoding.codec
    refused = [s for s in copied if not _holds_copy(task.suffix, s)]
    names = [] if _holds_codec(task.suffix, codec) else [codec]
    names += [stream_name(s) for s in refused]
    if not names:
        return
    remedies = [
        f"give an output ending in {suffix}"
        for suffix in CONTAINERS
        if suffix not in (task.suffix, ".m4v")
        and _holds_codec(suffix, codec)
        and all(_holds_copy(suffix, s) for s in copied)
    ][:1]
    options = []
    if not _holds_codec(task.suffix, codec):
        options = [
            f"--codec {c}"
            for c in CODECS
            if _holds_codec(task.suffix, c) and takes(c, task.encoding.pix_fmt)
        ][:1]
    if (options or _holds_codec(task.suffix, codec)) and refused:
        numbers = ",".join(str(n) for n in sorted({*task.drop, *(s.index for s in refused)}))
        options.append(f"--drop {numbers}")
    if options:
        leave = ", which leaves out what it cannot hold" if refused else ""
        remedies.append(f"use {' '.join(options)}{leave}")
    what = "" if not refused else " without encoding it again"
    raise InputError(
        f"{task.suffix[1:]} cannot hold {' and '.join(names)}{what}", hint=", or ".join(remedies)
    )


def _is_copied(stream: Any) -> bool:
    return stream.type in ("audio", "subtitle")


def _holds_codec(suffix: str, codec: str) -> bool:
    av = pyav()
    if codec not in av.codecs_available:
        return False
    with open_output(io.BytesIO(), suffix, {}) as out:
        try:
            out.add_stream(codec, rate=25)
        except ValueError:
            return False
    return True


def _holds_copy(suffix: str, stream: Any) -> bool:
    """Return whether a container holds a copy of a stream, by writing a header."""
    with open_output(io.BytesIO(), suffix, {}) as out:
        try:
            _add_copy(out, stream)
            out.start_encoding()
        except (pyav().error.FFmpegError, ValueError, AttributeError):
            return False
    return True


def _add_video(out: Any, task: VideoTask) -> Any:
    encoding = task.encoding
    stream = out.add_stream(encoding.codec, rate=encoding.rate)
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
    if _copies_templates(out):
        return out.add_stream_from_template(stream)
    return out.add_stream(template=stream)


def _copies_templates(out: Any) -> bool:
    return hasattr(out, "add_stream_from_template")


def _copy_metadata(source: Any, target: Any) -> None:
    target.metadata.update(lasting_tags(source.metadata))
    if hasattr(source, "disposition"):
        target.disposition = source.disposition
