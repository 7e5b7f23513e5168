"""OpenVINO: sessions of engines and graphs on the CPU, or on a GPU of Intel's.

No GPU of Intel's was at hand: what is said of them here was never run.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple, Union

import numpy as np

from sr_deploy.core.device import cpu_features, usable_cores
from sr_deploy.core.errors import (
    ArtifactError,
    CannotRunHereError,
    DeviceMemoryError,
    MissingPackageError,
)
from sr_deploy.core.precisions import precision_of_counts
from sr_deploy.core.session import Session, SizeContract

_PRECISIONS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}
_MULTIPLYING = {"convolution", "deconvolution", "fullyconnected", "fully_connected", "matmul"}
"""Kinds of layers that take nearly all the time, in lower case."""
_INT8_FEATURES = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}
_OUT_OF_MEMORY = re.compile("allocate|bad_alloc|out of memory|OUT_OF_|exceed.* memory", re.I)


@dataclass(frozen=True)
class OpenVinoDevice:
    """A device as OpenVINO names it."""

    name: str = "CPU"
    """`CPU`, or `GPU.0`."""

    @property
    def is_cpu(self) -> bool:
        return self.name == "CPU"

    @property
    def place(self) -> str:
        """The device as `RunOptions` names it."""
        return "cpu" if self.is_cpu else f"xpu:{self.name.split('.')[1]}"

    @property
    def full_name(self) -> str:
        """The name of its model."""
        return str(self._property("FULL_DEVICE_NAME"))

    def _property(self, key: str) -> Any:
        return openvino_core().get_property(self.name, key)

    def why_absent(self) -> str:
        """Return why OpenVINO cannot use the device; empty if it can."""
        present = openvino_core().available_devices
        names = (self.name, "GPU") if self.name == "GPU.0" else (self.name,)
        if any(name in present for name in names):
            return ""
        found = " and ".join(present) or "no device"
        return f"OpenVINO finds no GPU of Intel's as {self.place} (it finds {found})"

    def why_no_precision(self, precision: str) -> str:
        """Return why the device cannot compute in a precision; empty if it can."""
        if precision == "bf16" and "BF16" not in self._property("OPTIMIZATION_CAPABILITIES"):
            need = "AVX512-BF16 or AMX" if self.is_cpu else "bf16"
            return f"{self._describe()} has no {need}, without which OpenVINO emulates bf16"
        features = cpu_features()[1:]  # known on Linux only
        if precision == "int8" and self.is_cpu and features:
            if not _INT8_FEATURES & set(features):
                return f"{self._describe()} has neither VNNI nor AMX, without which INT8 is slow"
        return ""

    def _describe(self) -> str:
        return f"this {'CPU' if self.is_cpu else 'GPU'} ({self.full_name})"

    def settings(self, precision: str, streams: int = 1) -> Dict[str, Any]:
        """Return the properties with which models are compiled, and engines opened.

        streams: the runs at once between which a CPU's cores are divided.

        An engine keeps none of them. Without the first, OpenVINO computes in the fastest precision
        of the device, whatever the graph is.
        """
        rest = "f32" if self.is_cpu else "f16"
        if precision == "int8" and self.is_cpu and not self.why_no_precision("bf16"):
            rest = "bf16"  # what lies between 8-bit convolutions takes half of the time then
        hint = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}.get(precision, rest)
        common = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        if not self.is_cpu:
            return common
        return {
            **common,
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": usable_cores(),
            # It pins threads to cores that were usable when it was loaded.
            "ENABLE_CPU_PINNING": usable_cores() == _cores_when_loaded(),
        }


CPU = OpenVinoDevice()


@dataclass(frozen=True)
class Layers:
    """The layers that multiply in a compiled model: convolutions and products of matrices."""

    precisions: Dict[str, int]
    """Their numbers by the precision in which they compute."""
    kernels: Dict[str, int]
    """Their numbers by the name of the kernel."""

    @property
    def precision(self) -> str:
        """`bf16`, or for example `mixed: 20 bf16, 3 fp32`; empty if there is none."""
        return precision_of_counts(self.precisions)


def layers_of(compiled: Any) -> Layers:
    """Read from OpenVINO's runtime model which layers compute in which precision."""
    precisions: Dict[str, int] = {}
    kernels: Dict[str, int] = {}
    for layer in compiled.get_runtime_model().get_ops():
        facts = {key: _text(value) for key, value in layer.get_rt_info().items()}
        if facts.get("layerType", "").lower() not in _MULTIPLYING:
            continue
        kind = facts.get("runtimePrecision", "unknown")
        for counts, name in (
            (precisions, _PRECISIONS.get(kind, kind)),
            (kernels, facts.get("primitiveType", "unknown")),
        ):
            counts[name] = counts.get(name, 0) + 1
    return Layers(precisions, kernels)


def _text(value: Any) -> str:
    return str(getattr(value, "value", value))


class OpenVinoSession(Session):
    """A compiled model on a device."""

    layers: Layers
    """What computes in which precision."""

    def __init__(
        self,
        open_model: Callable[[], Any],
        scale: int,
        sizes: SizeContract,
        device: OpenVinoDevice = CPU,
    ) -> None:
        """open_model: compiles or imports the model. It is called again after a failed run."""
        self.backend = "openvino" if device.is_cpu else "openvino-gpu"
        self.backend_version = openvino_version()
        self.device = "" if device.is_cpu else device.full_name
        self.place = device.place
        self.threads = usable_cores() if device.is_cpu else None
        self.settings = "" if device.is_cpu else "copies timed with it"
        self._open_model = open_model
        self._request, ends = self._opened()
        self.precision = self.layers.precision or "fp32"
        self.scale = scale
        self.min_hw, self.max_hw = sizes.min_hw, sizes.max_hw
        self.halo_px, self.align_px = sizes.halo_px, sizes.align_px
        self.multiple = sizes.multiple
        self._dtypes = tuple(end.get_element_type().to_dtype() for end in ends)

    def _opened(self) -> Tuple[Any, Tuple[Any, Any]]:
        """Return a request to run, and the model's ends."""
        compiled = self._open_model()
        self.layers = layers_of(compiled)
        return compiled.create_infer_request(), (compiled.input(0), compiled.output(0))

    def _release(self) -> None:
        self._request = None

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        """Run without copies, if the graph's ends are in FP32."""
        tensor = openvino_module().Tensor
        if self._request is None:
            self._request, _ = self._opened()
        x = np.ascontiguousarray(x_nchw, self._dtypes[0])
        shape = (1, 3, self.scale * x.shape[2], self.scale * x.shape[3])
        y = np.empty(shape, self._dtypes[1])
        try:
            # The request does not own these arrays: both stay referenced until it has run.
            self._request.set_input_tensor(tensor(x, shared_memory=True))
            self._request.set_output_tensor(tensor(y, shared_memory=True))
            self._request.infer()
        except RuntimeError as e:
            # OpenVINO 2026.4 crashes, or takes no other size, where a model runs again after it
            # lacked memory.
            self._request = None
            raise self._error(x.shape, e) from e
        return y.astype(np.float32, copy=False)

    def _error(self, shape: Tuple[int, ...], cause: RuntimeError) -> CannotRunHereError:
        return run_error(f"at {shape[2]}x{shape[3]}", self.device, cause)


def run_error(what: str, device: str, cause: RuntimeError) -> CannotRunHereError:
    """Return the error of a run that failed. device: its name; empty for the CPU."""
    reason = short_reason(cause)
    if _OUT_OF_MEMORY.search(reason):
        return DeviceMemoryError(
            f"{device or 'the CPU'} is out of memory while OpenVINO runs {what}: {reason}",
            hint="use smaller images, tiles or networks, or end other programs",
        )
    return CannotRunHereError(f"OpenVINO could not run {what}: {reason}")


def compiled_graph(
    graph: Union[str, bytes], precision: str, device: OpenVinoDevice, name: str, streams: int = 1
) -> Any:
    """Compile an ONNX graph, by its path or contents, for a precision and a device.

    Raises ArtifactError for a file that OpenVINO cannot read, CannotRunHereError for a graph that
    it cannot compile.
    """
    core = openvino_core()
    try:
        model = core.read_model(graph)
    except RuntimeError as e:
        raise ArtifactError(f"OpenVINO cannot read {name}: {short_reason(e)}") from e
    try:
        return core.compile_model(model, device.name, device.settings(precision, streams))
    except RuntimeError as e:
        raise CannotRunHereError(f"OpenVINO cannot compile {name}: {short_reason(e)}") from e


def imported_engine(
    content: bytes, precision: str, device: OpenVinoDevice, name: str, streams: int = 1
) -> Any:
    """Open the content of an engine. Raises CannotRunHereError if OpenVINO refuses it."""
    try:
        settings = device.settings(precision, streams)
        return openvino_core().import_model(content, device.name, settings)
    except RuntimeError as e:
        raise CannotRunHereError(
            f"OpenVINO cannot open {name}: {short_reason(e)}", hint="build it again here"
        ) from e


def short_reason(cause: BaseException) -> str:
    """Return what failed, without the lines of OpenVINO's source."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    own = [line for line in lines if not re.match(r"Exception from |Check '.*' failed at ", line)]
    return ((own or lines or [type(cause).__name__])[-1])[:300]


def openvino_module() -> Any:
    """Import and return openvino. Raises MissingPackageError."""
    try:
        import openvino
    except ImportError as e:
        raise MissingPackageError("openvino", needed_for="running by OpenVINO", cause=e) from e
    return openvino


@functools.lru_cache(maxsize=None)
def openvino_core() -> Any:
    module = openvino_module()
    _cores_when_loaded()
    return module.Core()


@functools.lru_cache(maxsize=None)
def _cores_when_loaded() -> int:
    return usable_cores()


def openvino_version() -> str:
    """Return for example 2026.4.1."""
    return str(openvino_module().__version__).split("-")[0]
