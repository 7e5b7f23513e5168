"""IMDeception: grouped information distilling blocks, elastic in the width of their core.

"IMDeception: Grouped Information Distilling Super-Resolution Network". `core` is c below. Three layers do not scale with
c (the 3x3 that makes 64 features, the 3x3 back to 64, the last 3x3): only so do the parameters of the paper's Table 2
come out. The public code scales every layer; the two agree at core 16, the published checkpoint.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import VariantError, did_you_mean
from sr_deploy.core.spec import Variant
from sr_deploy.nets.architecture import Architecture, Weights, check_axis

FEATURES = 64
GROUPS = 4
CORES = (4, 8, 12, 16)
WINDOW, CELL = 32, 4  # the block non-local attention: windows of 32x32 pixels, tokens of 4x4


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
        self.nla = nn.ModuleDict(
            {"1": BlockNLA(3 * c), "3": BlockNLA(3 * c)} if nla else {}
        )  # after which block
        self.fuse = nn.Conv2d(6 * c, 4 * c, 1)
        self.expand = nn.Conv2d(4 * c, FEATURES, 3, padding=1)
        self.act = nn.LeakyReLU(0.05)
        self.to_rgb = nn.Sequential(
            nn.Conv2d(FEATURES, 3 * scale * scale, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (N, 64, H, W)
        kept = []
        y = features
        for i, block in enumerate(self.blocks[:5]):
            shallow, y = block(y).split(
                (self.core, 3 * self.core), dim=1
            )  # (N, c, H, W) kept, (N, 3c, H, W) on
            kept.append(shallow)
            if str(i) in self.nla:
                y = self.nla[str(i)](y)
        kept.append(self.blocks[5](y))
        y = self.act(self.fuse(torch.cat(kept, dim=1)))  # (N, 4c, H, W)
        y = self.act(self.expand(y))  # (N, 64, H, W)
        return self.to_rgb(y + features)


class GIDB(nn.Module):
    """Grouped information distilling block: four grouped convolutions, each keeping `shallow` maps for the end."""

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
    """Block non-local attention among the 64 tokens (4x4 pixels each) of every 32x32-pixel window, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dim = channels // 4
        self.qkv = nn.Conv2d(channels, 3 * self.dim, 1)
        self.out = nn.Conv2d(self.dim, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        # Zero tokens of a partly filled window take part in its softmax: the weights were trained so.
        qkv = pad_to_windows(self.qkv(x))
        query, key, value = tokens(qkv).split(
            self.dim * CELL * CELL, dim=2
        )  # each (N*windows, 64, 16*d)
        attended = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value
        return self.out(untokens(attended, qkv, self.dim)[..., :h, :w]) + x


def pad_to_windows(x: Tensor) -> Tensor:
    """Zero-pad the right and bottom to the next multiple of 32; a map that is one already stays as it is."""
    h, w = x.shape[-2:]
    bottom, right = -h % WINDOW, -w % WINDOW
    if isinstance(bottom, int) and isinstance(right, int) and not bottom and not right:
        return x
    return F.pad(x, (0, right, 0, bottom))


def tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*windows, 64, C*16): channel-major, then the cell's rows and columns."""
    n, c, h, w = x.shape
    rows, columns, side = h // WINDOW, w // WINDOW, WINDOW // CELL
    x = x.reshape(n, c, rows, side, CELL, columns, side, CELL)
    return x.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(
        n * rows * columns, side * side, c * CELL * CELL
    )


def untokens(x: Tensor, like: Tensor, channels: int) -> Tensor:
    """(N*windows, 64, C*16) -> (N, C, H, W), with N, H and W those of `like`: the inverse of `tokens`."""
    n, _, h, w = like.shape
    rows, columns, side = h // WINDOW, w // WINDOW, WINDOW // CELL
    x = x.reshape(n, rows, columns, side, side, channels, CELL, CELL)
    return x.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(n, channels, h, w)


# Slicing one super-network to a smaller core. A map that feeds a grouped convolution gives up channels *inside each of its
# groups*, so that every kept output channel still sees exactly the input channels it was trained with.


def _slice(weights: Weights, held: Variant, wanted: Variant) -> dict:
    kept = {k: v for k, v in weights.items() if "nla" in wanted.tags or not k.startswith("nla.")}
    if held.size == wanted.size:
        return kept
    cuts = layer_cuts(held.size, wanted.size)
    sliced = {}
    for name, value in kept.items():
        rows, columns = cuts[name.rpartition(".")[0]]
        if rows is not None:
            value = value.index_select(0, torch.tensor(rows, device=value.device))
        if columns is not None and value.dim() == 4:
            value = value.index_select(1, torch.tensor(columns, device=value.device))
        sliced[name] = value
    return sliced


@functools.lru_cache(maxsize=None)
def layer_cuts(held: int, wanted: int) -> dict:
    """Return, for each convolution, the (output, input) channels of core `held` that core `wanted` keeps; None: all.

    Input channels of a grouped convolution are counted inside a group, as in its weight tensor.
    """
    h, c = held, wanted
    shallow = list(range(c))  # feeds only concatenations that a 1x1 reads: a prefix will do
    deep = _inside_groups(3 * h, 3 * c)
    deep6 = _inside_groups(2 * h, 2 * c)
    cuts = {"features": (None, None)}
    for i in range(6):
        block, last = f"blocks.{i}.", i == 5
        block_in = None if i == 0 else deep
        inner, inner_width = (deep6, 2) if last else (deep, 3)
        total_h, total_c = (1 + inner_width) * h, (1 + inner_width) * c
        grouped_out = _inside_groups(total_h, total_c)
        split_out = shallow + [h + j for j in inner]
        inner_columns = list(range(inner_width * c // GROUPS))
        first_columns = None if i == 0 else list(range(3 * c // GROUPS))
        for g, columns in (("g1", first_columns), ("g2", inner_columns), ("g3", inner_columns)):
            cuts[f"{block}{g}.0"] = (grouped_out, columns)
            cuts[f"{block}{g}.2"] = (split_out, grouped_out)
        cuts[block + "g4.0"] = (_inside_groups(h, c), inner_columns)
        cuts[block + "g4.2"] = (shallow, _inside_groups(h, c))
        block_in = list(range(FEATURES)) if block_in is None else block_in
        joined = [k * h + j for k in range(4) for j in shallow] + [4 * h + j for j in block_in]
        cuts[block + "fuse"] = (shallow if last else shallow + [h + j for j in deep], joined)
    dim_h, dim_c = 3 * h // 4, 3 * c // 4
    for i in ("1", "3"):
        cuts[f"nla.{i}.qkv"] = ([k * dim_h + j for k in range(3) for j in range(dim_c)], deep)
        cuts[f"nla.{i}.out"] = (deep, list(range(dim_c)))
    cuts["fuse"] = (list(range(4 * c)), [k * h + j for k in range(6) for j in shallow])
    cuts["expand"] = (None, list(range(4 * c)))
    cuts["to_rgb.0"] = (None, None)
    return cuts


def _inside_groups(total: int, kept: int) -> list:
    """The first kept/4 channels of each of the four groups of a map of `total` channels."""
    return [g * total // GROUPS + j for g in range(GROUPS) for j in range(kept // GROUPS)]


def _check(variant: Variant) -> None:
    check_axis(variant, "c", "c16-nla", tags=("nla",))
    if variant.size not in CORES:
        known = [f"c{c}{tag}" for c in CORES for tag in ("", "-nla")]
        raise VariantError(
            f"IMDeception has no variant '{variant}'; it has {', '.join(known)}",
            hint=did_you_mean(str(variant), known),
        )


def _points(largest: Variant) -> tuple:
    tags = ("", "-nla") if "nla" in largest.tags else ("",)
    return tuple(f"c{c}{tag}" for c in CORES if c <= largest.size for tag in tags)


def _size_of(weights: Weights) -> Variant:
    fuse = weights.get("fuse.bias")
    nla = any(name.startswith("nla.") for name in weights)
    return Variant("c", 16 if fuse is None else fuse.shape[0] // 4, ("nla",) if nla else ())


IMDECEPTION_ARCHITECTURE = Architecture(
    name="imdeception",
    scales=(2, 3, 4),
    default_variant="c16-nla",
    network=lambda *, scale, variant: IMDeception(
        scale=scale, core=variant.size, nla="nla" in variant.tags
    ),
    check=_check,
    slice=_slice,
    points=_points,
    size_of=_size_of,
    # Convolutions: 1 + 6*4 + 1 + 1. With attention, from a tile's edge on the windows' grid: the 9 before the first attention
    # spoil the first window, which it spreads all over, the 8 between the two a second one likewise; 10 come last.
    halo_px=lambda variant: 2 * WINDOW + 10 if "nla" in variant.tags else 27,
    align_px=lambda variant: WINDOW if "nla" in variant.tags else 1,
    published=("c4", "c4-nla", "c8", "c12", "c16-nla"),
)
