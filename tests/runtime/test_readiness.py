"""What doctor tells of libraries, disk and targets. GPUs are stand-ins."""

from __future__ import annotations

import json
import re

import pytest
from doubles.library import StandInCuda

from sr_deploy.core.errors import CannotRunHereError, MissingPackageError
from sr_deploy.core.target import target_names
from sr_deploy.runtime import readiness
from sr_deploy.runtime.readiness import libraries, places, target_states


def states():
    return {target.name: target for target in target_states()}


@pytest.fixture()
def lacks(monkeypatch):
    """Make `why_not_here` answer for some targets, and gpu_present."""

    def put(reasons, *, gpu=False, packages=("onnxruntime",), export=True):
        missing = [] if export else ["torch"]
        monkeypatch.setattr(readiness, "missing_export_packages", lambda: missing)
        monkeypatch.setattr(
            readiness, "why_not_here", lambda profile: (reasons.get(profile.name, ""), False)
        )
        monkeypatch.setattr(
            readiness, "why_not_run", lambda p: "" if gpu or p.name == "cpu" else "no GPU"
        )
        monkeypatch.setattr(readiness, "gpu_present", lambda: gpu)
        monkeypatch.setattr(readiness, "installed_packages", lambda: list(packages))

    return put


@pytest.mark.smoke
def test_every_target_has_a_state_and_what_to_type(lacks):
    lacks({"xavier": "no TensorRT", "cuda": "no CUDA", "rtx-tensorrt": "no TensorRT"})
    found = states()
    assert sorted(found) == target_names()
    assert (found["xavier"].state, found["xavier"].why) == ("by bundle", "built on the board")
    assert found["xavier"].command == "srdeploy deploy --target xavier"
    assert (found["rtx"].state, found["rtx"].why) == ("builds only", "no NVIDIA GPU to run it")
    assert found["rtx-tensorrt"].state == "by bundle"
    assert (found["cuda"].state, found["cuda"].command) == ("not ready", "")


def test_what_lacks_with_a_gpu_has_its_command(lacks):
    lacks({"cuda": "it has no CUDA", "rtx": "not installed", "rtx-tensorrt": "no"}, gpu=True)
    found = states()
    assert found["cpu"].state == "ready" and found["cpu"].why == ""
    assert found["cuda"].command == (
        "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )
    assert found["rtx"].command == "pip install 'tensorrt-rtx-cu13>=1.5,<2'"
    assert found["rtx-tensorrt"].command == "pip install 'tensorrt>=10,<12'"


def test_without_the_packages_of_export_graphs_come_from_elsewhere(lacks, monkeypatch):
    lacks({"xavier": "no TensorRT"}, export=False)
    monkeypatch.setattr(readiness.sys, "version_info", (3, 11))
    found = states()
    assert found["cpu"].command == "srdeploy build-engine GRAPHS --target cpu"
    assert found["cpu"].state == "ready" and found["cpu"].why == "graphs are exported elsewhere"
    assert (found["xavier"].state, found["xavier"].why) == ("not ready", "export is not installed")
    assert found["xavier"].command == "pip install '.[export]'"
    assert (found["rtx"].state, found["rtx"].why) == ("builds only", "no NVIDIA GPU to run it")
    monkeypatch.setattr(readiness.sys, "version_info", (3, 8))
    found = states()
    assert found["xavier"].why == "exporting needs Python 3.10 or newer"
    assert found["xavier"].command == ""


def test_a_library_that_is_missing_or_broken_is_told(monkeypatch):
    def broken(name):
        raise ImportError("libavcodec.so.61 is missing")

    find_spec = readiness.importlib.util.find_spec
    monkeypatch.setattr(readiness.importlib, "import_module", broken)
    monkeypatch.setattr(readiness.importlib.util, "find_spec", lambda name: True)
    assert "cannot be imported: libavcodec.so.61 is missing" in readiness._pyav().state
    monkeypatch.setattr(readiness.importlib.util, "find_spec", lambda name: None)
    assert (readiness._pyav().version, readiness._pyav().hint) == ("", "pip install 'av>=12'")
    rtx = readiness._tensorrt("TensorRT for RTX", "tensorrt_rtx")
    assert rtx.hint == "pip install 'tensorrt-rtx-cu13>=1.5,<2'"
    monkeypatch.setattr(readiness.importlib.util, "find_spec", find_spec)


def test_libraries_here_are_found():
    names = [library.name for library in libraries()]
    assert names[:4] == ["torch", "ONNX Runtime", "OpenVINO", "TensorRT"]


def test_the_gpu_of_the_binding_is_named(monkeypatch):
    monkeypatch.setattr(readiness, "cuda", StandInCuda)
    assert readiness._cuda_binding().state == "a stand-in GPU, SM 7.2"
    monkeypatch.setattr(readiness, "gpu_present", lambda: True)

    def no_driver():
        raise CannotRunHereError("there is no driver", hint="install it")

    monkeypatch.setattr(readiness, "cuda", no_driver)
    assert readiness._cuda_binding().hint == "install it"

    def missing():
        raise MissingPackageError("cuda-python", needed_for="running engines")

    monkeypatch.setattr(readiness, "cuda", missing)
    assert "engines of TensorRT cannot run" in readiness._cuda_binding().state


def test_the_cache_is_a_place_with_its_size(monkeypatch, tmp_path):
    (tmp_path / "cache" / "deep").mkdir(parents=True)
    (tmp_path / "cache" / "deep" / "file").write_bytes(b"0" * 2**20)
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "cache"))
    here, cache = places()
    assert here.free_gib > 0 and here.used_mib is None
    assert (cache.path, cache.used_mib) == (str(tmp_path / "cache"), 1.0)
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "not" / "yet"))
    assert places()[1].used_mib == 0


def test_doctor_fits_100_columns_and_prints_json(run_cli):
    result = run_cli("doctor")
    assert result.exit_code in (0, 1), result.output
    lines = result.stdout.splitlines()
    unbroken = [line for line in lines if not re.search(r"\S{60}", line)]
    assert max(map(len, unbroken)) <= 100
    for heading in ("libraries", "disk", "targets"):
        assert heading in lines
    assert any(re.match(r"  cpu +(ready|not ready) ", line) for line in lines)
    data = json.loads(run_cli("doctor", "--json").stdout)
    assert {target["name"] for target in data["targets"]} == set(target_names())
    assert {"libraries", "folders", "packages", "problems"} <= set(data)
