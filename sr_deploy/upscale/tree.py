"""The files of a folder tree: the pictures to upscale, and those that are passed over, and why."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Set

from sr_deploy.core.errors import InputError
from sr_deploy.core.pictures.formats import (
    PICTURE_SUFFIXES,
    UNREAD_SUFFIXES,
    content_format,
    format_of_name,
)
from sr_deploy.upscale.folder_log import PictureTask

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .mkv .webm .avi .wmv .asf .mpg .mpeg .m2v .mts .m2ts .3gp .3g2 .flv .ogv"
    " .vob .mxf .insv .dv .rm .rmvb".split()
)
_SUFFIXES = {
    "PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WebP": ".webp", "GIF": ".gif", "AVIF": ".avif",
    "JPEG 2000": ".jp2", "HEIF": "", "JPEG XL": "",
}  # fmt: skip
"""Formats that are known by their content -> the suffix by which they are read; "": they are not.
BMP, PPM and raw photographs are missing: their first bytes may also be those of a text."""


@dataclass
class Tree:
    """The files of a folder tree, without hidden ones and without what is no picture."""

    tasks: List[PictureTask] = field(default_factory=list)  # sorted
    passed_over: Dict[Path, str] = field(default_factory=dict)  # pictures -> why they are not done
    videos: List[Path] = field(default_factory=list)


def find_pictures(source: Path, output: Path, *, suffix: Optional[str] = None) -> Tree:
    """Return the pictures of a folder tree, with the same paths in the output folder.

    suffix: of the results; None: as the pictures, and `.png` for formats that are not written. The
    output folder itself and hidden files are left out. Raises InputError if there are no pictures
    that can be read, or if two results would be the same file.
    """
    if os.path.exists(str(output)) and os.path.samefile(str(source), str(output)):
        raise InputError(f"{source} would replace itself", hint="give another folder with -o")
    tree = Tree()
    sources: Dict[Path, Path] = {}
    for path in _files(source, {output.resolve()}, tree.passed_over):
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
            result = output / result_name(path.relative_to(source), suffix)
            other = sources.setdefault(result, path)
            if other != path:
                raise InputError(
                    f"{other} and {path} would both become {result}",
                    hint="rename one" + ("" if suffix is None else ", or remove --format"),
                )
            tree.tasks.append(PictureTask(path, result))
        elif path.suffix.lower() in VIDEO_SUFFIXES:
            tree.videos.append(path)
        else:
            reason = why_not_read(path)
            if reason:
                tree.passed_over[path] = reason
    if not tree.tasks:
        problem = f"the folder {source} contains no pictures ({', '.join(PICTURE_SUFFIXES)})"
        for path, reason in list(tree.passed_over.items())[:1]:
            problem += f"; {len(tree.passed_over)} are passed over, such as {path}: {reason}"
        raise InputError(problem, hint="give a folder of pictures")
    return tree


def result_name(name: Path, suffix: Optional[str]) -> Path:
    """Return the name of a picture's result: with `suffix`, else its own if that can be written.

    >>> result_name(Path("a.gif"), None).name
    'a.png'
    """
    own_suffix = name.suffix if format_of_name(name) is not None else ".png"
    return name.with_suffix(suffix or own_suffix)


def why_not_read(path: Path) -> str:
    """Return why a file that seems to be a picture is not read by its name. Empty if it is none."""
    suffix = path.suffix.lower()
    is_picture = suffix in PICTURE_SUFFIXES or suffix in UNREAD_SUFFIXES
    if not path.is_file():
        if path.is_symlink() and not os.path.exists(str(path)):
            return "it is a broken link"
        return "it is neither a file nor a folder" if is_picture else ""
    if suffix in UNREAD_SUFFIXES:
        return f"{suffix} files cannot be read; convert it to PNG or TIFF first"
    kind = ""
    with contextlib.suppress(OSError), open(path, "rb") as f:
        kind = content_format(f.read(64))
    if is_picture or kind not in _SUFFIXES:
        return ""
    if not _SUFFIXES[kind]:
        return f"it is a {kind} file, which cannot be read; convert it to PNG or TIFF first"
    return f"it is a {kind} file in spite of its name; rename it to {_SUFFIXES[kind]}"


def _files(folder: Path, visited: Set[Path], unreadable: Dict[Path, str]) -> Iterator[Path]:
    """Yield the files below a folder, sorted, without hidden ones. A link is followed once.

    visited: resolved folders to leave out. unreadable: gets folders that cannot be read.
    """
    try:
        resolved = folder.resolve()
        if resolved in visited:
            return
        visited.add(resolved)
        entries = [(path, path.is_dir()) for path in sorted(folder.iterdir())]
    except OSError as e:
        unreadable[folder] = f"it cannot be read: {e.strerror or e}"
        return
    for path, is_folder in entries:
        if path.name.startswith("."):
            continue
        if is_folder:
            yield from _files(path, visited, unreadable)
        else:
            yield path
