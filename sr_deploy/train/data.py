"""Training patches: images decoded once into a cache, read as memory maps, cropped at random.

A batch is a function of (seed, step) alone, however many processes, micro-batches and workers share
it.
"""

from __future__ import annotations

import concurrent.futures
import copy
import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from sr_deploy.core.degradation import GIVEN, add_noise, degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import atomic_path, make_output_folder
from sr_deploy.core.image_folders import check_lr_size, hr_images, lr_images
from sr_deploy.core.images import modcrop, read_rgb

LISTED_IMAGES = 5
"""Number of images that a message lists by name."""


@dataclass(frozen=True)
class Pair:
    """One image: its file, HR and LR decoded in the cache (uint8 .npy), its LR file if any."""

    source: Path
    hr: Path
    lr: Path
    lr_hw: Tuple[int, int]
    lr_source: Optional[Path] = None


@dataclass(frozen=True)
class _DecodeTask:
    source: Path
    lr_source: Optional[Path]
    scale: int
    degradation: str
    min_hr: int
    cache: Path

    def cache_files(self) -> Tuple[Path, Path]:
        """Return the HR and LR cache files; their names depend on the sources and settings."""
        sources = [p for p in (self.source, self.lr_source) if p is not None]
        stats = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in sources]
        kind = GIVEN if self.lr_source else self.cached_degradation
        key = hashlib.sha256(repr((stats, self.scale, kind)).encode()).hexdigest()[:24]
        return self.cache / f"{key}.hr.npy", self.cache / f"{key}.lr.npy"

    @property
    def cached_degradation(self) -> str:
        """The degradation without the noise of `dn`, which is drawn anew for every patch."""
        return "bi" if self.degradation == "dn" else self.degradation


def image_pairs(
    folders: Sequence[Path],
    cache: Path,
    *,
    scale: int,
    degradation: str = "bi",
    lr_folders: Sequence[Path] = (),
    min_hr: int = 1,
    strict: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> List[Pair]:
    """Decode the images of HR folders into `cache`; return the pairs, sorted by folder and name.

    lr_folders: the folder of LR images of each HR folder; if empty, `degradation` makes the LR
    images. Images that cannot be read or are smaller than min_hr pixels are skipped and logged
    (IMDeception pads them with zeros), or raise an InputError if `strict`. Raises InputError also
    when LR and HR do not match by name and size, and when no usable image is left.
    """
    if lr_folders and len(lr_folders) != len(folders):
        raise InputError(
            f"{len(lr_folders)} LR folders for {len(folders)} HR folders",
            hint="give one --lr-data for each --data, or none",
        )
    tasks: List[_DecodeTask] = []
    for i, folder in enumerate(folders):
        hr = hr_images(folder)
        lr: Dict[Path, Path] = hr.lr_files(lr_folders[i], scale) if lr_folders else {}
        given = [lr_images(lr_folders[i], scale).note] if lr_folders else []
        for note in filter(None, [hr.note, *given]):
            log(note)
        tasks += [
            _DecodeTask(
                p.resolve(), lr[p].resolve() if lr else None, scale, degradation, min_hr, cache
            )
            for p in hr.files
        ]
    make_output_folder(cache)
    pairs: List[Pair] = []
    unusable: List[str] = []
    for done, result in enumerate(_decode_all(tasks), 1):
        if isinstance(result, Pair):
            pairs.append(result)
        else:
            unusable.append(result)
        if done % 500 == 0 and done < len(tasks):
            log(f"decoded {done} of {len(tasks)} images")
    if unusable:
        more = len(unusable) - LISTED_IMAGES
        lines = unusable[:LISTED_IMAGES] + ([f"and {more} more"] if more > 0 else [])
        listed = "\n  ".join(lines)
        if strict or not pairs:
            raise InputError(
                f"{len(unusable)} of {len(tasks)} images cannot be used for training:\n  {listed}",
                hint="remove --strict to skip them" if pairs else "use larger, undamaged images",
            )
        log(f"skipped {len(unusable)} of {len(tasks)} images:\n  {listed}")
    return pairs


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of the images' names, sizes in bytes and pixels, and order."""
    listed = [
        (p.source.name, p.lr_hw, [f.stat().st_size for f in (p.source, p.lr_source) if f])
        for p in pairs
    ]
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def _decode_all(tasks: Sequence[_DecodeTask]) -> Iterator[Union[Pair, str]]:
    if all(file.is_file() for task in tasks for file in task.cache_files()):
        return map(_decode, tasks)
    # Processes, because threads would wait for each other in numpy.
    with concurrent.futures.ProcessPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        return iter(list(pool.map(_decode, tasks, chunksize=4)))


def _decode(task: _DecodeTask) -> Union[Pair, str]:
    """Return the Pair of a task, or the reason why the image cannot be used."""
    hr_file, lr_file = task.cache_files()
    scale = task.scale
    hw = _cached_hw(hr_file, lr_file, scale)
    if hw is None:
        try:
            hr = modcrop(read_rgb(task.source), scale)
            if min(hr.shape[:2]) == 0:
                return f"{task.source}: less than one LR pixel at x{scale}"
            if task.lr_source is None:
                lr = degrade(hr, scale=scale, kind=task.cached_degradation)
            else:
                lr = read_rgb(task.lr_source)
        except InputError as e:
            return e.message
        if task.lr_source is not None:
            check_lr_size(task.lr_source, lr.shape, task.source, hr.shape, scale)
        h, w = lr.shape[:2]
        for path, image in ((hr_file, hr), (lr_file, lr)):
            with atomic_path(path) as temporary, open(temporary, "wb") as f:
                np.save(f, image)
        hw = int(h), int(w)
    h, w = hw[0] * scale, hw[1] * scale
    if min(h, w) < task.min_hr:
        return f"{task.source}: {h}x{w} pixels, expected at least {task.min_hr}x{task.min_hr}"
    return Pair(task.source, hr_file, lr_file, hw, task.lr_source)


def _cached_hw(hr_file: Path, lr_file: Path, scale: int) -> Optional[Tuple[int, int]]:
    """Return the LR size of a decoded pair, or None if a file is missing or damaged."""
    try:
        hr, lr = (np.load(file, mmap_mode="r") for file in (hr_file, lr_file))
    except (OSError, ValueError, EOFError, pickle.UnpicklingError):
        return None
    h, w = lr.shape[0], lr.shape[1]
    intact = (
        hr.dtype == lr.dtype == np.uint8
        and lr.shape == (h, w, 3)
        and hr.shape == (h * scale, w * scale, 3)
    )
    return (h, w) if intact else None


@dataclass(frozen=True)
class PatchPosition:
    """The image of a patch, by its index, and its top left corner in LR pixels."""

    image: int
    top: int
    left: int


def read_patch(
    pair: Pair, at: PatchPosition, *, side_lr: int, scale: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Return the (lr, hr) patch of a pair, (h, w, 3) uint8."""

    def crop(file: Path, factor: int) -> np.ndarray:
        top, left, side = factor * at.top, factor * at.left, factor * side_lr
        return np.load(file, mmap_mode="r")[top : top + side, left : left + side]

    return crop(pair.lr, 1), crop(pair.hr, scale)


@dataclass(frozen=True)
class BatchSplit:
    """The division of a step's batch between micro-batches and processes."""

    micro_batches: int = 1
    rank: int = 0
    ranks: int = 1

    def check(self, batch_size: int) -> None:
        """Raise InputError when the batch cannot be divided into equal parts."""
        if batch_size % (self.micro_batches * self.ranks):
            raise InputError(
                f"a batch of {batch_size} cannot be divided evenly between "
                f"{self.ranks} processes x {self.micro_batches} micro-batches",
                hint=f"choose numbers whose product divides {batch_size}",
            )

    def part(self, index: int) -> Tuple[int, slice]:
        """Return the step of item `index` of a dataset, and its samples of the batch."""
        step, micro_batch = divmod(index, self.micro_batches)
        first = micro_batch * self.ranks + self.rank
        return step, slice(first, None, self.micro_batches * self.ranks)


HELD_OUT = 8
"""Every eighth example of a bank is not trained on but used for calibration."""

WHOLE_BATCH = BatchSplit()
Window = Tuple[Tensor, Tensor, Tensor, Tuple[Any, ...]]
"""LR pixels with surroundings, the LR patch, the HR patch, and the index of the patch in the output
for the first. All (N, 3, h, w) uint8."""


class Patches(torch.utils.data.Dataset):
    """Random patches. An item is this process's part of a micro-batch, as uint8: see BatchSplit."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        scale: int,
        patch_hr: int,
        batch_size: int,
        seed: int,
        noise: bool = False,
        split: BatchSplit = WHOLE_BATCH,
    ) -> None:
        """Raises InputError when the scale does not divide the patch, or the split the batch."""
        split.check(batch_size)
        if patch_hr % scale:
            raise InputError(
                f"patches of {patch_hr} HR pixels; expected a multiple of the scale {scale}"
            )
        self.pairs, self.scale, self.side_lr = pairs, scale, patch_hr // scale
        self.batch_size, self.seed, self.noise, self.split = batch_size, seed, noise, split
        self.positions: Sequence[PatchPosition] = ()
        """The patches to draw from; empty: any position in any image."""

    def restricted_to(self, positions: Sequence[PatchPosition]) -> Patches:
        """Return a copy that draws from `positions` alone."""
        restricted = copy.copy(self)
        restricted.positions = positions
        return restricted

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        return self.pixels(*self.split.part(index))

    def batch(self, step: int) -> Tuple[Tensor, Tensor]:
        """Return a step's (lr, hr): (B, 3, p, p) and (B, 3, s*p, s*p) float32, 0..1."""
        lr, hr = self.pixels(step)
        return unit_range(lr), unit_range(hr)

    def pixels(self, step: int, part: slice = slice(None)) -> Tuple[Tensor, Tensor]:
        """Return a step's (lr, hr) as uint8, flipped and transposed at random (ASRN flips only).

        uint8 is a quarter of the bytes between processes. Only the samples `part` of the batch are
        read.
        """
        lr_patches, hr_patches = [], []
        for number, (at, flips) in list(enumerate(self._draw(step)))[part]:
            pair = self.pairs[at.image]
            lr, hr = read_patch(pair, at, side_lr=self.side_lr, scale=self.scale)
            if self.noise:
                lr = add_noise(lr, np.random.default_rng((self.seed, step, 2, number)))
            lr_patches.append(flipped(lr, flips))
            hr_patches.append(flipped(hr, flips))
        return stacked(lr_patches), stacked(hr_patches)

    def windows(self, step: int, margin: int) -> Iterator[Window]:
        """Yield each patch of a step with up to `margin` LR pixels around it, not flipped."""
        side, s = self.side_lr, self.scale
        for at, _ in self._draw(step):
            pair = self.pairs[at.image]
            lr, hr = (stacked([p]) for p in read_patch(pair, at, side_lr=side, scale=s))
            top, left = max(at.top - margin, 0), max(at.left - margin, 0)
            seen = np.load(pair.lr, mmap_mode="r")[
                top : at.top + side + margin, left : at.left + side + margin
            ]
            rows, columns = (
                slice(s * (first - start), s * (first - start + side))
                for first, start in ((at.top, top), (at.left, left))
            )
            yield stacked([seen]), lr, hr, (..., rows, columns)

    def sources(self, step: int) -> List[Path]:
        """Return the images that a step's batch is cut from."""
        return [self.pairs[at.image].source for at, _ in self._draw(step)]

    def _draw(self, step: int) -> List[Tuple[PatchPosition, List[bool]]]:
        rng, side = np.random.default_rng((self.seed, step)), self.side_lr
        draws = []
        for _ in range(self.batch_size):
            if self.positions:
                at = self.positions[int(rng.integers(len(self.positions)))]
            else:
                image = int(rng.integers(len(self.pairs)))
                h, w = self.pairs[image].lr_hw
                top, left = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
                at = PatchPosition(image, top, left)
            draws.append((at, [bool(rng.integers(2)) for _ in range(3)]))
        return draws


def flipped(image: np.ndarray, flips: Sequence[bool]) -> np.ndarray:
    """Return (h, w, 3) with flips = (rows reversed, columns reversed, transposed)."""
    image = image[::-1] if flips[0] else image
    image = image[:, ::-1] if flips[1] else image
    return image.transpose(1, 0, 2) if flips[2] else image


def stacked(patches: Sequence[np.ndarray]) -> Tensor:
    """Return (h, w, 3) patches as one (N, 3, h, w) tensor."""
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)


def unit_range(pixels: Tensor) -> Tensor:
    """Return uint8 as float32, 0..1; other types unchanged."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels
