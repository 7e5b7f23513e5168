"""Equalised layers and corrected biases, on small graphs of all kinds of connections."""

import numpy as np
import pytest
from doubles.onnx_text import graph, run
from onnx import numpy_helper

from sr_deploy.core.target import Int8Rules
from sr_deploy.export.int8.corrections import bias_corrections, equalised, with_weights
from sr_deploy.export.int8.placement import ready_to_quantise
from sr_deploy.export.int8.plan import GraphView

RULES = Int8Rules("convolutions", "int8", symmetric=True)
RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.random((1, 3, 8, 8), np.float32) for _ in range(3)]
UNEQUAL = np.array([10, 1, 0.1, 1, 1, 0.01, 2, 1], np.float32)
"""Factors of the eight output channels of the first convolution."""
ENDS = {"w1": UNEQUAL[:, None, None, None] * RANDOM.standard_normal((8, 3, 3, 3)).astype("f")}
ENDS["b1"] = UNEQUAL * RANDOM.standard_normal(8).astype("f")


def net(body, **shapes):
    """Return a graph whose first convolution yields `a`, with unequal channels."""
    first = "a = Conv <pads = [1,1,1,1]> (lr, w1, b1)\n"
    model = graph(first + body, opset=17)
    weights = {name: RANDOM.standard_normal(shape).astype("f") for name, shape in shapes.items()}
    for name, values in {**ENDS, **weights}.items():
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    return ready_to_quantise(model)


LAST = "sr = Conv <pads = [1,1,1,1]> (z, w9)"
CONNECTED = {
    "relu": f"z = Relu (a)\n{LAST}",
    "trunk": f"r = LeakyRelu <alpha = 0.1> (a)\nt = Conv (r, k)\nz = Add (t, a)\n{LAST}",
    "pool": f"p = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)\n"
    f"up = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> ()\nz = Resize (p, , up)\n{LAST}",
    "gate": f"g = Conv (a, k)\ns = Sigmoid (g)\nz = Mul (a, s)\n{LAST}",
    "grouped": f"t = Conv <group = 4> (a, g4)\nz = Relu (t)\n{LAST}",
    "slopes": f"z = PRelu (a, slope)\n{LAST}",
}
SHAPES = {"w9": (3, 8, 3, 3), "k": (8, 8, 1, 1), "g4": (8, 2, 1, 1), "slope": (8, 1, 1)}


@pytest.mark.parametrize("kind", CONNECTED)
def test_equalised_layers_compute_the_same_and_fill_their_ranges(kind):
    model = net(CONNECTED[kind], **SHAPES)
    equal = with_weights(model, equalised(model, IMAGES))
    for x in IMAGES:
        y = run(model, x)
        assert np.abs(run(equal, x) - y).max() <= 1e-5 * np.abs(y).max()
    before, after = (_peaks(m, "z") for m in (model, equal))
    assert (before > before.max() / 2).sum() < 4 and (after > after.max() / 2).sum() >= 5
    assert after.max() <= before.max() * 1.001  # FP16 beside INT8 overflows no earlier


@pytest.mark.parametrize(
    "body",
    [
        "c = Constant <value_floats = [0.5]> ()\nz = Add (a, c)\n" + LAST,
        "z = Clip (a)\n" + LAST,
        "z = Sigmoid (a)\n" + LAST,
        "m = ReduceMean <axes = [1]> (a)\nz = Add (a, m)\n" + LAST,
        "s = Shape (a)\nf = Cast <to = 1> (s)\nn = ReduceMax <keepdims = 0> (f)\nz = Mul (a, n)\n"
        + LAST,
        "z = Concat <axis = 1> (a, a)\nsr = Conv (z, w16)",
    ],
)
def test_values_that_others_read_are_left_as_they_are(body):
    assert equalised(net(body, w9=(3, 8, 3, 3), w16=(3, 16, 1, 1)), IMAGES) == {}


def test_one_channel_that_an_addition_repeats_is_left_as_it_is():
    model = net(f"t = Conv (a, one)\nz = Add (a, t)\n{LAST}", w9=(3, 8, 3, 3), one=(1, 8, 1, 1))
    assert equalised(model, IMAGES) == {}


def test_a_channel_that_is_always_zero_stays_so():
    model = net(CONNECTED["relu"], **SHAPES)
    dead = {"w1": ENDS["w1"].copy(), "b1": ENDS["b1"].copy()}
    dead["w1"][2], dead["b1"][2] = 0, 0
    for tensor in model.graph.initializer:
        if tensor.name in dead:
            tensor.CopyFrom(numpy_helper.from_array(dead[tensor.name], tensor.name))
    equal = with_weights(model, equalised(model, IMAGES))
    assert np.allclose(run(equal, IMAGES[0]), run(model, IMAGES[0]), rtol=1e-4, atol=1e-4)


def test_corrected_biases_take_away_the_mean_error_of_rounded_weights():
    model = net(CONNECTED["relu"], **SHAPES)
    images = [x + 1 for x in IMAGES]  # means far from zero
    corrected = bias_corrections(model, images, RULES)
    view = GraphView(model)
    first = next(node for node in model.graph.node if node.input[1] == "w1")
    assert set(corrected) == {n.name for n in model.graph.node if view.has_weights(n)}
    weight, bias = corrected[first.name]
    steps = np.abs(weight).reshape(8, -1).max(axis=1)[:, None, None, None] / 127
    rounded = (np.rint(weight / steps) * steps).astype("f")
    layer = {first.name: corrected[first.name]._replace(weight=rounded)}
    plain = {first.name: corrected[first.name]._replace(weight=rounded, bias=ENDS["b1"])}
    exact, fixed, wrong = (
        np.mean([_value(m, "a", x)[..., 1:-1, 1:-1] for x in images], axis=(0, 1, 3, 4))
        for m in (model, with_weights(model, layer), with_weights(model, plain))
    )
    assert np.abs(fixed - exact).max() < np.abs(wrong - exact).max() / 4
    none = with_weights(model, layer, without=[first.name])
    assert none.graph.node[0].input[1] == "w1"


def _value(model, name, x):
    probed = type(model)()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    value = probed.graph.output.add()
    value.name = name
    value.type.tensor_type.elem_type = 1
    return run(probed, x)


def _peaks(model, name):
    return np.max([np.abs(_value(model, name, x)).max(axis=(0, 2, 3)) for x in IMAGES], axis=0)
