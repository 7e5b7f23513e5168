"""Checks that every real TensorRT here has the calls in our source, with these arguments.

TensorRT 8.5.3 has the API of a Xavier's 8.5.2; CI installs it with Python 3.8 (see tests/run.py).
TensorRT for RTX comes with the extra `rtx`. TensorRT 10 and 11 are not installed anywhere here.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
from pathlib import Path

import pytest

from sr_deploy.core.errors import BuildError
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import load_target
from sr_deploy.runtime import cuda, tensorrt, tensorrt_build, tensorrt_engine, tensorrt_parts

# Names of variables and attributes in our source: the library's class.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "_parser": "OnnxParser",
    "layer": "ILayer",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "runtime_config": "IRuntimeConfig",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
}
# Attributes, and calls with so many arguments, that only the other library has; our source checks
# first, or does not reach them.
NOT_IN = {
    "tensorrt": {
        "num_compute_capabilities",
        "set_compute_capability",
        "ComputeCapability",
        "node_name",
        "node_operator",
        "IRuntimeConfig",
        "create_runtime_config",
        ("create_execution_context", 1),
        "CudaGraphStrategy",
        "DynamicShapesKernelSpecializationStrategy",
    },
    "tensorrt_rtx": {
        "FP16",
        "OBEY_PRECISION_CONSTRAINTS",
        "precision",
        "set_output_type",
        "int8_calibrator",
    },
}


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def library(request):
    if hasattr(sys, "setdlopenflags"):  # the stand-ins for cuBLAS and cuDNN have no symbols
        sys.setdlopenflags(os.RTLD_LAZY | os.RTLD_GLOBAL)
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


def used():
    """Yield (class or "" for the library, attribute, positional arguments of a call or None)."""
    for module in (tensorrt, tensorrt_build, tensorrt_engine, tensorrt_parts):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        calls = {
            id(node.func): len(node.args) for node in ast.walk(tree) if isinstance(node, ast.Call)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                owner = (
                    node.value.attr
                    if isinstance(node.value, ast.Attribute)
                    else getattr(node.value, "id", "")
                )
                if owner in ("trt", "_trt"):
                    yield "", node.attr, calls.get(id(node))
                elif owner in CLASSES:
                    yield CLASSES[owner], node.attr, calls.get(id(node))
                elif (
                    isinstance(node.value, ast.Attribute)
                    and getattr(node.value.value, "id", "") == "trt"
                ):
                    yield node.value.attr, node.attr, calls.get(id(node))


def test_the_calls_in_our_source_are_found():
    found = list(used())
    assert len(set(found)) > 50
    for expected in (
        ("Builder", "build_serialized_network", 2),
        ("IExecutionContext", "set_tensor_address", 2),
        ("", "float32", None),
    ):
        assert expected in found


def test_every_attribute_and_signature_exists(library):
    missing = []
    for owner, name, arguments in sorted(set(used()), key=str):
        holder = getattr(library, owner, None) if owner else library
        if {owner, name, (name, arguments)} & NOT_IN[library.__name__] or name.startswith("__"):
            continue
        if holder is None or not hasattr(holder, name):
            missing.append(f"{owner or library.__name__}.{name}")
        elif arguments is not None and owner:
            signatures = re.findall(
                rf"(?m)^(?:\d+\. )?{name}\((.*)\) ->", getattr(holder, name).__doc__ or ""
            )
            counts = []
            for signature in signatures:
                parameters = [
                    p
                    for p in re.split(r",(?![^\[(]*[\])])", signature)
                    if p.strip() and not p.strip().startswith("self")
                ]
                counts.append((sum("=" not in p for p in parameters), len(parameters)))
            if counts and not any(low <= arguments <= high for low, high in counts):
                missing.append(f"{owner}.{name} takes {counts}, we give {arguments}")
    assert missing == []


def test_a_machine_without_a_driver_gets_our_error(library, any_graph, tmp_path, monkeypatch):
    if library.__name__ != "tensorrt":
        pytest.skip("TensorRT for RTX builds without a driver")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a driver")
    monkeypatch.setattr(tensorrt_engine, "_LOGS", {})
    backend, target = tensorrt.TensorRTBackend(), load_target("xavier")
    assert re.search("NVIDIA GPU|package 'cuda-python'", backend.why_unavailable(target))
    graph = any_graph(asked="fp16")
    from sr_deploy.core.manifest import read_manifest

    with pytest.raises(BuildError, match="TensorRT: could not create the builder") as e:
        backend.build(graph, read_manifest(graph), target, tmp_path / "x", BuildOptions())
    assert "NVIDIA GPU" in e.value.hint
    assert importlib.import_module("tensorrt") is library


@pytest.mark.parametrize("name", ["cuda.cudart", "cuda.bindings.runtime"])
def test_every_call_of_cuda_exists(name):
    """cuda-python 11.8 (Python 3.8, JetPack 5) is installed with TensorRT 8.5."""
    runtime = pytest.importorskip(name, reason=f"{name} is not installed")
    used = set(
        re.findall(
            r"\b(?:runtime|_cuda|c|kind)\.((?:make_)?cuda\w+)",
            Path(cuda.__file__).read_text(encoding="utf-8"),
        )
    )
    enumerations = (
        runtime.cudaDeviceAttr,
        runtime.cudaMemcpyKind,
        runtime.cudaStreamCaptureMode,
        runtime.cudaError_t,
    )
    assert len(used) > 20
    assert [
        n
        for n in sorted(used)
        if not any(hasattr(holder, n) for holder in (runtime, *enumerations))
    ] == []
