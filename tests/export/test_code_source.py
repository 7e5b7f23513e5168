from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sr_deploy.core.errors import InputError
from sr_deploy.core.manifest import read_manifest
from sr_deploy.export.code_source import CodeSource, onnx_from_module
from sr_deploy.export.pipeline import ExportOptions, onnx_from_source
from sr_deploy.runtime.opener import open_session

OWN = Path(__file__).parents[1] / "doubles" / "own_networks.py"
SMALL = ExportOptions(sizes=["16x16"], precision="fp32")


def test_a_variant_of_code_is_exported(tmp_path):
    source = CodeSource.from_text(f"{OWN}:Elastic --scale 2")
    assert list(map(str, source.variants("all"))) == ["b1", "b3"]
    options = replace(SMALL, variants="b1")
    (path,) = onnx_from_source(source, tmp_path, options)
    assert path.name == "Elastic_x2.b1.16x16.fp32.onnx"
    manifest = read_manifest(path)
    assert (manifest.arch, manifest.scale, manifest.halo_px) == ("Elastic", 2, 3)
    assert manifest.command.startswith(f"srdeploy export {OWN}:Elastic --scale 2 --variants b1 ")
    assert manifest.parent_sha256 == source.code_network.weights_sha256
    lines = []
    onnx_from_source(CodeSource.from_text(source.text), tmp_path, options, progress=lines.append)
    assert [line.endswith(": up to date") for line in lines] == [True]
    x = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    with open_session(path) as graph, open_session(source.text, "b1") as code:
        np.testing.assert_allclose(graph.run(x), code.run(x), atol=1e-5)


def test_a_module_of_a_program_is_exported(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 3, padding=1), torch.nn.PixelShuffle(2))
    (path,) = onnx_from_module(module, tmp_path, SMALL, scale=2, name="mine")
    assert path.name == "mine_x2.16x16.fp32.onnx"
    manifest = read_manifest(path)
    assert (manifest.arch, manifest.halo_px) == ("mine", 1)
    assert manifest.command.startswith("sr_deploy.onnx_from_module(mine) --size 16x16")
    with pytest.raises(InputError, match="mine upscales by 2, but the scale given is 4"):
        onnx_from_module(module, tmp_path, SMALL, scale=4, name="mine")


def test_weights_that_are_written_in_every_run_are_exported_as_they_are(tmp_path):
    source = CodeSource.from_text(f"{OWN}:Merged")
    options = ExportOptions(sizes=["8x8:16x16:32x32"], precision="fp32")
    (path,) = onnx_from_source(source, tmp_path, options)
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Conv", "DepthToSpace"]
    assert "data" not in vars(torch.Tensor)


def test_sizes_that_are_no_multiple_are_refused(tmp_path):
    source = CodeSource.from_text(f"{OWN}:Unshuffled")
    with pytest.raises(InputError, match="takes multiples of 2 only, not 15x16"):
        onnx_from_source(source, tmp_path, ExportOptions(sizes=["15x16"], precision="fp32"))
