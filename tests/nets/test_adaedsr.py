import pytest
import torch

from sr_deploy.core.depth_plan import DepthPlan
from sr_deploy.core.errors import CheckpointError, VariantError
from sr_deploy.core.spec import Variant, check_desired_depth
from sr_deploy.nets.adaedsr import ADAEDSR_ARCHITECTURE, AdaEDSR
from sr_deploy.nets.sparse import Blocks, split_network


def small(scale=4, blocks=3, depth=2.0):
    torch.manual_seed(0)
    net = AdaEDSR(scale=scale, depth=depth, blocks=blocks, channels=6).double().eval()
    with torch.no_grad():
        net.adapter.rest[-1].weight.normal_()
        net.adapter.rest[-1].bias.fill_(1.0)
    return net


@pytest.mark.parametrize(
    "config, variant, params, backbone",
    [
        ({}, "d16", 1_564_072, 1_517_571),
        ({"channels": 256, "blocks": 32}, "d32", 43_828_872, 43_089_923),
    ],
)
def test_parameters_of_both_sizes(config, variant, params, backbone):
    with torch.device("meta"):
        net = ADAEDSR_ARCHITECTURE.build(4, Variant.parse(variant), config)
        assert sum(p.numel() for p in net.parameters()) == params
        assert (
            sum(p.numel() for n, p in net.named_parameters() if not n.startswith("adapter"))
            == backbone
        )


def test_it_is_equation_3_in_float64():
    net, x = small(), torch.rand(2, 3, 9, 11, dtype=torch.float64)
    depth = torch.tensor([1.0, 3.0], dtype=torch.float64)
    image, depth_map = net.forward_at(x, depth)
    assert depth_map.min() < 1 and depth_map.max() > 2
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(3, 1, 1)
    z0 = net.head(x - mean)
    z, total = z0, z0
    for number, block in enumerate(net.blocks, 1):
        g = torch.where(
            depth_map < number - 1,
            0.0,
            torch.where(depth_map > number, 1.0, depth_map - (number - 1)),
        )
        added = g * block.conv2(torch.relu(block.conv1(z)))
        z, total = z + added, total + added
    expected = net.tail(net.last(total) + z0) + mean
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-12)


def test_with_all_blocks_everywhere_it_is_its_backbone():
    net, x = small(), torch.rand(1, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        net.adapter.rest[-1].bias.fill_(1000)
        torch.testing.assert_close(net(x), net.backbone().double()(x), rtol=0, atol=1e-12)


def test_the_variant_is_the_desired_depth():
    net, x = small(depth=1.0), torch.rand(1, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net.forward_at(x, torch.tensor([1.0]).double())[0])
        assert not torch.equal(net(x), net.forward_at(x, torch.tensor([2.0]).double())[0])
    assert ADAEDSR_ARCHITECTURE.build(2, Variant("d", 7)).depth == 7


@pytest.mark.parametrize(
    "depth, match", [(17, "depth 17; expected 0 to 16"), (-1, "depth -1; expected 0")]
)
def test_a_depth_beyond_the_backbone_is_refused(depth, match):
    with pytest.raises(VariantError, match=match):
        check_desired_depth(depth, 16)
    if depth > 0:
        with pytest.raises(VariantError, match=match):
            ADAEDSR_ARCHITECTURE.build(4, Variant("d", depth))


@pytest.mark.parametrize(
    "config, match",
    [
        ({"blocks": 0}, "'blocks' must be an integer"),
        ({"channels": "64"}, "'channels' must be an integer"),
    ],
)
def test_configurations_are_validated(config, match):
    with pytest.raises(CheckpointError, match=match):
        ADAEDSR_ARCHITECTURE.build(4, Variant("d", 1), config)


def test_a_state_dict_tells_its_size():
    with torch.device("meta"):
        weights = ADAEDSR_ARCHITECTURE.build(
            2, Variant("d", 5), {"channels": 8, "blocks": 5}
        ).state_dict()
    assert ADAEDSR_ARCHITECTURE.size_of(weights) == Variant("d", 5)
    assert ADAEDSR_ARCHITECTURE.config_of(weights) == {"channels": 8, "blocks": 5}


def test_an_adapter_may_be_narrower_than_half():
    config = {"channels": 8, "blocks": 2, "adapter": 3}
    with torch.device("meta"):
        weights = ADAEDSR_ARCHITECTURE.build(2, Variant("d", 2), config).state_dict()
    assert weights["adapter.first.weight"].shape == (3, 8, 3, 3)
    assert ADAEDSR_ARCHITECTURE.config_of(weights) == config


@pytest.mark.parametrize("groups", [(1, 2, 3), (2, 3), (3,)])
def test_its_parts_give_the_same(groups):
    net, depth = small(), torch.tensor([1.2], dtype=torch.float64)
    x = torch.rand(1, 3, 7, 12, dtype=torch.float64)
    with torch.no_grad():
        plan = DepthPlan("ada", 2, 3, "", 1, 1, 1, depths=groups)
        parts = split_network(net, plan)
        expected, depth_map = net.forward_at(x, depth)
        torch.testing.assert_close(parts["map"](x, depth), depth_map, rtol=0, atol=1e-12)
        whole = parts["whole"](x, depth_map)
        y = features = parts["head"](x)
        for last in groups:
            y = parts[f"b{last}"](y, depth_map)
        for found in (whole, parts["end"](y, features)):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("first, last", [(1, 1), (2, 3)])
def test_a_window_ends_at_the_image_s_border_or_has_a_margin(first, last):
    net, margin = small(), 2 * (last - first + 1)
    with torch.no_grad():
        features = net.features(torch.rand(1, 3, 9, 12, dtype=torch.float64))
        depth_map = 3 * torch.rand(1, 1, 9, 12, dtype=torch.float64)
        blocks = Blocks(net, first, last)
        whole = blocks(features, depth_map)
        found = blocks(features[..., : 5 + margin], depth_map[..., : 5 + margin])
        torch.testing.assert_close(found[..., :5], whole[..., :5], rtol=0, atol=1e-12)
        assert not torch.allclose(found[..., 5:], whole[..., 5 : 5 + margin])
