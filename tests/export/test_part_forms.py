"""Graphs of adaptive networks for targets and precisions."""

from __future__ import annotations

import functools

import onnx
import pytest
import torch
from torch import nn

from sr_deploy.core.errors import ExportError, TargetError
from sr_deploy.core.routers import RoutedPlan
from sr_deploy.export.part_forms import PlanForm, _half_graph
from sr_deploy.export.parts import PartSpec, checked_part, write_plan
from sr_deploy.runtime.build import engine_from_onnx
from sr_deploy.runtime.opener import describe, open_session
from sr_deploy.runtime.opener.plan import load_plan

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


class Start(nn.Module):
    """Features, and their sum, which exceeds FP16."""

    def __init__(self, weight):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.conv.weight.data.mul_(weight)

    def forward(self, lr):
        features = torch.relu(self.conv(lr))
        return features, (features * 1000).sum((2, 3))


class Choice(nn.Module):
    """A router that always takes the first of two classes, and branches that enlarge."""

    def __init__(self, router):
        super().__init__()
        self.router = router

    def forward(self, lr):
        if self.router:
            return lr.mean((2, 3))[:, :2] * torch.tensor([1.0, 0.0])
        return nn.functional.interpolate(lr, scale_factor=2.0)


@functools.lru_cache(maxsize=None)
def routed():
    plan = RoutedPlan("r_x2", 2, ("a", "b"), (1, 2), 1, 8, "0", overlap=2)
    given = {"inputs": {"lr": ("N", 3, 8, 8)}, "sizes": {"N": (1, 2, 16)}}
    sr, x = {"sr": ("N", 3, 16, 16)}, (torch.rand(2, 3, 8, 8),)
    decided = {"outputs": {"logits": ("N", 2)}, "decisions": ("logits",)}
    parts = {"router": checked_part(PartSpec(Choice(True), x, **decided, **given))}
    for name in plan.names:
        parts[name] = checked_part(PartSpec(Choice(False), x, outputs=sr, **given))
    return plan, parts


def types_of(path):
    graph = onnx.load(str(path)).graph
    ends = (*graph.input, *graph.output)
    return {end.name: end.type.tensor_type.elem_type for end in ends}


def test_fp16_graphs_keep_decisions_in_fp32_and_are_built_for_rtx(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    form, lines = PlanForm.from_names("rtx", None), []
    assert (form.precision, form.dtype, form.opset) == ("fp16", "fp16", 17)
    path = write_plan(*routed(), tmp_path / "graphs", form, lines.append)
    assert path.name == "r_x2.fp16.routed.json" and "dB against FP32" in lines[-1]
    plan = load_plan(path)
    assert (plan.target, plan.precision, plan.psnr_db_vs_fp32 > 50) == ("rtx", "fp16", True)
    router = plan.parts["router"]
    assert router.dtypes == {"lr": "fp16"} and plan.parts["a"].dtypes == {
        "lr": "fp16",
        "sr": "fp16",
    }
    assert types_of(path.parent / router.file) == {"lr": HALF, "logits": FLOAT}
    (network,) = describe(path)
    assert (network.precision, network.target) == ("fp16", "rtx")
    with open_session(path) as session:
        assert session.precision == "fp32"  # as ONNX Runtime computes it on a CPU
    (engines,) = engine_from_onnx(path, tmp_path / "engines", target="rtx")
    engine = load_plan(engines).engine
    assert engine.precision_obtained == "fp16" and engine.receipts["a"]["layers"] == {"fp16": 1}
    assert engine.not_checked[0].startswith("the engines' output: ")


def test_nodes_of_decisions_stay_in_fp32_where_they_would_overflow():
    example = (torch.ones(1, 3, 64, 64),)
    ends = {"inputs": {"lr": (1, 3, 64, 64)}, "outputs": {"f": (1, 8, 64, 64), "sums": (1, 8)}}
    plan, _ = routed()
    form = PlanForm(precision="fp16")
    safe = checked_part(PartSpec(Start(1.0), example, decisions=("sums",), **ends))
    half = _half_graph("start.onnx", safe, form)
    assert len(half.fp32_nodes) >= 2 and half.model.graph.output[0].type.tensor_type.elem_type == (
        HALF
    )
    assert half.model.graph.output[1].type.tensor_type.elem_type == FLOAT
    with pytest.raises(ExportError, match="start.onnx fails in half precision: values overflow"):
        _half_graph("start.onnx", checked_part(PartSpec(Start(1.0), example, **ends)), form)


def test_weakly_typed_builders_get_fp32_graphs_of_their_opset(tmp_path):
    form = PlanForm.from_names("xavier-jp50", "fp16")
    path = write_plan(*routed(), tmp_path, form)
    part = load_plan(path).parts["a"]
    assert (part.dtype, part.dtypes, part.opset) == ("fp32", {}, 13)
    assert onnx.load(str(tmp_path / part.file)).opset_import[0].version == 13
    assert load_plan(path).checks["fp16"]["psnr_db_vs_fp32"] > 50


def test_precisions_that_a_target_has_not_are_refused():
    assert PlanForm.from_names(None, None) == PlanForm()
    with pytest.raises(TargetError, match="builds fp32 and int8 engines, not fp16"):
        PlanForm.from_names("cpu", "fp16")


def test_a_network_that_half_precision_changes_is_not_written(tmp_path, monkeypatch):
    from sr_deploy.export import part_forms

    monkeypatch.setattr(part_forms, "MIN_FP16_PSNR_DB", 200)
    with pytest.raises(ExportError, match="dB against FP32 on photographs at 136x200"):
        write_plan(*routed(), tmp_path / "out", PlanForm(precision="fp16"))
    assert list((tmp_path / "out").iterdir()) == []
