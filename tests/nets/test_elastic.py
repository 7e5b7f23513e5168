import pytest
import torch
from doubles.elastic import DEPTHS, small_gains

from sr_deploy.core.elastic_plan import whole_role
from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.complexity import count
from sr_deploy.nets.elastic import elastic_modules, split_network
from sr_deploy.nets.fuse import fuse_network


@pytest.fixture(scope="module")
def gains(tmp_path_factory):
    return small_gains(tmp_path_factory.mktemp("gains"))


def test_start_and_tails_are_the_networks_of_their_depths(gains):
    plan, modules = elastic_modules(gains)
    x = torch.rand(1, 3, 9, 12)
    with torch.no_grad():
        features, predicted = modules["start"](x), modules["gains"](x)
        assert predicted.shape == (1, 2, 1, 1) and features.shape == (1, 96, 9, 12)
        for variant in DEPTHS:
            expected = gains.checkpoint().network(variant)(x)
            whole = modules[whole_role(variant)](x)
            torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)
            margins = (plan.tails[variant].margin,) * 4
            maps = (features, torch.ones_like(features[:, :1]))
            tiles = [torch.nn.functional.pad(y, margins) for y in maps]
            tile = modules[variant](*tiles)
            torch.testing.assert_close(tile, expected, rtol=0, atol=1e-5)
            again = modules[variant](*(y.repeat(2, 1, 1, 1) for y in tiles))
            torch.testing.assert_close(again, torch.cat([expected, expected]), rtol=0, atol=1e-5)


def test_the_whole_image_costs_what_the_deployed_network_does(gains):
    plan, _ = elastic_modules(gains)
    deployed = fuse_network(gains.checkpoint().network())[0]
    macs = count(deployed, (64, 64), counter="fvcore").macs
    assert plan.plain_macs_px * 64**2 == macs
    assert [cost.margin for cost in plan.tails.values()] == [1, 5, 13]
    assert 0 < plan.gains_macs < 0.01 * plan.plain_macs_px * 32**2


def test_networks_without_a_split_are_refused(gains):
    architecture, variant = ARCHITECTURES["fsrcnn"], Variant("w", 4)
    spec = architecture.spec(2, variant, elastic=False)
    other = Checkpoint("f_x2", spec, architecture.build(2, variant).state_dict())
    with pytest.raises(InputError, match="'f_x2' is of the architecture fsrcnn: no split"):
        split_network(other, ["w4"])
    with pytest.raises(InputError, match="the depths d2, d1 are not in order"):
        split_network(gains.checkpoint(), ["d2", "d1"])
