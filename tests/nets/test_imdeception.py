"""Slices compared with the largest network with all channels masked that a smaller core lacks."""

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.core.spec import Variant
from sr_deploy.nets.imdeception import (
    CELL,
    CORES,
    WINDOW,
    BlockNLA,
    IMDeception,
    _slice,
    pad_to_windows,
    tokens,
    untokens,
)

HELD = 16


@pytest.fixture(scope="module")
def largest():
    torch.manual_seed(1)
    net = IMDeception(scale=2, core=HELD, nla=True).double().eval()
    with torch.no_grad():  # strong attention: with the default initialisation it is nearly a mean
        for block in net.nla.values():
            block.qkv.weight.mul_(20)
            block.out.weight.mul_(5)
    return net


def keep_prefix(x, kept):
    return x * (torch.arange(x.shape[1]) < kept).view(1, -1, 1, 1)


def keep_in_groups(x, kept):
    """Return the first kept/4 of each of the four groups of channels."""
    group = x.shape[1] // 4
    return x * (torch.arange(x.shape[1]) % group < kept // 4).view(1, -1, 1, 1)


def masked_gblock(g, x, total, shallow, deep, width):
    """Grouped 3x3, ReLU, 1x1, LeakyReLU, then (shallow, deep) maps with only the kept channels."""
    x = keep_in_groups(F.relu(g[0](x)), total)
    x = F.leaky_relu(g[2](x), 0.05)
    s, d = x[:, :width], x[:, width:]
    return keep_prefix(s, shallow), (keep_in_groups(d, deep) if d.shape[1] else d)


def masked_gidb(block, x, c, inner):
    s1, y = masked_gblock(block.g1, x, c + inner, c, inner, HELD)
    s2, y = masked_gblock(block.g2, y, c + inner, c, inner, HELD)
    s3, y = masked_gblock(block.g3, y, c + inner, c, inner, HELD)
    s4, _ = masked_gblock(block.g4, y, c, c, 0, HELD)
    return block.fuse(torch.cat((s1, s2, s3, s4, x), 1))


def masked_attention(nla, x, c):
    q, k, v = (keep_prefix(part, 3 * c // 4) for part in nla.qkv(x).chunk(3, dim=1))
    h, w = x.shape[-2:]
    padded = [F.pad(p, (0, -w % 32, 0, -h % 32)) for p in (q, k, v)]
    out = torch.zeros_like(padded[2])
    for top in range(0, padded[0].shape[2], 32):
        for left in range(0, padded[0].shape[3], 32):
            cut = [
                F.unfold(p[:, :, top : top + 32, left : left + 32], 4, stride=4).transpose(1, 2)
                for p in padded
            ]
            attended = torch.softmax(cut[0] @ cut[1].transpose(1, 2), -1) @ cut[2]
            out[:, :, top : top + 32, left : left + 32] = F.fold(
                attended.transpose(1, 2), (32, 32), 4, stride=4
            )
    return keep_in_groups(nla.out(out[:, :, :h, :w]), 3 * c) + x


def masked_network(net, x, c, nla):
    features = net.features(x)
    kept, y = [], features
    for i in range(5):
        y = masked_gidb(net.blocks[i], y, c, 3 * c)
        kept.append(keep_prefix(y[:, :HELD], c))
        y = keep_in_groups(y[:, HELD:], 3 * c)
        if nla and i in (1, 3):
            y = masked_attention(net.nla[str(i)], y, c)
    kept.append(keep_prefix(masked_gidb(net.blocks[5], y, c, 2 * c), c))
    y = keep_prefix(F.leaky_relu(net.fuse(torch.cat(kept, 1)), 0.05), 4 * c)
    y = F.leaky_relu(net.expand(y), 0.05)
    return net.to_rgb(y + features)


@pytest.mark.parametrize("nla", [False, True])
@pytest.mark.parametrize("core", CORES)
def test_slice_is_the_masked_super_network(largest, core, nla):
    wanted = Variant("c", core, ("nla",) if nla else ())
    sliced = IMDeception(scale=2, core=core, nla=nla).double().eval()
    sliced.load_state_dict(_slice(largest.state_dict(), Variant("c", HELD, ("nla",)), wanted))
    x = torch.rand(2, 3, 35, 40, dtype=torch.float64)
    with torch.no_grad():
        y = sliced(x)
        torch.testing.assert_close(y, masked_network(largest, x, core, nla), rtol=0, atol=1e-9)
        if nla:  # else the attention would not be tested
            without = masked_network(largest, x, core, False)
            assert (y - without).abs().max() > 1e-3


@pytest.mark.parametrize("held, wanted", [("c8-nla", "c4-nla"), ("c12", "c8")])
def test_slicing_twice_equals_slicing_once(largest, held, wanted):
    full, middle, small = (Variant.parse(v) for v in ("c16-nla", held, wanted))
    once = _slice(largest.state_dict(), full, small)
    twice = _slice(_slice(largest.state_dict(), full, middle), middle, small)
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[k], twice[k]) for k in once)


@pytest.mark.parametrize("hw", [(1, 1), (32, 32), (33, 40), (63, 65), (64, 64)])
def test_padding_to_windows_gives_the_pixels_of_the_public_codes_padding(hw):
    nla = BlockNLA(12).double()
    with torch.no_grad():
        nla.qkv.weight.mul_(10)
    x = torch.randn(1, 12, *hw, dtype=torch.float64)
    h, w = hw
    bottom, right = (h // 64 + 1) * 64 - h, (w // 64 + 1) * 64 - w
    q, k, v = (F.pad(p, (0, right, 0, bottom)) for p in nla.qkv(x).chunk(3, dim=1))
    attended = torch.softmax(tokens(q) @ tokens(k).transpose(1, 2), -1) @ tokens(v)
    public = nla.out(untokens(attended, q, 3)[..., :h, :w]) + x
    torch.testing.assert_close(nla(x), public, rtol=0, atol=1e-12)


def test_a_whole_number_of_windows_is_not_padded():
    x = torch.rand(1, 2, 64, 32)
    assert pad_to_windows(x) is x
    assert pad_to_windows(x[..., :31]).shape == x.shape


def test_tokens_are_cells_channel_major_in_their_window():
    x = torch.arange(2 * 3 * 64 * 96, dtype=torch.float32).view(2, 3, 64, 96)
    t = tokens(x)
    windows, side = 2 * 3, WINDOW // CELL
    assert t.shape == (2 * windows, 64, 3 * 16)
    image, row, column, cell = 1, 1, 2, 19  # the cell in row 2, column 3 of its window
    top, left = row * WINDOW + CELL * (cell // side), column * WINDOW + CELL * (cell % side)
    expected = x[image, :, top : top + CELL, left : left + CELL].flatten()
    assert torch.equal(t[image * windows + row * 3 + column, cell], expected)
    assert torch.equal(untokens(t, x, 3), x)
