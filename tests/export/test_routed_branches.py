"""Export of CDNSR's backbones."""

import pytest
import torch

from sr_deploy.core.manifest import read_manifest
from sr_deploy.core.spec import Variant
from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets import rcan as rcan_module
from sr_deploy.nets.checkpoint import save_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("size", ["12x16", "8x8:12x16:24x24"])
@pytest.mark.parametrize(
    "arch, width", [("fsrcnn", "w8"), ("carn-m", "w8"), ("msrresnet", "w4"), ("rcan", "w16")]
)
def test_a_branch_is_exported_and_checked(arch, width, size, tmp_path, monkeypatch):
    monkeypatch.setattr(
        rcan_module.RCAN.__init__, "__kwdefaults__", {"width": 64, "groups": 1, "blocks": 2}
    )
    torch.manual_seed(0)
    variant = Variant.parse(width)
    architecture = ARCHITECTURES[arch]
    net = architecture.build(4, variant)
    path = save_checkpoint(
        tmp_path, f"{arch}_x4", architecture.spec(4, variant, elastic=False), net.state_dict()
    )
    (graph,) = onnx_from_checkpoint(
        path, tmp_path / "out", ExportOptions(sizes=[size], precision="fp32")
    )
    manifest = read_manifest(graph)
    assert (manifest.arch, manifest.variant, manifest.scale) == (arch, width, 4)
    assert manifest.checks["onnxruntime_vs_torch"]["max_abs_err"] < 1e-5
    assert manifest.halo_px == architecture.halo_px(variant)
