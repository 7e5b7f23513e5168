import importlib.util
import io
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from doubles.foreign_graphs import FOREIGN, model, node  # noqa: E402
from doubles.graphs import tiny_model  # noqa: E402

from sr_deploy.core.errors import ArtifactError  # noqa: E402
from sr_deploy.core.interface import ImageEnd, Interface  # noqa: E402
from sr_deploy.runtime.graph_counts import count_graph  # noqa: E402

RANDOM = np.random.default_rng(0)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def numbers(record):
    """Return params, activations, convolutions, and multiply-accumulates by both counters."""
    fvcore = record["fvcore"]
    for key in ("params", "acts", "convs") if record["acts"] == fvcore["acts"] else ("params",):
        assert record[key] == fvcore[key]
    return record["params"], fvcore["acts"], fvcore["convs"], record["macs"], fvcore["macs"]


def graph(nodes, opset=17, image=(1, 3, "h", "w"), output=None, domains=(), **weights):
    """Return a model from `x` to `y`. nodes: (operator, inputs, outputs, attributes)."""
    made = []
    for op, inputs, outputs, *attributes in nodes:
        domain, _, name = op.rpartition("::")
        extra = {**(attributes[0] if attributes else {}), **({"domain": domain} if domain else {})}
        made.append(node(name, inputs.split(","), outputs.split(","), **extra))
    ends = [("x", "FLOAT", image)], [("y", "FLOAT", output)]
    result = model(made, *ends, weights, opset=opset)
    for domain in domains:
        result.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    return result


# Layers of torch, as its exporter writes them.


def applied(function, *layers):
    from torch import nn

    class Applied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x):
            return function(x, *self.layers)

    return Applied()


def layers():
    """Return networks on (1, 3, 10, 12) by name."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    return {
        "conv": nn.Conv2d(3, 8, 3, padding=1),
        "strided, dilated": nn.Conv2d(3, 8, 3, stride=2, dilation=2, bias=False),
        "grouped": nn.Conv2d(3, 6, 3, groups=3),
        "transposed": nn.ConvTranspose2d(3, 5, 4, stride=2, padding=1),
        "transposed, grouped": nn.ConvTranspose2d(3, 6, 3, stride=3, groups=3),
        "1d": applied(lambda x, conv: conv(x.flatten(2)), nn.Conv1d(3, 5, 3)),
        "3d": applied(lambda x, conv: conv(x[None]), nn.Conv3d(1, 5, 3)),
        "linear": nn.Linear(12, 7),
        "linear without bias": nn.Linear(12, 7, bias=False),
        "linear of rows": applied(lambda x, linear: linear(x.flatten(1)), nn.Linear(360, 7)),
        "relu": nn.ReLU(),
        "leaky relu": nn.LeakyReLU(0.1),
        "relu6": nn.ReLU6(),
        "elu": nn.ELU(),
        "prelu": nn.PReLU(3),
        "gelu": nn.GELU(),
        "clamp": applied(lambda x: x.clamp(0, 1)),
        "batch norm": nn.BatchNorm2d(3),
        "batch norm without scale": nn.BatchNorm2d(3, affine=False),
        "instance norm": nn.InstanceNorm2d(3, affine=True),
        "instance norm without scale": nn.InstanceNorm2d(3),
        "layer norm": nn.LayerNorm(12),
        "layer norm without scale": nn.LayerNorm(12, elementwise_affine=False),
        "group norm": nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6)),
        "pooling": nn.AdaptiveAvgPool2d(1),
        "mean of channels": applied(lambda x: x.mean(1, keepdim=True)),
        "max pooling": nn.MaxPool2d(2),
        "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
        "nearest": nn.Upsample(scale_factor=2),
        "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
        "unshuffle": nn.PixelUnshuffle(2),
        "matmul": applied(lambda x: x @ x.transpose(2, 3)),
        "einsum": applied(lambda x: torch.einsum("nchw,ndhw->ncd", x, x)),
        "einsum without sums": applied(lambda x: torch.einsum("nchw,nchw->nchw", x, x)),
        "grid": applied(
            lambda x: F.grid_sample(x, x.permute(0, 2, 3, 1)[..., :2], align_corners=False)
        ),
        "shared": applied(lambda x, conv: conv(conv(x)), nn.Conv2d(3, 3, 3, padding=1)),
        "lstm": applied(lambda x, lstm: lstm(x[0])[0], nn.LSTM(12, 5)),
        "attention of windows": applied(
            lambda x, qkv: F.softmax(qkv(x) @ x.transpose(2, 3), -1) @ x, nn.Linear(12, 12)
        ),
    }


def exported(net, hw, opset, free=False):
    """Return the graph that torch's older exporter writes."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    file = io.BytesIO()
    axes = {"x": {2: "h", 3: "w"}} if free else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.rand(1, 3, *hw),),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


def randomised(net):
    import torch

    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.uniform_(parameter, -0.1, 0.1)
    return net.eval()


@pytest.mark.smoke
@pytest.mark.parametrize("opset", [16, 17])
def test_layers_have_the_counts_of_torch(opset):
    pytest.importorskip("torch", reason="torch is not installed")
    from sr_deploy.nets.complexity import count_record

    for name, net in layers().items():
        found = count_graph(exported(randomised(net), (10, 12), opset), (10, 12))
        expected = count_record(net, (10, 12))
        assert numbers(found) == numbers(expected), name
        for a, b in ((found, expected), (found["fvcore"], expected["fvcore"])):
            missing = [sum(record["uncounted_macs"].values()) for record in (a, b)]
            assert missing[0] == missing[1], name
        assert found["hw"] == [10, 12]


@pytest.mark.parametrize(
    "name, free", [("SwinIR", True), ("HAT", False), ("ESRGAN unshuffle", True)]
)
def test_networks_of_spandrel_have_the_counts_of_torch(name, free):
    pytest.importorskip("torch", reason="torch is not installed")
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed")
    from doubles.spandrel_networks import weights_of

    from sr_deploy.nets.complexity import count_record
    from sr_deploy.nets.spandrel import model_from_weights

    net = randomised(model_from_weights(weights_of(name), source=name).network)
    found = count_graph(exported(net, (16, 16), 16, free), (16, 24))
    assert numbers(found) == numbers(count_record(net, (16, 24) if free else (16, 16)))


def test_a_folded_attention_is_counted_as_its_products():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from sr_deploy.nets.complexity import count_record

    net = applied(lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x))
    found, expected = (
        count_graph(exported(net, (10, 12), 17), (10, 12)),
        count_record(net, (10, 12)),
    )
    assert found["fvcore"]["macs"] == 7200 == expected["fvcore"]["uncounted_macs"].popitem()[1]
    assert found["uncounted_macs"] == {"MatMul": 7200}


# Graphs of others. x is (1, 3, 10, 12): 120 pixels.

KERNEL = 8 * 27
PLAIN = (KERNEL + 8, 960, 1, 960 * 27, 960 * 27)
CONV = {"pads": [1, 1, 1, 1]}
WEIGHTS = {"w": floats(8, 3, 3, 3), "b": floats(8)}
INT8 = {
    "q": RANDOM.integers(-9, 9, (8, 3, 3, 3)).astype(np.int8),
    "s": np.array(0.1, np.float32),
    "z": np.array(0, np.uint8),
    "zw": np.array(0, np.int8),
    "bq": np.arange(8, dtype=np.int32),
}
QUANTISED = [("QuantizeLinear", "x,s,z", "xq")]


def constant(name, array):
    return ("Constant", "", name, {"value": onnx.numpy_helper.from_array(array)})


@pytest.mark.parametrize(
    "nodes, weights, expected",
    [
        pytest.param([("Conv", "x,w,b", "y", CONV)], WEIGHTS, PLAIN, id="conv"),
        pytest.param(
            [("Conv", "x,w", "c", CONV), ("Add", "c,b2", "y")],
            {"w": WEIGHTS["w"], "b2": floats(1, 8, 1, 1)},
            PLAIN,
            id="bias apart",
        ),
        pytest.param(
            [
                constant("w", WEIGHTS["w"]),
                ("Identity", "b", "b2"),
                ("Cast", "b2", "b3", {"to": 1}),
                ("Conv", "x,w,b3", "y", CONV),
            ],
            {"b": WEIGHTS["b"]},
            PLAIN,
            id="constants",
        ),
        pytest.param(
            [
                ("Transpose", "w", "t", {"perm": [3, 2, 0, 1]}),
                ("Conv", "x,t,b", "y", CONV),
            ],
            {"w": floats(3, 3, 3, 8), "b": WEIGHTS["b"]},
            PLAIN,
            id="transposed weights",
        ),
        pytest.param(
            [("com.microsoft::FusedConv", "x,w,b", "y", {**CONV, "activation": "Relu"})],
            WEIGHTS,
            (*PLAIN[:3], PLAIN[3] + 960, PLAIN[4]),
            id="fused",
        ),
        pytest.param(
            [
                *QUANTISED,
                ("QLinearConv", "xq,s,z,q,s,zw,s,z,bq", "c", CONV),
                ("DequantizeLinear", "c,s,z", "y"),
            ],
            INT8,
            PLAIN,
            id="QLinearConv",
        ),
        pytest.param(
            [
                *QUANTISED,
                ("DequantizeLinear", "xq,s,z", "xd"),
                ("DequantizeLinear", "q,s,zw", "w"),
                ("Conv", "xd,w,b", "y", CONV),
            ],
            {**INT8, "b": WEIGHTS["b"]},
            PLAIN,
            id="QDQ",
        ),
        pytest.param(
            [
                ("DynamicQuantizeLinear", "x", "xq,xs,xz"),
                ("ConvInteger", "xq,q,xz,zw", "c", CONV),
                ("Cast", "c", "f", {"to": 1}),
                ("Add", "f,b2", "y"),
            ],
            {**INT8, "b2": floats(1, 8, 1, 1)},
            PLAIN,
            id="ConvInteger",
        ),
        pytest.param(
            [("Conv", "x,w,b", "c", CONV), ("Conv", "c,w,b", "y", CONV)],
            {"w": floats(3, 3, 3, 3), "b": floats(3)},
            (84, 720, 2, 720 * 27, 720 * 27),
            id="a layer that runs twice",
        ),
        pytest.param(
            [("Conv", "x,w,b", "c", CONV), ("Conv", "c,w,b2", "y", CONV)],
            {"w": floats(3, 3, 3, 3), "b": floats(3), "b2": floats(3)},
            (168, 720, 2, 720 * 27, 720 * 27),
            id="two layers with merged weights",
        ),
        pytest.param(
            [("Conv", "x,w,z", "c", CONV), ("Conv", "c,w2,z", "y", CONV)],
            {"w": floats(3, 3, 3, 3), "w2": floats(3, 3, 3, 3), "z": floats(3) * 0},
            (168, 720, 2, 720 * 27, 720 * 27),
            id="biases of zeros",
        ),
        pytest.param(
            [("Sub", "x,mean", "s"), ("Mul", "s,two", "m"), ("Add", "m,mask", "y")],
            {
                "mean": floats(3, 1, 1),
                "two": np.array(2, np.float32),
                "mask": np.where(np.eye(12), -100, 0).astype(np.float32),
            },
            (0, 0, 0, 0, 0),
            id="nothing learned",
        ),
        pytest.param(
            [("Add", "x,table", "a"), ("Mul", "a,gain", "y")],
            {
                "table": floats(3, 30).take(range(360), 1, mode="wrap").reshape(3, 30, 12),
                "gain": floats(12),
            },
            (90 + 12, 0, 0, 0, 0),
            id="tables",
        ),
        pytest.param(
            [("MatMul", "x,w", "m"), ("Add", "m,b2", "y")],
            {"w": floats(12, 7).astype(np.float32), "b2": floats(7)},
            (91, 0, 0, 30 * 84, 30 * 84),
            id="linear",
        ),
        pytest.param(
            [("Attention", "x,x,x", "y")], {}, (0, 0, 0, 0, 0), id="attention in one node"
        ),
        pytest.param([("Gelu", "x", "y")], {}, (0, 0, 0, 0, 0), id="gelu"),
        pytest.param(
            [("GroupNormalization", "x,g,h", "y", {"num_groups": 3})],
            {"g": floats(3), "h": floats(3)},
            (6, 0, 0, 0, 5 * 360),
            id="group norm",
        ),
    ],
)
def test_nodes_in_closed_form(nodes, weights, expected):
    x = (1, 3, 30, 12) if "table" in weights else (1, 3, "h", "w")
    made = graph(nodes, 23, x, domains=("com.microsoft",), **weights)
    assert numbers(count_graph(made, (10, 12))) == expected


def test_products_that_a_counter_leaves_out_are_told():
    record = count_graph(graph([("Attention", "x,x,x", "y")], 23), (10, 12))
    assert record["uncounted_macs"] == {"Attention": 2 * 3 * 10 * 10 * 12}
    assert record["fvcore"]["uncounted_macs"] == record["uncounted_macs"]
    assert record["uncounted"] == {"Attention": 1}


def test_only_nodes_that_the_output_needs_are_counted():
    nodes = [("Conv", "x,w,b", "y", CONV), ("Conv", "x,w2,b2", "unused", CONV)]
    made = graph(nodes, w2=floats(8, 3, 3, 3), b2=floats(8), **WEIGHTS)
    made.graph.output.add(name="unused")
    ends = Interface(ImageEnd("x"), ImageEnd("y"), other_outputs=("unused",))
    assert numbers(count_graph(made, (10, 12), ends)) == PLAIN
    assert count_graph(made, (10, 12))["convs"] == 2


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_graphs_are_counted(name):
    record = count_graph(FOREIGN[name].make(), (256, 256))
    own = FOREIGN[name].hw if name == "luma_opset10" else (256, 256)
    assert record["convs"] == 1 and tuple(record.get("hw", (256, 256))) == own


def test_a_file_with_external_weights_is_counted(tmp_path):
    onnx.save(
        tiny_model(None),
        str(tmp_path / "a.onnx"),
        save_as_external_data=True,
        location="a.data",
        size_threshold=0,
    )
    assert count_graph(tmp_path / "a.onnx") == count_graph(tiny_model(None))
    assert "hw" not in count_graph(tmp_path / "a.onnx")


def test_fp16_graphs_have_the_same_counts():
    half, single = (count_graph(tiny_model((8, 8), precision=p)) for p in ("fp16", "fp32"))
    assert half == single and half["hw"] == [8, 8]


def test_a_graph_that_onnxruntime_optimised_has_the_same_counts(tmp_path):
    from sr_deploy.runtime.ort import raw_session

    made = graph([("Conv", "x,w,b", "c", CONV), ("Relu", "c", "y")], **WEIGHTS)
    raw_session(made.SerializeToString(), save_to=tmp_path / "fast.onnx", layout="nchw")
    fused = onnx.load(str(tmp_path / "fast.onnx"))
    assert [n.op_type for n in fused.graph.node] == ["FusedConv"]
    assert numbers(count_graph(fused, (10, 12))) == numbers(count_graph(made, (10, 12)))


# Branches, loops, and sizes that are computed in the graph.


def branch(name, *nodes, **weights):
    made = graph(nodes, **weights).graph
    made.name = name
    del made.input[:]
    return made


def test_the_branch_that_runs_is_counted():
    nodes = [
        ("Shape", "x", "shape"),
        ("Gather", "shape,two", "height"),
        ("Greater", "height,eight", "large"),
        (
            "If",
            "large",
            "y",
            {
                "then_branch": branch("a", ("Conv", "x,w,b", "y", CONV)),
                "else_branch": branch("b", ("Relu", "x", "y")),
            },
        ),
    ]
    made = graph(nodes, two=np.array(2), eight=np.array(8), **WEIGHTS)
    assert numbers(count_graph(made, (10, 12))) == PLAIN
    assert numbers(count_graph(made, (8, 12))) == (0, 0, 0, 288, 0)


def loop(condition):
    body = graph([("Conv", "v,w", "u", CONV), condition], w=floats(3, 3, 3, 3)).graph
    del body.input[:], body.output[:]
    value = onnx.helper.make_tensor_value_info
    body.input.extend([value("i", 7, []), value("go", 9, []), value("v", 1, None)])
    body.output.extend([value("next", 9, []), value("u", 1, None)])
    return body


def test_a_loop_is_counted_as_often_as_it_runs():
    body = loop(("Identity", "go", "next"))
    made = graph([("Loop", "rounds,,x", "y", {"body": body})], rounds=np.array(4))
    assert numbers(count_graph(made, (10, 12))) == (81, 1440, 4, 1440 * 27, 1440 * 27)


def test_shapes_that_do_not_follow_are_found_by_a_run():
    nodes = [("com.microsoft::Inverse", "x", "i"), ("Conv", "i,w,b", "y", CONV)]
    made = graph(nodes, domains=("com.microsoft",), **WEIGHTS)
    assert numbers(count_graph(made, (12, 12)))[1:3] == (144 * 8, 1)


@pytest.mark.parametrize(
    "nodes, words",
    [
        (
            [("ReduceMax", "x", "m", {"keepdims": 0}), ("Cast", "m", "c", {"to": 9})],
            "at 10x12: which branch of the node 'If:y' runs does not follow from the size",
        ),
        ([("acme::Conv", "x,w", "y")], "the operator acme::Conv of the node 'Conv:y' is not known"),
        (
            [("Reshape", "x,seven", "r"), ("Conv", "r,w,b", "y", CONV)],
            "at 10x12: the shape of 'r' does not follow from it, and the graph does not run: ",
        ),
        ([("acme::Sort", "x", "s"), ("Conv", "s,w,b", "y", CONV)], "the shape of 's'"),
        ([("Einsum", "x", "y", {"equation": "abcd->z"})], "it is damaged: ValueError"),
    ],
)
def test_what_cannot_be_counted_is_told(nodes, words):
    if "branch" in words:
        same = branch("a", ("Relu", "x", "y"))
        nodes = [*nodes, ("If", "c", "y", {"then_branch": same, "else_branch": same})]
    seven = np.array([1, 3, 7, -1])
    made = graph(nodes, domains=("acme",), seven=seven, **WEIGHTS)
    with pytest.raises(ArtifactError, match="the graph cannot be counted ") as e:
        count_graph(made, (10, 12))
    assert words in e.value.message


def test_a_graph_of_two_inputs_is_refused():
    made = graph([("Add", "x,z", "y")])
    made.graph.input.add(name="z")
    with pytest.raises(ArtifactError, match="expected one input, found 2: x, z"):
        count_graph(made)
