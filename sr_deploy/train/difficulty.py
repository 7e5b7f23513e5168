"""Classes of patches by the difficulty of their reconstruction: CDNSR's first step (section III-D).

All images are cut into adjacent patches. A trained network upscales each, and its PSNR ranks the
patches.
"""

from __future__ import annotations

from typing import Callable, List, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sr_deploy.core.errors import InputError
from sr_deploy.train.data import Pair, PatchPosition, read_patch, stacked, unit_range

BATCH = 16


def patches_of_class(
    pairs: Sequence[Pair],
    judge: nn.Module,
    *,
    scale: int,
    side_lr: int,
    difficulty: Sequence[int],
    log: Callable[[str], None],
) -> List[PatchPosition]:
    """Return the patches of class `difficulty[0]` of `difficulty[1]`; class 1 is the easiest.

    judge: a network in eval mode. Raises InputError when there are fewer patches than classes.
    """
    number, classes = difficulty
    patches = [
        PatchPosition(i, top, left)
        for i, pair in enumerate(pairs)
        for top in range(0, pair.lr_hw[0] - side_lr + 1, side_lr)
        for left in range(0, pair.lr_hw[1] - side_lr + 1, side_lr)
    ]
    if len(patches) < classes:
        raise InputError(
            f"{len(patches)} patches cannot be divided into {classes} classes",
            hint="use more or larger images",
        )
    psnr_db = psnr_of_patches(pairs, patches, judge, scale=scale, side_lr=side_lr)
    easiest_first = np.argsort(-psnr_db, kind="stable")
    members = np.array_split(easiest_first, classes)[number - 1]
    log(
        f"class {number} of {classes}: {len(members)} of {len(patches)} patches, "
        f"{psnr_db[members].min():.2f} to {psnr_db[members].max():.2f} dB"
    )
    return [patches[i] for i in members]


def psnr_of_patches(
    pairs: Sequence[Pair],
    patches: Sequence[PatchPosition],
    judge: nn.Module,
    *,
    scale: int,
    side_lr: int,
) -> np.ndarray:
    """Return the PSNR on RGB of the judge's output for each patch, (n,) float64, in dB."""
    device = next(judge.parameters()).device
    batches: List[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(patches), BATCH):
            images = [
                read_patch(pairs[at.image], at, side_lr=side_lr, scale=scale)
                for at in patches[start : start + BATCH]
            ]
            lr, hr = (unit_range(stacked(part)).to(device) for part in zip(*images))
            error = (judge(lr).clamp(0, 1) - hr).double().square().mean(dim=(1, 2, 3))
            batches.append(-10 * torch.log10(error.clamp(min=1e-12)))
    return torch.cat(batches).cpu().numpy()
