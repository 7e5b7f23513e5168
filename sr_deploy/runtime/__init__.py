"""Engine builders and sessions, one module a backend. Adding one is a module and a line here."""

from __future__ import annotations

from sr_deploy.core.registry import Registry

BACKENDS = Registry(
    "backend",
    {
        "onnxruntime": "sr_deploy.runtime.ort_engine:OnnxRuntimeBackend",
        "onnxruntime-cuda": "sr_deploy.runtime.ort_engine:OnnxRuntimeCudaBackend",
        "openvino": "sr_deploy.runtime.openvino:OpenVinoBackend",
        "openvino-gpu": "sr_deploy.runtime.openvino:OpenVinoGpuBackend",
        "tensorrt": "sr_deploy.runtime.tensorrt:TensorRTBackend",
        "tensorrt-rtx": "sr_deploy.runtime.tensorrt:TensorRTForRTXBackend",
    },
)
