from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it makes the networks")

from doubles.networks import SIZES, SMALLEST, agree, network, of_different_networks  # noqa: E402

from sr_deploy.core.spec import Variant  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.checkpoint import load_checkpoint  # noqa: E402
from sr_deploy.nets.fuse import CollapsedTail, fuse_network  # noqa: E402


@pytest.mark.parametrize(
    "arch, scale", [(a, s) for a in ARCHITECTURES for s in ARCHITECTURES[a].scales]
)
def test_the_function_stays_the_same(arch, scale):
    net = network(arch, scale, SMALLEST[arch]).double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fused, reports = fuse_network(net)
    single = network(arch, scale, SMALLEST[arch])
    fused_single, _ = fuse_network(single)
    for hw in SIZES:
        if min(hw) >= max(ARCHITECTURES[arch].min_hw):
            agree(net, fused, hw, torch.float64, 1e-9)
            agree(single, fused_single, hw, torch.float32, 1e-5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), (
        "fuse_network changed its argument"
    )
    expected = {
        "asrn": ["collapse-linear", "fold-shuffles"],
        "edsr": ["collapse-linear"],
        "edsr-original": ["collapse-linear"],
        "adaedsr": ["collapse-linear"],
    }
    assert [r["pass"] for r in reports] == expected.get(arch, [])


@pytest.mark.parametrize("name", [p.stem for p in of_different_networks()])
def test_shipped_networks_too(name):
    checkpoint = load_checkpoint(name)
    for variant in checkpoint.variants("all"):
        net = checkpoint.network(str(variant))
        agree(net, fuse_network(net)[0], (15, 22), torch.float32, 1e-5)


def test_the_report_shows_fewer_operations():
    _, done = fuse_network(network("asrn", 4, "d1"))
    collapse, shuffle = done
    assert collapse["pass"] == "collapse-linear" and collapse["convs"] == [12, 9]
    assert collapse["macs_per_px"][1] < 0.25 * collapse["macs_per_px"][0]
    assert shuffle["macs_per_px"][0] == shuffle["macs_per_px"][1]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("arch", ["edsr", "edsr-original", "adaedsr"])
def test_the_tail_of_edsr_as_one_convolution_is_exact_at_every_size(arch, scale):
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


def test_a_collapsed_tail_is_not_collapsed_again():
    net = ARCHITECTURES["edsr"].build(4, Variant.parse("b1"), {"channels": 4})
    once, _ = fuse_network(net)
    assert fuse_network(once)[1] == []


def test_the_collapsed_tail_of_the_baseline_costs_a_third_less():
    net = ARCHITECTURES["edsr-original"].build(4, Variant.parse("b1"))
    before, after = fuse_network(net)[1][0]["macs_per_px"]
    assert after < 0.65 * before
