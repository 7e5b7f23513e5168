import pytest
import torch

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.asrn import ASRN, ASRN_ARCHITECTURE, MAB


def test_slice_is_the_network_cut_after_its_first_blocks():
    net = ASRN(scale=3).eval()
    sliced = ASRN(scale=3, blocks=3).eval()
    sliced.load_state_dict(
        ASRN_ARCHITECTURE.slice(net.state_dict(), Variant("d", 5), Variant("d", 3))
    )
    x = torch.rand(1, 3, 6, 9)
    y = net.head(x)
    for block in list(net.body)[:3]:
        y = block(y)
    torch.testing.assert_close(sliced(x), net.upsampler(y), rtol=0, atol=0)


def test_more_than_nine_blocks_are_cut_by_number_not_by_prefix():
    weights = ASRN(scale=2, blocks=12).state_dict()
    kept = ASRN_ARCHITECTURE.slice(weights, Variant("d", 12), Variant("d", 1))
    assert {k.split(".")[1] for k in kept if k.startswith("body.")} == {"0"}


def test_block_by_the_papers_equation_6():
    block = MAB("relu").double()
    x = torch.randn(2, 96, 5, 4, dtype=torch.float64)
    parts = block.expand(x).chunk(4, dim=1)
    y1 = block.chain[0](parts[0]).clamp(min=0)
    y2 = block.chain[1](parts[1] + y1).clamp(min=0)
    y3 = block.chain[2](parts[2] + y2).clamp(min=0)
    y4 = block.chain[3](parts[3] + y3).clamp(min=0)
    # Shuffled in four groups: the first channels of the four outputs, then the second ones, ...
    shuffled = torch.stack((y1, y2, y3, y4), dim=2).flatten(1, 2)
    torch.testing.assert_close(block(x), block.reduce(shuffled) + x, rtol=0, atol=1e-12)


def test_activation_is_a_choice_of_two():
    assert "LeakyReLU" in str(
        ASRN_ARCHITECTURE.build(2, Variant("d", 1), {"activation": "leaky_relu"})
    )
    with pytest.raises(
        CheckpointError, match="unknown activation 'gelu' of ASRN; expected relu or leaky_relu"
    ):
        ASRN_ARCHITECTURE.build(2, Variant("d", 1), {"activation": "gelu"})
