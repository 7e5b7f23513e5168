from __future__ import annotations

import dataclasses
import sys

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.manifest import manifest_path, read_manifest, write_artifact
from sr_deploy.runtime import ort_providers
from sr_deploy.runtime.doctor import diagnose

RTX = b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + bytes(4) + b"\x0a" + bytes(7)


@pytest.fixture()
def engine(any_graph, tmp_path):
    """Write a file that passes for an engine of `target`."""

    def make(target="xavier", content=b"ftrt" + bytes(60), **changes):
        graph = read_manifest(any_graph(asked="fp16"))

        def write(temporary):
            temporary.write_bytes(content)
            facts = {
                "kind": "engine",
                "target": target,
                "precision_obtained": "fp16",
                "command": f"srdeploy build-engine x.onnx --target {target}",
            }
            return dataclasses.replace(
                graph,
                **{
                    **facts,
                    "versions": {"tensorrt": "8.5.2.2"},
                    "checks": {"precision_receipt": "layers"},
                    **changes,
                },
            )

        path = tmp_path / "x.engine"
        write_artifact(path, write)
        return path

    return make


def test_an_intact_engine_of_another_machine(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = diagnose(engine(not_checked=("its speed",)))
    assert found.whole and found.why_not_whole == ""
    assert found.what == "engine of tiny_x2.d1, x2, LR 16x24, fp16"
    assert found.built_for.startswith("xavier (Jetson AGX Xavier, JetPack 5.1); tensorrt 8.5.2.2")
    assert any("'tensorrt'" in line for line in found.differs_here)
    assert found.checked == ("precision_receipt: layers",) and found.not_checked == ("its speed",)
    assert found.rebuild == "srdeploy build-engine x.onnx --target xavier"


def test_both_packages_of_onnxruntime_are_told(engine, any_graph, monkeypatch):
    both = ["onnxruntime", "onnxruntime-gpu"]
    monkeypatch.setattr(ort_providers, "installed_packages", lambda: both)
    words = "onnxruntime and onnxruntime-gpu are installed in one environment"
    for file in (any_graph(), engine("cpu"), engine("cuda")):
        assert any(words in line for line in diagnose(file).differs_here)
    assert not any(words in line for line in diagnose(engine("xavier")).differs_here)


def test_an_engine_of_cuda_without_onnxruntime_says_so_once(engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (line,) = diagnose(engine("cuda", versions={})).differs_here
    assert "needs the package 'onnxruntime'" in line


def test_another_version_is_a_difference(engine, monkeypatch):
    library = type(sys)("onnxruntime")
    library.__version__ = "9.9"
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    found = diagnose(engine("cpu", versions={"onnxruntime": "1.20", "profile": "0"}))
    assert "onnxruntime is 9.9 here, but it was built with 1.20" in found.differs_here
    assert "the profile of 'cpu' has changed since it was built" in found.differs_here


def test_an_unrequested_precision_is_reported(engine):
    assert diagnose(engine(precision_obtained="mixed: 2 fp16, 1 fp32")).what.endswith(
        "mixed: 2 fp16, 1 fp32 (requested: fp16)"
    )


def test_a_changed_file_is_not_intact(engine):
    path = engine()
    path.write_bytes(path.read_bytes()[:-1])
    found = diagnose(path)
    assert not found.whole and "changed or truncated" in found.why_not_whole and found.rebuild


@pytest.mark.parametrize(
    "content, what",
    [
        (
            b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(20),
            "an engine of TensorRT 10.3.0.26",
        ),
        (
            b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + bytes(4) + b"\x0a" + bytes(7),
            "an engine of TensorRT for RTX 1.7.1.116 for SM 80, 89",
        ),
        (b"\x08\x08", "perhaps an ONNX graph"),
        (b"", "unknown kind of file"),
    ],
)
def test_a_file_without_a_manifest(content, what, tmp_path):
    (tmp_path / "x").write_bytes(content)
    found = diagnose(tmp_path / "x")
    assert (
        found.what == what
        and not found.whole
        and "nothing in it can be verified" in found.why_not_whole
    )


def test_a_malformed_manifest_and_an_absent_file(engine, tmp_path):
    path = engine()
    manifest_path(path).write_text("{")
    assert "not valid JSON" in diagnose(path).why_not_whole
    with pytest.raises(InputError, match="does not exist"):
        diagnose(tmp_path / "absent")


def test_a_target_that_is_gone(engine):
    assert diagnose(engine("moon")).differs_here == ("there is no target 'moon' here",)


@pytest.mark.smoke
def test_the_command(engine, run_cli, tmp_path):
    good = engine()
    result = run_cli("doctor", good)
    assert (
        result.exit_code == 0
        and "  intact: yes" in result.stdout
        and "  for: xavier" in result.stdout
    )
    (tmp_path / "y").write_bytes(b"")
    result = run_cli("doctor", "--json", good, tmp_path / "y")
    assert result.exit_code == 1 and '"whole": false' in result.stdout
    result = run_cli("doctor", tmp_path / "absent", tmp_path, good)
    assert result.exit_code == 1 and "  intact: yes" in result.stdout
    assert "absent does not exist" in result.stderr and "is a folder" in result.stderr
