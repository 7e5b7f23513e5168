"""Training patches: images decoded once into a cache, read as memory maps, cropped at random.

A batch is a function of (seed, step) alone, however many processes, micro-batches and workers share it.
"""

from __future__ import annotations

import concurrent.futures
import copy
import hashlib
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from sr_deploy.core.degradation import add_noise, degrade
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import atomic_path, make_output_folder
from sr_deploy.core.images import image_files, modcrop, read_rgb

NAMED = 5
"""How many images a message names before it counts."""


@dataclass(frozen=True)
class Pair:
    """One image: where it came from, its decoded HR and LR in the cache (uint8 .npy), its LR size, and its LR file where given."""

    source: Path
    hr: Path
    lr: Path
    lr_hw: Tuple[int, int]
    lr_source: Optional[Path] = None


@dataclass(frozen=True)
class _Job:
    source: Path
    lr_source: Optional[Path]
    scale: int
    degradation: str
    min_hr: int
    cache: Path

    def files(self) -> Tuple[Path, Path]:
        """The cache files: their names change with the sources' path, size and time, and with what is done to them."""
        stats = [
            (str(p), p.stat().st_size, p.stat().st_mtime_ns)
            for p in (self.source, self.lr_source)
            if p is not None
        ]
        # The noise of `dn` is drawn anew for every patch: what is kept is the image without it.
        kind = "given" if self.lr_source else {"dn": "bi"}.get(self.degradation, self.degradation)
        key = hashlib.sha256(repr((stats, self.scale, kind)).encode()).hexdigest()[:24]
        return self.cache / f"{key}.hr.npy", self.cache / f"{key}.lr.npy"


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
    """Decode the images of HR folders into `cache` and return the pairs, in the order of folders and names.

    lr_folders: one for each HR folder, with its LR images; else LR is made by `degradation`. Images that cannot be read or
    are smaller than min_hr pixels are left out and named in the log; `strict` refuses them. Raises InputError also when LR
    and HR do not match by name and size, and when nothing usable is left.
    """
    if lr_folders and len(lr_folders) != len(folders):
        raise InputError(
            f"{len(lr_folders)} LR folders for {len(folders)} HR folders",
            hint="give one --lr for each --data, or none",
        )
    jobs: List[_Job] = []
    for i, folder in enumerate(folders):
        hr = image_files(folder)
        lr = _matched(hr, folder, lr_folders[i], scale) if lr_folders else dict.fromkeys(hr)
        jobs += [_Job(p.resolve(), lr[p], scale, degradation, min_hr, cache) for p in hr]
    make_output_folder(cache)
    pairs: List[Pair] = []
    refused: List[str] = []
    for done, result in enumerate(_decoded(jobs), 1):
        if isinstance(result, Pair):
            pairs.append(result)
        else:
            refused.append(result)
        if done % 500 == 0 and done < len(jobs):
            log(f"decoded {done} of {len(jobs)} images")
    if refused:
        listed = "\n  ".join(
            refused[:NAMED] + ([f"and {len(refused) - NAMED} more"] if len(refused) > NAMED else [])
        )
        if strict or not pairs:
            raise InputError(
                f"{len(refused)} of {len(jobs)} images cannot be trained on:\n  {listed}",
                hint="leave --strict out to train without them"
                if pairs
                else "give larger or whole images",
            )
        log(f"left out {len(refused)} of {len(jobs)} images:\n  {listed}")
    return pairs


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Return the SHA-256 of the images' names, sizes in bytes and pixels, and order: of what a seed draws its patches from."""
    listed = [
        (
            p.source.name,
            p.lr_hw,
            [f.stat().st_size for f in (p.source, p.lr_source) if f is not None],
        )
        for p in pairs
    ]
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def _matched(
    hr: List[Path], hr_folder: Path, lr_folder: Path, scale: int
) -> Dict[Path, Optional[Path]]:
    """The LR file of each HR file: the same name, or that with `x4`, `_x4` at its end (DIV2K's way), in the same subfolder."""
    by_name: Dict[str, Path] = {}
    for path in image_files(lr_folder):
        twin = by_name.setdefault(path.relative_to(lr_folder).with_suffix("").as_posix(), path)
        if twin != path:
            raise InputError(
                f"two LR images of one name in {lr_folder}: {twin.name} and {path.name}",
                hint="remove one of them",
            )
    matched: Dict[Path, Optional[Path]] = {}
    missing: List[str] = []
    for path in hr:
        name = path.relative_to(hr_folder).with_suffix("").as_posix()
        found = next(
            (by_name.pop(n) for n in (name, f"{name}x{scale}", f"{name}_x{scale}") if n in by_name),
            None,
        )
        if found is None:
            missing.append(path.name)
        else:
            matched[path] = found.resolve()
    for names, what, where in (
        (missing, "LR image for HR", lr_folder),
        (sorted(by_name), "HR image for LR", hr_folder),
    ):
        if names:
            raise InputError(
                f"{len(names)} images have no partner: no {what} {names[0]} in {where}",
                hint=f"an LR image is named as its HR image, or with x{scale} at the end: 0001.png, 0001x{scale}.png",
            )
    return matched


def _decoded(jobs: Sequence[_Job]) -> Iterator[object]:
    if all(file.is_file() for job in jobs for file in job.files()):
        return map(_decode, jobs)
    # One process a core: threads would wait for each other in numpy.
    with concurrent.futures.ProcessPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        return iter(list(pool.map(_decode, jobs, chunksize=4)))


def _decode(job: _Job) -> object:
    """Return the Pair of a job, or in words why there is none."""
    hr_file, lr_file = job.files()
    hw = _cached_hw(hr_file, lr_file, job.scale)
    if hw is None:
        try:
            hr = modcrop(read_rgb(job.source), job.scale)
            if min(hr.shape[:2]) == 0:
                return f"{job.source}: smaller than one pixel after the scale"
            if job.lr_source is None:
                kind = {"dn": "bi"}.get(job.degradation, job.degradation)
                lr = degrade(hr, scale=job.scale, kind=kind)
            else:
                lr = read_rgb(job.lr_source)
        except InputError as e:
            return e.message
        if (lr.shape[0] * job.scale, lr.shape[1] * job.scale) != hr.shape[:2]:
            raise InputError(
                f"{job.lr_source} has {lr.shape[0]}x{lr.shape[1]} pixels; expected {hr.shape[0] // job.scale}x{hr.shape[1] // job.scale}, "
                f"a {job.scale}th of {job.source.name}",
                hint="are these the LR images of this scale?",
            )
        for path, image in ((hr_file, hr), (lr_file, lr)):
            with atomic_path(path) as temporary, open(temporary, "wb") as f:
                np.save(f, image)
        hw = int(lr.shape[0]), int(lr.shape[1])
    h, w = hw
    if min(h, w) * job.scale < job.min_hr:
        return f"{job.source}: {h * job.scale}x{w * job.scale} pixels, expected at least {job.min_hr}x{job.min_hr}"
    return Pair(job.source, hr_file, lr_file, hw, job.lr_source)


def _cached_hw(hr_file: Path, lr_file: Path, scale: int) -> Optional[Tuple[int, int]]:
    """The LR size of a decoded pair; None where there is none, or a file is damaged (a full disk, a lost connection)."""
    try:
        hr, lr = (np.load(file, mmap_mode="r") for file in (hr_file, lr_file))
    except (OSError, ValueError, EOFError, pickle.UnpicklingError):
        return None
    h, w = lr.shape[0], lr.shape[1]
    whole = (
        hr.dtype == lr.dtype == np.uint8
        and lr.shape == (h, w, 3)
        and hr.shape == (h * scale, w * scale, 3)
    )
    return (h, w) if whole else None


def check_shared(batch_size: int, *, parts: int, ranks: int) -> None:
    """Raise InputError when a batch does not fall into equal micro-batches of all processes."""
    if batch_size % (parts * ranks):
        raise InputError(
            f"a batch of {batch_size} cannot be shared evenly by {ranks} processes x {parts} micro-batches",
            hint=f"choose numbers whose product divides {batch_size}",
        )


@dataclass(frozen=True)
class Crop:
    """Where a patch lies, in LR pixels of one of the pairs."""

    image: int
    top: int
    left: int


@dataclass(frozen=True)
class _Turned(Crop):
    flip: Tuple[bool, bool, bool]
    """Rows, columns, transposed."""


class Patches(torch.utils.data.Dataset):
    """Item i is this process's share of micro-batch i % parts of step i // parts, as `pixels` gives it."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        *,
        scale: int,
        patch_hr: int,
        batch_size: int,
        seed: int,
        noise: bool = False,
        parts: int = 1,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """parts: micro-batches per step; rank, ranks: this process of how many. Raises InputError when they do not divide the batch."""
        check_shared(batch_size, parts=parts, ranks=ranks)
        if patch_hr % scale:
            raise InputError(
                f"patches of {patch_hr} HR pixels are no multiple of the scale {scale}"
            )
        self.pairs, self.scale, self.patch_lr, self.batch_size, self.seed = (
            pairs,
            scale,
            patch_hr // scale,
            batch_size,
            seed,
        )
        self.noise, self.parts, self.rank, self.ranks = noise, parts, rank, ranks
        self.crops: Sequence[Crop] = ()
        """Where patches may lie; none: anywhere."""

    def within(self, crops: Sequence[Crop]) -> Patches:
        """Return the same but for where its patches lie."""
        others = copy.copy(self)
        others.crops = crops
        return others

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        step, part = divmod(index, self.parts)
        return self.pixels(step, part * self.ranks + self.rank, self.parts * self.ranks)

    def batch(self, step: int) -> Tuple[Tensor, Tensor]:
        """Return a step's (lr, hr): (B, 3, p, p) and (B, 3, s*p, s*p) float32, 0..1."""
        lr, hr = self.pixels(step)
        return unit_range(lr), unit_range(hr)

    def pixels(self, step: int, share: int = 0, shares: int = 1) -> Tuple[Tensor, Tensor]:
        """Return a step's (lr, hr) as uint8, flipped and transposed at random: a fourth of the bytes between processes.

        Of `shares` equal parts of the step's batch only number `share` is read.
        """
        p, s = self.patch_lr, self.scale
        lrs, hrs = [], []
        for number, crop in list(enumerate(self._crops(step)))[share::shares]:
            pair = self.pairs[crop.image]
            rows, columns = slice(crop.top, crop.top + p), slice(crop.left, crop.left + p)
            lr = np.load(pair.lr, mmap_mode="r")[rows, columns]
            rows, columns = (
                slice(s * crop.top, s * (crop.top + p)),
                slice(s * crop.left, s * (crop.left + p)),
            )
            hr = np.load(pair.hr, mmap_mode="r")[rows, columns]
            if self.noise:
                lr = add_noise(lr, np.random.default_rng((self.seed, step, 2, number)))
            lrs.append(_turned(lr, crop.flip))
            hrs.append(_turned(hr, crop.flip))
        return _tensor(lrs), _tensor(hrs)

    def sources(self, step: int) -> List[Path]:
        """Return the images a step's batch is cut from."""
        return [self.pairs[crop.image].source for crop in self._crops(step)]

    def _crops(self, step: int) -> List[_Turned]:
        rng, p = np.random.default_rng((self.seed, step)), self.patch_lr
        crops = []
        for _ in range(self.batch_size):
            if self.crops:
                at = self.crops[int(rng.integers(len(self.crops)))]
            else:
                image = int(rng.integers(len(self.pairs)))
                h, w = self.pairs[image].lr_hw
                at = Crop(image, int(rng.integers(h - p + 1)), int(rng.integers(w - p + 1)))
            flip = (bool(rng.integers(2)), bool(rng.integers(2)), bool(rng.integers(2)))
            crops.append(_Turned(at.image, at.top, at.left, flip))
        return crops


def _turned(image: np.ndarray, flip: Tuple[bool, bool, bool]) -> np.ndarray:
    image = image[::-1] if flip[0] else image
    image = image[:, ::-1] if flip[1] else image
    return image.transpose(1, 0, 2) if flip[2] else image


def _tensor(patches: List[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)


def unit_range(pixels: Tensor) -> Tensor:
    """uint8 -> float32, 0..1; what is float already is no picture, and stays."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels
