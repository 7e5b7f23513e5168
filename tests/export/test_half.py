"""FP16 graphs in real half precision, which ONNX Runtime's CPU provider does not use."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.export import half
from sr_deploy.export.emulation import check_half, half_emulation
from sr_deploy.export.half import precision_of, tensor_types
from sr_deploy.runtime.ort import raw_session

RNG = np.random.default_rng(0)
IMAGE = RNG.random((1, 3, 6, 7), dtype=np.float32)


def fp16_graph(model, **options):
    return half.fp16_graph(model, **options).model


def chain(*weights):
    """1x1 convolutions of 3 to 3 channels; a number stands for that multiple of the identity."""
    nodes, constants, last = [], [], "lr"
    for i, weight in enumerate(weights):
        matrix = np.eye(3) * weight if np.isscalar(weight) else weight
        constants.append(
            numpy_helper.from_array(
                np.asarray(matrix, dtype=np.float32).reshape(3, 3, 1, 1), f"w{i}"
            )
        )
        output = "sr" if i == len(weights) - 1 else f"t{i}"
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [output], name=f"conv{i}"))
        last = output
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 6, 7])
        for name in ("lr", "sr")
    ]
    return helper.make_model(
        helper.make_graph(nodes, "g", values[:1], values[1:], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def run(model, x=IMAGE):
    dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"lr": x.astype(dtype[session.get_inputs()[0].type])})[0].astype(
        np.float32
    )


def report_of(model):
    return check_half(fp16_graph(model, io_dtype="fp16"), [IMAGE], [run(model)])


@pytest.mark.parametrize("io_dtype", ["fp32", "fp16"])
def test_every_tensor_becomes_half(io_dtype):
    model = chain(0.5, 2.0)
    half = fp16_graph(model, io_dtype=io_dtype)
    assert (tensor_types(model), precision_of(model)) == ({"fp32": 2}, "fp32")
    assert (tensor_types(half), precision_of(half)) == ({"fp16": 2}, "fp16")
    assert {t.data_type for t in half.graph.initializer} == {TensorProto.FLOAT16}
    expected = TensorProto.FLOAT16 if io_dtype == "fp16" else TensorProto.FLOAT
    for value in (half.graph.input[0], half.graph.output[0]):
        assert value.type.tensor_type.elem_type == expected
    assert sum(n.op_type == "Cast" for n in half.graph.node) == (0 if io_dtype == "fp16" else 2)
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT, "the original was changed"
    onnx.checker.check_model(half, full_check=True)


@pytest.mark.parametrize("op", ["Resize", "MaxPool", "ReduceMean", "Softmax"])
def test_no_operator_is_kept_in_fp32(op):
    made = {
        "Resize": helper.make_node("Resize", ["lr", "", "s"], ["sr"], mode="linear"),
        "MaxPool": helper.make_node("MaxPool", ["lr"], ["sr"], kernel_shape=[2, 2]),
        "ReduceMean": helper.make_node("ReduceMean", ["lr"], ["sr"], axes=[2, 3]),
        "Softmax": helper.make_node("Softmax", ["lr"], ["sr"]),
    }[op]
    model = helper.make_model(
        helper.make_graph(
            [made],
            "g",
            [helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 3, 6, 7])],
            [helper.make_tensor_value_info("sr", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "s")]
            if op == "Resize"
            else [],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    half = fp16_graph(model, io_dtype="fp32")
    assert precision_of(half) == "fp16"
    np.testing.assert_allclose(run(half), run(model), atol=1e-3)
    emulation, _ = half_emulation(half)
    y = raw_session(emulation.SerializeToString(), optimise=False).run(None, {"lr": IMAGE})[0]
    np.testing.assert_allclose(y, run(model), atol=1e-3)


def test_a_graph_of_both_types_says_so():
    nodes = [
        helper.make_node("Relu", ["lr"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Neg", ["c"], ["sr"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("lr", TensorProto.FLOAT, [1, 3, 6, 7])],
            [helper.make_tensor_value_info("sr", TensorProto.FLOAT16, [1, 3, 6, 7])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert precision_of(model) == "mixed: 2 fp16, 1 fp32"


@pytest.mark.parametrize("weight", [65520.0, -1e6])
def test_weights_half_cannot_hold_are_refused(weight):
    with pytest.raises(
        ExportError, match=r"weight exceeds .* 65504: 'w1' of node 'conv1' \(Conv\)"
    ):
        fp16_graph(chain(1.0, weight), io_dtype="fp16")
    fp16_graph(chain(1.0, 65504.0), io_dtype="fp16")


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
