import pytest
import torch
from torch import nn

from sr_deploy.core.errors import ExportError
from sr_deploy.export.graph import dynamic_dims
from sr_deploy.export.plans import checked_graph, write_graphs


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
