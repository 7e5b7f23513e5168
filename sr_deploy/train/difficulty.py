"""Patches by how hard they are to upscale: CDNSR's first step (section III-D).

All images are cut into patches side by side; a trained network upscales each, and by its PSNR they fall into equal classes.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.train.data import Crop, Pair, unit_range

BATCH = 16


def crops_of_class(
    pairs: Sequence[Pair],
    judge: nn.Module,
    *,
    scale: int,
    patch_lr: int,
    difficulty: Sequence[int],
    log: Callable[[str], None],
) -> List[Crop]:
    """Return where the patches of class `difficulty[0]` of `difficulty[1]` lie; class 1 has the highest PSNRs, the easiest patches.

    judge: a network in eval mode. Raises InputError when there are fewer patches than classes.
    """
    wanted, classes = difficulty
    crops = [
        Crop(i, top, left)
        for i, pair in enumerate(pairs)
        for top, left in _grid(pair.lr_hw, patch_lr)
    ]
    if len(crops) < classes:
        raise InputError(
            f"{len(crops)} patches cannot be divided into {classes} classes",
            hint="give more or larger images",
        )
    psnr = psnr_of_crops(pairs, crops, judge, scale=scale, patch_lr=patch_lr)
    ranked = np.argsort(-psnr, kind="stable")  # the easiest first
    mine = np.array_split(ranked, classes)[wanted - 1]
    log(
        f"class {wanted} of {classes}: {len(mine)} of {len(crops)} patches, {psnr[mine].min():.2f} to {psnr[mine].max():.2f} dB"
    )
    return [crops[i] for i in mine]


def psnr_of_crops(
    pairs: Sequence[Pair], crops: Sequence[Crop], judge: nn.Module, *, scale: int, patch_lr: int
) -> np.ndarray:
    """Return (n,) float64: the PSNR in dB, on RGB, of what the judge makes of each patch."""
    device = next(judge.parameters()).device
    found: List[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(crops), BATCH):
            lr, hr = (
                t.to(device) for t in _pixels(pairs, crops[start : start + BATCH], scale, patch_lr)
            )
            error = (judge(lr).clamp(0, 1) - hr).double().square().mean(dim=(1, 2, 3))
            found.append(-10 * torch.log10(error.clamp(min=1e-12)))
    return torch.cat(found).cpu().numpy()


def _grid(hw: Tuple[int, int], patch: int) -> Iterator[Tuple[int, int]]:
    for top in range(0, hw[0] - patch + 1, patch):
        for left in range(0, hw[1] - patch + 1, patch):
            yield top, left


def _pixels(pairs: Sequence[Pair], crops: Sequence[Crop], s: int, p: int) -> Tuple[Tensor, Tensor]:
    lrs, hrs = [], []
    for crop in crops:
        lr, hr = (
            np.load(file, mmap_mode="r") for file in (pairs[crop.image].lr, pairs[crop.image].hr)
        )
        lrs.append(lr[crop.top : crop.top + p, crop.left : crop.left + p])
        hrs.append(hr[s * crop.top : s * (crop.top + p), s * crop.left : s * (crop.left + p)])
    tensors = [torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) for images in (lrs, hrs)]
    return unit_range(tensors[0]), unit_range(tensors[1])
