"""Parts in ONNX Runtime on a GPU, which is a stand-in: what they give stays there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
torch = pytest.importorskip("torch", reason="torch is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graphs")

from doubles.onnxruntime_cuda import StandInOrtCuda  # noqa: E402
from doubles.part_graph import PLAN, part_model, plan_part  # noqa: E402

from sr_deploy.core.errors import ArtifactError, CannotRunHereError  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.runtime import BACKENDS  # noqa: E402
from sr_deploy.runtime import ort_device as devices  # noqa: E402
from sr_deploy.runtime.adaptive.tiles import HostArrays, TorchArrays  # noqa: E402
from sr_deploy.runtime.torch_device import TorchDevice  # noqa: E402

X = np.random.default_rng(1).random((2, 4, 5, 6), dtype=np.float32)
ONES = np.ones((2, 1, 5, 6), np.float32)


@pytest.fixture()
def opened(tmp_path, monkeypatch):
    """Open the same graph as both parts; tensors of torch's on the CPU stand for the GPU's."""
    monkeypatch.setattr(devices, "torch_with_cuda", lambda index: None)
    monkeypatch.setattr(devices, "_cuda_binding", lambda index: None)
    monkeypatch.setattr(devices, "gpu_present", lambda: True)

    def make(*, resident=True, unknown=False, **failing):
        if resident:
            arrays = TorchArrays(TorchDevice())
            monkeypatch.setattr(devices.OrtCuda, "arrays", lambda self: arrays)
        stand_in = StandInOrtCuda(monkeypatch, **failing)
        parts = {}
        for role in PLAN.roles():
            path = tmp_path / PLAN.graph_name(role)
            onnx.save(part_model(), str(path))
            parts[role] = plan_part(path)
            if unknown:
                outputs = {**parts[role].outputs, "mean": ("N", 1, "h", "w")}
                parts[role] = replace(parts[role], outputs=outputs)
        plan = replace(PLAN, precision="fp32", parts=parts)
        run = RunOptions(device="cuda")
        return stand_in, BACKENDS["onnxruntime"]().open_parts(tmp_path / "plan.json", plan, run)

    return make


def test_what_a_part_gives_is_a_tensor_where_it_was_computed(opened):
    stand_in, parts = opened()
    arrays = parts.info.arrays
    masked, mean = parts.parts["first"](features=X, inside=ONES)
    assert isinstance(masked, torch.Tensor) and isinstance(mean, torch.Tensor)
    again, _ = parts.parts["second"](features=masked, inside=arrays.to_device(ONES))
    assert {name for name, device, _ in stand_in.sessions[1].bound if device == "cuda"} == {
        "features", "inside", "masked", "mean",
    }  # fmt: skip
    np.testing.assert_allclose(arrays.to_host(mean), X.mean(1, keepdims=True), atol=1e-6)
    weight = onnx.numpy_helper.to_array(part_model().graph.initializer[0])[:, :, 0, 0]
    once = np.einsum("oc,nchw->nohw", weight, X)
    np.testing.assert_allclose(arrays.to_host(masked), once, atol=1e-5)
    twice = np.einsum("oc,nchw->nohw", weight, once)
    np.testing.assert_allclose(arrays.to_host(again), twice, atol=1e-5)


def test_an_output_of_unknown_size_comes_to_the_host(opened):
    _, parts = opened(unknown=True)
    masked, mean = parts.parts["first"](features=X, inside=ONES)
    assert isinstance(masked, torch.Tensor) and isinstance(mean, np.ndarray)
    np.testing.assert_allclose(mean, X.mean(1, keepdims=True), atol=1e-6)


def test_without_torch_and_a_binding_arrays_are_copied(opened):
    _, parts = opened(resident=False)
    assert type(parts.info.arrays) is HostArrays
    masked, _ = parts.parts["first"](features=X, inside=ONES)
    assert isinstance(masked, np.ndarray)


def test_an_array_of_another_type_is_told(opened):
    _, parts = opened()
    half = torch.zeros((2, 4, 5, 6), dtype=torch.float16)
    with pytest.raises(ArtifactError, match="its features is float32, and the part before it giv"):
        parts.parts["first"](features=half, inside=ONES)


def test_a_run_that_fails_is_told(opened):
    _, parts = opened(run="CUDA failure 700: an illegal memory access")
    with pytest.raises(CannotRunHereError, match="could not run small.fp16.first.onnx"):
        parts.parts["first"](features=X, inside=ONES)
