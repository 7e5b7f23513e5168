"""Training patches: HR images decoded once, their LR by MATLAB's bicubic, aligned random crops."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from sr_deploy.core.errors import InputError
from sr_deploy.core.images import image_files, imresize, modcrop, read_rgb


class Patches:
    """All images of some folders, in memory. `batch(step)` is a function of (seed, step) alone."""

    def __init__(self, folders: Sequence[Path], *, scale: int, patch_lr: int, batch_size: int, seed: int) -> None:
        """Read the images; those smaller than a patch are left out. Raises InputError when none is large enough."""
        self.scale, self.patch_lr, self.batch_size, self.seed = scale, patch_lr, batch_size, seed
        self.pairs: List[Tuple[np.ndarray, np.ndarray]] = []
        self.too_small: List[str] = []
        for folder in folders:
            for path in image_files(folder):
                hr = modcrop(read_rgb(path), scale)
                if min(hr.shape[:2]) < patch_lr * scale:
                    self.too_small.append(str(path))
                    continue
                self.pairs.append((imresize(hr, scale=1 / scale), hr))
        if not self.pairs:
            raise InputError(
                f"no training image has {patch_lr * scale}x{patch_lr * scale} pixels",
                hint="give larger images or a smaller patch",
            )

    def batch(self, step: int) -> Tuple[Tensor, Tensor]:
        """Return (lr, hr): (B, 3, p, p) and (B, 3, s*p, s*p) float32, 0..1, flipped and transposed at random."""
        rng = np.random.default_rng((self.seed, step))
        lrs, hrs = [], []
        for _ in range(self.batch_size):
            lr, hr = self.pairs[rng.integers(len(self.pairs))]
            p, s = self.patch_lr, self.scale
            top, left = rng.integers(lr.shape[0] - p + 1), rng.integers(lr.shape[1] - p + 1)
            lr, hr = lr[top : top + p, left : left + p], hr[s * top : s * (top + p), s * left : s * (left + p)]
            if rng.integers(2):
                lr, hr = lr[::-1], hr[::-1]
            if rng.integers(2):
                lr, hr = lr[:, ::-1], hr[:, ::-1]
            if rng.integers(2):
                lr, hr = lr.transpose(1, 0, 2), hr.transpose(1, 0, 2)
            lrs.append(lr)
            hrs.append(hr)
        return _tensor(lrs), _tensor(hrs)


def _tensor(patches: List[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float().div_(255)
