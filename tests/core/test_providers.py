from __future__ import annotations

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.providers import PROVIDERS, default_provider, find_provider
from sr_deploy.core.run_options import DEVICE_KINDS, RunOptions
from sr_deploy.core.target import ONNX_RUNTIMES
from sr_deploy.runtime import BACKENDS


def test_every_kind_of_device_but_openvino_s_has_a_default_provider_and_only_the_cpu_s_was_tested():
    assert [default_provider(kind).backend for kind in DEVICE_KINDS if kind != "xpu"] == [
        "onnxruntime",
        "onnxruntime-cuda",
        "onnxruntime-directml",
        "onnxruntime-coreml",
    ]
    assert [p.backend for p in PROVIDERS.values() if p.tested] == ["onnxruntime"]


def test_providers_that_build_engines_are_backends():
    assert ONNX_RUNTIMES == tuple(name for name in BACKENDS if name in PROVIDERS)
    assert [BACKENDS[name]().provider.backend for name in ONNX_RUNTIMES] == list(ONNX_RUNTIMES)


def test_an_unknown_backend_of_graphs_is_an_error():
    with pytest.raises(InputError, match="unknown runtime 'onnxruntime-cudo'") as e:
        RunOptions(runtime="onnxruntime-cudo")
    assert e.value.hint == "did you mean 'onnxruntime-cuda'?"
    with pytest.raises(
        InputError,
        match="expected one of torch, tensorrt, tensorrt-rtx, openvino, openvino-gpu, onnxruntime",
    ):
        find_provider("tensort")


def test_a_backend_of_another_device_is_an_error():
    with pytest.raises(InputError, match="onnxruntime-cuda runs on cuda, not on cpu"):
        RunOptions(device="cpu", runtime="onnxruntime-cuda")
    assert RunOptions(device="cuda:1", runtime="onnxruntime-tensorrt").requested_provider.compiles
    assert RunOptions().requested_provider is None


def test_runtimes_of_openvino_are_no_providers_and_xpu_is_their_gpu():
    assert RunOptions(runtime="openvino").requested_provider is None
    assert RunOptions(runtime="openvino", device="cpu").requested_openvino == "openvino"
    assert RunOptions(device="xpu:1").requested_openvino == "openvino-gpu"
    assert RunOptions(device="xpu").requested_provider is None
    for run in (RunOptions(), RunOptions(device="cpu"), RunOptions(runtime="torch")):
        assert run.requested_openvino is None
    for options in (
        {"runtime": "openvino", "device": "cuda"},
        {"runtime": "openvino", "device": "xpu"},
        {"runtime": "openvino-gpu", "device": "cpu"},
    ):
        with pytest.raises(InputError, match=f"the runtime {options['runtime']} runs on "):
            RunOptions(**options)
