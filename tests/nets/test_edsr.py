import pytest
import torch

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.edsr import EDSR, EDSR_ARCHITECTURE, EDSR_ORIGINAL_ARCHITECTURE


@pytest.mark.parametrize("channels", [0, 4096, "128", 1.5])
def test_channels_are_validated(channels):
    with pytest.raises(CheckpointError, match="'channels' must be an integer"):
        EDSR_ARCHITECTURE.build(4, Variant("b", 1), {"channels": channels})


def test_blocks_are_residual_and_the_long_skip_has_no_convolution():
    net = EDSR(scale=3, blocks=2, channels=4).eval()
    with torch.no_grad():
        for block in net.blocks:
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
    x = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(net(x), net.tail(2 * net.head(x)))


@pytest.mark.parametrize(
    "scale, variant, channels, params",
    [(4, "b16", 64, 1_517_571), (2, "b32", 256, 40_729_603), (4, "b32", 256, 43_089_923)],
)
def test_edsrs_own_sizes(scale, variant, channels, params):
    with torch.device("meta"):
        net = EDSR_ORIGINAL_ARCHITECTURE.build(
            scale, Variant.parse(variant), {"channels": channels}
        )
    assert sum(p.numel() for p in net.parameters()) == params


def test_the_original_takes_the_mean_off_and_has_a_convolution_before_its_long_skip():
    net = EDSR_ORIGINAL_ARCHITECTURE.build(2, Variant("b", 1), {"channels": 4}).double()
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(3, 1, 1)
    x = torch.rand(1, 3, 5, 4, dtype=torch.float64)
    z = net.head(x - mean)
    torch.testing.assert_close(net(x), net.tail(net.last(net.blocks[0](z)) + z) + mean)
    assert "mean" not in net.state_dict()
