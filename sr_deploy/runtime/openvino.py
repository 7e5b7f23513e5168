"""Engines of OpenVINO, for CPUs and for GPUs of Intel's: models that it has compiled and exported.

No GPU of Intel's was at hand: `OpenVinoGpuBackend` was never run.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Dict, Tuple, Union

from sr_deploy.core.device import cpu_features, cpu_model
from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    CannotRunHereError,
    MissingPackageError,
)
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB
from sr_deploy.core.parts import AdaptivePlan, OpenParts, PartReceipt, PlanPart
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import Backend, BuildOptions, Session
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.accuracy import compare_outputs, refuse_inaccurate
from sr_deploy.runtime.graph_outputs import GraphOutputs, checked_accuracy, graph_outputs
from sr_deploy.runtime.graph_probe import bounded_memory, probe_graph
from sr_deploy.runtime.openvino_parts import open_openvino_parts
from sr_deploy.runtime.openvino_session import (
    CPU,
    Layers,
    OpenVinoDevice,
    OpenVinoSession,
    compiled_graph,
    imported_engine,
    layers_of,
    openvino_version,
)
from sr_deploy.runtime.ort import model_of, raw_session
from sr_deploy.runtime.standard_graph import standard_bytes

_TWO_PHOTOGRAPHS_PX = 2**18
"""Larger sizes are checked with one photograph."""


class OpenVinoBackend(Backend):
    """Exports compiled models, which are valid for one version of OpenVINO and one kind of CPU."""

    name = package = "openvino"
    title = "OpenVINO"
    device_kind = "cpu"

    def device_of(self, run: RunOptions = DEFAULT_RUN) -> OpenVinoDevice:
        """Return the device of `run`, or the first. Raises CannotRunHereError for other kinds."""
        requested = run.requested_device
        if run.runtime not in (None, self.name) or requested and requested.kind != self.device_kind:
            raise CannotRunHereError(
                f"OpenVINO runs it on {self.device_kind}, not by {run.runtime or requested}",
                hint="omit --device and --runtime, or give its graph",
            )
        return self._device(requested.index if requested else 0)

    def _device(self, index: int) -> OpenVinoDevice:
        return CPU

    def versions(self) -> Dict[str, str]:
        return {"openvino": openvino_version(), "cpu_features": " ".join(cpu_features())}

    def why_no_precision(self, precision: str) -> str:
        return self.device_of().why_no_precision(precision)

    def build(
        self, onnx: Path, graph: Manifest, target: TargetProfile, temporary: Path, options: Any
    ) -> Manifest:
        asked = graph.precision_asked
        device = self._building_device(asked, onnx.name)
        seconds = _write_engine(onnx, asked, device, temporary)
        # What is looked at and compared is what will be opened later.
        session = _engine_session(temporary, graph, device)
        with session:
            layers, where = session.layers, session.device
            _refuse_other_precision(layers, asked, onnx.name)
            checks, not_checked = _compared(session, onnx, graph, device)
        others = "CPUs with other features: there it is refused" if device.is_cpu else _UNTESTED
        return replace(
            graph,
            kind="engine",
            target=target.name,
            precision_obtained=layers.precision or asked,
            versions=self.versions(),
            checks={**checks, "layers": layers.precisions},
            not_checked=(*not_checked, "its output at other sizes", others),
            build={
                "seconds": seconds,
                "size_bytes": temporary.stat().st_size,
                **({"cpu": cpu_model()} if device.is_cpu else {"gpu": where}),
                "precision_hint": device.settings(asked)["INFERENCE_PRECISION_HINT"],
                "kernels": layers.kernels,
            },
        )

    def _building_device(self, precision: str, name: str) -> OpenVinoDevice:
        """Return the device that engines are built for. Raises BuildError if it cannot."""
        device = self.device_of()
        reason = device.why_absent() or device.why_no_precision(precision)
        if reason:
            problem = f"no {precision.upper()} engine of {name} can be built here: {reason}"
            raise BuildError(problem, hint=_FP32)
        return device

    def open(self, artifact: Path, manifest: Manifest, run: RunOptions = DEFAULT_RUN) -> Session:
        """Open an engine, or a graph, which is compiled first: for BF16 if it was exported for it.

        Raises CannotRunHereError for an engine of another version of OpenVINO or another kind of
        CPU, and if another device is requested.
        """
        asked = manifest.precision_asked
        device = self._usable_device(run, asked)
        if manifest.kind != "engine":
            return _graph_session(model_of(artifact, manifest), manifest, device, artifact.name)
        self.refuse_other_versions(artifact, manifest)
        return _engine_session(artifact, manifest, device)

    def open_bare(self, graph: Path, run: RunOptions) -> Session:
        """Open a graph without a manifest in FP32. ONNX Runtime probes its contract.

        Raises MissingPackageError without onnxruntime, ArtifactError and CannotRunHereError as
        `OnnxRuntimeSession` does.
        """
        device = self._usable_device(run, "fp32")
        with bounded_memory(graph):
            contract = probe_graph(graph, raw_session(str(graph)))
        content: Union[str, bytes] = str(graph)
        if not contract.interface.is_standard:
            content = standard_bytes(graph, contract.interface, contract.scale)
        sizes = replace(contract.sizes, align_px=contract.sizes.multiple)
        open_model = partial(compiled_graph, content, "fp32", device, graph.name)
        return OpenVinoSession(open_model, contract.scale, sizes, device)

    def build_part(
        self,
        onnx: Path,
        part: PlanPart,
        target: TargetProfile,
        precision: str,
        temporary: Path,
        options: BuildOptions,
    ) -> PartReceipt:
        device = self._building_device(precision, onnx.name)
        seconds = _write_engine(onnx, precision, device, temporary)
        opened = imported_engine(temporary.read_bytes(), precision, device, onnx.name)
        layers = layers_of(opened)
        facts = {"kernels": layers.kernels}
        return PartReceipt(layers.precision, layers.precisions, seconds, facts)

    def open_parts(self, path: Path, plan: AdaptivePlan, run: RunOptions) -> OpenParts:
        device = self._usable_device(run, plan.precision)
        if plan.engine is not None:
            self.refuse_other_versions(path, plan.engine)
        return open_openvino_parts(path.parent, plan, device)

    def _usable_device(self, run: RunOptions, precision: str) -> OpenVinoDevice:
        device = self.device_of(run)
        absent = device.why_absent()
        if absent:
            raise CannotRunHereError(absent, hint="omit --device and --runtime")
        reason = device.why_no_precision(precision)
        if reason:
            problem = f"OpenVINO cannot run it in {precision.upper()}: {reason}"
            raise CannotRunHereError(problem, hint=_FP32)
        return device


class OpenVinoGpuBackend(OpenVinoBackend):
    """Exports compiled models for GPUs of Intel's. It was never run."""

    name, device_kind = "openvino-gpu", "xpu"

    def _device(self, index: int) -> OpenVinoDevice:
        return OpenVinoDevice(f"GPU.{index}")

    def versions(self) -> Dict[str, str]:
        versions, device = {"openvino": openvino_version()}, self.device_of()
        return versions if device.why_absent() else {**versions, "gpu": device.full_name}

    def why_unavailable(self, target: TargetProfile) -> str:
        return super().why_unavailable(target) or self.why_no_device(target)

    def why_no_device(self, target: TargetProfile, index: int = 0) -> str:
        try:
            return self._device(index).why_absent()
        except MissingPackageError as e:
            return e.message


_FP32 = "export it with --precision fp32"
_UNTESTED = "GPUs of Intel's: we have never run it on one"


def _write_engine(onnx: Path, precision: str, device: OpenVinoDevice, engine: Path) -> float:
    """Compile a graph and export what was compiled; return the seconds. Raises BuildError."""
    start = time.perf_counter()
    try:
        compiled = compiled_graph(str(onnx), precision, device, onnx.name)
    except ArtifactError as e:
        raise BuildError(e.message, hint=e.hint) from e
    engine.write_bytes(compiled.export_model().getvalue())
    return round(time.perf_counter() - start, 3)


def _engine_session(engine: Path, manifest: Manifest, device: OpenVinoDevice) -> OpenVinoSession:
    asked, content = manifest.precision_asked, engine.read_bytes()
    open_model = partial(imported_engine, content, asked, device, str(engine))
    return OpenVinoSession(open_model, manifest.scale, manifest.sizes, device)


def _graph_session(
    graph: Union[str, bytes], manifest: Manifest, device: OpenVinoDevice, name: str
) -> OpenVinoSession:
    open_model = partial(compiled_graph, graph, manifest.precision_asked, device, name)
    return OpenVinoSession(open_model, manifest.scale, manifest.sizes, device)


def _refuse_other_precision(layers: Layers, asked: str, name: str) -> None:
    """Raise BuildError unless layers compute in the precision that was asked for."""
    found = set(layers.precisions)
    if asked in found or asked == "fp32" and not found:
        return
    raise BuildError(
        f"{asked.upper()} was asked for, but OpenVINO computes {name} in "
        f"{layers.precision or 'no layer that it applies to'}",
        hint="" if asked == "fp32" else _FP32,
    )


def _compared(
    session: OpenVinoSession, onnx: Path, graph: Manifest, device: OpenVinoDevice
) -> Tuple[Dict[str, Any], Tuple[str, ...]]:
    """Compare an engine with its graph on photographs: (checks, not_checked).

    Without onnxruntime, one of less than FP32 is compared with OpenVINO's own FP32.
    """
    h, w = graph.opt_shape
    photographs = sample_lr((h, w), count=2 if h * w <= _TWO_PHOTOGRAPHS_PX else 1)
    images = [nchw_from_rgb(rgb) for rgb in photographs]
    name, asked = f"the engine of {onnx.name}", graph.precision_asked
    against = "onnxruntime on the CPU, FP32"
    try:
        references = graph_outputs(onnx, graph, images)
    except MissingPackageError as e:
        if asked not in ("bf16", "fp16"):
            return {}, (f"its output: {e.message}",)
        in_fp32 = replace(graph, precision_asked="fp32")
        with _graph_session(str(onnx), in_fp32, device, onnx.name) as reference:
            references = GraphOutputs([reference.run(x) for x in images])
        against = "OpenVINO, FP32"
    outputs = [session.run(x) for x in images]
    if asked == "int8":
        return {"accuracy": checked_accuracy(outputs, references, name)}, ()
    accuracy = compare_outputs(outputs, references.graph)
    refuse_inaccurate(accuracy, name, MIN_PSNR_DB[asked], "" if asked == "fp32" else _FP32)
    return {"accuracy": {**accuracy, "against": against}}, ()


MIN_PSNR_DB = {"fp32": 80.0, "bf16": 40.0, "fp16": MIN_FP16_PSNR_DB}
"""The least PSNR of an engine's output against its graph's by ONNX Runtime. It finds engines that
compute wrongly. What a precision loses is recorded: the caller decides how much is too much."""
