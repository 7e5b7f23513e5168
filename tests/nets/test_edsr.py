import pytest
import torch

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.edsr import EDSR, EDSR_ARCHITECTURE


@pytest.mark.parametrize("channels", [0, 4096, "128", 1.5])
def test_channels_are_validated(channels):
    with pytest.raises(CheckpointError, match="channels are a whole number"):
        EDSR_ARCHITECTURE.build(4, Variant("b", 1), {"channels": channels})


def test_blocks_are_residual_and_the_long_skip_has_no_convolution():
    net = EDSR(scale=3, blocks=2, channels=4).eval()
    with torch.no_grad():
        for block in net.blocks:
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
    x = torch.rand(1, 3, 4, 5)
    torch.testing.assert_close(net(x), net.tail(2 * net.head(x)))
