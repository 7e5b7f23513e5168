"""The ways in which this machine can run a model, the fastest first."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Iterator, List

from sr_deploy.core.device import cpu_features, gpu_present
from sr_deploy.core.errors import CannotRunHereError, MissingPackageError
from sr_deploy.core.providers import TORCH
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.runtime import BACKENDS


@dataclass(frozen=True)
class ModelWay:
    """A way to run a model: as an engine, as a graph, or by torch as it is."""

    runtime: str
    device: str
    """The kind of device."""
    target: str = ""
    """The target whose engine or graph is made of the model; empty: none, torch runs it."""
    precision: str = "fp32"
    """Of the engine, as it is asked for."""
    builds: bool = True
    """Whether an engine is built of the graph."""

    @property
    def profile(self) -> TargetProfile:
        return load_target(self.target)

    @property
    def is_bounded(self) -> bool:
        """Whether it runs in less than FP32, so that a bound on the loss applies to it."""
        return self.precision != "fp32"

    @property
    def is_default(self) -> bool:
        """Whether it runs where no loss was allowed: in the target's own precision."""
        return not self.target or self.precision == self.profile.precisions[0]

    def __str__(self) -> str:
        return f"{self.runtime} in {self.precision}" if self.is_bounded else self.runtime

    def why_not(self, index: int = 0) -> str:
        """Return why the device of this number cannot be used in this way; empty if it can."""
        if not self.target:
            return _why_no_torch(self.device, index)
        if not self.builds:
            return ""  # the session tells
        backend, profile = BACKENDS[self.runtime](), self.profile
        return (
            backend.why_unavailable(profile)
            or backend.why_no_device(profile, index)
            or backend.why_no_precision(self.precision)
        )


_ON_GPU = (
    ModelWay("tensorrt-rtx", "cuda", "rtx", "int8"),
    ModelWay("tensorrt-rtx", "cuda", "rtx", "fp16"),
    ModelWay("tensorrt", "cuda", "rtx-tensorrt", "int8"),
    ModelWay("tensorrt", "cuda", "rtx-tensorrt", "fp16"),
    ModelWay("tensorrt", "cuda", "rtx-tensorrt8", "int8"),
    ModelWay("tensorrt", "cuda", "rtx-tensorrt8", "fp16"),
    ModelWay("onnxruntime-cuda", "cuda", "cuda", "fp16"),
    ModelWay("tensorrt", "cuda", "rtx-tensorrt", "fp32"),
    ModelWay("tensorrt", "cuda", "rtx-tensorrt8", "fp32"),
    ModelWay("onnxruntime-cuda", "cuda", "cuda", "fp32"),
    ModelWay(TORCH, "cuda"),
)
"""By an order that was never measured."""
_ON_CPU = (
    ModelWay("openvino", "cpu", "cpu-openvino", "int8"),
    ModelWay("openvino", "cpu", "cpu-openvino", "bf16"),
    ModelWay("onnxruntime", "cpu", "cpu", "int8"),
    ModelWay("onnxruntime", "cpu", "cpu"),
    ModelWay("openvino", "cpu", "cpu-openvino"),
    ModelWay(TORCH, "cpu"),
)
"""The fastest first, on a CPU with VNNI and AVX512-BF16 but without AMX: two cores of an AMD EPYC,
with static graphs at 128x128 (benchmarks/graphs/runtimes). With dynamic ones at 256x256, bf16 is a
little faster for most of ASRN (benchmarks/precision). With AMX, bf16 is before INT8: on two cores
of an Intel Xeon it was faster for ASRN and IMDeception, and equal for SRN. CPUs of other kinds were
not measured.

In FP32, OpenVINO takes 0.54 to 0.87 times as long as ONNX Runtime on that AMD, with graphs in a
form of its own. On that Intel CPU only graphs in ONNX Runtime's form were measured, with which it
took 0.93 to 1.15 times as long; a shipped graph has that form, too. So ONNX Runtime is first: it
is faster without torch, its engine is made sooner, and a picture of a new size costs it less."""
_ON_INTEL_GPU = (
    ModelWay("openvino-gpu", "xpu", "intel-gpu", "int8"),
    ModelWay("openvino-gpu", "xpu", "intel-gpu", "fp16"),
    ModelWay("openvino-gpu", "xpu", "intel-gpu", "fp32"),
)
"""Where `--device xpu` asks for it. Never run."""


def usable_ways(run: RunOptions) -> Iterator[ModelWay]:
    """Yield the ways that `run` allows and this machine has, the fastest first.

    run: without `torch` and its settings, with which nothing is chosen.
    A way is looked at only when it is asked for, since that may load its library. Raises
    CannotRunHereError with the reasons if there is none.
    """
    index = run.requested_device.index if run.requested_device else 0
    reasons = []
    found = False
    for way in _allowed_ways(run):
        reason = way.why_not(index)
        if reason:
            reasons.append(reason)
        else:
            found = True
            yield way
    if not found:
        named = f"by {run.runtime}" if run.runtime else f"on {run.device or 'the CPU'}"
        reason = "; ".join(dict.fromkeys(reasons)) or "this runtime is not for this device"
        raise CannotRunHereError(
            f"models cannot be run {named} here: {reason}",
            hint="omit --runtime and --device for the fastest that is here",
        )


def _allowed_ways(run: RunOptions) -> List[ModelWay]:
    runtime, device, provider = run.runtime, run.requested_device, run.requested_provider
    ways = [*_ON_GPU, *_cpu_ways(), *_ON_INTEL_GPU]
    if provider is not None and not any(way.runtime == provider.backend for way in ways):
        return [ModelWay(provider.backend, provider.device, "cpu", builds=False)]
    if device is not None:
        kinds = [device.kind]
    elif runtime is not None:
        kinds = [way.device for way in ways]
    else:
        kinds = ["cuda", "cpu"] if gpu_present() else ["cpu"]
    ways = [w for w in ways if runtime in (None, w.runtime) and w.device in kinds]
    return [way for way in ways if way.is_default or run.min_psnr_vs_fp32 is not None]


def _cpu_ways() -> List[ModelWay]:
    """Return the ways on the CPU, the fastest first."""
    has_amx = "amx_bf16" in cpu_features()
    return sorted(_ON_CPU, key=lambda way: has_amx and way.precision != "bf16")


def _why_no_torch(device: str, index: int) -> str:
    if importlib.util.find_spec("torch") is None:
        return MissingPackageError("torch", needed_for="running checkpoints").message
    if device != "cuda":
        return ""
    from sr_deploy.runtime.torch_device import why_no_cuda

    return why_no_cuda(index)
