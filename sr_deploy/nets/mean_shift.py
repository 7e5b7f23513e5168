"""DIV2K's mean colour, subtracted before a network and added back after it."""

from __future__ import annotations

import torch
from torch import nn

MEAN = (0.4488, 0.4371, 0.4040)
"""Of DIV2K's training images, RGB, 0..1."""


class MeanShift(nn.Conv2d):
    """Add `sign` times the mean: a 1x1 convolution that is never trained, and that the papers' counts of parameters include."""

    def __init__(self, sign: int) -> None:
        super().__init__(3, 3, 1)
        with torch.no_grad():
            self.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
            self.bias.copy_(sign * torch.tensor(MEAN))
        self.requires_grad_(False)
