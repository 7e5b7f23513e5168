import pytest
import torch

from sr_deploy.core.depth_plan import DepthPlan
from sr_deploy.core.depth_plan import plain_macs as plan_macs
from sr_deploy.core.errors import CheckpointError, VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets.adarcan import ADARCAN_ARCHITECTURE, AdaRCAN
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.rcan import RCAN
from sr_deploy.nets.sparse import depth_plan, split_network


def small():
    torch.manual_seed(0)
    return AdaRCAN(scale=2, depth=1, width=16, groups=3, blocks=2).double().eval()


def test_ten_maps_at_its_printed_size():
    with torch.device("meta"):
        net = ADARCAN_ARCHITECTURE.build(4, Variant("d", 20))
    assert sum(p.numel() for p in net.adapter.parameters()) == 49_102
    assert net.adapter.rest[-1].out_channels == 10
    assert sum(p.numel() for p in net.parameters()) == 49_102 + 15_592_379


def test_all_blocks_everywhere_are_rcan_and_each_group_has_its_own_map():
    net, x = small(), torch.rand(1, 3, 6, 7, dtype=torch.float64)
    plain = RCAN(scale=2, width=16, groups=3, blocks=2).double().eval()
    plain.load_state_dict(
        {k: v for k, v in net.state_dict().items() if not k.startswith("adapter.")}
    )
    depth = torch.tensor([1.0], dtype=torch.float64)
    with torch.no_grad():
        net.adapter.rest[-1].weight.zero_()
        net.adapter.rest[-1].bias.fill_(2)
        torch.testing.assert_close(net.forward_at(x, depth)[0], plain(x), rtol=0, atol=1e-12)
        net.adapter.rest[-1].bias.copy_(torch.tensor([2.0, 0.0, 2.0]))
        for block in plain.groups[1].blocks:
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
        image, maps = net.forward_at(x, depth)
        torch.testing.assert_close(image, plain(x), rtol=0, atol=1e-12)
    assert maps.shape == (1, 3, 6, 7)


def test_channel_attention_averages_the_masked_map():
    net, x = small(), torch.rand(1, 3, 4, 4, dtype=torch.float64)
    net.groups = net.groups[:1]
    block, group = net.groups[0].blocks[0], net.groups[0]
    with torch.no_grad():
        net.adapter.rest[-1].weight.zero_()
        net.adapter.rest[-1].bias.fill_(0.5)
        z = net.features(x)
        half = 0.5 * block.conv2(torch.relu(block.conv1(z)))
        expected = net.image(z + group.last(z + half * block.attention(half)), z)
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-12)


def test_its_parts_give_the_same():
    net, depth = small(), torch.tensor([0.4], dtype=torch.float64)
    x = torch.rand(1, 3, 6, 9, dtype=torch.float64)
    plan = DepthPlan("a", 2, 2, "", 1, 1, 1, (1, 2), maps=3, mean_macs_px=16, attention_macs=32)
    with torch.no_grad():
        parts = split_network(net, plan)
        assert sorted(parts) == sorted(plan.roles())
        expected, maps = net.forward_at(x, depth)
        assert 0 < maps.min() < maps.max() < 2
        torch.testing.assert_close(parts["map"](x, depth), maps, rtol=0, atol=1e-12)
        y = features = parts["head"](x)
        for group in range(3):
            start = y
            for block in (1, 2):
                masked, mean = parts[f"g{group + 1}.b{block}"](y, maps[:, group : group + 1])
                factors = parts["factors"](mean)[:, 2 * group + block - 1].view(1, 16, 1, 1)
                y = parts["add"](y, masked, factors)
            y = parts[f"g{group + 1}.last"](y, start)
        for found in (parts["whole"](x, maps), parts["end"](y, features)):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_its_plan_counts_the_attention_apart():
    config = {"width": 32, "groups": 3, "blocks": 2}
    spec = ADARCAN_ARCHITECTURE.spec(2, Variant("d", 2), elastic=True, config=config)
    net = ADARCAN_ARCHITECTURE.build(2, Variant("d", 2), config)
    plan = depth_plan(Checkpoint("a_x2", spec, net.state_dict()), net)
    assert (plan.maps, plan.blocks, plan.depths) == (3, 2, (1, 2))
    assert (plan.conv_macs_px, plan.mean_macs_px, plan.attention_macs) == (9 * 32 * 32, 32, 128)
    dense = count(net.backbone(), (256, 256), counter="fvcore").macs
    assert plan_macs(plan, 256 * 256) == dense


def test_depths_beyond_a_group_and_other_configurations_are_refused():
    with pytest.raises(VariantError, match="desired depth 21; expected 0 to 20"):
        ADARCAN_ARCHITECTURE.build(4, Variant("d", 21))
    with pytest.raises(CheckpointError, match="'groups' must be an integer"):
        ADARCAN_ARCHITECTURE.build(4, Variant("d", 1), {"groups": 0})
