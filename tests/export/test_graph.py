import collections
import copy
import functools
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

import sr_deploy
from sr_deploy.core.errors import ExportError
from sr_deploy.core.sizes import parse_sizes
from sr_deploy.core.spec import Variant
from sr_deploy.export import opset as opsets
from sr_deploy.export.forms import apply_form
from sr_deploy.export.graph import graph_from_network, ranges_of_nodes
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.complexity import count_record
from sr_deploy.nets.fuse import fuse_network
from sr_deploy.nets.reparameterised import ReparameterisedConv
from sr_deploy.runtime.graph_counts import count_graph
from sr_deploy.runtime.ort import raw_session

DEBRIS = set(
    "Shape Gather If Constant ConstantOfShape Identity Loop Scan Cast "
    "Unsqueeze Squeeze Range".split()
)
# arch, variant, scale, LR size, configuration
STATIC = [
    ("asrn", "d2", 4, "24x24", None),
    ("asrn", "d1", 3, "7x5", None),
    ("imdeception", "c4", 2, "24x24", None),
    ("imdeception", "c4-nla", 4, "32x48", None),
    ("srn", "b1", 2, "15x24", None),
    ("srn-s", "b1", 4, "24x24", None),
    ("rlfn", "b1", 3, "15x24", {"channels": 6, "inner_channels": 8}),
    ("efdn", "w4", 4, "15x24", {"reparameterised": True}),
    ("span", "w4", 2, "7x5", {"reparameterised": True}),
    ("spanv2", "w4", 3, "7x5", {"reparameterised": True}),
    ("dscf", "w4", 4, "7x5", {"reparameterised": True}),
    ("edsr", "b1", 3, "24x24", {"channels": 8}),
    ("edsr-original", "b1", 2, "24x24", {"channels": 8}),
    ("adaedsr", "d1", 4, "24x24", {"channels": 8, "blocks": 2}),
    ("adarcan", "d1", 2, "24x24", {"width": 16, "groups": 1, "blocks": 2}),
    ("fsrcnn", "w4", 4, "24x24", None),
    ("carn-m", "w4", 3, "24x24", None),
    ("msrresnet", "w2", 2, "24x24", None),
]
DYNAMIC = [
    ("asrn", "d1", 4, None),
    pytest.param("imdeception", "c4-nla", 2, None, marks=pytest.mark.slow),
    ("srn-s", "b1", 2, None),
    ("edsr", "b1", 2, {"channels": 8}),
]


def network(arch, variant, scale, config):
    torch.manual_seed(0)
    net = ARCHITECTURES[arch].build(scale, Variant.parse(variant), config)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:  # the exporter merges equal ones
                parameter += torch.rand_like(parameter) / 100
        if "nla" in variant:  # or the attention is nearly a mean, and a mistake in it invisible
            for block in net.nla.values():
                block.qkv.weight.mul_(20)
    return net


@functools.lru_cache(maxsize=None)
def exported(i):
    arch, variant, scale, size, config = STATIC[i]
    net = network(arch, variant, scale, config)
    return net, graph_from_network(net, parse_sizes(size), opset=18)


def counts_of_torch(net, hw):
    """Return the counts that a graph of the network can have.

    Its exporter folds batch norms into the convolutions before them. It does not tell a convolution
    that is a function, such as an adapter's, from a module.
    """
    net = copy.deepcopy(net).eval()
    for parent in list(net.modules()):
        children = list(parent.named_children())
        for (name, conv), (after, norm) in zip(children, children[1:]):
            if isinstance(norm, torch.nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, after, torch.nn.Identity())
    record = count_record(net, hw)
    if "aten::conv2d" in record["uncounted_macs"]:
        record["macs"] += record["uncounted_macs"].pop("aten::conv2d")
        record.update({key: record["fvcore"][key] for key in ("acts", "convs")})
    return record


def check_counts(net, graph, hw):
    found, expected = count_graph(graph, (256, 256)), counts_of_torch(net, hw)
    assert found["hw"] == expected["hw"]
    # The exporter computes the kernels of branches.
    same = ("acts", "convs") if reparameterised(net) else ("params", "acts", "convs", "macs")
    for a, b in ((found, expected), (found["fvcore"], expected["fvcore"])):
        if a is not found or not reparameterised(net):
            assert [a[key] for key in same] == [b[key] for key in same]
            missing = [sorted(record["uncounted_macs"].values()) for record in (a, b)]
            assert missing[0] == missing[1]


def reparameterised(net):
    return any(isinstance(module, ReparameterisedConv) for module in net.modules())


def compare(net, graph, hw):
    x = torch.rand(1, 3, *hw)
    with torch.inference_mode():
        expected = net(x).numpy()
    y = raw_session(graph.SerializeToString()).run(None, {"lr": x.numpy()})[0]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_every_architecture_is_exported_here():
    assert {case[0] for case in STATIC} == set(ARCHITECTURES) - {
        "rcan"
    }  # it is made small in test_routed_branches


@pytest.mark.parametrize("i", range(len(STATIC)), ids=[f"{a}-{v}-x{s}" for a, v, s, *_ in STATIC])
@pytest.mark.parametrize("opset", [18, 17, 13])
def test_static_graphs_are_clean_and_equal_torch(i, opset):
    net, full = exported(i)
    graph = opsets.lower(full, opset)
    opsets.check(graph, opset)
    h, w = parse_sizes(STATIC[i][3]).opt
    scale = STATIC[i][2]
    assert [v.name for v in graph.graph.input] == ["lr"] and [
        v.name for v in graph.graph.output
    ] == ["sr"]
    shapes = [
        [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (graph.graph.input[0], graph.graph.output[0])
    ]
    assert shapes == [[1, 3, h, w], [1, 3, scale * h, scale * w]]
    assert not DEBRIS & {n.op_type for n in graph.graph.node}
    assert not any(
        a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        for n in graph.graph.node
        for a in n.attribute
    )
    compare(net, graph, (h, w))
    check_counts(net, graph, (h, w))


@pytest.mark.parametrize("i", range(len(STATIC)), ids=[f"{a}-{v}-x{s}" for a, v, s, *_ in STATIC])
def test_graphs_hold_no_trace_of_the_machine(i):
    graph = exported(i)[1]
    data = graph.SerializeToString()
    for word in (
        ".py",
        "site-packages",
        "pkg.torch",
        "stack_trace",
        str(Path(sr_deploy.__file__).parent),
        sys.prefix,
        str(Path.home()),
    ):
        assert word.encode() not in data
    assert (graph.producer_name, graph.producer_version, graph.doc_string) == ("srdeploy", "", "")
    assert not graph.metadata_props and not graph.functions


@pytest.mark.parametrize("arch", ["efdn", "span", "spanv2", "dscf"])
def test_counts_of_networks_without_branches(arch):
    net = network(arch, "w4", 4, None)
    assert not reparameterised(net)
    check_counts(net, graph_from_network(net, parse_sizes("15x24"), opset=18), (15, 24))


def test_graph_from_network_writes_the_opset_asked_for():
    net = network("asrn", "d1", 2, None)
    graph = graph_from_network(net, parse_sizes("8x8"), opset=17)
    assert [(e.domain, e.version) for e in graph.opset_import] == [("", 17)]
    operators = collections.Counter(n.op_type for n in graph.graph.node)
    assert operators["Conv"] + operators["ConvTranspose"] == sum(
        1 for m in net.modules() if hasattr(m, "kernel_size")
    )


def test_the_same_network_gives_the_same_bytes():
    net = network("asrn", "d1", 2, None)
    first, second = (
        graph_from_network(net, parse_sizes("8x8"), opset=17).SerializeToString() for _ in range(2)
    )
    assert first == second


def test_imdeception_c16_nla_is_small_at_the_size_it_is_deployed_in():
    graph = graph_from_network(
        network("imdeception", "c16-nla", 4, None), parse_sizes("256x512"), opset=17
    )
    assert len(graph.graph.node) <= 200
    assert not DEBRIS & {n.op_type for n in graph.graph.node}
    assert sum(n.op_type == "Softmax" for n in graph.graph.node) == 2


@pytest.mark.parametrize("arch, variant, scale, config", DYNAMIC)
def test_dynamic_graphs_at_odd_sizes(arch, variant, scale, config):
    net = network(arch, variant, scale, config)
    graph = graph_from_network(net, parse_sizes("16x16:32x48:128x128"), opset=17)
    ends = (graph.graph.input[0], graph.graph.output[0])
    names = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in ends]
    assert names == [[1, 3, "h", "w"], [1, 3, "sr_h", "sr_w"]]
    for hw in ((16, 16), (17, 33), (37, 21), (32, 48), (64, 64)):
        compare(net, graph, hw)


def test_a_network_that_cannot_be_exported_is_an_export_error():
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match="torch could not export the network"):
        graph_from_network(Branching(), parse_sizes("8x8"), opset=17)


def test_a_reason_is_the_first_cause_without_colours():
    class Complex(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).real

    with pytest.raises(ExportError, match="DispatchError: No ONNX function found for") as e:
        graph_from_network(Complex(), parse_sizes("8x8"), opset=17)
    assert "\x1b" not in e.value.message


def test_sorts_and_powers_that_the_exporter_lacks():
    class Sorting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.exponent = torch.nn.Parameter(torch.tensor(2.5))

        def forward(self, x):
            order = torch.sort((4 * x).int(), dim=-1, stable=True).indices
            return x.gather(-1, order) ** self.exponent.item()

    compare(Sorting(), graph_from_network(Sorting(), parse_sizes("8x9"), opset=17), (8, 9))


def test_the_exporter_prints_nothing(capfd):
    graph_from_network(torch.nn.Conv2d(3, 3, 1).eval(), parse_sizes("8x8"), opset=17)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "arch, variant, form", [("asrn", "d1", "plain"), ("imdeception", "c4", "blocks-16")]
)
def test_learnt_ranges_reach_every_convolution_of_a_form(arch, variant, form):
    net = ARCHITECTURES[arch].build(4, Variant.parse(variant))
    fused, _ = fuse_network(net)
    layers = [n for n, module in fused.named_modules() if isinstance(module, torch.nn.Conv2d)]
    ranges = {layer: (-1.0, float(i)) for i, layer in enumerate(layers, 1)}
    model = graph_from_network(apply_form(net, form)[0], parse_sizes("8x8"), opset=17)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    found = ranges_of_nodes(model, ranges)
    assert found.keys() == {node.name for node in convs}
    assert set(found.values()) == set(ranges.values())
    assert ranges_of_nodes(model, {}) == {}
