"""INT8 graphs and their loss in dB, of a network that repeats pixels: its output is a picture."""

import numpy as np
import pytest
from doubles.onnx_text import graph, run
from onnx import numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.core.progress import Progress
from sr_deploy.core.target import Int8Rules
from sr_deploy.export.int8.calibration import Calibration, CropPair
from sr_deploy.export.int8.loss import ONE_LEVEL_DB, LossMeter
from sr_deploy.export.int8.quantise import Int8Options, int8_graph, loss_text

RULES = Int8Rules("convolutions", "int8", symmetric=True)
ALL = Int8Rules("operators", "uint8", symmetric=False, quantised_bias=True)
HW = (16, 16)


def crops(count, seed):
    """Pictures of waves, and what they are at half the size."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:32, :32] / 32
    for _ in range(count):
        waves = rng.uniform(2, 9, (3, 2)) @ np.array([y.ravel(), x.ravel()])
        hr = 0.5 + 0.45 * np.sin(waves + rng.uniform(0, 6, (3, 1))).reshape(3, 32, 32)
        lr = hr.reshape(3, 16, 2, 16, 2).mean(axis=(2, 4))[None].astype(np.float32)
        yield CropPair(lr, np.rint(hr * 255).astype(np.uint8).transpose(1, 2, 0))


CROPS = Calibration(tuple(crops(4, 0)), tuple(crops(6, 1)), "digest")


def net(between="Clip", *, hw="16,16"):
    """Return a network x2 of which one value has channels from 0..1 and one to 200."""
    model = graph(
        f"a = Conv (lr, w1)\nz = {between} (a)\nb = Conv (z, w2)\nc = Conv (b, w3)\n"
        "sr = DepthToSpace <blocksize = 2> (c)",
        opset=17,
        hw=hw,
    )
    eye = np.eye(3)
    for name, matrix in {
        "w1": np.vstack([eye, 200 * eye[:1]]),
        "w2": np.hstack([eye, 1e-4 * eye[:, :1]]),
        "w3": np.vstack([eye[c : c + 1] for _ in range(4) for c in range(3)]),
    }.items():
        values = matrix.astype(np.float32)[:, :, None, None]
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    for node, name in zip(model.graph.node, ("head", "limit", "body", "tail", "shuffle")):
        node.name = name
    return model


def made(model=None, *, keep="auto", limit=0.1, rules=RULES, learnt=None, calibration=CROPS):
    options = Int8Options(rules, keep, limit, learnt)
    return int8_graph(model or net(), calibration, options, name="net.onnx")


def test_the_one_layer_that_loses_much_is_found_and_kept():
    found = made()
    record, meter = found.record, LossMeter(net(), CROPS.held_out)
    assert found.kept == ("body",) and record["layers"] == [2, 3] and record["keep"] == "auto"
    assert [point["kept"] for point in record["curve"]] == [0, 1, 2]
    assert record["curve"][0]["loss_db"] > 5 and record["curve"][1]["layers"] == ["body"]
    assert record["fewest"] and 0 < record["runs"] <= 10
    loss = meter(found.model)
    assert record["loss_db"] == round(loss.loss_db, 4) <= 0.1
    assert record["psnr_db_vs_fp32"] == round(loss.psnr_db_vs_fp32, 2) > 40
    assert record["psnr_db_fp32"] == round(meter.psnr_db, 2)
    assert record["measured_on"] == "6 crops of 16x16"
    assert set(record["tried_loss_db"]) >= {"min-max", "percentile", "mse"}
    text = loss_text(record)
    assert "dB against FP32, " in text and text.endswith("(limit 0.10), 2 of 3 layers in INT8")


def test_equalised_layers_need_none_to_be_kept():
    found = made(net("Relu"))
    assert found.kept == () and found.record["corrections"][0] == "equalised"
    tried = found.record["tried_loss_db"]
    assert tried["min-max"] > 5 and min(tried.values()) < 0.1
    x = CROPS.held_out[0].lr
    assert np.abs(run(found.model, x) - run(net("Relu"), x)).max() < 0.03


def test_layers_to_keep_can_be_given_and_a_loss_beyond_the_limit_is_refused():
    assert made(keep="body").kept == ("body",)
    with pytest.raises(
        ExportError, match=r"net.onnx: INT8 loses \d+\.\d+ dB; the limit is 0.1"
    ) as e:
        made(keep="none")
    advice = ("--keep auto", "--max-loss-db ", "other pictures", "train the network for INT8")
    assert all(words in e.value.hint for words in advice)
    with pytest.raises(ExportError, match=r"INT8 loses \d+\.\d+ dB; the limit"):
        made(keep="ends")
    loose = made(keep="ends", limit=60.0)
    assert loose.kept == ("head", "tail") and loose.record["curve"][0]["kept"] == 2
    with pytest.raises(ExportError, match="; the limit is"):
        made(keep="ends", limit=loose.record["loss_db"] - 0.01)
    with pytest.raises(ExportError, match="'bdy' is not the name of a layer that would be INT8"):
        made(keep="bdy")
    with pytest.raises(ExportError, match="keeps all that could be INT8: head, body, tail"):
        made(keep="head,body,tail")


def test_where_no_choice_helps_auto_says_what_is_lost_at_least():
    learnt = {name: (0.0, 1e-3) for name in ("head", "body", "tail")}  # cut nearly all off
    with pytest.raises(ExportError, match=r"INT8 loses \d+\.\d+ dB.*; the limit is 0.1 dB") as e:
        made(learnt=learnt)
    assert "--keep auto" not in e.value.hint and "--max-loss-db" in e.value.hint


def test_learnt_ranges_are_used_as_they_are():
    learnt = {"head": (0.0, 1.0), "body": (0.0, 200.0), "tail": (0.0, 1.0)}
    record = made(learnt=learnt, limit=60.0, keep="none").record
    assert record["method"] == "learnt" and record["corrections"] == []
    assert list(record["tried_loss_db"]) == ["learnt"]


@pytest.mark.parametrize("rules", [RULES, ALL])
def test_graphs_are_measured_at_the_size_of_crops_and_made_for_their_own(rules):
    found = int8_graph(
        net("Relu", hw="24,40"),
        CROPS,
        Int8Options(rules, max_loss_db=1.0),
        name="net.onnx",
        at_crops=net("Relu"),
    )
    assert run(found.model, np.zeros((1, 3, 24, 40), np.float32)).shape == (1, 3, 48, 80)


def test_any_layers_can_be_kept_where_the_skips_of_additions_are_quantised():
    """With one of two convolutions kept, the other's addition has another skip."""
    model = graph(
        "a = Conv (lr, w1)\nb = Conv (a, w2)\nc = Conv (a, w2)\nd = Add (b, c)\n"
        "e = Conv (d, w3)\nsr = DepthToSpace <blocksize = 2> (e)",
        opset=17,
        hw="16,16",
    )
    for tensor, scale in zip(net().graph.initializer, (1, 0.5, 1)):
        values = numpy_helper.to_array(tensor) * np.float32(scale)
        model.graph.initializer.append(numpy_helper.from_array(values, tensor.name))
    for node, name in zip(model.graph.node, ("head", "left", "right", "sum", "tail", "shuffle")):
        node.name = name
    rules = Int8Rules("convolutions", "int8", symmetric=True, residuals=True)
    for keep in ("none", "left", "right", "left,right", "tail,right", "head"):
        assert ",".join(sorted(made(model, keep=keep, limit=60.0, rules=rules).kept)) == (
            "" if keep == "none" else ",".join(sorted(keep.split(",")))
        )


def test_what_cannot_be_quantised_says_so():
    shuffle = graph("c = Concat <axis = 1> (lr, lr, lr, lr)\nsr = DepthToSpace <blocksize = 2> (c)")
    with pytest.raises(ExportError, match="no layer can be INT8") as e:
        made(shuffle)
    assert "--precision fp32" in e.value.hint
    broken = net()
    broken.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.full((3, 4, 1, 1), np.nan, np.float32), "w2")
    )
    with pytest.raises(ExportError, match="'w2' of node 'body' .* are not numbers|not numbers"):
        made(broken)


def test_the_work_is_shown():
    seen = []

    class Shown(Progress):
        def track(self, what, total=0, *, unit="", done=0):
            seen.append(what)
            return super().track(what, total, unit=unit, done=done)

    int8_graph(net(), CROPS, Int8Options(RULES), name="net.onnx", progress=Shown())
    assert seen == ["calibrating INT8", "measuring layers in INT8"]


def test_flat_pictures_do_not_outweigh_the_others():
    """FP32 repeats a flat picture exactly; an error of less than a level is no loss there."""
    flat = CropPair(np.full((1, 3, *HW), 0.5, np.float32), np.full((32, 32, 3), 128, np.uint8))
    meter = LossMeter(net("Relu"), [flat, *CROPS.held_out])
    shifted = net("Relu")
    weights = numpy_helper.to_array(shifted.graph.initializer[2]) * (1 + 1 / 300)
    shifted.graph.initializer[2].CopyFrom(numpy_helper.from_array(weights, "w3"))
    assert meter(net("Relu")).loss_db == 0 and meter.psnr_db < ONE_LEVEL_DB
    assert abs(meter(shifted).loss_db) < 0.2
