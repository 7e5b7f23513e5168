from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it makes the networks")

from doubles.networks import SIZES, SMALLEST, agree, network  # noqa: E402

from sr_deploy.core.shipped import shipped_checkpoints  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.checkpoint import load_checkpoint  # noqa: E402
from sr_deploy.nets.fuse import PASSES, fuse_network  # noqa: E402


@pytest.mark.parametrize(
    "arch, scale", [(a, s) for a in ARCHITECTURES for s in ARCHITECTURES[a].scales]
)
def test_the_function_stays_the_same(arch, scale):
    net = network(arch, scale, SMALLEST[arch]).double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    other, done = fuse_network(net)
    for hw in SIZES:
        if min(hw) >= max(ARCHITECTURES[arch].min_hw):
            agree(net, other, hw, torch.float64, 1e-9)
            agree(
                network(arch, scale, SMALLEST[arch]),
                fuse_network(network(arch, scale, SMALLEST[arch]))[0],
                hw,
                torch.float32,
                1e-5,
            )
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), (
        "the network given is left as it is"
    )
    expected = {
        "asrn": list(PASSES),
        "edsr": ["collapse-linear"],
        "edsr-original": ["collapse-linear"],
        "adaedsr": ["collapse-linear"],
    }
    assert [d["pass"] for d in done] == expected.get(arch, [])


@pytest.mark.parametrize("name", [p.stem for p in shipped_checkpoints()])
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
