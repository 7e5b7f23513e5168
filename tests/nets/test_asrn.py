import pytest
import torch

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.asrn import ASRN, ASRN_ARCHITECTURE, BLOCKS, MAB
from sr_deploy.nets.fuse import fuse_network


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


def test_blocks_of_the_ablations_have_similar_numbers_of_parameters():
    sizes = {name: sum(p.numel() for p in BLOCKS[name]("relu").parameters()) for name in BLOCKS}
    mab = sizes["mab"]
    assert mab == 39_456
    assert {n for n, size in sizes.items() if size == mab} == {
        "mab",
        "no-links",
        "no-shuffle",
        "no-residual",
    }
    assert sizes["no-fusion"] == mab - 96 * 96 - 96
    assert (sizes["shufflenet"], sizes["res2net"]) == (39_744, 38_498)  # Fig. 12: "similar"


def by_hand(name, block, x):
    """Return a block of Table 3 by eq. 6, without what its name says."""
    parts, outputs = block.expand(x).chunk(4, dim=1), []
    for conv, part in zip(block.chain, parts):
        before = outputs[-1] if outputs and name != "no-links" else 0
        outputs.append(conv(part + before).clamp(min=0))
    y = torch.cat(outputs, dim=1)
    if name != "no-shuffle":
        y = torch.stack(outputs, dim=2).flatten(1, 2)
    y = y if name == "no-fusion" else block.reduce(y)
    return y if name == "no-residual" else y + x


@pytest.mark.parametrize("name", [n for n in BLOCKS if n.startswith("no-")])
def test_cases_1_to_4_of_table_3(name):
    block, x = BLOCKS[name]("relu", 64).double(), torch.randn(2, 64, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), by_hand(name, block, x), rtol=0, atol=1e-12)


def test_res2nets_module_copies_the_first_part():
    block, x = BLOCKS["res2net"]("relu").double(), torch.randn(1, 96, 5, 4, dtype=torch.float64)
    x1, x2, x3, x4 = block.split(x).clamp(min=0).chunk(4, dim=1)
    y2 = block.convs[0](x2).clamp(min=0)
    y3 = block.convs[1](x3 + y2).clamp(min=0)
    y4 = block.convs[2](x4 + y3).clamp(min=0)
    merged = block.merge(torch.cat((x1, y2, y3, y4), dim=1))
    torch.testing.assert_close(block(x), merged + x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BLOCKS)
def test_a_network_of_each_block_is_told_by_its_weights_and_fused_exactly(name):
    config = {"block": name, "channels": 16}
    net = ASRN_ARCHITECTURE.build(2, Variant("d", 2), config).double()
    has_other_tensors = name in ("no-fusion", "shufflenet", "res2net")
    told = {**config} if has_other_tensors else {"channels": 16}
    assert ASRN_ARCHITECTURE.config_of(net.state_dict()) == told
    x = torch.rand(1, 3, 7, 9, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fuse_network(net)[0](x), net(x), rtol=0, atol=1e-9)
        torch.testing.assert_close(net.forward_training(x), net(x), rtol=0, atol=1e-9)


def test_blocks_and_widths_that_cannot_be():
    for config, message in (
        ({"block": "dense"}, "unknown block 'dense' of ASRN; expected mab, no-fusion"),
        ({"channels": 30}, "'channels' must be divisible by 4, got 30"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ASRN_ARCHITECTURE.build(2, Variant("d", 1), config)
