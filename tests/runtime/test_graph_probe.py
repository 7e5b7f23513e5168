"""Graphs of unknown origin, such as nearest x2, whose correct output is known."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, CannotRunHereError, InputError
from sr_deploy.core.onnx_file import artifact_sha256
from sr_deploy.runtime import graph_probe
from sr_deploy.runtime.graph_probe import (
    ContractError,
    find_contract,
    graph_precision,
    probe_graph,
)
from sr_deploy.runtime.opener import describe
from sr_deploy.runtime.ort import OnnxRuntimeSession, raw_session
from sr_deploy.runtime.tiled import HostTiles
from sr_deploy.runtime.tiling import plan_tiles, plan_whole

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs them")


@pytest.fixture()
def make_graph(tmp_path):
    """Save nodes from `x` to `y` as a graph; shapes may hold names for free sizes."""

    def make(nodes, shape, out_shape=(1, 3, "H", "W"), dtype="FLOAT", weights=()):
        element = getattr(onnx.TensorProto, dtype)
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            nodes,
            "g",
            [value("x", element, shape)],
            [value("y", element, out_shape)],
            [onnx.numpy_helper.from_array(array, name) for name, array in weights],
        )
        opset = [onnx.helper.make_opsetid("", 17)]
        path = tmp_path / "net.onnx"
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
        return path

    return make


SCALES = ("scales", np.array([1, 1, 2, 2], np.float32))
FREE = (1, 3, "h", "w")


def resize(source="x", target="y"):
    return onnx.helper.make_node(
        "Resize",
        [source, "", "scales"],
        [target],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def unshuffled(factor):
    """x2 by a network whose head folds blocks of `factor` pixels into channels."""
    return [
        onnx.helper.make_node("SpaceToDepth", ["x"], ["a"], blocksize=factor),
        onnx.helper.make_node("DepthToSpace", ["a"], ["b"], blocksize=factor),
        resize("b"),
    ]


def noise(h, w):
    return np.random.default_rng(0).random((1, 3, h, w), dtype=np.float32)


def doubled(x):
    return x.repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.smoke
def test_a_graph_of_any_size(make_graph):
    session = OnnxRuntimeSession(make_graph([resize()], FREE, weights=[SCALES]))
    assert (session.scale, session.min_hw, session.max_hw) == (2, (1, 1), None)
    np.testing.assert_array_equal(session.run(noise(5, 7)), doubled(noise(5, 7)))


def test_a_fixed_height_and_a_free_width(make_graph):
    session = OnnxRuntimeSession(make_graph([resize()], (1, 3, 48, "w"), weights=[SCALES]))
    assert session.scale == 2 and session.min_hw == (48, 1) and session.fixed_hw is None
    np.testing.assert_array_equal(session.run(noise(48, 31)), doubled(noise(48, 31)))
    with pytest.raises(InputError, match="takes a height of 48 only, not 64"):
        session.run(noise(64, 31))
    plan = plan_tiles((100, 40), session)
    assert {span.size for span in plan.y_spans} == {48}


def test_one_fixed_size(make_graph):
    session = OnnxRuntimeSession(make_graph([resize()], (1, 3, 16, 24), weights=[SCALES]))
    assert session.scale == 2 and session.fixed_hw == (16, 24)


@pytest.mark.parametrize("factor", [2, 4])
def test_sizes_that_must_be_multiples_are_mirrored(make_graph, factor):
    session = OnnxRuntimeSession(make_graph(unshuffled(factor), FREE, weights=[SCALES]))
    assert session.scale == 2 and session.align_px == factor
    for h, w in ((8, 12), (9, 13), (1, 1), (7, 16)):
        np.testing.assert_array_equal(session.run(noise(h, w)), doubled(noise(h, w)))


def test_quantised_graphs_are_int8_and_others_fp32(make_graph):
    node = onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])
    back = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"])
    weights = [SCALES]
    assert OnnxRuntimeSession(make_graph([resize()], FREE, weights=weights)).precision == "fp32"
    graph = make_graph([node, back, resize("a")], FREE, weights=weights)
    assert OnnxRuntimeSession(graph).precision == "int8"


FLOAT, UINT8, INT8, FLOAT16, BFLOAT16, FP8 = 1, 2, 3, 10, 16, 17  # of TensorProto.DataType


@pytest.mark.parametrize(
    "operators, types, precision",
    [
        (["Conv", "Relu"], [FLOAT], "fp32"),
        (["Conv"], [FLOAT16], "fp16"),
        (["Conv", "Cast"], [FLOAT, FLOAT16], "fp16"),
        (["Conv"], [BFLOAT16, FLOAT], "bf16"),
        (["DequantizeLinear", "Conv"], [INT8, FLOAT], "fp32"),  # weights alone
        (["MatMulNBits"], [UINT8, FLOAT], "fp32"),
        (["QuantizeLinear", "DequantizeLinear", "Conv"], [INT8, FLOAT], "int8"),
        (["QuantizeLinear", "DequantizeLinear", "Conv"], [FP8, FLOAT], "fp8"),
        (["DynamicQuantizeLinear", "ConvInteger", "Mul"], [INT8, FLOAT], "int8"),
        (["DynamicQuantizeLinear", "MatMulInteger", "Conv"], [INT8, FLOAT], "mixed: int8, fp32"),
        (["QuantizeLinear", "QLinearConv", "ConvTranspose"], [INT8, FLOAT16], "mixed: int8, fp16"),
    ],
)
def test_the_precision_is_read_off_the_graph(tmp_path, operators, types, precision):
    nodes = [onnx.helper.make_node(op, ["x"], [f"t{i}"]) for i, op in enumerate(operators)]
    weights = [onnx.TensorProto(name=f"w{i}", data_type=t, dims=[0]) for i, t in enumerate(types)]
    graph = onnx.helper.make_graph(nodes, "g", [], [], weights)
    path = tmp_path / "g.onnx"
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert graph_precision(path) == precision


def test_a_closed_session_is_refused(make_graph):
    with OnnxRuntimeSession(make_graph([resize()], FREE, weights=[SCALES])) as session:
        session.run(noise(5, 7))
    session.close()
    with pytest.raises(InputError, match="this session is closed"):
        session.run(noise(5, 7))


def test_a_graph_is_probed_once(make_graph, monkeypatch):
    path = make_graph([resize()], FREE, weights=[SCALES])
    first = probe_graph(path, raw_session(str(path)))
    monkeypatch.setattr(graph_probe, "find_contract", None)
    assert probe_graph(path, raw_session(str(path))) is first


def conv(weight_shape, **attributes):
    return onnx.helper.make_node("Conv", ["x", "w"], ["a"], **attributes), (
        "w",
        np.zeros(weight_shape, np.float32),
    )


@pytest.mark.parametrize(
    "shape, words",
    [
        ((4, 3, "h", "w"), "the batch of the input is 4; expected 1"),
        ((1, "h", "w", 4), r"the input has 4 channels; expected 3 \(RGB\) or 1 \(luma\)"),
        ((1, 12, "h", "w"), "the input has 12 channels; expected 3"),
        ((1, 3), "the input has 2 dimensions; expected an image"),
        ((1, 5, 3, "h", "w"), "5 dimensions, as of video networks"),
    ],
)
def test_ends_that_cannot_be_served(make_graph, shape, words):
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(CannotRunHereError, match=words):
        OnnxRuntimeSession(make_graph([node], shape, shape))


def test_a_crop_is_refused_with_its_size(make_graph):
    valid, weights = conv((3, 3, 3, 3))
    path = make_graph([valid, resize("a")], FREE, weights=[weights, SCALES])
    with pytest.raises(CannotRunHereError, match="32x32 becomes 60x60.*4 pixels less than x2"):
        OnnxRuntimeSession(path)


def test_another_scale_than_a_whole_one_is_refused(make_graph):
    scales = ("scales", np.array([1, 1, 1.5, 1.5], np.float32))
    with pytest.raises(CannotRunHereError, match="32x32 becomes 48x48.*one whole scale"):
        OnnxRuntimeSession(make_graph([resize()], FREE, weights=[scales]))


def test_an_unknown_operator_cannot_run_here(make_graph):
    node = onnx.helper.make_node("Unheard", ["x"], ["y"])
    with pytest.raises(CannotRunHereError, match="onnxruntime cannot load .*net.onnx"):
        OnnxRuntimeSession(make_graph([node], FREE))


def test_a_classifier_is_refused(make_graph):
    node = onnx.helper.make_node("GlobalAveragePool", ["x"], ["y"])
    with pytest.raises(CannotRunHereError, match="cannot be run as a super-resolution network"):
        OnnxRuntimeSession(make_graph([node], FREE, (1, 3, 1, 1)))


def test_the_identity_covers_external_data(make_graph, tmp_path):
    weight = np.zeros((3, 3, 3, 3), np.float32)
    identities = []
    for value in (0.0, 1.0):
        convolution, _ = conv(weight.shape, pads=[1, 1, 1, 1])
        path = make_graph([convolution, resize("a")], FREE, weights=[("w", weight + value), SCALES])
        model = onnx.load(str(path))
        onnx.save_model(
            model,
            str(path),
            save_as_external_data=True,
            location="net.onnx.data",
            size_threshold=0,
            convert_attribute=False,
        )
        identities.append(artifact_sha256(path))
        assert describe(path)[0].identity == identities[-1]
        (tmp_path / "net.onnx.data").unlink()
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    "name, words",
    [
        ("batch4_x2", "the batch of the input is 4"),
        ("h48_x2", ""),
        ("valid_x2", "pixels less than x2"),
        ("y_only_x2", ""),
        ("nhwc_x2", ""),
        ("uint8_x2", ""),
        ("fp16_scales", "onnxruntime cannot load .*fp16_scales.onnx"),
        ("int8_x2", ""),
        ("external_a/net", ""),
        ("external_b/net", ""),
    ],
)
def test_graphs_that_once_failed(shared_dir, name, words):
    path = shared_dir / "cases" / "graphs" / f"{name}.onnx"
    if words:
        with pytest.raises(ArtifactError, match=words):
            OnnxRuntimeSession(path)
    else:
        assert OnnxRuntimeSession(path).scale == 2


def network(scale=2, multiple=1, least=1, most=None, crop=0, inside=None, oblong=True, axis=None):
    """Return a `Run` of a network that takes certain sizes only.

    inside: the output's side for an input's, of networks that cut or pad their inputs themselves.
    """

    def run(hw):
        sides = [n for i, n in enumerate(hw) if axis in (None, i)]
        if min(sides) < least or (most and max(sides) > most) or (not oblong and hw[0] != hw[1]):
            return None
        if inside is None and any(n % multiple for n in sides):
            return None
        side = inside or (lambda n: n)
        return (1, 3, *(scale * side(n) - crop for n in hw))

    return run


FREE_SIDES = (None, None)


@pytest.mark.parametrize("multiple", [1, 2, 3, 5, 7, 8, 11, 12, 14, 20, 24, 32, 48, 64, 96])
def test_the_multiple_is_found(multiple):
    for run in (
        network(multiple=multiple),
        network(multiple=multiple, least=3 * multiple),
        network(inside=lambda n: n // multiple * multiple),  # such as floors of strides
        network(inside=lambda n: -(-n // multiple) * multiple),  # such as windows that pad
    ):
        sizes = find_contract(run, FREE_SIDES).sizes
        assert sizes.multiple == sizes.align_px == multiple and sizes.max_hw is None
    assert find_contract(network(multiple=multiple), FREE_SIDES).sizes.min_hw == (1, 1)


@pytest.mark.parametrize(
    "facts, fixed, scale, min_hw, max_hw",
    [
        (dict(scale=1), FREE_SIDES, 1, (1, 1), None),
        (dict(scale=8), FREE_SIDES, 8, (1, 1), None),
        (dict(least=10), FREE_SIDES, 2, (10, 10), None),
        (dict(least=150), FREE_SIDES, 2, (150, 150), None),
        (dict(least=300, multiple=4), FREE_SIDES, 2, (297, 297), None),
        (dict(most=64), FREE_SIDES, 2, (1, 1), (64, 64)),
        (dict(most=100, multiple=8), FREE_SIDES, 2, (1, 1), (96, 96)),
        (dict(least=64, most=64), FREE_SIDES, 2, (64, 64), (64, 64)),
        (dict(), (8, 8), 2, (8, 8), (8, 8)),
        (dict(), (48, None), 2, (48, 1), (48, 1 << 20)),
        (dict(axis=0, multiple=8, least=16), (None, 50), 2, (9, 50), (1 << 20, 50)),
        (dict(axis=1, most=80), (48, None), 2, (48, 1), (48, 80)),
    ],
)
def test_contracts(facts, fixed, scale, min_hw, max_hw):
    contract = find_contract(network(**facts), fixed)
    assert (contract.scale, contract.sizes.min_hw, contract.sizes.max_hw) == (scale, min_hw, max_hw)


@pytest.mark.parametrize(
    "run, fixed, words",
    [
        (network(crop=4), FREE_SIDES, "32x32 becomes 60x60 .*: 4 pixels less than x2 .unpadded"),
        (network(crop=32), FREE_SIDES, "32x32 becomes 32x32 .*: 32 pixels less than x2"),
        (network(crop=-4), FREE_SIDES, "32x32 becomes 68x68 .*: 4 pixels more than x2"),
        (network(crop=4), (None, 48), "32x48 becomes 60x92 .*: 4 pixels less than x2"),
        (network(crop=4), (48, 48), "48x48 becomes 92x92: expected one whole scale"),
        (network(scale=1.5), FREE_SIDES, "32x32 becomes 48.0x48.0 .*expected one whole scale"),
        (network(scale=0.5), FREE_SIDES, "expected one whole scale of at least 1"),
        (network(oblong=False), FREE_SIDES, "32x33 does not run: expected other sizes than square"),
        (
            lambda hw: (1, 3, 2 * hw[1], 2 * hw[0]),
            FREE_SIDES,
            "32x33 becomes 66x64: expected other",
        ),
        (lambda hw: (1, 3, 2 * hw[0], hw[1]), FREE_SIDES, "becomes 64x32 .*expected one whole"),
        (lambda hw: (1, 1, 2 * hw[0], 2 * hw[1]), FREE_SIDES, r"\(1, 1, 64, 64\).*expected \(1, 3"),
        (lambda hw: (1, 3), FREE_SIDES, r"becomes \(1, 3\)"),
        (lambda hw: (1, 3, 1, 1), FREE_SIDES, "becomes 1x1 .*expected one whole scale"),
        (lambda hw: None, FREE_SIDES, r"does not run as \(1, 3, H, W\) at any of 32x32, 48x48"),
        (lambda hw: None, (8, 8), r"does not run as \(1, 3, H, W\) at any of 8x8"),
    ],
)
def test_networks_that_cannot_be_served(run, fixed, words):
    with pytest.raises(ContractError, match=words):
        find_contract(run, fixed)


def test_a_slow_network_is_not_refined(monkeypatch):
    monkeypatch.setattr(graph_probe, "PROBE_S", 0.0)
    sizes = find_contract(network(), FREE_SIDES).sizes
    assert sizes.multiple == 32 and sizes.min_hw == (1, 1)


def mixed(factor):
    """x2 by a network whose result depends on where its blocks of `factor` pixels start."""
    channels = 3 * factor**2
    weight = np.eye(channels, k=1, dtype=np.float32)[:, :, None, None]
    return [
        onnx.helper.make_node("SpaceToDepth", ["x"], ["a"], blocksize=factor),
        onnx.helper.make_node("Conv", ["a", "m"], ["b"]),
        onnx.helper.make_node("DepthToSpace", ["b"], ["c"], blocksize=factor),
        resize("c"),
    ], ("m", weight)


@pytest.mark.parametrize(
    "factor, tile, hw", [(2, 45, (63, 65)), (7, 64, (64, 130)), (4, 40, (9, 81))]
)
def test_tiles_start_on_the_multiple(make_graph, factor, tile, hw):
    nodes, weight = mixed(factor)
    session = OnnxRuntimeSession(make_graph(nodes, FREE, weights=[SCALES, weight]))
    image = noise(*hw)[0].transpose(1, 2, 0)
    whole, tiled = (np.empty((2 * hw[0], 2 * hw[1], 3), np.float32) for _ in range(2))
    plan = plan_tiles(hw, session, tile=tile)
    HostTiles(session).start(plan, image, tiled, white=1.0)
    HostTiles(session).start(plan_whole(hw), image, whole, white=1.0)
    assert plan.tiles > 1
    np.testing.assert_array_equal(tiled, whole)


def test_only_free_sides_are_mirrored(make_graph):
    """A height of 50 is no multiple of 6, which the width must be of."""
    turn = [
        onnx.helper.make_node("Reshape", ["x", "to"], ["a"]),
        onnx.helper.make_node("Reshape", ["a", "back"], ["b"]),
        resize("b"),
    ]
    weights = [("to", np.array([1, 3, 50, -1, 6])), ("back", np.array([1, 3, 50, -1])), SCALES]
    session = OnnxRuntimeSession(make_graph(turn, (1, 3, 50, "w"), weights=weights))
    assert session.min_hw == (50, 1)
    np.testing.assert_array_equal(session.run(noise(50, 31)), doubled(noise(50, 31)))


VALUE = onnx.helper.make_tensor_value_info
FLOAT = onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    "inputs, words", [(["scales"], ""), (["noise"], "one input, the image, found 2: x, noise")]
)
def test_inputs_that_have_values_are_no_inputs(make_graph, inputs, words):
    nodes = [onnx.helper.make_node("Add", ["x", "noise"], ["a"]), resize("a")]
    weights = [SCALES, *([] if words else [("noise", np.zeros(1, np.float32))])]
    path = make_graph(nodes, FREE, weights=weights)
    model = onnx.load(str(path))
    sizes = {"scales": [4], "noise": [1]}
    model.graph.input.extend(VALUE(name, FLOAT, sizes[name]) for name in inputs)
    model.ir_version = 3 if not words else 8
    if not words:
        model.graph.input.append(VALUE("noise", FLOAT, [1]))  # of IR 3, all are listed
    onnx.save(model, str(path))
    if words:
        with pytest.raises(CannotRunHereError, match=words):
            OnnxRuntimeSession(path)
    else:
        assert OnnxRuntimeSession(path).scale == 2


@pytest.mark.parametrize(
    "out_shape, words",
    [
        (None, ""),
        ((1, 3, -1, -1), ""),
        (("n", "c", "h", "w"), ""),  # the same names as the input's
        ((1, 3, 64, 64), r"declares an output of \[1, 3, 64, 64\], but computes x2"),
    ],
)
def test_declared_outputs(make_graph, out_shape, words):
    path = make_graph([resize()], FREE, out_shape, weights=[SCALES])
    if words:
        with pytest.raises(CannotRunHereError, match=words):
            OnnxRuntimeSession(path)
    else:
        session = OnnxRuntimeSession(path)
        np.testing.assert_array_equal(session.run(noise(5, 7)), doubled(noise(5, 7)))


def test_a_huge_fixed_size_is_not_run(make_graph, monkeypatch):
    monkeypatch.setattr(graph_probe, "find_contract", None)
    session = OnnxRuntimeSession(make_graph([resize()], (1, 3, 8192, 4096), weights=[SCALES]))
    assert session.scale == 2 and session.fixed_hw == (8192, 4096)


def test_memory_and_time_of_a_probe_are_bounded(make_graph, monkeypatch):
    scales = ("scales", np.array([1, 1, 1500, 1500], np.float32))
    path = make_graph([resize()], FREE, weights=[scales])
    with pytest.raises(CannotRunHereError, match="does not run .* at any of 32x32.*; at 32x32: "):
        OnnxRuntimeSession(path)
    monkeypatch.setattr(graph_probe, "PROBE_RUN_S", 0.2)
    body = onnx.helper.make_graph(
        [onnx.helper.make_node(*x) for x in (("Identity", ["c"], ["d"]), ("Relu", ["a"], ["b"]))],
        "body",
        [VALUE("i", onnx.TensorProto.INT64, []), VALUE("c", onnx.TensorProto.BOOL, [])]
        + [VALUE("a", FLOAT, FREE)],
        [VALUE("d", onnx.TensorProto.BOOL, []), VALUE("b", FLOAT, FREE)],
    )
    endless = [onnx.helper.make_node("Loop", ["n", "t", "x"], ["l"], body=body), resize("l")]
    weights = [SCALES, ("n", np.array(2**62)), ("t", np.array(True))]
    with pytest.raises(CannotRunHereError, match="at 32x32: it takes more than 0.2 s"):
        OnnxRuntimeSession(make_graph(endless, FREE, weights=weights))


def test_a_name_that_is_not_text_is_damage(make_graph):
    path = make_graph([resize()], ("batch", 3, "h", "w"), weights=[SCALES])
    path.write_bytes(path.read_bytes().replace(b"batch", b"bat\xff\xff"))
    with pytest.raises(ArtifactError):
        OnnxRuntimeSession(path)
