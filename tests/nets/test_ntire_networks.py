"""NTIRE's networks against their public code's steps, on tensors with its names.

Each program makes a tensor where it first needs it, so that it also is the list of names and
shapes that its importer reads.
"""

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.nets.importers import checkpoint_from_file

MEAN = torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1)


class Official:
    """The tensors of an official state dict, random, made on first use."""

    def __init__(self):
        self.weights = {}

    def tensor(self, name, *shape):
        fan_in = max(1, torch.Size(shape[1:]).numel())
        return self.weights.setdefault(name, (torch.rand(shape) - 0.5) * (6 / fan_in) ** 0.5)

    def conv(self, name, x, out, size=3, *, bias=True, groups=1, **how):
        weight = self.tensor(f"{name}.weight", out, x.shape[1] // groups, size, size)
        offset = self.tensor(f"{name}.bias", out) if bias else None
        how = {"padding": size // 2, **how}
        return F.conv2d(
            x.double(),
            weight.double(),
            None if offset is None else offset.double(),
            groups=groups,
            **how,
        )


def esa(net, name, x, width, *, deep):
    narrow = net.conv(f"{name}.conv1", x, width, 1)
    small = F.max_pool2d(net.conv(f"{name}.conv2", narrow, width, stride=2, padding=0), 7, stride=3)
    if deep:
        small = F.relu(net.conv(f"{name}.conv_max", small, width))
        small = net.conv(f"{name}.conv3_", F.relu(net.conv(f"{name}.conv3", small, width)), width)
    else:
        small = net.conv(f"{name}.conv3", small, width)
    wide = F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)
    mask = net.conv(
        f"{name}.conv4", wide + net.conv(f"{name}.conv_f", narrow, width, 1), x.shape[1], 1
    )
    return x * torch.sigmoid(mask)


def rlfn(net, x):
    head = y = net.conv("conv_1", 255 * x, 6)
    for block in ("block_1", "block_2"):
        inside = F.leaky_relu(net.conv(f"{block}.c1_r", y, 8), 0.05)
        inside = F.leaky_relu(net.conv(f"{block}.c2_r", inside, 8), 0.05)
        inside = F.leaky_relu(net.conv(f"{block}.c3_r", inside, 6), 0.05)
        y = esa(net, f"{block}.esa", net.conv(f"{block}.c5", inside + y, 6, 1), 16, deep=False)
    return F.pixel_shuffle(net.conv("upsampler.0", net.conv("conv_2", y, 6) + head, 12), 2) / 255


def efdn(net, x):
    def cell(i, x):
        y1 = net.conv(f"cells.{i}.conv1.conv1x1", x, 8, 1)
        y1 = F.prelu(y1, net.tensor(f"cells.{i}.conv1.act.weight", 8).double())
        maps = [x, y1]
        for name in ("conv2", "conv3"):
            y = net.conv(f"cells.{i}.{name}.rep_conv", maps[-1], 8)
            maps.append(F.prelu(y, net.tensor(f"cells.{i}.{name}.act.weight", 8).double()))
        parts = [net.conv(f"cells.{i}.branch.{k}", y, 4, 1) for k, y in enumerate(maps)]
        y = net.conv(f"cells.{i}.fuse", torch.cat(parts, 1), 8, 1)
        return esa(net, f"cells.{i}.att", y, 2, deep=True) + x

    head = net.conv("head", x, 8)
    y1 = cell(0, head)
    y2 = cell(1, y1)
    y3 = cell(2, net.conv("local_fuse.0", torch.cat((y1, y2), 1), 8, 1))
    y4 = cell(3, net.conv("local_fuse.1", torch.cat((y2, y3), 1), 8, 1))
    y = net.conv("local_fuse.2", torch.cat((y2, y4), 1), 8, 1) + head
    return F.pixel_shuffle(net.conv("tail.0", y, 12), 2)


def spab(net, name, x, start=None):
    """SiLU works in place there, so what is handed on is after it."""
    inner = F.silu(net.conv(f"{name}.c1_r.eval_conv", x, 4) if start is None else start)
    y = F.silu(net.conv(f"{name}.c2_r.eval_conv", inner, 4))
    y = net.conv(f"{name}.c3_r.eval_conv", y, 4)
    return (y + x) * (torch.sigmoid(y) - 0.5), inner


def span(net, x):
    head = y = net.conv("conv_1.eval_conv", (x - MEAN) * 255, 4)
    outputs = []
    for i in range(6):
        y, inner = spab(net, f"block_{i + 1}", y)
        outputs.append(y)
    last = net.conv("conv_2.eval_conv", y, 4)
    y = net.conv("conv_cat", torch.cat((head, last, outputs[0], inner), 1), 4, 1)
    return F.pixel_shuffle(net.conv("upsampler.0", y, 12), 2)


def dscf(net, x):
    x = (x - MEAN) * 255
    head = net.conv("conv_1.eval_conv", x, 4)
    y, _ = spab(net, "block_1", head, net.conv("conv_fused", x, 4, 5))
    first = y
    for i in range(2, 7):
        y, inner = spab(net, f"block_{i}", y)
    others = net.conv("conv_cat_other", torch.cat((head, first, inner), 1), 4, 1)
    y = others + net.conv("conv2_fused", y, 4, bias=False)
    return F.pixel_shuffle(net.conv("upsampler.0", y, 12), 2)


def spanv2(net, x):
    y, near = x, net.conv("conv_near", x, 12, bias=False, groups=3)
    for i in range(1, 6):
        deep = F.relu(net.conv(f"block_{i}.c1.conv", y, 4, bias=False))
        deep = F.relu(net.conv(f"block_{i}.c2.conv", deep, 4, bias=False))
        deep = net.conv(f"block_{i}.c3.conv", deep, 4, bias=False)
        if i == 1:
            y = F.relu(deep)
        else:
            y = (y + deep) * net.conv(f"block_{i}.guidance_map_conv", deep, 4, 1)
    y = net.conv("depthwise_conv", torch.cat((near, y), 1), 16, bias=False, groups=16)
    return F.pixel_shuffle(net.conv("pointwise_conv", y, 12, 1, bias=False), 2)


PROGRAMS = {
    "rlfn-ntire2022": rlfn,
    "efdn-ntire2025": efdn,
    "span-ntire2026": span,
    "spanv2-ntire2026": spanv2,
    "dscf-ntire2026": dscf,
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_the_importer_gives_the_function_of_the_public_code(kind, tmp_path):
    official, x = Official(), torch.rand(1, 3, 16, 19, dtype=torch.float64)
    wanted = PROGRAMS[kind](official, x)
    torch.save(official.weights, tmp_path / "official.pth")
    checkpoint = checkpoint_from_file(kind, tmp_path / "official.pth", tmp_path)
    with torch.no_grad():
        y = checkpoint.network().double()(x)
    # Weights are kept in float32, those with a value range folded in too.
    torch.testing.assert_close(y, wanted, rtol=0, atol=1e-6 * float(wanted.abs().max()))
