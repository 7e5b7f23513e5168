from __future__ import annotations

import json
import sys

import pytest

from sr_deploy.core.files import data_folder
from sr_deploy.selftest import ways
from sr_deploy.selftest.checks import ENVIRONMENT
from sr_deploy.selftest.ways import check_environment, ways_here, ways_of_target


def test_facts_have_an_identity_that_changes_with_the_software(tmp_path, monkeypatch):
    one = check_environment(ENVIRONMENT, tmp_path)
    assert one["facts"]["cpu"] and one["ways"]
    assert one["identity"] == check_environment(ENVIRONMENT, tmp_path)["identity"]
    monkeypatch.setattr(ways, "git_revision", lambda: "another")
    assert one["identity"] != check_environment(ENVIRONMENT, tmp_path)["identity"]


def test_every_library_is_a_way_or_has_a_reason():
    found = {way.name: way for way in ways_here()}
    assert {"tensorrt", "tensorrt-rtx", "onnxruntime", "onnxruntime-cuda"} <= set(found)
    assert any(name.startswith("torch") for name in found)
    assert all(way.why_not or way.target or way.run for way in found.values())


def test_without_torch_or_onnxruntime_the_pip_lines_are_given(monkeypatch):
    for name in ("torch", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    names = [way.name for way in ways_here()]
    assert len(set(names)) == len(names)
    reasons = {way.name: way.why_not for way in ways_here()}
    assert "pip install 'torch>=" in reasons["torch"]
    assert "pip install 'onnxruntime>=" in reasons["onnxruntime"]
    assert reasons["onnxruntime-cuda"].endswith("; pip install onnxruntime-gpu")


def test_pip_is_a_remedy_for_tensorrt_only_where_it_brings_the_target_s_version(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    reasons = {name: ways_of_target(name)[0].why_not for name in ("xavier", "rtx")}
    assert "it needs TensorRT >=8.5,<8.6" in reasons["xavier"]
    assert "pip install" not in reasons["xavier"]
    assert "pip install 'tensorrt-rtx-cu13" in reasons["rtx"]


def test_a_gpu_that_torch_can_use_comes_first_in_all_settings(monkeypatch):
    torch_device = pytest.importorskip("sr_deploy.runtime.torch_device")
    torch = pytest.importorskip("torch", reason="it is asked for the GPU")
    monkeypatch.setattr(ways, "gpu_present", lambda: True)
    monkeypatch.setattr(torch_device, "why_no_cuda", lambda index: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    names = [way.name for way in ways_here() if not way.why_not]
    assert names[:2] == ["torch cuda:0 fp32", "torch cuda:0 fp16"]
    assert "torch cuda:0 bf16" not in names
    monkeypatch.setattr(torch_device, "why_no_cuda", lambda index: "it is built without CUDA")
    reasons = {way.name: way.why_not for way in ways_here()}
    assert reasons["torch cuda:0"].startswith("it is built without CUDA; install a torch that fits")


def test_a_profile_of_one_s_own_keeps_its_path(tmp_path):
    data = json.loads((data_folder("engines/targets") / "cpu.json").read_text())
    profile = tmp_path / "mycam.json"
    profile.write_text(json.dumps({**data, "name": "mycam"}))
    (way,) = ways_of_target(str(profile))
    assert (way.name, way.target) == ("onnxruntime for mycam", str(profile))


def test_a_target_is_one_way():
    (way,) = ways_of_target("rtx-tensorrt")
    assert (way.name, way.target, way.device) == ("tensorrt for rtx-tensorrt", "rtx-tensorrt", True)
