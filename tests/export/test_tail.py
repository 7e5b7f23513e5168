import pytest
import torch

from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.fuse import CollapsedTail, fuse_network


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("arch", ["edsr", "edsr-original", "adaedsr"])
def test_edsrs_tail_as_one_convolution_is_exact_at_every_size(arch, scale):
    torch.manual_seed(0)
    config = {"channels": 6, "blocks": 1} if arch == "adaedsr" else {"channels": 6}
    net = (
        ARCHITECTURES[arch]
        .build(scale, Variant.parse("d1" if arch == "adaedsr" else "b1"), config)
        .double()
    )
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    faster, done = fuse_network(net)
    assert isinstance(faster.tail, CollapsedTail) and not isinstance(net.tail, CollapsedTail)
    assert [step["pass"] for step in done] == ["collapse-linear"]
    with torch.no_grad():
        for hw in ((9, 12), (1, 1), (1, 5), (2, 3), (3, 2), (4, 4)):
            x = torch.rand(2, 3, *hw, dtype=torch.float64)
            torch.testing.assert_close(faster(x), net(x), rtol=0, atol=1e-9)


def test_a_collapsed_tail_is_left_as_it_is():
    net = ARCHITECTURES["edsr"].build(4, Variant.parse("b1"), {"channels": 4})
    once, _ = fuse_network(net)
    assert fuse_network(once)[1] == []


def test_the_baselines_tail_costs_a_third_less_on_a_large_image():
    net = ARCHITECTURES["edsr-original"].build(4, Variant.parse("b1"))
    before, after = fuse_network(net)[1][0]["macs_per_px"]
    assert after < 0.65 * before
