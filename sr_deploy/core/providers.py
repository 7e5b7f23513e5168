"""What runs networks: torch, TensorRT, OpenVINO, and ONNX Runtime by its execution providers."""

from __future__ import annotations

from dataclasses import dataclass

from sr_deploy.core.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Provider:
    """One execution provider."""

    backend: str
    """Its name here, as `--runtime` takes it and rows record it."""
    name: str
    """Its name in ONNX Runtime."""
    device: str
    """The kind of device, one of `DEVICE_KINDS`. The first provider of a kind is its default."""
    package: str
    """The distribution that brings it. Only one of them can be installed."""
    library: str = ""
    """Of onnxruntime-gpu, the file onnxruntime_providers_LIBRARY that it is loaded from."""
    compiles: bool = False
    """Whether it turns parts of the graph into one node, in which operators cannot be seen."""
    builds: bool = False
    """Whether its optimised models are engines: a target can name it as its runtime."""
    tested: bool = False
    """Whether it was ever run on such a device by us."""


_TABLE = (
    Provider("onnxruntime", "CPUExecutionProvider", "cpu", "onnxruntime", builds=True, tested=True),
    Provider(
        "onnxruntime-cuda", "CUDAExecutionProvider", "cuda", "onnxruntime-gpu", "cuda", builds=True
    ),
    Provider(
        "onnxruntime-tensorrt",
        "TensorrtExecutionProvider",
        "cuda",
        "onnxruntime-gpu",
        "tensorrt",
        compiles=True,
    ),
    Provider(
        "onnxruntime-rtx",
        "NvTensorRTRTXExecutionProvider",
        "cuda",
        "onnxruntime-trt-rtx",
        compiles=True,
    ),
    Provider(
        "onnxruntime-directml",
        "DmlExecutionProvider",
        "directml",
        "onnxruntime-directml",
        compiles=True,
    ),
    Provider(
        "onnxruntime-coreml", "CoreMLExecutionProvider", "coreml", "onnxruntime", compiles=True
    ),
)
PROVIDERS = {provider.backend: provider for provider in _TABLE}
TORCH = "torch"
"""The runtime of checkpoints and code."""
TRTEXEC_RUNTIMES = ("tensorrt", "tensorrt-rtx")
"""Runtimes whose engines can be built by trtexec too, on a board or by a bundle."""
BUILDERS = TRTEXEC_RUNTIMES
"""Runtimes that run engines only, which they build of a model."""
OPENVINO = {"openvino": "cpu", "openvino-gpu": "xpu"}
"""The runtimes of OpenVINO, which run engines and graphs, and their kinds of device."""
RUN_RUNTIMES = (TORCH, *BUILDERS, *OPENVINO, *PROVIDERS)
"""What `--runtime` takes."""


def find_provider(backend: str) -> Provider:
    """Return a provider by its name here. Raises InputError if it is unknown."""
    if backend not in PROVIDERS:
        raise InputError(
            f"unknown runtime '{backend}'; expected one of {', '.join(RUN_RUNTIMES)}",
            hint=did_you_mean(backend, RUN_RUNTIMES),
        )
    return PROVIDERS[backend]


def default_provider(device: str) -> Provider:
    """Return the provider of a kind of device that runs unless another is requested."""
    return next(provider for provider in _TABLE if provider.device == device)
