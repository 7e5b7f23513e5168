import pytest
import torch
import torch.nn.functional as F

from sr_deploy.core.errors import CheckpointError
from sr_deploy.nets.adapter import Adapter, mask


@pytest.mark.parametrize(
    "channels, maps, params", [(64, 1, 46_501), (256, 1, 738_949), (64, 10, 49_102)]
)
def test_parameters(channels, maps, params):
    with torch.device("meta"):
        adapter = Adapter(channels, blocks=16, maps=maps)
    assert sum(p.numel() for p in adapter.parameters()) == params


@pytest.mark.parametrize("d", [0.0, 0.3, 1.0, 2.0, 2.5, 3.0])
def test_masks_are_equation_4(d):
    for block in (1, 2, 3):
        expected = 0.0 if d < block - 1 else 1.0 if d > block else d - (block - 1)
        assert mask(
            torch.full((1, 1, 1, 1), d, dtype=torch.float64), block
        ).item() == pytest.approx(expected, abs=1e-15)
    masks = [
        mask(torch.full((1, 1, 1, 1), d, dtype=torch.float64), block).item() for block in (1, 2, 3)
    ]
    assert sum(masks) == pytest.approx(d)


@pytest.fixture()
def small():
    torch.manual_seed(0)
    adapter = Adapter(6, blocks=4, maps=2).double()
    with torch.no_grad():
        adapter.first.bias.normal_()
        adapter.rest[-1].weight.normal_()
        adapter.rest[-1].bias.fill_(1.0)
    return adapter.eval()


def test_the_desired_depth_multiplies_the_first_weight_of_each_sample(small):
    features, depth = (
        torch.randn(3, 6, 7, 5, dtype=torch.float64),
        torch.tensor([0.0, 1.5, 4.0], dtype=torch.float64),
    )
    found = small(features, depth)
    for n, d in enumerate(depth):
        y = F.conv2d(features[n : n + 1], d * small.first.weight, small.first.bias, padding=1)
        torch.testing.assert_close(found[n : n + 1], small.rest(y).clamp(0, 4), rtol=0, atol=1e-12)
    assert found.shape == (3, 2, 7, 5)
    assert found.min() == 0 and found.max() > 1.5


def test_the_public_way_multiplies_the_map_and_a_fixed_depth_nothing(small):
    features, depth = (
        torch.randn(2, 6, 7, 5, dtype=torch.float64),
        torch.tensor([0.5, 2.0], dtype=torch.float64),
    )
    whole = small.rest(small.first(features))
    small.scaled = "output"
    torch.testing.assert_close(small(features, depth), (depth.view(2, 1, 1, 1) * whole).clamp(0, 4))
    small.scaled = "none"
    torch.testing.assert_close(small(features, depth), whole.clamp(0, 4))


def test_an_untrained_map_grows_with_the_desired_depth():
    torch.manual_seed(0)
    adapter, features = Adapter(64, blocks=16), 0.1 * torch.randn(1, 64, 9, 9)
    means = [adapter(features, torch.tensor([d])).mean().item() for d in (2.0, 4.0, 8.0)]
    assert means[0] < means[1] < means[2] < 16
    assert means[2] > 2.5 * means[0]


def test_in_training_a_map_beyond_all_blocks_still_has_a_gradient():
    adapter = Adapter(8, blocks=2)
    with torch.no_grad():
        adapter.rest[-1].weight.normal_()
        adapter.rest[-1].bias.fill_(1e4)  # beyond everywhere
    features, depth = torch.randn(1, 8, 3, 3), torch.tensor([1.0])
    adapter.train()(features, depth).mean().backward()
    assert adapter.rest[-1].bias.grad.item() == pytest.approx(1)
    assert adapter.eval()(features, depth).max() == 2


def test_another_scaling_is_refused():
    with pytest.raises(
        CheckpointError,
        match="unknown 'scaled' of the adapter, 'bias'; expected one of weight, output",
    ):
        Adapter(8, blocks=4, scaled="bias")
