from __future__ import annotations

import os
import struct
import sys
import types

import pytest

from sr_deploy.core.errors import ArtifactError, BuildError, TargetError
from sr_deploy.core.manifest import read_manifest
from sr_deploy.runtime import tensorrt_rtx as module
from sr_deploy.runtime.build import engine_from_onnx
from sr_deploy.runtime.tensorrt_rtx import TensorRTForRTXBackend, read_header

# Real builds, by the real library, without a GPU.


@pytest.fixture()
def real():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


@pytest.mark.parametrize("asked, expected", [(None, (80, 86, 89, 120)), ([75], (75,)), ([89, 75, 89], (75, 89)), ([121, 86], (86, 121))])
def test_an_engine_is_for_the_gpus_asked_for(real, tiny, tmp_path, asked, expected):
    graph = tiny(precision="fp16")
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="rtx", compute_capabilities=asked)
    assert engine.read_bytes()[:4] == b"vtrt"
    assert read_header(engine).compute_capabilities == expected
    manifest = read_manifest(engine)
    assert (manifest.target, manifest.precision_asked, manifest.precision_obtained) == ("rtx", "fp16", "fp16")
    assert manifest.build["compute_capabilities"] == list(expected)
    assert manifest.versions["tensorrt_rtx"] == real.__version__ and real.__version__.startswith(read_header(engine).version)
    assert any("no RTX GPU ran it" in line for line in manifest.not_checked)
    assert manifest.parent_sha256 == read_manifest(graph).sha256


def test_a_dynamic_graph_is_built_for_its_range(real, tiny, tmp_path):
    (engine,) = engine_from_onnx(
        tiny(hw=(8, 8), high=(32, 40), precision="fp16"), tmp_path / "out", target="rtx", compute_capabilities=[86]
    )
    assert engine.name == "tiny_x2.d1.dyn8x8-32x40.fp16.sm86.engine"
    assert read_manifest(engine).max_shape == (32, 40)


def test_another_set_of_gpus_is_another_engine(real, tiny, tmp_path):
    graph, lines = tiny(precision="fp16"), []
    for asked in ([86], [86], [89]):
        (engine,) = engine_from_onnx(graph, tmp_path / "out", target="rtx", compute_capabilities=asked, progress=lines.append)
    assert [line.endswith("up to date") for line in lines] == [False, True, False]
    assert read_header(engine).compute_capabilities == (89,)


def test_the_parser_s_errors_name_the_node(real, tiny, tmp_path):
    with pytest.raises(BuildError, match=r"cannot read tiny_x2.d1.onnx: .*find_them.*NonZero"):
        engine_from_onnx(tiny(precision="fp16", extra="NonZero"), tmp_path / "out", target="rtx", compute_capabilities=[86])
    assert os.listdir(str(tmp_path / "out")) == []


# What needs no library, or one that fails.


class Knows:
    """Any attribute of a library that is never asked for real."""

    def __getattr__(self, name):
        return name


def fake_library(**failing):
    """A tensorrt_rtx in which the named step fails as the real one does: by returning None or False."""

    class Parser:
        num_errors = 0

        def __init__(self, network, log):
            self.log = log

        def parse_from_file(self, path):
            return failing.get("parse", True)

    class Config:
        num_compute_capabilities = 0

        def set_memory_pool_limit(self, pool, size):
            pass

        def set_compute_capability(self, capability, index):
            return failing.get("set_compute_capability", True)

        def add_optimization_profile(self, profile):
            return failing.get("profile", 0)

    class Layer:
        type, num_outputs = "CONVOLUTION", 1

        def get_output(self, index):
            return types.SimpleNamespace(dtype=types.SimpleNamespace(name=failing.get("dtype", "HALF")))

    class Network:
        num_layers = 1

        def get_layer(self, index):
            return Layer()

    class Builder:
        def __init__(self, log):
            self.log = log

        def create_network(self, flags):
            return failing.get("network", Network())

        def create_builder_config(self):
            return failing.get("config", Config())

        def create_optimization_profile(self):
            return types.SimpleNamespace(set_shape=lambda *args: None)

        def build_serialized_network(self, network, config):
            self.log.log(types.SimpleNamespace(name="INFO"), "chatter")
            self.log.log(types.SimpleNamespace(name="ERROR"), "the tactic ran off")
            return failing.get("plan", b"vtrt" + bytes(36))

    library = types.ModuleType("tensorrt_rtx")
    library.__version__ = "1.9.9"
    library.ILogger, library.OnnxParser = object, Parser
    library.Builder = Builder
    library.MemoryPoolType = library.LayerType = Knows()
    library.ComputeCapability = types.SimpleNamespace(SM80=0, SM86=1, SM89=2, SM120=3, SM75=4)
    return library


@pytest.mark.parametrize(
    "failing, words",
    [
        ({"network": None}, "the network could not be created"),
        ({"dtype": "FLOAT"}, "is no FP16 graph: as parsed, 1 of its layers compute in FP32"),
        ({"parse": False}, "cannot read tiny_x2.d1.onnx: the parser gave no reason"),
        ({"config": None}, "the configuration could not be created"),
        ({"set_compute_capability": False}, "refused SM80"),
        ({"profile": -1}, "refused the sizes .1, 3, 8, 8. to .1, 3, 32, 40."),
        ({"plan": None}, "could not build tiny_x2.d1.onnx: the tactic ran off"),
        ({}, "the engine is for SM .., asked for were .80, 86, 89, 120."),
        ({"plan": b"short"}, "is not a TensorRT for RTX engine"),
    ],
)
def test_every_step_that_fails_quietly_is_an_error(failing, words, any_graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library(**failing))
    monkeypatch.setattr(module, "_LOGGER", None)
    graph = any_graph(low=(8, 8), high=(32, 40), precision="fp16")
    with pytest.raises((BuildError, ArtifactError), match=words) as e:
        engine_from_onnx(graph, tmp_path / "out", target="rtx")
    assert "chatter" not in e.value.message
    assert os.listdir(str(tmp_path / "out")) == []


def test_the_errors_of_one_build_are_not_told_of_the_next(any_graph, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOGGER", None)
    for failing, words in (({"plan": None}, "the tactic ran off"), ({"network": None}, "created, and gave no reason$")):
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library(**failing))
        with pytest.raises(BuildError, match=words):
            engine_from_onnx(any_graph(precision="fp16"), tmp_path / "out", target="rtx")


def test_a_gpu_the_library_does_not_know_is_refused(any_graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library())
    monkeypatch.setattr(module, "_LOGGER", None)
    with pytest.raises(BuildError, match="tensorrt_rtx 1.9.9 knows no SM121"):
        engine_from_onnx(any_graph(precision="fp16"), tmp_path / "out", target="rtx", compute_capabilities=[121])


def test_an_fp32_graph_is_refused_with_the_reason(any_graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library())
    with pytest.raises(BuildError, match="is an FP32 graph.*strongly typed.*Turing") as e:
        engine_from_onnx(any_graph(), tmp_path / "out", target="rtx")
    assert "--target rtx" in e.value.hint
    assert os.listdir(str(tmp_path / "out")) == []


@pytest.mark.parametrize("asked", [[72], [90], [86, 87]])
def test_a_gpu_the_target_has_not_is_refused(asked, any_graph, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_library())
    monkeypatch.setattr(module, "_LOGGER", None)
    with pytest.raises(TargetError, match=f"target 'rtx' has no SM {asked[-1]}; it has 75, 80, 86, 89, 120, 121"):
        engine_from_onnx(any_graph(precision="fp16"), tmp_path / "out", target="rtx", compute_capabilities=asked)


@pytest.mark.parametrize("bits, expected", [(0b011110, (80, 86, 89, 120)), (0b000001, (75,)), (0b100000, (121,)), (0, ())])
def test_the_header(tmp_path, bits, expected):
    path = tmp_path / "x.engine"
    path.write_bytes(b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + bytes(4) + struct.pack("<Q", bits) + b"rest")
    header = read_header(path)
    assert (header.version, header.compute_capabilities) == ("1.7.1.116", expected)


@pytest.mark.parametrize("content", [b"", b"vtrt", b"ftrt" + bytes(60)])
def test_what_is_no_engine_is_refused(tmp_path, content):
    (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(ArtifactError, match="x.engine is not a TensorRT for RTX engine"):
        read_header(tmp_path / "x.engine")


def test_an_engine_cannot_be_opened_here_and_says_why(any_graph):
    graph = any_graph(precision="fp16")
    with pytest.raises(ArtifactError, match="needs an RTX GPU"):
        TensorRTForRTXBackend().open(graph, read_manifest(graph))


def test_a_manifest_that_lies_about_its_graph_is_found_out(tiny, tmp_path):
    """The receipt is read off the parsed network, not taken from the manifest."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    graph = tiny(precision="fp32")
    path = graph.with_name(graph.name + ".json")
    path.write_text(path.read_text().replace('"precision_obtained": "fp32"', '"precision_obtained": "fp16"'))
    with pytest.raises(BuildError, match="no FP16 graph: as parsed, .* compute in FP32"):
        engine_from_onnx(graph, tmp_path / "out", target="rtx", compute_capabilities=[86])


def test_another_version_of_the_library_than_the_profile_s_is_refused(tiny, tmp_path, monkeypatch):
    library = fake_library()
    library.__version__ = "2.0.1"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", library)
    with pytest.raises(BuildError, match="tensorrt_rtx 2.0.1 is installed, and the profile is for >=1.5,<2"):
        engine_from_onnx(tiny(precision="fp16"), tmp_path / "out", target="rtx")
