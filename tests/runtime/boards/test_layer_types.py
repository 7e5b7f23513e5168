from __future__ import annotations

import json

import pytest

from sr_deploy.core.errors import ArtifactError
from sr_deploy.runtime.boards.layer_types import (
    layers_from_json,
    layers_from_log,
    precision_of_layers,
)


def layer(kind, inputs, outputs, *, name="layer", new=False, **more):
    """Compose a layer after the inspector's format: one key until 10, two from 11."""

    def tensor(text):
        return (
            {"Name": "t", "Format": f"Row major linear {text} format (kLINEAR)", "DataType": text}
            if new
            else {"Format/Datatype": text}
        )

    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [tensor(t) for t in inputs],
        "Outputs": [tensor(t) for t in outputs],
        **more,
    }


def layers(*rows):
    return json.dumps({"Layers": list(rows), "Bindings": ["lr", "sr"]})


HALF, CHW4 = "Row major linear FP16 format", "Channel major FP16 format where channel % 4 == 0"
FULL = "Row major linear FP32"
UNKNOWN = "N/A due to dynamic shapes"


@pytest.mark.parametrize(
    "rows, expected",
    [
        (
            [
                layer("Reformat", [FULL], [HALF]),
                layer("CaskConvolution", [CHW4], [CHW4]),
                layer("Reformat", [HALF], [FULL]),
            ],
            ("fp16", {"fp16": 1}),
        ),
        (
            [layer("CaskConvolution", [FULL], [FULL]), layer("PointWiseV2", [FULL], [FULL])],
            ("fp32", {"fp32": 2}),
        ),
        (
            [
                layer("CaskConvolution", ["Half"], ["Half"]),
                layer("CaskConvolution", ["Float"], ["Float"]),
            ],
            ("mixed", {"fp16": 1, "fp32": 1}),
        ),
        # The last convolution of an FP16 engine may write FP32; a shuffle computes nothing.
        (
            [
                layer("kgen", [HALF], [HALF]),
                layer("kgen", [HALF], [FULL]),
                layer("Shuffle", [FULL], [FULL]),
            ],
            ("fp16", {"fp16": 1, "fp16+fp32": 1}),
        ),
        (
            [layer("kgen", [FULL], [FULL]), layer("kgen", [HALF], [FULL])],
            ("mixed", {"fp32": 1, "fp16+fp32": 1}),
        ),
        ([layer("kgen", [HALF], [FULL])], ("mixed", {"fp16+fp32": 1})),
        (
            [
                layer("kgen", [FULL], [HALF], name="__myl_Cast_myl0_1"),
                layer("kgen", [HALF], [HALF], name="__myl_AddMul_myl0_2"),
            ],
            ("fp16", {"fp16": 1}),
        ),
        (
            [layer("CaskConvolution", [UNKNOWN], [UNKNOWN], Weights={"Type": "Half", "Count": 9})],
            ("fp16", {"fp16": 1}),
        ),
        ([layer("CaskConvolution", [UNKNOWN], [UNKNOWN])], ("unknown", {})),
        ([layer("Convolution", ["Half"], ["Half"], new=True)], ("fp16", {"fp16": 1})),
        ([layer("Convolution", ["Float"], ["Float"], new=True)], ("fp32", {"fp32": 1})),
        ([layer("Convolution", ["BFloat16"], ["BF16"], new=True)], ("unknown", {})),
        (["conv1 + PWN(relu)", "shuffle"], ("unknown", {})),
        ([], ("unknown", {})),
    ],
)
def test_the_precision_is_read_from_the_layers(rows, expected):
    assert precision_of_layers(layers_from_json(layers(*rows))) == expected


@pytest.mark.parametrize("text", ["[]", "{}", '{"Layers": 3}', "no"])
def test_other_layer_texts_are_refused(text):
    with pytest.raises(ArtifactError, match="layer information"):
        layers_from_json(text)


INT8, INT8_4 = (
    "Thirty-two wide channel vectorized row major Int8 format",
    "Four wide channel vectorized row major Int8 format",
)


def convolution(x, y, weights, **more):
    weights = {"Weights": {"Type": weights, "Count": 9}}
    return layer("CaskConvolution", [x], [y], ParameterType="Convolution", **weights, **more)


@pytest.mark.parametrize(
    "rows, expected",
    [
        # As of TensorRT 8.5 with --int8 --fp16: what multiplies weights tells the precision.
        (
            [
                layer("Reformat", [FULL], [INT8_4], name="lr_q"),
                convolution(INT8_4, INT8, "Int8"),
                convolution(INT8, HALF, "Int8"),
                layer("PointWiseV2", [HALF, HALF], [HALF]),
            ],
            ("int8", {"int8": 2}),
        ),
        (
            [convolution(INT8, HALF, "Int8"), convolution(HALF, HALF, "Half")],
            ("mixed", {"int8": 1, "fp16": 1}),
        ),
        # Quantised, but computed in FP16 or FP32.
        (
            [layer("Scale", [HALF], [INT8]), convolution(HALF, HALF, "Half")],
            ("fp16", {"fp16": 2}),
        ),
        ([convolution(FULL, FULL, "Float")], ("fp32", {"fp32": 1})),
        # 10 and newer: a product of two computed values has no weights.
        (
            [
                layer("correlation", ["Int8"], ["Half"]),
                layer("gemm", ["Half", "Half"], ["Half"]),
                layer("kgen", ["Half"], ["Int8"]),
            ],
            ("int8", {"int8": 1}),
        ),
        (
            [layer("correlation", ["Int8"], ["Half"]), layer("gemm", ["Half"], ["Half"])],
            ("mixed", {"int8": 1, "fp16": 1}),
        ),
    ],
)
def test_int8_is_told_by_the_layers_with_weights(rows, expected):
    assert precision_of_layers(layers_from_json(layers(*rows))) == expected


# Lines that tensorrt_rtx 1.7.1 logged, shortened in the middle.
RTX = """Layers:
Name: __myl_MulMinMaxRounCast_myl0_0, LayerType: kgen, Inputs: [ { Name: lr, Dimensions: \
[1,3,128,128], Strides: [49152,16384,128,1], Datatype: Half, Format: (Linear) Row major linear \
format }], Constants: [ { Name: c, Dimensions: [1], Datatype: Float, Format: (Linear) Row major \
linear format }], Outputs: [ { Name: b, Dimensions: [1,4,128,128], Datatype: Int8, Format: (NHWC) \
Channel major format }], TacticName: __myl_MulMinMaxRounCast_0x96, StreamId: 0, Metadata: [ONNX \
Layer: cat_Q]
Name: __mye3912_myl0_1, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , \
StreamId: 0, EventId: 9, Metadata: \

Name: node_conv2d_myl0_2, LayerType: correlation, Inputs: [ { Name: b, Dimensions: [1,4,128,128], \
Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: \
[96,4,3,3], Datatype: Int8, Format: (NHWC) Channel major format }], Outputs: [ { Name: y, \
Dimensions: [1,96,128,128], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: \
__myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node_conv2d][ONNX Layer: cat_DQ]
Name: node_conv2d_3_myl0_5, LayerType: correlation, Inputs: [ { Name: b, Dimensions: \
[1,4,128,128], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [ { Name: w, \
Dimensions: [96,4,3,3], Datatype: Half, Format: (NHWC) Channel major format }], Outputs: [ { Name: \
y, Dimensions: [1,96,128,128], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: \
__myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node_conv2d_3]
"""
# A line of a public log of TensorRT 8.0 with --verbose, and two after its format.
LOG_80 = """\
[V] [TRT] Engine Layer Information:
Layer(Scale): lr_q, Tactic: 0, lr[Float(1,3,320,181)] -> lr_q[Int8(1,3,320,181)]
Layer(CaskConvolution): body.stage1.1.3.weight + QuantizeLinear_31_quantize_scale_node + Conv_33, \
Tactic: -3908975881807046106, Reformatted Input Tensor 0 to body.stage1.1.3.weight + \
QuantizeLinear_31_quantize_scale_node + Conv_33[Int8(1,8,320,181)] -> 444[Float(1,16,320,181)]
Layer(FusedConvActConvolution): Conv_34 + Relu_35, Tactic: 25, 444[Half(1,16,320,181)] -> \
446[Half(1,16,320,181)]
Layer(Reformat): Reformatting CopyNode for Output Tensor 0, Tactic: 0, 446[Half(1,16,320,181)] -> \
sr[Float(1,16,320,181)]
"""


@pytest.mark.parametrize("log", [RTX, LOG_80])
def test_layers_are_read_from_the_log_of_a_build(log):
    log = log.replace("\\\n", "")
    assert precision_of_layers(layers_from_log(log)) == ("mixed", {"int8": 1, "fp16": 1})
    floats = log.replace("Int8", "Half")
    assert precision_of_layers(layers_from_log(floats))[0] == "fp16"


def test_a_log_without_layers():
    log = "[I] Engine built in 3 sec.\n[V] Layer count: 3 -> 2\n"
    assert layers_from_log(log) == [] and precision_of_layers([]) == ("unknown", {})
