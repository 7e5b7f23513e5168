import numpy as np
import pytest
import torch
from doubles.branches import small_branches

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.complexity import count
from sr_deploy.nets.routed_tiles import RouterGains, branches_modules, tile_cost
from sr_deploy.nets.router import ModuleCL


@pytest.mark.parametrize("patch, h, w", [(32, 64, 96), (64, 128, 64), (128, 128, 128)])
def test_all_patches_are_scored_at_once_as_one_by_one(patch, h, w):
    torch.manual_seed(0)
    router, x = ModuleCL(classes=3, convs=3).eval(), torch.rand(1, 3, h, w)
    rows, columns = h // patch, w // patch
    patches = x.reshape(1, 3, rows, patch, columns, patch).permute(0, 2, 4, 1, 3, 5)
    with torch.no_grad():
        gains = RouterGains(router, patch)(x)
        scores = router(patches.reshape(-1, 3, patch, patch))
    expected = (scores[:, 1:] - scores[:, :1]).T.reshape(1, 2, rows, columns)
    cells = (patch // 32) ** 2  # the cells of a patch share its gain
    spread = expected.repeat_interleave(patch // 32, 2).repeat_interleave(patch // 32, 3) / cells
    torch.testing.assert_close(gains, spread, rtol=0, atol=1e-6)


@pytest.mark.parametrize("h, w", [(1, 1), (3, 70), (33, 64), (97, 130)])
def test_a_patch_at_the_border_is_scored_by_what_is_inside(h, w):
    router = ModuleCL(classes=3, convs=3).eval()
    with torch.no_grad():
        gains = RouterGains(router, 64)(torch.full((1, 3, h, w), 0.3))
        scores = router(torch.full((1, 3, 64, 64), 0.3))
    assert gains.shape == (1, 2, -(-h // 32), -(-w // 32))
    expected = (scores[0, 1:] - scores[0, :1]) * h * w / 64**2  # in proportion to the pixels
    torch.testing.assert_close(gains.sum((0, 2, 3)), expected, rtol=1e-4, atol=1e-6)


def test_a_tile_costs_what_its_layers_compute():
    net = ARCHITECTURES["fsrcnn"].build(4, Variant.parse("w16"))
    cost = tile_cost(net)
    assert cost.margin == 7
    assert cost.px == cost.whole_px == count(net, (64, 64), counter="fvcore").macs / 64**2
    layers = [(5, 16 * 75), (5, 12 * 16), *((reach, 12 * 12 * 9) for reach in (4, 3, 2, 1))]
    layers += [(1, 12 * 16), (1, 16 * 3 * 81)]
    assert cost.of(np.array(8), np.array(20)) == sum(
        (8 + 2 * reach) * (20 + 2 * reach) * macs for reach, macs in layers
    )


def test_a_plan_names_the_branches(tmp_path):
    router = small_branches(tmp_path, patch=64, price=0.5)
    plan, modules = branches_modules(router)
    assert list(modules) == plan.roles() and list(plan.tails) == ["w2", "w4", "w8"]
    assert plan.names == router.branch_names and not plan.elastic
    assert (plan.price, plan.gains_macs, plan.start_macs_px) == (0.5, 2048, 0)
    assert plan.file_name == "branches_x2.branches.json" and not list(plan.problems())


def test_branches_of_another_architecture_must_be_blended(tmp_path):
    router = small_branches(tmp_path, arch="msrresnet")
    with pytest.raises(InputError, match="'msrresnet-w2_x2.w2' cannot run by tiles") as caught:
        branches_modules(router)
    assert "average or ramp" in str(caught.value.hint)
