"""What is to be upscaled, and where the results go.

- Without an output, the results are beside their sources: `photo_x4.png` (PNG, whatever the
  picture's format is), `photos_x4/`, `film_x4.mp4`.
- The output of a single file is a file, or a folder if there is one of that name, or if the name
  ends with a slash. That of a folder, and of several inputs, is a folder.
- In a folder, results have the names and formats of the pictures, and folders keep their trees.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import InputError
from sr_deploy.core.pictures.formats import PICTURE_SUFFIXES, format_of_name, is_picture
from sr_deploy.upscale.folder_log import PictureTask
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.tree import VIDEO_SUFFIXES, find_pictures, result_name, why_not_read
from sr_deploy.upscale.video_file import CONTAINERS

_RESULT_STEM = re.compile(r"(.+)_(?:x[0-9]+(?:\.[0-9]+)?|[0-9]+x[0-9]+)")
"""The name of a result beside its source, without its suffix (see `OutputSize.label`)."""


@dataclass(frozen=True)
class VideoJob:
    """A video and the file that its result goes to."""

    source: Path
    output: Path


@dataclass
class PicturesJob:
    """Pictures whose results are in one folder and its log, or each beside its source."""

    folder: Optional[Path]  # None: beside their sources
    tasks: List[PictureTask] = field(default_factory=list)
    passed_over: Dict[Path, str] = field(default_factory=dict)
    """Files that cannot be upscaled -> why."""
    videos: List[Path] = field(default_factory=list)
    """In folders. They are left out."""
    results: Dict[Path, Path] = field(default_factory=dict)
    """Inputs that are results of others, which an earlier run made -> those. They are left out."""


Job = Union[PictureTask, PicturesJob, VideoJob]


@dataclass(frozen=True)
class OutputNames:
    """How results are named."""

    output: Optional[Path] = None
    is_folder: bool = False
    """Whether `output` is to become a folder."""
    label: str = "x4"
    """What names get where no output is given."""
    suffix: Optional[str] = None
    """Of the results of pictures, `.webp`; None: see this module."""

    def beside(self, source: Path, suffix: str) -> Path:
        """Return the path beside a file or folder for its result."""
        path = source if source.name not in ("", "..") else source.resolve()
        if not path.name:
            raise InputError(f"there is no place beside {source}", hint="give a folder with -o")
        stem = path.name if not suffix else path.stem
        return path.with_name(f"{stem}_{self.label}{suffix}")

    def of_picture(self, source: Path) -> Path:
        """Return the path of a picture's result where it is not `output` itself."""
        if self.output is None:
            return self.beside(source, self.suffix or ".png")
        return self.output / result_name(Path(source.name), self.suffix)

    def of_video(self, source: Path) -> Path:
        """Return the path of a video's result where it is not `output` itself."""
        suffix = source.suffix if source.suffix.lower() in CONTAINERS else ".mkv"
        if self.output is None:
            return self.beside(source, suffix)
        return self.output / source.with_suffix(suffix).name


def names_of(output: Optional[str], *, label: str, suffix: Optional[str] = None) -> OutputNames:
    """Return the names for the text of an output. A slash at its end makes it a folder."""
    if output is None:
        return OutputNames(label=label, suffix=suffix)
    folder = output.endswith(("/", os.sep)) or os.path.isdir(output)
    return OutputNames(Path(output), folder, label, suffix)


def find_inputs(texts: Sequence[str]) -> List[Path]:
    """Return the paths that the texts name, each once; patterns such as `photos/*.jpg` are matched.

    A path that exists is no pattern. Raises InputError for one that does not, and for a pattern
    without a match.
    """
    found: Dict[Path, Path] = {}
    for text in texts:
        if not text:
            raise InputError("an input is empty", hint="give the name of a file or folder")
        for name in [text] if os.path.lexists(text) else _matches(text):
            path = Path(name)
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _matches(text: str) -> List[str]:
    pattern = os.path.expanduser(text)
    if os.path.lexists(pattern):
        return [pattern]
    if not glob.has_magic(pattern):
        raise InputError(f"there is no file or folder {text}", hint=_nearby(Path(pattern)))
    names = sorted(glob.glob(pattern, recursive=True))
    if not names:
        raise InputError(
            f"no file matches {text}", hint="check the folder and the ending of the names"
        )
    return names


def _nearby(path: Path) -> str:
    """Return a hint on the name that was probably meant. Empty without one."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    with contextlib.suppress(OSError):
        files = sorted(p for p in folder.iterdir() if p.stem.lower() == path.stem.lower())
        files.sort(key=lambda p: p.name.lower() != path.name.lower())
        if files:
            return f"there is {files[0]}"
    return ""


def plan_jobs(sources: Sequence[Path], names: OutputNames) -> List[Job]:
    """Return what is to be done, pictures first.

    Raises InputError where nothing can be done, two results would be one file, or a result would
    replace a source.
    """
    if len(sources) == 1:
        return [_only_job(sources[0], names)]
    if names.output is not None and names.output.exists() and not names.output.is_dir():
        raise InputError(
            f"{names.output} is a file, but there are {len(sources)} inputs",
            hint="give a folder with -o; it is created",
        )
    loose = PicturesJob(names.output)
    folders: List[PicturesJob] = []
    videos: List[VideoJob] = []
    for source in _without_results(sources, names, loose):
        if source.is_dir():
            folders.append(_folder_job(source, names))
        elif _kind_among_others(source, loose) == "picture":
            loose.tasks.append(PictureTask(source, names.of_picture(source)))
        elif source not in loose.passed_over:
            videos.append(VideoJob(source, names.of_video(source)))
    if names.output is not None:  # one folder with one log
        for job in folders:
            loose.tasks += job.tasks
            loose.videos += job.videos
            loose.passed_over.update(job.passed_over)
        folders = []
    jobs = [job for job in (loose, *folders) if job != PicturesJob(job.folder)]
    _check_results([*jobs, *videos])
    return [*jobs, *videos]


def _only_job(source: Path, names: OutputNames) -> Job:
    if source.is_dir():
        output = names.output or names.beside(source, "")
        return tree_job(source, output, names.suffix)
    target = None if names.is_folder else names.output
    kind = input_kind(source, target)
    if kind == "video":
        if target is not None and format_of_name(target) is not None:
            raise InputError(
                f"{source} cannot be read as a picture, and a video cannot become {target.name}",
                hint=f"give an output ending in {', '.join(CONTAINERS)} for a video; "
                f"pictures end in {', '.join(PICTURE_SUFFIXES)}",
            )
        return VideoJob(source, target or names.of_video(source))
    return PictureTask(source, target or names.of_picture(source))


def tree_job(source: Path, output: Path, suffix: Optional[str] = None) -> PicturesJob:
    """Return the job of a folder's pictures (see `find_pictures`)."""
    tree = find_pictures(source, output, suffix=suffix)
    return PicturesJob(output, tree.tasks, tree.passed_over, tree.videos)


def _folder_job(source: Path, names: OutputNames) -> PicturesJob:
    """Return the job of one of several folders."""
    if names.output is None:
        return tree_job(source, names.beside(source, ""), names.suffix)
    return tree_job(source, names.output / source.resolve().name, names.suffix)


def input_kind(source: Path, output: Optional[Path]) -> str:
    """Return `picture` or `video` for a file, given its output if that is a file.

    An animation is a video where the output is one. Raises InputError.
    """
    if not source.is_file():  # opening a pipe would block
        if not source.exists():
            raise InputError(f"there is no file or folder {source}")
        raise InputError(f"{source} is neither a file nor a folder", hint="save it to a file first")
    animation = output is not None and output.suffix.lower() in CONTAINERS
    if is_picture(source) and not animation:
        return "picture"
    reason = why_not_read(source)
    if reason and not animation:
        raise InputError(f"cannot upscale {source}: {reason}")
    return "video"


def _kind_among_others(source: Path, job: PicturesJob) -> str:
    """Return the kind of one of several files. What cannot be upscaled is passed over."""
    try:
        kind = input_kind(source, None)
        if kind == "video" and source.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError("it is neither a picture nor a video")
    except InputError as e:
        job.passed_over[source] = e.message
        return ""
    return kind


def _without_results(sources: Sequence[Path], names: OutputNames, job: PicturesJob) -> List[Path]:
    """Leave out what earlier runs made where the results are beside the inputs.

    A pattern such as `*` matches photo.jpg and photo_x4.png.
    """
    if names.output is not None:
        return list(sources)
    kept = []
    for source in sources:
        origin = _origin(source)
        if origin is None:
            kept.append(source)
        else:
            job.results[source] = origin
    if not kept:
        raise InputError(
            f"all inputs are results of earlier runs, such as {sources[0]}",
            hint="give an output folder with -o to upscale them again",
        )
    return kept


def _origin(path: Path) -> Optional[Path]:
    """Return the file or folder that a result is named after, if it is there."""
    match = _RESULT_STEM.fullmatch(path.name if path.is_dir() else path.stem)
    if match is None:
        return None
    media = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)
    with contextlib.suppress(OSError):
        for other in sorted(path.parent.iterdir()):
            if path.is_dir() and other.is_dir() and other.name == match[1]:
                return other
            if path.is_file() and other.stem == match[1] and other.suffix.lower() in media:
                return other
    return None


def results_of(jobs: Sequence[Job]) -> List[Tuple[Path, Path]]:
    """Return (source, result) of all pictures and videos."""
    pairs: List[Tuple[Path, Path]] = []
    for job in jobs:
        tasks = job.tasks if isinstance(job, PicturesJob) else [job]
        pairs += [(task.source, task.output) for task in tasks]
    return pairs


def tell_left_out(job: PicturesJob, reporter: Reporter) -> None:
    """Report the inputs that are no part of a job."""
    for path in job.videos:
        reporter.log(f"left out: {path}: it is a video; give it alone")
    for path, source in job.results.items():
        reporter.log(f"left out: {path}: it is the result of {source}")


def _check_results(jobs: Sequence[Job]) -> None:
    """Raise InputError if two results are one file, or one would replace an input."""
    pairs = results_of(jobs)
    resolved = {source.resolve() for source, _ in pairs}
    outputs: Dict[Path, Path] = {}
    for source, output in pairs:
        other = outputs.setdefault(output.resolve(), source)
        if other != source:
            raise InputError(
                f"{other} and {source} would both become {output}",
                hint="rename one, give them one by one, or give their folders instead: "
                "each gets a folder of its own",
            )
        if output.resolve() in resolved:
            raise InputError(f"{output} would replace an input", hint="give another folder with -o")
