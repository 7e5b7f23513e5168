"""Test2K, Test4K and Test8K of ClassSR and CDNSR, made from DIV8K or from other photographs.

ClassSR's README, its authors' answers there and the paths in its scripts say how the sets were
made: 100 images of DIV8K each, by number; the first two reduced by 4 and by 2; HR cropped at the
bottom and right to multiples of 4, and LR made by bicubic x4. Its reduction is a port of MATLAB's
`imresize` that does not round between its two passes as MATLAB does, so single values may differ by
1 of 255.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from sr_deploy.core.degradation import degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, printable_name, write_bytes, write_text
from sr_deploy.core.images import image_files, image_hw, imresize, modcrop, png_bytes, read_rgb
from sr_deploy.core.jsonio import from_dict, read_json, to_json
from sr_deploy.core.progress import as_progress
from sr_deploy.core.sizes import hw_text

SCALE = 4
_RECORD = "prepared.json"
_LISTED = 5
"""The most images that an error names."""


@dataclass(frozen=True)
class PaperSet:
    """A set of large images, as it is made from DIV8K."""

    name: str
    first: int
    last: int
    reduction: int
    longer_side: int
    """To which other photographs than DIV8K's are reduced."""

    @property
    def numbers(self) -> range:
        """Those of its images in DIV8K."""
        return range(self.first, self.last + 1)


PAPER_SETS: Dict[str, PaperSet] = {
    "test2k": PaperSet("Test2K", 1201, 1300, 4, 1920),
    "test4k": PaperSet("Test4K", 1301, 1400, 2, 3840),
    "test8k": PaperSet("Test8K", 1401, 1500, 1, 7680),
}
_LEAST_SIDE = 3840
"""DIV8K's originals are larger. Images that are not were reduced before."""


@dataclass(frozen=True)
class PreparedSet:
    """The record in the folder of a set: what it was made from, and how."""

    set: str
    reduced: str
    lr: str
    images: Tuple[str, ...]
    """Names of the files that it was made from,"""
    sizes: Tuple[int, ...]
    """and their sizes in bytes."""


def prepare_set(
    kind: str,
    source: Path,
    output: Path,
    *,
    any_images: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Make a set in a folder of `output`; return that folder, with `HR` and `LR_x4`.

    kind: of PAPER_SETS. source: a folder of DIV8K's images, with their numbers as names.
    any_images: take all images of `source` instead, reduced to a longer side of 1920, 3840 or 7680
    pixels; the set is then named after `source`. A stopped run leaves a folder `NAME.part`, with
    which the next one goes on. Raises InputError if images are missing, damaged or too small, or if
    the folder is of another set.
    """
    chosen, progress = PAPER_SETS[kind], as_progress(progress)
    files = image_files(source) if any_images else _numbered(source, chosen)
    names = _png_names(files)
    _refuse_small(files, chosen.longer_side if any_images else _LEAST_SIDE)
    reduced = f"by {chosen.reduction}"
    if any_images:
        reduced = f"to a longer side of {chosen.longer_side} pixels"
    record = PreparedSet(
        f"{printable_name(source.resolve())}-{chosen.name[4:]}" if any_images else chosen.name,
        reduced,
        "MATLAB's bicubic x4",
        tuple(path.relative_to(source).as_posix() for path in files),
        tuple(path.stat().st_size for path in files),
    )
    folder, part = output / record.set, output / f"{record.set}.part"
    for existing in (folder, part):
        if existing.exists():
            _require_same(existing, record)
    if folder.exists():
        progress(f"{folder} is complete already")
        return folder
    make_output_folder(part)
    write_text(part / _RECORD, to_json(record))
    done = [name for name in names if (part / "HR" / name).exists()]
    if done:
        progress(f"{part}: {len(done)} of {len(names)} images are done already")
    with progress.track("preparing", len(names), unit="images", done=len(done)) as advance:
        for path, name in zip(files, names):
            if name not in done:
                advance(name, steps=0)
                _prepare(path, part, name, chosen, any_images=any_images)
                advance(name)
    os.replace(str(part), str(folder))
    return folder


def notes_of(folder: Path) -> List[str]:
    """Return what a user should know about a prepared set, and how to use it."""
    record = from_dict(
        PreparedSet, read_json(folder / _RECORD, InputError), source=_RECORD, error=InputError
    )
    jpegs = [n for n in record.images if n.lower().endswith((".jpg", ".jpeg"))]
    notes = [f"{folder}: {len(record.images)} images, reduced {record.reduced}, LR by {record.lr}"]
    if jpegs:
        notes.append(
            f"{len(jpegs)} of them come from JPEG files, whose artefacts HR keeps where it is "
            "hardly reduced"
        )
    paths = [shlex.quote(str(folder / name)) for name in ("HR", f"LR_x{SCALE}")]
    notes.append(
        f"next: srdeploy eval MODEL --data {paths[0]} --lr-data {paths[1]} --metric rgb"
        "  # as in the papers"
    )
    return notes


def _numbered(source: Path, chosen: PaperSet) -> List[Path]:
    """Return DIV8K's images of a set, by number. Raises InputError if one is missing or twice."""
    by_number: Dict[int, Path] = {}
    for path in image_files(source):
        number = int(path.stem) if path.stem.isascii() and path.stem.isdigit() else 0
        if number in chosen.numbers:
            twin = by_number.setdefault(number, path)
            if twin != path:
                raise InputError(
                    f"{source} has image {number} of DIV8K twice: {twin} and {path}",
                    hint="give the folder with the HR images alone",
                )
    missing = [number for number in chosen.numbers if number not in by_number]
    if missing:
        raise InputError(
            f"{source} lacks {len(missing)} of DIV8K's images {chosen.first} to {chosen.last}: "
            f"{_some([f'{number:04}.png' for number in missing])}",
            hint="give the folder with DIV8K's images, or --any-images for a set of all images "
            "of this folder",
        )
    return [by_number[number] for number in chosen.numbers]


def _png_names(files: Sequence[Path]) -> List[str]:
    names: Dict[str, Path] = {}
    for path in files:
        twin = names.setdefault(f"{printable_name(path.with_suffix(''))}.png", path)
        if twin != path:
            raise InputError(
                f"{twin} and {path} would have the same name", hint="rename one of them"
            )
    return list(names)


def _refuse_small(files: Sequence[Path], least: int) -> None:
    sizes = [(path, image_hw(path)) for path in files]
    small = [f"{path.name} ({hw_text(hw)})" for path, hw in sizes if max(hw) < least]
    if small:
        raise InputError(
            f"{len(small)} of {len(files)} images are too small for this set, which needs a longer "
            f"side of {least} pixels: {', '.join(small)}",
            hint="remove them, or make a set of smaller images",
        )


def _some(texts: Sequence[str]) -> str:
    more = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _require_same(folder: Path, record: PreparedSet) -> None:
    """Raise InputError unless the folder of a set was made, or begun, from the same files."""
    known = folder / _RECORD
    old = read_json(known, InputError) if known.is_file() else None
    new = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(record).items()}
    if old != new:
        raise InputError(
            f"{folder} exists, and was not made from these images",
            hint="give another folder with -o, or remove it",
        )


def _prepare(path: Path, folder: Path, name: str, chosen: PaperSet, *, any_images: bool) -> None:
    """Write an image's LR, then its HR, which says that the image is done."""
    hr = read_rgb(path)
    share = chosen.longer_side / max(hr.shape[:2]) if any_images else 1 / chosen.reduction
    hr = modcrop(hr if share == 1 else imresize(hr, scale=share), SCALE)
    write_bytes(folder / f"LR_x{SCALE}" / name, png_bytes(degrade(hr, scale=SCALE)))
    write_bytes(folder / "HR" / name, png_bytes(hr))
