"""The cells of images with the differences and errors of all depths, which gains heads learn from.

The network runs once on each image: it does not change while the head learns.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.degradation import degrade
from sr_deploy.core.files import atomic_path
from sr_deploy.core.gains import CELL_PX
from sr_deploy.core.images import imresize, nchw_from_rgb
from sr_deploy.nets.gains import LUMA, GainsHead
from sr_deploy.train.data import HELD_OUT, Pair, Patches

SAVE_EVERY = 50
"""Images between two saves of an unfinished bank."""
LARGEST_PX = 512
"""Largest side of an image in LR pixels; of a larger one the middle is taken."""


@dataclass(frozen=True)
class GainsBank:
    """n cells. Errors and differences are mean squares of Y in 0..255 over a cell."""

    statistics: Tensor
    """What the head sees, (n, 30) float32."""
    change: Tensor
    """Differences between each deeper depth and the smallest, (n, D) float32."""
    error: Tensor
    """Errors of all depths, (n, 1 + D) float32, of images rounded to uint8."""
    image: Tensor
    """The number of the image, (n,) int64."""

    def held_out(self) -> Tensor:
        """Return which cells are not trained on, (n,) bool: those of every eighth image."""
        return self.image % HELD_OUT == 0

    def part(self, chosen: Tensor) -> GainsBank:
        """Return the cells for which `chosen`, (n,) bool, is true."""
        return GainsBank(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})


class GainsBatches(torch.utils.data.Dataset):
    """Random cells of a bank: (statistics (N, 30, 1, 1), differences and errors (N, 2D + 1))."""

    def __init__(self, bank: GainsBank, patches: Patches) -> None:
        bank = bank.part(~bank.held_out())
        self.statistics = bank.statistics[:, :, None, None]
        self.targets, self.patches = torch.cat([bank.change, bank.error], dim=1), patches

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor]:
        step, part = self.patches.split.part(index)
        rng = np.random.default_rng((self.patches.seed, step, 3))
        numbers = rng.integers(len(self.targets), size=self.patches.batch_size)[part]
        return self.statistics[numbers], self.targets[numbers]

    def sources(self, step: int) -> Sequence[Path]:
        """Return no files: a bank does not record the file of a cell."""
        return []


@dataclass(frozen=True)
class GainsImages:
    """Images, and how their LR images are made."""

    pairs: Sequence[Pair]
    resized: Sequence[float]
    degradation: str
    scale: int

    def __len__(self) -> int:
        return len(self.pairs) * len(self.resized)

    def __getitem__(self, number: int) -> Tuple[np.ndarray, np.ndarray]:
        """Return (lr, hr), uint8, of whole cells. They may be empty."""
        index, variant = divmod(number, len(self.resized))
        pair, factor = self.pairs[index], self.resized[variant]
        hr = np.load(pair.hr, mmap_mode="r")
        if factor != 1:
            hr = imresize(np.asarray(hr), scale=factor)
        side = CELL_PX * self.scale
        h, w = (min(n, LARGEST_PX * self.scale) // side * side for n in hr.shape[:2])
        top, left = ((n - m) // 2 for n, m in zip(hr.shape[:2], (h, w)))
        hr = np.ascontiguousarray(hr[top : top + h, left : left + w])
        lr = degrade(hr, scale=self.scale, kind=self.degradation) if hr.size else hr
        return lr, hr


def compute_gains_bank(
    images: GainsImages,
    depths: nn.Module,
    *,
    cache: Path,
    key: object,
    log: Callable[[str], None] = lambda line: None,
) -> GainsBank:
    """Return the cells of images; what was done before is read from `cache`.

    depths: (N, 3, h, w) -> (N, 1 + D, 3, sh, sw), in eval mode. key: identifies images and depths.
    """
    identity = (key, tuple(images.resized), images.degradation, LARGEST_PX)
    file = cache / f"gains-{hashlib.sha256(repr(identity).encode()).hexdigest()[:24]}.pt"
    parts: Dict[str, List[Tensor]] = {f.name: [] for f in fields(GainsBank)}
    done = 0
    if file.is_file():  # complete or partial
        saved = torch.load(file, weights_only=True)
        done, parts = saved["done"], {name: [saved[name]] for name in parts}
    head = GainsHead(depths=1)
    for number in range(done, len(images)):
        lr, hr = images[number]
        if hr.size:
            for name, value in _cells(lr, hr, depths, head, number).items():
                parts[name].append(value)
        if (number + 1) % SAVE_EVERY == 0 or number + 1 == len(images):
            with atomic_path(file) as temporary:
                whole = {name: torch.cat(part) for name, part in parts.items()}
                torch.save({"done": number + 1, **whole}, temporary)
            log(f"all depths on {number + 1} of {len(images)} images")
    return GainsBank(**{name: torch.cat(part) for name, part in parts.items()})


def _cells(
    lr: np.ndarray, hr: np.ndarray, depths: nn.Module, head: GainsHead, number: int
) -> Dict[str, Tensor]:
    """Return the fields of a bank of one image, with one row for each cell."""
    x = torch.from_numpy(nchw_from_rgb(lr))
    luma = torch.tensor(LUMA)
    side = CELL_PX * (hr.shape[0] // lr.shape[0])
    with torch.inference_mode():
        sr = depths(x)[0].clamp(0, 1)  # (1 + D, 3, sh, sw)
        truth = (torch.from_numpy(nchw_from_rgb(hr)) * luma[:, None, None]).sum(1, keepdim=True)
        y = torch.einsum("dchw,c->dhw", sr, luma)[:, None]
        rounded = torch.einsum("dchw,c->dhw", (sr * 255).round() / 255, luma)[:, None]
        error = F.avg_pool2d((rounded - truth).square(), side)[:, 0]
        change = F.avg_pool2d((y[1:] - y[:1]).square(), side)[:, 0]
        statistics = head.statistics(x)[0][0]
    rows = {"statistics": statistics, "change": change, "error": error}
    cells = {name: value.flatten(1).T.clone() for name, value in rows.items()}
    return {**cells, "image": torch.full((len(cells["error"]),), number)}
