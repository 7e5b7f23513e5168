"""Which images of a folder are HR, and which LR image belongs to each of them.

Data sets come as folders in which HR lies beside LR of several scales: `Set5/HR`, `Set5/LR_x4`;
`DIV2K_valid_HR`, `DIV2K_valid_LR_bicubic/X4`; `GTmod12`, `LRbicx4`. LR images that are taken for HR
give wrong scores and worse networks, so they are told apart by the names of their folders, and what
is left is refused if one image is another one made smaller.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.images import (
    IMAGE_SUFFIXES,
    files_below,
    image_files,
    image_hw,
    modcrop,
    read_rgb,
)
from sr_deploy.core.pictures.formats import PICTURE_SUFFIXES, UNREAD_SUFFIXES

_HR_WORD = re.compile(r"(hr|gt)(mod\d+)?(x\d+)?|groundtruth")
_OTHER_SUFFIXES = UNREAD_SUFFIXES.union(PICTURE_SUFFIXES).difference(IMAGE_SUFFIXES)
_THUMBNAIL_PX = 16
_ALIKE, _SAME_NAME_ALIKE = 0.97, 0.8
"""Least correlation of an LR image with HR made smaller: for any names, and for the same name,
where noise or another camera may have changed it."""
_MOST_SCALE = 8
_CROP_PX = 12
"""HR images are cropped by less, to a multiple of 2, 3 and 4."""


@dataclass(frozen=True)
class HrImages:
    """The HR images of a folder."""

    folder: Path
    """The folder given, or the one inside that was taken."""
    files: Tuple[Path, ...]
    note: str = ""
    """Says which folder inside was taken, and which images are not; empty if all is as expected."""

    def lr_files(self, lr_folder: Path, scale: int) -> Dict[Path, Path]:
        """Return the LR file of each HR file, from a folder of LR images, see `lr_images`.

        They have the same subfolder and name, or that with x4: `0801.png` and `0801x4.png`,
        `baby_HR.png` and `baby_LR_x4.png`. Raises InputError if one has no counterpart.
        """
        chosen = lr_images(lr_folder, scale)
        by_name = _by_name(chosen)
        bare = {_bare_name(name, scale): name for name in by_name}
        matched: Dict[Path, Path] = {}
        missing: List[str] = []
        for path in self.files:
            name = _relative_name(path, self.folder)
            names = [name, f"{name}x{scale}", f"{name}_x{scale}", bare.get(_bare_name(name, scale))]
            found = next((n for n in names if n in by_name), None)
            if found is None:
                missing.append(path.name)
            else:
                matched[path] = by_name.pop(found)
        for unmatched, what, where in (
            (missing, "LR image for HR", chosen.folder),
            (sorted(by_name), "HR image for LR", self.folder),
        ):
            if unmatched:
                raise InputError(
                    f"{len(unmatched)} images have no counterpart: no {what} {unmatched[0]} "
                    f"in {where}",
                    hint="expected LR images with the names of the HR images, or with "
                    f"x{scale} appended: 0001.png, 0001x{scale}.png",
                )
        return matched


def hr_images(folder: Path) -> HrImages:
    """Return the HR images below a folder; of a folder with HR beside LR, those of the HR folder.

    Folders named HR, GT, GTmod12, original, DIV2K_valid_HR and so on are HR folders. Raises
    InputError if there are no images, if several folders could be meant, or if an image is another
    one made smaller.
    """
    files = image_files(folder)
    chosen = _inside(folder, files, [_top(p, folder, _is_hr_name) for p in files], "HR")
    _refuse_mixture(chosen)
    notes = [chosen.note, _passed_over(chosen.folder)]
    if chosen.folder == folder and _is_lr_folder(folder):
        notes.append(f"{folder} is named as a folder of LR images; they are taken for HR images")
    return replace(chosen, note="; ".join(filter(None, notes)))


def lr_images(folder: Path, scale: int) -> HrImages:
    """Return the LR images below a folder; of one with several scales, those of `scale`.

    Raises InputError if there are no images, or if several folders could be meant.
    """

    def is_of_scale(name: str) -> bool:
        return bool(re.search(rf"x{scale}(?!\d)", name.lower())) and not _is_hr_name(name)

    files = image_files(folder)
    return _inside(folder, files, [_top(p, folder, is_of_scale) for p in files], f"x{scale} LR")


def check_lr_size(
    lr_file: Path, lr_shape: Sequence[int], hr_file: Path, hr_shape: Sequence[int], scale: int
) -> None:
    """Raise InputError unless an LR image has 1/scale of the size of HR, cropped to multiples."""
    expected = (hr_shape[0] // scale, hr_shape[1] // scale)
    h, w = lr_shape[:2]
    if (h, w) != expected:
        found = round(hr_shape[0] / h)
        of_scale = (hr_shape[0] // found, hr_shape[1] // found) == (h, w) if found else False
        raise InputError(
            f"{lr_file} has {h}x{w} pixels; expected {expected[0]}x{expected[1]}, the size of "
            f"{hr_file.name} / {scale}" + (f": it is of x{found}" if of_scale else ""),
            hint="check that these are the LR images of this scale",
        )


def is_named_hr(name: str) -> bool:
    """Whether the name of a folder says HR and nothing else, as `HR`, `GTmod12` and `HR_x4`."""
    others = (w for w in _words(name) if not _HR_WORD.fullmatch(w))
    return _is_hr_name(name) and all(re.fullmatch(r"x\d+|original|ground|truth", w) for w in others)


def _words(name: str) -> List[str]:
    return re.findall(r"[0-9a-z]+", name.lower())


def _is_hr_name(name: str) -> bool:
    words = _words(name)
    if words in (["original"], ["ground", "truth"]):
        return True
    said = any(_HR_WORD.fullmatch(word) for word in words)
    return said and not any(word.startswith("lr") for word in words)


def _is_lr_folder(folder: Path) -> bool:
    """Whether it is named as LR images are: `LR_x4`, `LRbicx4`, `DIV2K_valid_LR_bicubic/X4`."""
    path = folder.resolve()
    name = path.parent.name if re.fullmatch(r"(?i)x\d", path.name) else path.name
    return not _is_hr_name(name) and any(re.match(r"lr(?!s$)", word) for word in _words(name))


def _passed_over(folder: Path) -> str:
    """Say which pictures below a folder are not used, as data sets do not come in their formats."""
    found = files_below(folder, _OTHER_SUFFIXES)
    if not found:
        return ""
    return (
        f"{folder}: {len(found)} pictures are passed over, such as {found[0].name}; data sets are "
        f"read from {', '.join(IMAGE_SUFFIXES)}"
    )


def _top(path: Path, folder: Path, matches: Callable[[str], bool]) -> Optional[Path]:
    """Return the topmost folder between `folder` and an image whose name matches."""
    parts = path.relative_to(folder).parts[:-1]
    for number, part in enumerate(parts, 1):
        if matches(part):
            return folder.joinpath(*parts[:number])
    return None


def _inside(folder: Path, files: List[Path], tops: Sequence[Optional[Path]], what: str) -> HrImages:
    """Return the images of the one folder inside that was found, or all of them if there is none.

    Several that hold all images are taken together, as those of two data sets.
    """
    found = list(dict.fromkeys(top for top in tops if top is not None))
    if not found:
        return HrImages(folder, tuple(files))
    if len(found) > 1:
        names = [_relative_name(p, top) for p, top in zip(files, tops) if top is not None]
        if None not in tops and len(set(names)) == len(names):
            return HrImages(folder, tuple(files))
        listed = ", ".join(str(top.relative_to(folder)) for top in found[:5])
        raise InputError(
            f"{len(found)} folders in {folder} could be the {what} images: {listed}",
            hint=f"give one of them, such as {found[0]}",
        )
    taken = tuple(path for path, top in zip(files, tops) if top is not None)
    note = f"{folder}: {what} are the {len(taken)} images in {found[0].relative_to(folder)}"
    others = len(files) - len(taken)
    return HrImages(found[0], taken, note + (f"; {others} others are not" if others else ""))


def _relative_name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _by_name(images: HrImages) -> Dict[str, Path]:
    by_name: Dict[str, Path] = {}
    for path in images.files:
        twin = by_name.setdefault(_relative_name(path, images.folder), path)
        if twin != path:
            raise InputError(
                f"two LR images in {images.folder} have the same name: {twin.name} and {path.name}",
                hint="remove one of them",
            )
    return by_name


def _bare_name(name: str, scale: int = 0) -> str:
    """Return a name without _HR, _LR_x4, x4 and the like at its end; 0: of any scale."""
    x = scale or r"\d"
    return re.sub(rf"(?i)([_-](hr|gt|lr[a-z]*)([_-]?x?{x})?|[_-]?x{x})$", "", name)


def _refuse_mixture(images: HrImages) -> None:
    """Raise InputError if one of the images is another one made smaller."""
    stats = [(str(path), path.stat()) for path in images.files]
    found = _smaller_twin(tuple((name, s.st_size, s.st_mtime_ns) for name, s in stats))
    if found is not None:
        small, large, scale = found
        raise InputError(
            f"{images.folder} has images and the same ones made smaller: {Path(small).name} is "
            f"{Path(large).name} at 1/{scale} of its size",
            hint="give a folder with the HR images alone; LR images have an option of their own",
        )


@functools.lru_cache(maxsize=64)
def _smaller_twin(files: Tuple[Tuple[str, int, int], ...]) -> Optional[Tuple[str, str, int]]:
    """Return (smaller, larger, scale) of two images of one picture; None if there are none.

    Only images whose sizes fit are decoded.
    """
    by_hw: Dict[Tuple[int, int], List[Path]] = {}
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        paths = [Path(name) for name, _, _ in files]
        for path, hw in zip(paths, pool.map(_hw, paths)):
            if min(hw) >= _THUMBNAIL_PX:
                by_hw.setdefault(hw, []).append(path)
        fits = _fitting_sizes(list(by_hw))
        sides = dict.fromkeys(hw for small, large, _ in fits for hw in (small, large))
        decoded = [path for hw in sides for path in by_hw[hw]]
        thumbnails = dict(zip(decoded, pool.map(_thumbnail, decoded)))
    for small, large, scale in fits:
        left, right = ([thumbnails[path] for path in by_hw[hw]] for hw in (small, large))
        for path, row in zip(by_hw[small], np.stack(left) @ np.stack(right).T):
            twin = by_hw[large][int(row.argmax())]
            same = _bare_name(path.stem) == _bare_name(twin.stem)
            least = _SAME_NAME_ALIKE if same else _ALIKE
            if row.max() > 0.9 * least and _correlation(path, twin, scale) > least:
                return str(path), str(twin), scale
    return None


def _fitting_sizes(
    sizes: List[Tuple[int, int]],
) -> List[Tuple[Tuple[int, int], Tuple[int, int], int]]:
    """Return (small, large, scale) of the sizes of which one is a whole fraction of another."""
    hws, fits = np.array(sizes).reshape(-1, 2), []
    for small in sizes:
        scales = np.rint(hws[:, 0] / small[0]).astype(int)
        off = np.abs(hws - scales[:, None] * np.array(small)).max(axis=1)
        near = (scales >= 2) & (scales <= _MOST_SCALE) & (off < _CROP_PX)
        fits += [(small, sizes[i], int(scales[i])) for i in np.flatnonzero(near)]
    return fits


def _hw(path: Path) -> Tuple[int, int]:
    try:
        return image_hw(path)
    except InputError:  # it is reported when it is used
        return (0, 0)


def _thumbnail(path: Path) -> np.ndarray:
    """Return the normalized grey thumbnail of an image, (256,) float64; zeros if it is flat."""
    try:
        grey = read_rgb(path).mean(axis=2)
    except InputError:
        return np.zeros(_THUMBNAIL_PX**2)
    for axis in (0, 1):
        edges = np.linspace(0, grey.shape[axis], _THUMBNAIL_PX + 1).astype(int)
        widths = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        grey = np.add.reduceat(grey, edges[:-1], axis=axis) / widths
    return _normalized(grey)


def _correlation(small: Path, large: Path, scale: int) -> float:
    """Return the correlation of an image with another one that is made smaller by averaging."""
    lr, hr = (read_rgb(path).mean(axis=2) for path in (small, large))
    h, w = (min(n, m // scale) for n, m in zip(lr.shape, modcrop(hr, scale).shape))
    averaged = hr[: h * scale, : w * scale].reshape(h, scale, w, scale).mean(axis=(1, 3))
    return float(_normalized(lr[:h, :w]) @ _normalized(averaged))


def _normalized(values: np.ndarray) -> np.ndarray:
    centred = (values - values.mean()).ravel()
    norm = np.sqrt((centred**2).sum())
    flat = norm < np.sqrt(centred.size)  # a standard deviation of less than 1 of 255
    return np.zeros(centred.size) if flat else centred / norm
