"""ONNX files read without onnx, compared with onnx where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.onnx_file import OnnxFacts, artifact_sha256, onnx_facts, weight_files

onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")


def save_external(path, value=1.0, location="w.bin", inside=False):
    """Save a graph whose weights are in another file; inside: as an attribute of a subgraph."""
    tensor = onnx.numpy_helper.from_array(np.full(300, value, np.float16), "w")
    (path.parent / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT16, [300]) for n in "xy"]
    if inside:
        constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
        branch = onnx.helper.make_graph([constant, node], "branch", [], ends[1:])
        node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [] if inside else [tensor])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


@pytest.mark.parametrize("inside", [False, True])
def test_facts(tmp_path, inside):
    facts = onnx_facts(save_external(tmp_path / "net.onnx", inside=inside))
    operators = ("Add", "Constant", "If") if inside else ("Add",)
    assert facts == OnnxFacts(operators, (onnx.TensorProto.FLOAT16,), ("w.bin",))


@pytest.mark.parametrize("inside", [False, True])
def test_the_checksum_covers_every_file(tmp_path, inside):
    path = save_external(tmp_path / "net.onnx", inside=inside)
    first = artifact_sha256(path)
    assert artifact_sha256(save_external(path, inside=inside)) == first != sha256_of(path)
    assert artifact_sha256(save_external(path, 2.0, inside=inside)) != first  # of the same size
    (tmp_path / "w.bin").unlink()
    assert artifact_sha256(path) == sha256_of(path)


def test_the_checksum_of_one_file_is_its_own(tmp_path):
    for name in ("net.onnx", "net.engine"):
        (tmp_path / name).write_bytes(b"\x08\x08")
        assert artifact_sha256(tmp_path / name) == sha256_of(tmp_path / name)


@pytest.mark.parametrize(
    "location, words",
    [
        ("w.bin", ""),
        ("./w.bin", ""),
        ("lost.bin", "'lost.bin', which is missing"),
        ("", "which is missing"),
        ("a" * 5000, "which is missing"),
        ("link.bin", "'link.bin', which is a symbolic link"),
        ("../w.bin", "which is outside its folder"),
        ("..\\w.bin", "which is outside its folder"),
        ("/etc/passwd", "'/etc/passwd', which is outside its folder"),
        ("C:\\w.bin", "which is outside its folder"),
    ],
)
def test_files_of_weights(tmp_path, location, words):
    path = save_external(tmp_path / "net.onnx", location=location)
    (tmp_path / "link.bin").symlink_to(tmp_path / "w.bin")
    artifact_sha256(path)
    if words:
        with pytest.raises(ArtifactError, match=words):
            weight_files(path)
    else:
        assert weight_files(path) == [location]


def test_damaged_files_have_no_facts(tmp_path):
    path = save_external(tmp_path / "net.onnx")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole[: rng.integers(len(whole))])
        for at in rng.integers(len(data), size=3) if data else ():
            data[at] = rng.integers(256)
        path.write_bytes(data)
        assert isinstance(onnx_facts(path), OnnxFacts)
        artifact_sha256(path)
