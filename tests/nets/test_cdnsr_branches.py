"""CDNSR's four backbones at their three widths: the paper's parameters and FLOPs, and layers."""

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.core.errors import VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.complexity import count
from sr_deploy.nets.fsrcnn import FSRCNN
from sr_deploy.nets.layers import MEAN, MeanShift

# Parameters, and the printed FLOPs in millions with the weight of their last digit: twice the
# multiply-accumulates of one LR patch of 32x32, x4.
PRINTED = {
    ("fsrcnn", 16): (10_755, 141, 1),
    ("fsrcnn", 36): (17_635, 304, 1),
    ("fsrcnn", 56): (24_515, 468, 1),
    ("carn-m", 36): (94_851, 380, 10),
    ("carn-m", 52): (195_651, 770, 10),
    ("carn-m", 64): (294_939, 1150, 10),
    ("msrresnet", 36): (481_683, 1660, 10),
    ("msrresnet", 52): (1_002_771, 3440, 10),
    ("msrresnet", 64): (1_517_571, 5200, 10),
    ("rcan", 36): (4_940_707, 10_330, 10),
    ("rcan", 50): (9_521_827, 19_900, 10),
    ("rcan", 64): (15_592_379, 32_600, 10),
}


@pytest.mark.parametrize("arch, width", list(PRINTED))
def test_parameters_and_flops_are_those_printed(arch, width):
    params, flops_m, digit = PRINTED[arch, width]
    with torch.device("meta"):
        net = ARCHITECTURES[arch].build(4, Variant("w", width))
    hooks = count(net, (32, 32), counter="hooks")
    assert hooks.params == params
    # The paper counts neither activations, normalisation nor the 1x1s of the mean colour.
    shifts = (
        sum(9 * pixels for pixels in (32 * 32, 128 * 128))
        if any(isinstance(m, MeanShift) for m in net.modules())
        else 0
    )
    rest = shifts + activations(net)
    assert 2 * (hooks.macs - rest) / 1e6 == pytest.approx(flops_m, abs=digit)


def activations(net):
    """Return the hook counter's number for activations and normalisations at 32x32."""
    total = []

    def note(module, inputs, output):
        total.append(output.numel() * (2 if isinstance(module, torch.nn.BatchNorm2d) else 1))

    kinds = (torch.nn.ReLU, torch.nn.LeakyReLU, torch.nn.PReLU, torch.nn.BatchNorm2d)
    hooks = [m.register_forward_hook(note) for m in net.modules() if isinstance(m, kinds)]
    with torch.no_grad():
        net(torch.empty(1, 3, 32, 32, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(total)


@pytest.mark.parametrize(
    "arch, text",
    [
        ("fsrcnn", "w2000"),
        ("carn-m", "w37"),
        ("rcan", "w8"),
        ("msrresnet", "w2000"),
        ("rcan", "d3"),
    ],
)
def test_widths_that_cannot_be(arch, text):
    with pytest.raises(VariantError, match="width|variant"):
        ARCHITECTURES[arch].parse(text)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_fsrcnn_is_the_same_at_the_cost_of_training(scale):
    net = FSRCNN(scale=scale, width=5).double()
    x = torch.rand(2, 3, 6, 9, dtype=torch.float64, requires_grad=True)
    y, faster = net(x), net.forward_training(x)
    torch.testing.assert_close(faster, y, rtol=0, atol=1e-12)
    weights = torch.randn_like(y)
    for a, b in zip(
        *(torch.autograd.grad((out * weights).sum(), list(net.parameters())) for out in (y, faster))
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_fsrcnn_has_four_prelus_of_one_parameter():
    slopes = [m.weight for m in FSRCNN(scale=4).modules() if isinstance(m, torch.nn.PReLU)]
    assert [s.numel() for s in slopes] == [1] * 4


def test_the_mean_is_subtracted_and_added_back_and_never_trained():
    net = ARCHITECTURES["rcan"].build(4, Variant("w", 16))
    x = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(net.add_mean(net.sub_mean(x)), x)
    torch.testing.assert_close(net.sub_mean(x)[0, :, 0, 0], x[0, :, 0, 0] - torch.tensor(MEAN))
    assert not any(
        p.requires_grad for p in (*net.sub_mean.parameters(), *net.add_mean.parameters())
    )


def test_a_cascade_of_carn_shares_its_block():
    net = ARCHITECTURES["carn-m"].build(2, Variant("w", 8))
    calls = []
    net.blocks[0].block.register_forward_hook(lambda *a: calls.append(1))
    net(torch.rand(1, 3, 4, 4))
    assert len(calls) == 3


def test_msrresnet_without_weights_is_bilinear():
    net = ARCHITECTURES["msrresnet"].build(3, Variant("w", 4))
    with torch.no_grad():
        for p in net.tail[-1].parameters():
            p.zero_()
    x = torch.rand(1, 3, 5, 4)
    torch.testing.assert_close(
        net(x), F.interpolate(x, scale_factor=3.0, mode="bilinear", align_corners=False)
    )


def test_rcan_scales_each_channel_of_a_block_by_its_attention():
    block = ARCHITECTURES["rcan"].build(2, Variant("w", 16)).groups[0].blocks[0]
    x = torch.rand(2, 16, 5, 6)
    y = block.conv2(block.act(block.conv1(x)))
    torch.testing.assert_close(block(x), x + y * block.attention(y))
    assert block.attention(y).shape == (2, 16, 1, 1)
