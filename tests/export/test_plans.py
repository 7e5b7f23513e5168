import pytest
import torch
from torch import nn

from sr_deploy.core.errors import ExportError
from sr_deploy.core.routers import RoutedPlan, read_routed_plan
from sr_deploy.core.spec import Variant
from sr_deploy.export import plans
from sr_deploy.export.parts import PartSpec, checked_part, write_plan
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import Checkpoint


class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


LR = ("N", 3, 4, 4)
PLAN = RoutedPlan("net", 1, ("good", "bad"), (1, 2), 1, 8, "0")


def scaled(by, reference, outputs=LR):
    x = torch.rand(2, 3, 4, 4)
    ends = {"inputs": {"lr": LR}, "outputs": {"sr": outputs}, "sizes": {"N": (1, 2, 3)}}
    return checked_part(PartSpec(Scaled(by), (x,), reference=Scaled(reference), **ends))


def test_a_graph_that_differs_from_torch_is_refused_and_nothing_written(tmp_path):
    good, bad = scaled(2.0, 2.0), scaled(2.0, 2.001)
    assert good.max_abs_err < 1e-6 < 1e-4 < bad.max_abs_err
    with pytest.raises(
        ExportError,
        match=r"net.bad.onnx: ONNX Runtime differs from torch by 0.00\d+, expected at most 0.0001",
    ):
        write_plan(PLAN, {"router": good, "good": good, "bad": bad}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    path = write_plan(PLAN, {"router": good, "good": good, "bad": good}, tmp_path / "out")
    plan = read_routed_plan(path)
    assert {p.name for p in path.parent.iterdir()} == {
        path.name,
        *(part.file for part in plan.parts.values()),
    }
    assert plan.parts["bad"].inputs == {"lr": LR} and plan.parts["bad"].sizes == {"N": (1, 2, 3)}
    assert set(plan.checks["max_abs_err_vs_torch"]) == set(plan.parts)


def test_tensors_that_are_not_those_of_the_plan_are_refused():
    with pytest.raises(ExportError, match=r"the tensor sr is \(2, 3, 4, 4\), expected"):
        scaled(2.0, 2.0, ("2*N", 3, 4, 4))


def test_an_adaedsr_is_exported_in_parts(tmp_path):
    architecture, config = ARCHITECTURES["adaedsr"], {"channels": 8, "blocks": 1}
    spec = architecture.spec(4, Variant("d", 1), elastic=True, config=config)
    net = architecture.build(4, Variant("d", 1), config)
    checkpoint = Checkpoint("ada_x4", spec, net.state_dict())
    (path,) = plans.plans_from_model(checkpoint, tmp_path)
    assert path.name == "ada_x4.adadsr.json"
    files = ["map", "whole", "head", "end", "b1"]
    assert {p.name for p in tmp_path.glob("*.onnx")} == {f"ada_x4.{name}.onnx" for name in files}


def test_sides_fit_into_a_builders_workspace():
    assert plans._sides(4, 64) == (2, 256, 320)  # 352 was too large for TensorRT for RTX
    assert plans._sides(2, 8) == (2, 256, 1024)
    assert plans._sides(4, 512) == (2, 96, 96)
