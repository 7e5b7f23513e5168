import pytest
import torch
from torch import nn

from sr_deploy.core.errors import ExportError
from sr_deploy.export.parts import free, part_of, write_parts


class Scaled(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x * self.by


def part(by, like):
    x = torch.rand(2, 3, 4, 4)
    return part_of(
        Scaled(by), Scaled(like), (x,), inputs=["lr"], outputs=["sr"], dynamic=(free(0),)
    )


def test_a_graph_that_differs_from_torch_is_refused_and_nothing_written(tmp_path):
    good, bad = part(2.0, 2.0), part(2.0, 2.001)
    assert good[1] < 1e-6 < 1e-4 < bad[1]
    with pytest.raises(
        ExportError,
        match=r"bad.onnx: onnxruntime differs from torch by 0.00\d+, expected at most 0.0001",
    ):
        write_parts(tmp_path / "out", {"good.onnx": good, "bad.onnx": bad})
    assert not (tmp_path / "out").exists()
    graphs, checks = write_parts(tmp_path / "out", {"good.onnx": good})
    assert (
        set(graphs)
        == set(checks["max_abs_err_vs_torch"])
        == {p.name for p in (tmp_path / "out").iterdir()}
        == {"good.onnx"}
    )
