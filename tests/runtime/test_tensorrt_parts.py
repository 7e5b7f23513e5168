"""Engines of parts, by the stand-in for TensorRT: its engines run their graphs by onnxruntime."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from doubles.library import stand_in_tensorrt
from doubles.part_graph import PLAN, part_model, plan_part

from sr_deploy.core.errors import ArtifactError, CannotRunHereError, DeviceMemoryError, InputError
from sr_deploy.core.parts import PlanEngine
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.runtime import BACKENDS, tensorrt, tensorrt_engine
from sr_deploy.runtime.gpu_arrays import GpuArray

VERSIONS = {"tensorrt": "8.5.2.2"}
ENGINE = PlanEngine("xavier", "tensorrt", "fp16", VERSIONS, "srdeploy build-engine", {})


@pytest.fixture()
def use(monkeypatch):
    """Replace the real library by a stand-in on a Xavier."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the engines")

    def put(**failing):
        library = stand_in_tensorrt("8.5.2.2", **failing)
        monkeypatch.setitem(sys.modules, library.__name__, library)
        monkeypatch.setattr(tensorrt_engine, "_LOGS", {})
        monkeypatch.setattr(tensorrt, "cuda", lambda index=0: library.gpu)
        return library

    return put


@pytest.fixture()
def plan(tmp_path):
    """Return the path and the plan of engines, each of the same graph."""
    pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")

    def make(half=False, **changes):
        graph = base64.b64encode(part_model(half=half).SerializeToString()).decode()
        parts = {}
        for role in PLAN.roles():
            file = tmp_path / PLAN.engine_name(role)
            content = json.dumps({"graph": graph, "fp16": True}).encode()
            file.write_bytes(b"ftrt" + bytes(36) + content)
            parts[role] = plan_part(file)
        return tmp_path / PLAN.file_name, replace(PLAN, parts=parts, engine=ENGINE, **changes)

    return make


def opened(path_and_plan, run=DEFAULT_RUN):
    return BACKENDS["tensorrt"]().open_parts(*path_and_plan, run)


def features(n=2, h=5, w=6):
    return np.random.default_rng(0).random((n, 4, h, w), dtype=np.float32)


def expected(x, inside):
    import onnxruntime

    session = onnxruntime.InferenceSession(
        part_model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"features": x, "inside": inside})


def test_what_a_part_gives_stays_on_the_gpu_for_the_next_one(use, plan):
    gpu = use().gpu
    parts = opened(plan())
    arrays, device = parts.info.arrays, parts.info.device
    assert (parts.info.backend, parts.info.version) == ("tensorrt", "8.5.2.2")
    assert (device.name, device.place, parts.info.precision) == ("a stand-in GPU", "cuda:0", "fp16")
    x, inside = features(), np.ones((2, 1, 5, 6), np.float32)
    ones = arrays.to_device(inside)
    masked, mean = parts.parts["first"](features=x, inside=ones)
    assert isinstance(masked, GpuArray) and (masked.shape, mean.shape) == (x.shape, inside.shape)
    transfers = gpu.clock
    again, _ = parts.parts["first"](features=masked, inside=ones)
    assert gpu.clock == transfers and gpu.enqueued == ["network", "network"]
    once = expected(x, inside)
    for found, reference in zip((masked, mean), once):
        np.testing.assert_allclose(arrays.to_host(found), reference, atol=1e-6)
    np.testing.assert_allclose(arrays.to_host(again), expected(once[0], inside)[0], atol=1e-6)
    smaller = parts.parts["first"](features=features(1, 4, 4), inside=np.ones((1, 1, 4, 4)))
    assert [y.shape for y in smaller] == [(1, 4, 4, 4), (1, 1, 4, 4)]
    assert device.peak_memory().mib > 0
    device.reset_peak_memory()
    arrays.release()
    device.release()


def test_engines_of_half_precision_take_and_give_it(use, plan):
    use(io_dtype="HALF")
    parts = opened(plan(half=True))
    arrays = parts.info.arrays
    ones = np.ones((2, 1, 5, 6), np.float32)
    masked, _ = parts.parts["first"](features=features(), inside=ones)
    assert masked.dtype == np.float16
    found = arrays.to_host(parts.parts["second"](features=masked, inside=ones)[1])
    np.testing.assert_allclose(found, expected(expected(features(), ones)[0], ones)[1], atol=1e-2)
    with pytest.raises(ArtifactError, match="features is float16, and the part before it gives"):
        parts.parts["second"](features=arrays.to_device(features()), inside=ones)


@pytest.mark.parametrize(
    "failing, error, words",
    [
        ({"names": ["lr", "sr"]}, ArtifactError, "has the tensors lr, sr; expected features, ins"),
        ({"context": None}, CannotRunHereError, "could not prepare small"),
        ({"deserialize": None}, CannotRunHereError, "cannot open small.*rebuild"),
    ],
)
def test_why_engines_are_not_opened(use, plan, failing, error, words):
    use(**failing)
    with pytest.raises(error, match=words):
        opened(plan())


def test_what_a_plan_needs_here(use, plan):
    library = use()
    path, engines = plan()
    with pytest.raises(CannotRunHereError, match="is a plan of graphs; TensorRT runs engines"):
        opened((path, replace(engines, engine=None)))
    other = replace(ENGINE, versions={"tensorrt": "8.6.1"})
    with pytest.raises(CannotRunHereError, match="was built with TensorRT 8.6.1, but 8.5.2.2"):
        opened((path, replace(engines, engine=other)))
    with pytest.raises(CannotRunHereError, match="runs on an NVIDIA GPU, not on cpu"):
        opened((path, engines), RunOptions(device="cpu"))
    library.gpu.sm = 87
    with pytest.raises(CannotRunHereError, match="this machine's GPU is SM 8.7, but the target"):
        opened((path, engines))


@pytest.mark.parametrize(
    "failing, error, words",
    [
        (
            {"set_input_shape": False},
            InputError,
            "small.fp16.two.first.engine takes features from 1x4x4x4 to 8x4x32x32, not 2x4x5x6",
        ),
        ({"set_tensor_address": False}, CannotRunHereError, "refused the memory of features"),
        ({"execute": False}, CannotRunHereError, "failed to run small.*illegal memory access"),
    ],
)
def test_why_a_part_does_not_run(use, plan, failing, error, words):
    use(**failing)
    part = opened(plan()).parts["first"]
    with pytest.raises(error, match=words):
        part(features=features(), inside=np.ones((2, 1, 5, 6), np.float32))


def test_too_little_memory_is_an_error_of_its_own(use, plan, monkeypatch):
    library = use()
    part = opened(plan()).parts["first"]

    def allocate(size_bytes):
        raise DeviceMemoryError("CUDA failed: out of memory")

    monkeypatch.setattr(library.gpu, "allocate", allocate)
    with pytest.raises(DeviceMemoryError):
        part(features=features(), inside=np.ones((2, 1, 5, 6), np.float32))


def test_more_tiles_than_an_engine_takes_are_run_in_turns(use, plan):
    gpu = use().gpu
    parts = opened(plan())
    x, inside = features(n=19), np.ones((19, 1, 5, 6), np.float32)
    outputs = parts.parts["first"](features=x, inside=inside)
    assert gpu.enqueued == ["network"] * 3
    for found, reference in zip(outputs, expected(x, inside)):
        np.testing.assert_allclose(parts.info.arrays.to_host(found), reference, atol=1e-6)
