"""IMDeception: grouped information distilling blocks, elastic in the width of their core.

"IMDeception: Grouped Information Distilling Super-Resolution Network". Three layers do not scale
with the core c: the 3x3 to 64 features, the 3x3 back to 64, and the last 3x3. Only this gives the
parameter counts of the paper's Table 2. The public code scales every layer; the two are equal at
core 16, the published checkpoint.
"""

from __future__ import annotations

import functools
from typing import Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import VariantError, did_you_mean
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, check_axis

FEATURES = 64
GROUPS = 4
CORES = (4, 8, 12, 16)
WINDOW, CELL = 32, 4  # block non-local attention: windows of 32x32 pixels, tokens of 4x4


class IMDeception(nn.Module):
    """The static network. x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W)."""

    def __init__(self, *, scale: int, core: int = 16, nla: bool = True) -> None:
        super().__init__()
        c = core
        self.core = c
        self.features = nn.Conv2d(3, FEATURES, 3, padding=1)
        self.blocks = nn.ModuleList(
            [GIDB(FEATURES, 4 * c, shallow=c, deep=3 * c)]
            + [GIDB(3 * c, 4 * c, shallow=c, deep=3 * c) for _ in range(4)]
            + [GIDB(3 * c, c, shallow=c, deep=2 * c)]
        )
        # The keys are the blocks that attention follows.
        self.nla = nn.ModuleDict({"1": BlockNLA(3 * c), "3": BlockNLA(3 * c)} if nla else {})
        self.fuse = nn.Conv2d(6 * c, 4 * c, 1)
        self.expand = nn.Conv2d(4 * c, FEATURES, 3, padding=1)
        self.act = nn.LeakyReLU(0.05)
        self.to_rgb = nn.Sequential(
            nn.Conv2d(FEATURES, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (N, 64, H, W)
        shallow = []
        y = features
        for i, block in enumerate(self.blocks[:5]):
            part, y = block(y).split((self.core, 3 * self.core), dim=1)
            shallow.append(part)  # (N, c, H, W); y: (N, 3c, H, W)
            if str(i) in self.nla:
                y = self.nla[str(i)](y)
        shallow.append(self.blocks[5](y))
        y = self.act(self.fuse(torch.cat(shallow, dim=1)))  # (N, 4c, H, W)
        y = self.act(self.expand(y))  # (N, 64, H, W)
        return self.to_rgb(y + features)  # (N, 3, scale*H, scale*W)


class GIDB(nn.Module):
    """Grouped information distilling block.

    Each of its four grouped convolutions passes `shallow` channels to the end of the block.
    """

    def __init__(self, channels_in: int, channels_out: int, *, shallow: int, deep: int) -> None:
        super().__init__()
        self.sizes = (shallow, deep)
        self.g1 = gblock(channels_in, shallow + deep)
        self.g2 = gblock(deep, shallow + deep)
        self.g3 = gblock(deep, shallow + deep)
        self.g4 = gblock(deep, shallow)
        self.act = nn.LeakyReLU(0.05)
        self.fuse = nn.Conv2d(4 * shallow + channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        s1, y = self.act(self.g1(x)).split(self.sizes, dim=1)
        s2, y = self.act(self.g2(y)).split(self.sizes, dim=1)
        s3, y = self.act(self.g3(y)).split(self.sizes, dim=1)
        s4 = self.act(self.g4(y))
        return self.fuse(torch.cat((s1, s2, s3, s4, x), dim=1))


def gblock(channels_in: int, channels_out: int) -> nn.Sequential:
    """Grouped 3x3, ReLU, 1x1."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, groups=GROUPS),
        nn.ReLU(),
        nn.Conv2d(channels_out, channels_out, 1),
    )


class BlockNLA(nn.Module):
    """Block non-local attention, plus the input.

    In each window of 32x32 pixels, 64 tokens of 4x4 pixels attend to each other.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dim = channels // 4
        self.qkv = nn.Conv2d(channels, 3 * self.dim, 1)
        self.out = nn.Conv2d(self.dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        # The zero tokens of a padded window take part in its softmax, as in training.
        qkv = pad_to_windows(self.qkv(x))
        # Each (N*windows, 64, 16*dim).
        query, key, value = tokens(qkv).split(self.dim * CELL * CELL, dim=2)
        attended = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value
        return self.out(untokens(attended, qkv, self.dim)[..., :h, :w]) + x


def pad_to_windows(x: Tensor) -> Tensor:
    """Zero-pad the right and bottom to the next multiple of 32, where static sizes need it."""
    h, w = x.shape[-2:]
    bottom, right = -h % WINDOW, -w % WINDOW
    if isinstance(bottom, int) and isinstance(right, int) and not bottom and not right:
        return x
    return F.pad(x, (0, right, 0, bottom))


def tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*windows, 64, C*16): channels, then the rows and columns of a cell."""
    n, c, h, w = x.shape
    rows, columns, side = h // WINDOW, w // WINDOW, WINDOW // CELL
    x = x.reshape(n, c, rows, side, CELL, columns, side, CELL)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(
        n * rows * columns, side * side, c * CELL * CELL
    )


def untokens(x: Tensor, like: Tensor, channels: int) -> Tensor:
    """(N*windows, 64, C*16) -> (N, C, H, W), the inverse of `tokens`; N, H, W as of `like`."""
    n, _, h, w = like.shape
    rows, columns, side = h // WINDOW, w // WINDOW, WINDOW // CELL
    x = x.reshape(n, rows, columns, side, side, channels, CELL, CELL)
    return x.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(n, channels, h, w)


def _slice(weights: Weights, source: Variant, target: Variant) -> dict:
    """Slice to a smaller core, and drop the attention where `target` has none.

    A map that feeds a grouped convolution loses channels inside each of its groups, so that every
    remaining output channel still sees exactly the input channels it was trained with.
    """
    weights = {k: v for k, v in weights.items() if "nla" in target.tags or not k.startswith("nla.")}
    if source.size == target.size:
        return weights
    cuts = layer_cuts(source.size, target.size)
    sliced = {}
    for name, value in weights.items():
        outputs, inputs = cuts[name.rpartition(".")[0]]
        if outputs is not None:
            value = value.index_select(0, torch.tensor(outputs, device=value.device))
        if inputs is not None and value.dim() == 4:
            value = value.index_select(1, torch.tensor(inputs, device=value.device))
        sliced[name] = value
    return sliced


Channels = Optional[List[int]]


@functools.lru_cache(maxsize=None)
def layer_cuts(source: int, target: int) -> Dict[str, Tuple[Channels, Channels]]:
    """Return for each convolution of core `source` the (output, input) channels that `target` has.

    None means all channels. Input channels of a grouped convolution are counted inside a group, as
    in its weight tensor.
    """
    h, c = source, target
    shallow = list(range(c))  # read only by 1x1 convolutions of a concatenation: a prefix will do
    deep = _inside_groups(3 * h, 3 * c)
    last_deep = _inside_groups(2 * h, 2 * c)
    cuts: Dict[str, Tuple[Channels, Channels]] = {"features": (None, None)}
    for i in range(6):
        block, first, last = f"blocks.{i}.", i == 0, i == 5
        inner, width = (last_deep, 2) if last else (deep, 3)
        grouped = _inside_groups((1 + width) * h, (1 + width) * c)
        split = shallow + [h + j for j in inner]
        inner_inputs = list(range(width * c // GROUPS))
        first_inputs = None if first else list(range(3 * c // GROUPS))
        for g, inputs in (("g1", first_inputs), ("g2", inner_inputs), ("g3", inner_inputs)):
            cuts[f"{block}{g}.0"] = (grouped, inputs)
            cuts[f"{block}{g}.2"] = (split, grouped)
        cuts[block + "g4.0"] = (_inside_groups(h, c), inner_inputs)
        cuts[block + "g4.2"] = (shallow, _inside_groups(h, c))
        block_input = list(range(FEATURES)) if first else deep
        fused = [k * h + j for k in range(4) for j in shallow] + [4 * h + j for j in block_input]
        cuts[block + "fuse"] = (shallow if last else shallow + [h + j for j in deep], fused)
    dim_h, dim_c = 3 * h // 4, 3 * c // 4
    for nla in ("nla.1.", "nla.3."):
        cuts[nla + "qkv"] = ([k * dim_h + j for k in range(3) for j in range(dim_c)], deep)
        cuts[nla + "out"] = (deep, list(range(dim_c)))
    cuts["fuse"] = (list(range(4 * c)), [k * h + j for k in range(6) for j in shallow])
    cuts["expand"] = (None, list(range(4 * c)))
    cuts["to_rgb.0"] = (None, None)
    return cuts


def _inside_groups(total: int, part: int) -> List[int]:
    """Return the first part/4 channels of each of the four groups of a map of `total` channels."""
    return [g * total // GROUPS + j for g in range(GROUPS) for j in range(part // GROUPS)]


def _check(variant: Variant) -> None:
    check_axis(variant, "c16-nla", "nla")
    if variant.size not in CORES:
        names = [f"c{c}{tag}" for c in CORES for tag in ("", "-nla")]
        raise VariantError(
            f"unknown variant '{variant}' of IMDeception; expected one of {', '.join(names)}",
            hint=did_you_mean(str(variant), names),
        )


def _points(largest: Variant) -> Tuple[str, ...]:
    tags = ("", "-nla") if "nla" in largest.tags else ("",)
    return tuple(f"c{c}{tag}" for c in CORES if c <= largest.size for tag in tags)


def _size_of(weights: Weights) -> Variant:
    fuse = weights.get("fuse.bias")
    nla = any(name.startswith("nla.") for name in weights)
    return Variant("c", 16 if fuse is None else fuse.shape[0] // 4, ("nla",) if nla else ())


def _network(*, scale: int, variant: Variant) -> IMDeception:
    return IMDeception(scale=scale, core=variant.size, nla="nla" in variant.tags)


IMDECEPTION_ARCHITECTURE = Architecture(
    name="imdeception",
    default_variant="c16-nla",
    network=_network,
    check=_check,
    slice=_slice,
    points=_points,
    size_of=_size_of,
    # Without attention 1 + 6*4 + 1 + 1 convolutions. With it, on the grid of its windows: the 9
    # convolutions before the first attention affect the outermost window, whose attention spreads
    # that over all of it. The 8 before the second affect one more window. 10 follow.
    halo_px=lambda variant: 2 * WINDOW + 10 if "nla" in variant.tags else 27,
    align_px=lambda variant: WINDOW if "nla" in variant.tags else 1,
    published=("c4", "c4-nla", "c8", "c12", "c16-nla"),
)
