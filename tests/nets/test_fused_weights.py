from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it makes the networks")

from doubles.networks import SMALLEST, network  # noqa: E402

from sr_deploy.core.spec import Variant  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.fuse import fuse_network  # noqa: E402
from sr_deploy.nets.fused_weights import fused_weights  # noqa: E402

WITH_PATHS = [a for a in ARCHITECTURES if "reparameterised" in ARCHITECTURES[a].config]


def check(net):
    fused = dict(fuse_network(net)[0].named_parameters())
    weights = fused_weights(net)
    for name, value in fused.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
    trained = [p for p in net.parameters() if p.requires_grad]
    total = sum(w.square().sum() for w in weights.values() if w.requires_grad)
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
def test_they_are_those_of_the_fused_network_with_gradients(arch):
    check(network(arch, ARCHITECTURES[arch].scales[-1], SMALLEST[arch]))


@pytest.mark.parametrize("arch", WITH_PATHS)
def test_merged_paths_too(arch):
    variant = Variant.parse(SMALLEST[arch])
    torch.manual_seed(0)
    check(ARCHITECTURES[arch].build(4, variant, {"reparameterised": True}))
