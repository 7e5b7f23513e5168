"""Why providers cannot be used. The GPU is a stand-in: no test of ours has run on one."""

from __future__ import annotations

import ctypes
import importlib.metadata
import types

import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from doubles.onnxruntime_cuda import CUDA, StandInOrtCuda  # noqa: E402

from sr_deploy.core.providers import PROVIDERS  # noqa: E402
from sr_deploy.runtime import ort_providers as providers  # noqa: E402

ON_CUDA = PROVIDERS["onnxruntime-cuda"]


def test_a_provider_that_can_be_used(monkeypatch):
    StandInOrtCuda(monkeypatch)
    assert providers.why_unusable(ON_CUDA) == ("", "")
    assert providers.why_unusable(PROVIDERS["onnxruntime"]) == ("", "")


@pytest.mark.parametrize(
    "backend, words, hint",
    [
        ("onnxruntime-cuda", f"has no {CUDA}", "then install onnxruntime-gpu instead"),
        (
            "onnxruntime-directml",
            "has no DmlExecutionProvider",
            "then install onnxruntime-directml instead",
        ),
        ("onnxruntime-coreml", "has no CoreMLExecutionProvider", "this system has none"),
    ],
)
def test_a_missing_provider_names_the_package(monkeypatch, backend, words, hint):
    monkeypatch.setattr(providers, "installed_packages", lambda: ["onnxruntime"])
    reason, remedy = providers.why_unusable(PROVIDERS[backend])
    assert words in reason and hint in remedy


def test_two_packages_of_onnxruntime_are_told(monkeypatch):
    names = ("numpy", "onnxruntime-gpu", "onnxruntime")
    installed = [types.SimpleNamespace(metadata={"Name": name}) for name in names]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: installed)
    reason, hint = providers.why_unusable(ON_CUDA)
    assert "onnxruntime and onnxruntime-gpu are installed in one environment" in reason
    assert hint == "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
    assert providers.packages_conflict() == (reason, hint)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: installed[:2])
    assert providers.packages_conflict() == ("", "")


@pytest.mark.parametrize(
    "backend, missing, hint",
    [
        ("onnxruntime-cuda", "libcuda.so.1", "install NVIDIA's driver"),
        (
            "onnxruntime-cuda",
            "libcublasLt.so.13",
            "needs CUDA 13 and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]==",
        ),
        ("onnxruntime-tensorrt", "libnvinfer.so.10", "install TensorRT so that the loader finds"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, tmp_path, backend, missing, hint, capsys):
    """In the words of the loader, as onnxruntime-gpu 1.31.1 gave them on a machine without CUDA."""
    ort = StandInOrtCuda(monkeypatch, device="CUDA Provider not available, can't get interface")
    ort.module.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / "capi").mkdir()
    library = PROVIDERS[backend].library
    (tmp_path / f"capi/libonnxruntime_providers_{library}.so").touch()

    def fail(path, winmode):
        assert ort.probed, "loaded before onnxruntime is ready, the real library crashes"
        raise OSError(f"{missing}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", fail)
    monkeypatch.setattr(providers.sys, "platform", "linux")
    reason, remedy = providers.why_unusable(PROVIDERS[backend])
    assert reason.startswith(f"{missing}: cannot open") and hint in remedy
    assert capsys.readouterr().out == ""


def test_only_cuda_s_own_words_are_given(monkeypatch):
    """The error of onnxruntime-gpu 1.31.1 with a driver that finds no GPU."""
    call = "onnxruntime::CudaCall(ERRTYPE, const char*, int) [with ERRTYPE = cudaError]"
    error = (
        f"/onnxruntime_src/core/providers/cuda/cuda_call.cc:154 {call} cuda_call.cc:146 {call} "
        "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; "
        "file=/onnxruntime_src/cuda_provider_factory.cc ; line=160"
    )
    StandInOrtCuda(monkeypatch, device=error)
    reason, hint = providers.why_unusable(ON_CUDA)
    assert reason == (
        "onnxruntime cannot use GPU 0: CUDA failure 100: no CUDA-capable device is detected"
    )
    assert "nvidia-smi" in hint
