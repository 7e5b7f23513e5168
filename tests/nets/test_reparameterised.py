"""Convolutions trained as several paths, against the paths written out, and merged in networks."""

import pytest
import torch
import torch.nn.functional as F
from doubles.networks import SMALLEST, agree

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.reparameterised import EdgeConv, ExpandedConv, LowRankConv

NETWORKS = [n for n in ARCHITECTURES if "reparameterised" in ARCHITECTURES[n].config]


def framed(y, frame):
    """Return y with a frame of one pixel that has the value `frame` of each channel."""
    wide = frame.view(1, -1, 1, 1).expand(1, -1, y.shape[2] + 2, y.shape[3] + 2).clone()
    wide[..., 1:-1, 1:-1] = y
    return wide


def expanded_conv(conv, x):
    frame = conv.expand.bias if conv.expand.bias is not None else torch.zeros(6).double()
    chain = conv.reduce(conv.conv(framed(conv.expand(x), frame)))
    return chain + conv.skip(x)


def edge_conv(conv, x):
    y = conv.conv(x) + conv.point(x) + x
    y = y + conv.reduce(framed(conv.expand(x), conv.expand.bias))
    sobel = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    laplace = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    for path, mask in enumerate((sobel, list(zip(*sobel)), laplace)):
        mask = torch.tensor(mask, dtype=torch.float64)
        own = slice(3 * path, 3 * path + 3)
        narrow = F.conv2d(x, conv.edges.weight[own], conv.edges.bias[own])
        narrow = framed(narrow, conv.edges.bias[own])
        for channel in range(3):
            one = F.conv2d(narrow[:, channel : channel + 1], mask[None, None])
            index = 3 * path + channel
            y[:, channel] += (conv.edge_scale[index] * one + conv.edge_bias[index])[:, 0]
    return y


def low_rank_conv(conv, x):
    kernel = (conv.wide @ conv.narrow).reshape(4, 3, 3, 3)
    return F.conv2d(x, conv.weight + 2 * kernel, conv.bias, padding=1)


CONVS = {
    "expanded": (lambda: ExpandedConv(3, 4), expanded_conv),
    "without bias": (lambda: ExpandedConv(3, 4, bias=False), expanded_conv),
    "edge": (lambda: EdgeConv(3), edge_conv),
    "low rank": (lambda: LowRankConv(3, 4, 3, rank=2, bias=True), low_rank_conv),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("hw", [(1, 1), (2, 5)])
def test_paths_and_their_sum_are_those_written_out(name, hw):
    make, written_out = CONVS[name]
    conv = make().double()
    for parameter in conv.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    x = torch.rand(1, 3, *hw, dtype=torch.float64, requires_grad=True)
    wanted = written_out(conv, x)
    gradients = []
    for training in (False, True):
        y = conv.train(training)(x)
        torch.testing.assert_close(y, wanted, rtol=0, atol=1e-12)
        trained = [x, *(p for p in conv.parameters() if p.requires_grad)]
        gradients.append(
            torch.autograd.grad((y * torch.arange(y.numel()).view_as(y)).sum(), trained)
        )
    for paths, merged in zip(*gradients):
        torch.testing.assert_close(merged, paths, rtol=1e-12, atol=1e-12)


def test_a_low_rank_conv_starts_as_its_frozen_one_and_trains_the_rest():
    conv = LowRankConv(3, 4, 3, rank=2, bias=True)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
    assert [n for n, p in conv.named_parameters() if p.requires_grad] == ["narrow", "wide"]


def test_these_networks_have_paths():
    assert NETWORKS == ["efdn", "span", "spanv2", "dscf"]
    architecture = ARCHITECTURES["span"]
    with pytest.raises(CheckpointError, match="span: 'reparameterised' must be true or false, got"):
        architecture.build(4, architecture.parse(None), {"reparameterised": "yes"})


@pytest.mark.parametrize("name", NETWORKS)
def test_merged_paths_are_the_network_without_paths(name):
    architecture, variant = ARCHITECTURES[name], Variant.parse(SMALLEST[name])
    net = architecture.build(4, variant, {"reparameterised": True}).double()
    for parameter in net.parameters():
        if parameter.dim() == 1 or parameter.shape[-2:] != (3, 3):
            torch.nn.init.uniform_(parameter, -0.5, 0.5)
    fused, (report,) = fuse_network(net)
    assert report["pass"] == "merge-paths" and report["params"][1] < report["params"][0]
    h, w = architecture.min_hw
    for hw in ((h, w), (h + 2, w + 5)):
        agree(net, fused, hw, torch.float64, 1e-9)
    plain = architecture.build(4, variant)
    assert {k: v.shape for k, v in fused.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    assert architecture.config_of(net.state_dict()) == {"reparameterised": True}
    assert architecture.config_of(plain.state_dict()) == {}
    assert architecture.size_of(net.state_dict()) == variant
