from __future__ import annotations

import pytest
import torch

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.train.fake_quantise import QuantisedNetwork, quantised_input, quantised_kernel


def start(arch="asrn", variant="d2", **config):
    architecture = ARCHITECTURES[arch]
    largest = Variant.parse(variant)
    torch.manual_seed(1)
    weights = architecture.build(2, largest, config).state_dict()
    spec = architecture.spec(2, largest, elastic=not config, config=config)
    return Checkpoint("net", spec, weights)


def test_an_input_has_255_levels_up_to_its_bound_and_a_kernel_for_each_output():
    x = torch.tensor([0.0, 0.4, 0.6, -126.6, 300.0, -300.0])
    assert quantised_input(x, torch.tensor(127.0)).tolist() == [0, 0, 1, -127, 127, -127]
    kernel = torch.tensor([[0.0, 1.0, 127.0], [0.0, 0.0, 0.0], [-1.0, 0.4, 0.1]]).view(3, 3, 1, 1)
    rounded = quantised_kernel(kernel)
    assert torch.equal(rounded[:2], kernel[:2])
    torch.testing.assert_close(rounded[2].flatten() * 127, torch.tensor([-127.0, 51.0, 13.0]))


def test_gradients_pass_inside_the_range_and_move_the_range_outside():
    x = torch.tensor([0.5, 2.0, -2.0], requires_grad=True)
    bound = torch.tensor(1.0, requires_grad=True)
    y = quantised_input(x, bound)
    y.backward(torch.tensor([0.0, 3.0, 5.0]))
    assert x.grad.tolist() == [0, 0, 0] and bound.grad.item() == pytest.approx(3 - 5)
    x.grad = None
    quantised_input(x, bound).sum().backward()
    assert x.grad.tolist() == [1, 0, 0]


@pytest.mark.parametrize("arch, variant", [("asrn", "d2"), ("imdeception", "c8-nla")])
def test_a_variant_computes_its_fused_network_nearly(arch, variant):
    checkpoint, x = start(arch, variant), torch.rand(2, 3, 12, 14)
    quantised = QuantisedNetwork(checkpoint)
    quantised.choose_ranges(x)
    for name in checkpoint.spec.variants:
        fp32 = fuse_network(checkpoint.network(name))[0](x)
        y = quantised(x, name)
        assert 0 < (y - fp32).abs().max() < 0.05 * fp32.abs().max()
        torch.testing.assert_close(quantised.static(name)(x), y)


@pytest.mark.parametrize(
    "arch, variant, config",
    [
        ("fsrcnn", "w4", {}),
        ("edsr", "b1", {"channels": 4}),
        ("span", "w4", {"reparameterised": True}),
        ("adaedsr", "d1", {"channels": 8, "blocks": 2}),  # a layer of its adapter never runs
    ],
)
def test_other_networks_too(arch, variant, config):
    checkpoint, x = start(arch, variant, **config), torch.rand(1, 3, 16, 16)
    quantised = QuantisedNetwork(checkpoint)
    quantised.choose_ranges(x)
    quantised(x, variant).square().mean().backward()
    trained = [p for p in quantised.net.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert quantised.ranges[variant].grad.abs().sum() > 0


def test_ranges_are_named_by_layer_and_hold_what_was_seen():
    checkpoint = start()
    quantised = QuantisedNetwork(checkpoint)
    quantised.choose_ranges(torch.rand(2, 3, 12, 14))
    learnt = quantised.learnt()
    fused = dict(fuse_network(checkpoint.network("d1"))[0].named_modules())
    assert learnt.keys() == {"d1", "d2"} and learnt["d1"].keys() < learnt["d2"].keys()
    assert all(isinstance(fused[layer], torch.nn.Conv2d) for layer in learnt["d1"])
    low, high = learnt["d1"]["body.0.expand"]
    assert low == 0 and 0.9 < high <= 1.0001  # images
    assert learnt["d1"]["body.0.reduce"][0] == 0  # after ReLU
    low, high = learnt["d2"]["body.1.expand"]
    assert -high <= low < 0 < high


def test_weights_and_ranges_learn():
    quantised = QuantisedNetwork(start())
    x = torch.rand(1, 3, 12, 12)
    quantised.choose_ranges(x)
    quantised(x, "d2").square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in quantised.net.parameters())
    assert quantised.ranges["d2"].grad.abs().sum() > 0 and quantised.ranges["d1"].grad is None


def test_a_network_without_convolutions_is_refused():
    class Enlargement(Checkpoint):
        def network(self, variant=None):
            return torch.nn.Upsample(scale_factor=2)

    made = start()
    with pytest.raises(InputError, match="asrn has no convolutions to quantise"):
        QuantisedNetwork(Enlargement(made.name, made.spec, made.weights))
