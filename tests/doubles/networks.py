"""Small networks with random weights, a comparison of two networks, and the shipped networks."""

from __future__ import annotations

import torch

from sr_deploy.core.shipped import read_card, shipped_checkpoints
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES

SMALLEST = {
    "asrn": "d2",
    "imdeception": "c4-nla",
    "srn": "b1",
    "srn-s": "b1",
    "rlfn": "b1",
    "efdn": "w4",
    "span": "w4",
    "spanv2": "w4",
    "dscf": "w4",
    "edsr": "b1",
    "edsr-original": "b1",
    "adaedsr": "d1",
    "fsrcnn": "w4",
    "carn-m": "w4",
    "msrresnet": "w2",
    "rcan": "w16",
    "adarcan": "d1",
}
CONFIG = {
    "rlfn": {"channels": 6, "inner_channels": 8},
    "edsr": {"channels": 8},
    "edsr-original": {"channels": 8},
    "adaedsr": {"channels": 8, "blocks": 2},
    "adarcan": {"width": 16, "groups": 1, "blocks": 2},
}
SIZES = [(1, 1), (3, 5), (2, 9), (17, 16), (33, 47)]


def network(arch, scale, variant, seed=0):
    """Return a network with random weights, and large biases, so that wrong borders show."""
    torch.manual_seed(seed)
    net = ARCHITECTURES[arch].build(scale, Variant.parse(variant), CONFIG.get(arch))
    if arch == "rcan":  # ten groups of twenty blocks take seconds, and test nothing more
        del net.groups[1:], net.groups[0].blocks[2:]
    for parameter in net.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, -1, 1)
    return net


def agree(net, other, hw, dtype, tolerance):
    """Assert that two networks have the same output, relative to its largest value above 1."""
    x = torch.rand(1, 3, *hw, dtype=dtype)
    with torch.no_grad():
        y, z = net(x), other(x)
    assert y.shape == z.shape
    assert float((y - z).abs().max()) <= tolerance * max(float(y.abs().max()), 1.0)


def of_different_networks():
    """Return the shipped checkpoints without those whose network only has other weights."""
    by_network = {}
    for path in shipped_checkpoints():
        card = read_card(path)
        key = card.arch, card.scale, card.variants[-1], str(card.config)
        by_network.setdefault(key, path)
    return list(by_network.values())
