"""Ranges of a checkpoint trained for INT8, in the graphs of two placements."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.sizes import parse_sizes
from sr_deploy.core.target import load_target
from sr_deploy.export.graph import graph_from_network
from sr_deploy.export.int8.placement import ready_to_quantise
from sr_deploy.export.int8.ranges import collect_ranges, with_learnt
from tests.doubles.networks import network


@pytest.fixture(scope="module")
def model():
    net = network("srn-s", 4, "b1")
    return ready_to_quantise(graph_from_network(net, parse_sizes("15x16"), opset=17))


@pytest.mark.parametrize("target, shared", [("xavier", True), ("cpu", False)])
def test_they_replace_measured_ones_where_only_convolutions_read_the_value(model, target, shared):
    """The output of a convolution of SRN's attention goes into a product too."""
    rules = load_target(target).int8
    image = np.random.default_rng(0).random((1, 3, 15, 16), np.float32)
    measured = collect_ranges(model, [image], rules)["min-max"]
    convs = {node.input[1]: node for node in model.graph.node if node.op_type == "Conv"}
    head, attention = convs["head.weight"], convs["blocks.0.esa.conv1.weight"]
    learnt = {head.name: (0.0, 0.9), attention.name: (-0.5, 0.5)}
    ranges = with_learnt(measured, learnt, model, rules)
    assert ranges.keys() == measured.keys()
    assert ranges[head.input[0]] == (0.0, 0.9)
    assert (ranges[attention.input[0]] == (-0.5, 0.5)) is shared
    others = ranges.keys() - {head.input[0], attention.input[0]}
    assert all(ranges[name] == measured[name] for name in others)
