"""Attention that moves whole pixels: for runtimes that store maps channels last.

OpenVINO's CPU kernels keep the channels of a pixel together in memory. A permutation that keeps
them together then copies runs of memory, and one of (N, H*W, C) costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sr_deploy.nets.fuse import slice_outputs
from sr_deploy.nets.imdeception import CELL, WINDOW, BlockNLA, pad_to_windows


class PixelwiseNLA(nn.Module):
    """Block non-local attention whose tokens are the rows and columns of a cell, then channels.

    Query, key and value have the same order, so the order does not change the result.
    """

    def __init__(self, nla: BlockNLA) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(slice_outputs(nla.qkv, i * nla.dim, nla.dim) for i in range(3))
        self.out = nla.out

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        maps = [pad_to_windows(conv(x)) for conv in self.qkv]
        query, key, value = map(pixel_tokens, maps)  # each (N*windows, 64, 16*dim)
        attended = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value
        return self.out(pixels_from_tokens(attended, maps[0])[..., :h, :w]) + x


def pixel_tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*windows, 64, 16*C): the rows and columns of a cell, then channels."""
    n, c, h, w = x.shape
    rows, columns, side = h // WINDOW, w // WINDOW, WINDOW // CELL
    x = x.flatten(2).transpose(1, 2).reshape(n, rows, side, CELL, columns, side, CELL * c)
    return x.permute(0, 1, 4, 2, 5, 3, 6).reshape(n * rows * columns, side * side, CELL * CELL * c)


def pixels_from_tokens(x: Tensor, like: Tensor) -> Tensor:
    """The inverse of `pixel_tokens`; like: a map of the same shape, (N, C, H, W)."""
    n, c, h, w = like.shape
    rows, columns, side = h // WINDOW, w // WINDOW, WINDOW // CELL
    x = x.reshape(n, rows, columns, side, side, CELL, CELL * c).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(n, h * w, c).transpose(1, 2).reshape(n, c, h, w)
