import pytest
import torch
from torch import nn

from sr_deploy.core.errors import ExportError
from sr_deploy.core.spec import Variant
from sr_deploy.export import plans
from sr_deploy.export.graph import dynamic_dims
from sr_deploy.export.plans import checked_graph, write_graphs
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import Checkpoint


class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


def scaled_graph(by, reference):
    x = torch.rand(2, 3, 4, 4)
    ends = {"inputs": {"lr": dynamic_dims(0)}, "outputs": ["sr"]}
    return checked_graph(Scaled(by), (x,), reference=Scaled(reference), **ends)


def test_a_graph_that_differs_from_torch_is_refused_and_nothing_written(tmp_path):
    good, bad = scaled_graph(2.0, 2.0), scaled_graph(2.0, 2.001)
    assert good.max_abs_err < 1e-6 < 1e-4 < bad.max_abs_err
    with pytest.raises(
        ExportError,
        match=r"bad.onnx: ONNX Runtime differs from torch by 0.00\d+, expected at most 0.0001",
    ):
        write_graphs(tmp_path / "out", {"good.onnx": good, "bad.onnx": bad})
    assert not (tmp_path / "out").exists()
    graphs, checks = write_graphs(tmp_path / "out", {"good.onnx": good})
    assert (
        set(graphs)
        == set(checks["max_abs_err_vs_torch"])
        == {p.name for p in (tmp_path / "out").iterdir()}
        == {"good.onnx"}
    )


@pytest.mark.slow
def test_both_ways_of_an_adaedsr_share_the_graphs_that_are_equal(tmp_path, monkeypatch):
    exported = []

    def counting_graph(net, *args, **kwargs):
        exported.append(net)
        return checked_graph(net, *args, **kwargs)

    monkeypatch.setattr(plans, "checked_graph", counting_graph)
    monkeypatch.setattr(plans, "TIMED_HW", (32, 32))
    architecture, config = ARCHITECTURES["adaedsr"], {"channels": 8, "blocks": 1}
    spec = architecture.spec(4, Variant("d", 1), elastic=True, config=config)
    net = architecture.build(4, Variant("d", 1), config)
    checkpoint = Checkpoint("ada_x4", spec, net.state_dict())
    paths = plans.plans_from_model(checkpoint, tmp_path)
    assert {path.name for path in paths} == {"ada_x4.rows.json", "ada_x4.tiles.json"}
    files = ["start", "end", "b1.everywhere", "b1.rows", "b1.t64"]
    assert {p.name for p in tmp_path.glob("*.onnx")} == {f"ada_x4.{name}.onnx" for name in files}
    assert len(exported) == len(files)
