"""FP16 graphs in real half precision, which ONNX Runtime's CPU provider does not use."""

import re

import numpy as np
import pytest
from doubles.onnx_text import chain, graph
from doubles.onnx_text import run as run_as

from sr_deploy.export import half
from sr_deploy.export.emulation import check_half, half_emulation
from sr_deploy.runtime.ort import raw_session

RNG = np.random.default_rng(0)
IMAGE = RNG.random((1, 3, 6, 7), dtype=np.float32)


def fp16_graph(model, **options):
    return half.fp16_graph(model, **options).model


def run(model, x=IMAGE):
    half_input = model.graph.input[0].type.tensor_type.elem_type == 10
    return run_as(model, x.astype(np.float16 if half_input else np.float32)).astype(np.float32)


def report_of(model):
    return check_half(fp16_graph(model, io_dtype="fp16"), [IMAGE], [run(model)])


def test_overflow_that_onnxruntime_does_not_show_is_found():
    model = chain(40000.0, np.full((3, 3), 40000.0), 1e-5, 1e-5)
    assert np.isfinite(run(fp16_graph(model, io_dtype="fp16"))).all(), (
        "onnxruntime now computes FP16: this check may go"
    )
    report = report_of(model)
    assert report.overflows[0].tensor == "t1" and report.largest["t1"] > 65504
    assert "values overflow: node 'conv1' (Conv) reaches " in report.problems()[0]


def test_an_overflow_that_a_later_operator_hides_is_found():
    report = report_of(chain(400.0, 400.0, 1e-4, 6.25e-2))
    assert "t1" in [o.tensor for o in report.overflows] and report.problems()


def test_a_dead_output_is_found():
    model = chain(1e-4, 1e-4, 1e4, 1e4)
    np.testing.assert_allclose(run(model), IMAGE, rtol=1e-5)
    report = report_of(model)
    assert report.dead and not report.overflows
    assert any("dead" in p for p in report.problems())


def test_a_constant_output_is_not_dead_if_fp32_is_constant_too():
    assert not report_of(chain(0.0)).dead


def test_a_healthy_graph_has_no_problems():
    report = report_of(chain(2.0, 0.25, 2.0))
    assert report.problems() == [] and report.overflows == () and not report.dead
    assert report.psnr_db > 70
    np.testing.assert_allclose(
        [report.largest[t] for t in ("t0", "t1", "sr")],
        IMAGE.max() * np.array([2, 0.5, 1]),
        rtol=1e-3,
    )


def test_a_loss_of_precision_is_found():
    # Products below FP16's normal range keep only a few bits.
    report = report_of(chain(1e-3, 1e-3, 1e3, 1e3))
    assert not report.dead and not report.overflows
    assert any("dB against FP32, expected at least 50" in p for p in report.problems())


@pytest.mark.parametrize("io_dtype", ["fp32", "fp16"])
def test_emulation_of_one_convolution_is_numpys_rounding(io_dtype):
    weight = RNG.normal(size=(3, 3)).astype(np.float32)
    half = fp16_graph(chain(weight), io_dtype=io_dtype)
    emulation, watched = half_emulation(half)
    x = IMAGE.astype(np.float16).astype(np.float32)
    y, *peaks = raw_session(emulation.SerializeToString(), optimise=False).run(None, {"lr": x})
    exact = np.einsum(
        "oc,nchw->nohw", weight.astype(np.float16).astype(np.float64), x.astype(np.float64)
    )
    rounded = exact.astype(np.float32).astype(np.float16)
    differing = y.astype(np.float16) != rounded
    assert (y == y.astype(np.float16)).all()
    assert (
        differing.mean() < 0.02
    )  # FP32 summation order can tip a value that lies between two halves
    np.testing.assert_allclose(y, rounded.astype(np.float32), rtol=2**-10)
    assert not np.array_equal(y, exact.astype(np.float32))
    assert len(peaks) == len(watched)
    assert max(float(p) for p in peaks) == pytest.approx(np.abs(exact).max(), rel=1e-3)


def test_the_input_is_rounded_to_half_as_well():
    half = fp16_graph(chain(1.0), io_dtype="fp16")
    emulation, _ = half_emulation(half)
    y = raw_session(emulation.SerializeToString(), optimise=False).run(None, {"lr": IMAGE})[0]
    np.testing.assert_array_equal(y, IMAGE.astype(np.float16).astype(np.float32))


def test_the_worst_of_several_images_counts():
    model = chain(300.0, 300.0, 1e-4, 0.1)
    dark = IMAGE * 1e-3
    half = fp16_graph(model, io_dtype="fp16")
    assert check_half(half, [dark], [run(model, dark)]).overflows == ()
    report = check_half(half, [dark, IMAGE, dark], [run(model, dark), run(model), run(model, dark)])
    assert "t1" in [o.tensor for o in report.overflows]


def test_a_nan_of_one_image_is_not_lost_in_the_next():
    model = chain(300.0, 300.0, np.zeros((3, 3)), 0.1)
    dark = IMAGE * 1e-3
    half = fp16_graph(model, io_dtype="fp16")
    report = check_half(half, [IMAGE, dark], [run(model), run(model, dark)])
    assert np.isnan(report.largest["t2"]) and report.following == 2


def test_only_fp16_results_are_rounded():
    mixed = half.fp16_graph(chain(1 / 3, 3.0), io_dtype="fp32", fp32_nodes=("conv0", "conv1"))
    emulation, watched = half_emulation(mixed.model)
    y = raw_session(emulation.SerializeToString(), optimise=False).run(None, {"lr": IMAGE})[0]
    assert watched == []
    np.testing.assert_allclose(y, run(mixed.model), rtol=1e-6)


def test_every_overflow_is_named_and_what_follows_is_counted():
    report = report_of(chain(400.0, 400.0, 1e-3, 400.0, 400.0, 1e-7))
    first = report.overflows[0]
    assert (first.node, first.op, first.tensor) == ("conv1", "Conv", "t1") and first.peak > 1e5
    text = "; ".join(report.problems())
    assert "node 'conv1' (Conv) reaches 1.595e+05 in 't1'" in text
    assert "(4 tensors follow from these)" in text


def test_a_fp32_result_that_a_reader_takes_in_fp16_is_of_its_maker():
    mixed = half.fp16_graph(
        chain(400.0, 400.0, 1e-4, 6.25e-2), io_dtype="fp16", fp32_nodes=("conv1",)
    )
    (overflow,) = check_half(mixed.model, [IMAGE], [IMAGE]).overflows
    assert (overflow.node, overflow.op) == ("conv1", "Conv")


def test_infinite_masks_are_no_overflow():
    model = graph(
        "g = Greater(lr, k) q = Where(g, lr, m) sr = Softmax <axis=1>(q)",
        constants="float k = {0}, float m = {-inf}",
        hw="6,7",
    )
    assert report_of(model).problems() == []


LARGE = (
    "float k = {400}, float[3] g = {1, 1, 1}, float[3] b = {0, 0, 0}, "
    "float[7] s = {1, 1, 1, 1, 1, 1, 1}"
)


@pytest.mark.parametrize(
    "opset, nodes, named",
    [
        (13, "a = Mul(lr, k) [n] sr = InstanceNormalization(a, g, b)", "squares values up to 398"),
        (
            13,
            "a = Mul(lr, k) [n] c = ReduceL2 <axes=[1]>(a) sr = Add(a, c)",
            "squares values up to 398",
        ),
        (13, "a = Mul(lr, k) [n] sr = Mul(a, a)", "reaches 1.59e.05"),
        (17, "a = Mul(lr, k) [n] sr = LayerNormalization <stash_type=1>(a, s)", ""),
        (23, "a = Mul(lr, k) [n] sr = Attention(a, a, a)", "reaches"),
    ],
)
def test_squares_inside_of_operators(opset, nodes, named):
    model = graph(nodes, opset=opset, constants=LARGE, hw="6,7")
    report = report_of(model)
    assert report.largest["a"] == pytest.approx(400 * IMAGE.max(), rel=1e-3)
    if named:
        assert re.search(rf"node 'n' \(\w+\) {named}", report.problems()[0])
    else:  # ONNX defines its statistics to be FP32
        assert report.problems() == [] and report.stashed["n"] == pytest.approx(
            (400 * IMAGE.max()) ** 2, rel=1e-2
        )


def test_results_in_branches_are_rounded():
    model = graph(
        "m = ReduceMax <keepdims=0>(lr) c = Greater(m, k) sr = If <"
        "then_branch = t () => (float[1,3,6,7] a) { s = Mul(lr, l) r = Mul(s, j) a = Mul(r, q) }, "
        "else_branch = e () => (float[1,3,6,7] b) { b = Identity(lr) }>(c)",
        constants="float k = {0.1}, float l = {1e-6}, float j = {6e4}, float q = {16}",
        hw="6,7",
    )
    report = report_of(model)
    assert not report.overflows and report.psnr_db < 50
