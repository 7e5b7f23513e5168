"""Builds engines with TensorRT 8.5 to 11, and with TensorRT for RTX, whose Python API is the same.

TensorRT 8 is weakly typed: an FP32 graph and a flag give an FP16 engine, and an FP16 graph without
the flag computes in FP32. TensorRT 11 and RTX are strongly typed: an engine computes in the graph's
tensor types. TensorRT 10 does both. None of them reports an error when an engine that should be
FP16 becomes FP32, so every engine gets a receipt of the precision it has.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

from sr_deploy.core.errors import BuildError, CannotRunHereError, MissingPackageError, TargetError
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.manifest import Manifest, target_of
from sr_deploy.core.parts import AdaptivePlan, OpenParts, PartReceipt, PlanPart
from sr_deploy.core.precisions import mixed_precision, precision_of_counts
from sr_deploy.core.run_options import DEFAULT_RUN, Device, RunOptions
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import Backend, BuildOptions, Session
from sr_deploy.core.target import TargetProfile, same_version
from sr_deploy.runtime.boards.layer_types import (
    layers_from_json,
    layers_from_log,
    precision_of_layers,
)
from sr_deploy.runtime.cuda import Cuda, cuda
from sr_deploy.runtime.dla_calibration import DLA_INT8, DLA_LAYERS, floats_and_scales
from sr_deploy.runtime.graph_outputs import checked_accuracy, graph_outputs
from sr_deploy.runtime.tensorrt_build import EngineGraph, TensorRTBuild
from sr_deploy.runtime.tensorrt_engine import (
    TensorRTSession,
    deserialize_engine,
    library_log,
    read_header,
)
from sr_deploy.runtime.tensorrt_parts import open_engine_parts

TURING = 75


@dataclass(frozen=True)
class _Receipt:
    """The precision an engine has, and the evidence for it."""

    precision: str
    checks: Dict[str, object]
    not_checked: Tuple[str, ...] = ()
    layers: Dict[str, int] = field(default_factory=dict)
    """Layers by precision, as far as they are known."""


class TensorRTBackend(Backend):
    """Builds on this machine's GPU, for this GPU and this version of TensorRT only."""

    name = package = "tensorrt"
    title = "TensorRT"
    builds_without_gpu = False

    def why_unavailable(self, target: TargetProfile) -> str:
        reason = super().why_unavailable(target)
        return reason if reason or self.builds_without_gpu else self.why_no_device(target)

    def remedy(self, missing: MissingPackageError) -> str:
        # pip brings one version of TensorRT, boards have their own.
        return missing.hint if self.builds_without_gpu else ""

    def why_no_device(self, target: TargetProfile, index: int = 0) -> str:
        try:
            here = cuda(index).compute_capability()
        except (CannotRunHereError, MissingPackageError) as e:
            return e.message
        expected = target.compute_capabilities + target.compute_capabilities_on_request
        if expected and here not in expected:
            versions = " or ".join(f"{sm / 10:.1f}" for sm in expected)
            return f"this machine's GPU is SM {here / 10:.1f}, but the target is SM {versions}"
        return ""

    def versions(self) -> Dict[str, str]:
        return {self.package: self._library().__version__}

    def build(
        self,
        onnx: Path,
        graph: Manifest,
        target: TargetProfile,
        temporary: Path,
        options: BuildOptions,
    ) -> Manifest:
        known = EngineGraph.of_manifest(graph)
        facts, receipt = self._built(onnx, known, target, temporary, options)
        manifest = replace(
            graph,
            kind="engine",
            target=target.name,
            profile=target.recorded,
            precision_obtained=receipt.precision,
            versions=self.versions(),
            checks=receipt.checks,
            not_checked=receipt.not_checked,
            build=facts,
        )
        return self._check_accuracy(onnx, graph, temporary, manifest)

    def build_part(
        self,
        onnx: Path,
        part: PlanPart,
        target: TargetProfile,
        precision: str,
        temporary: Path,
        options: BuildOptions,
    ) -> PartReceipt:
        known = EngineGraph.of_part(part, precision)
        facts, receipt = self._built(onnx, known, target, temporary, options)
        seconds = float(str(facts.pop("seconds")))
        facts.update(receipt.checks)
        return PartReceipt(receipt.precision, receipt.layers, seconds, facts, receipt.not_checked)

    def _built(
        self,
        onnx: Path,
        graph: EngineGraph,
        target: TargetProfile,
        temporary: Path,
        options: BuildOptions,
    ) -> Tuple[Dict[str, object], _Receipt]:
        """Build an engine; return the facts of its build, and its receipt. Raises BuildError."""
        strong = self._is_strongly_typed(target)
        build = TensorRTBuild(self._library(), self.title, graph, target, options, strong)
        self._check_precision(onnx, build)
        start = time.perf_counter()
        facts: Dict[str, object] = {"no_cublas_cudnn": True} if options.no_cublas_cudnn else {}
        temporary.write_bytes(self._plan(onnx, build, facts))
        facts["seconds"] = round(time.perf_counter() - start, 3)
        facts["size_bytes"] = temporary.stat().st_size
        if not self.builds_without_gpu:
            gpu = cuda()
            facts["gpu"], facts["compute_capability"] = gpu.gpu_name(), gpu.compute_capability()
        facts["warnings"] = [*build.warnings(), *build.log.warnings()]
        return facts, self._receipt(temporary, build)

    def _plan(self, onnx: Path, build: TensorRTBuild, facts: Dict[str, object]) -> bytes:
        """Build and return the engine; add what was done to `facts`. Raises BuildError.

        Convolutions of an INT8 graph that have no kernel lose their Q/DQ pairs, and it starts anew.
        """
        with tempfile.TemporaryDirectory() as folder:
            file, scales = onnx, None
            if build.graph.precision_asked == "int8" and build.options.dla is not None:
                file = Path(folder) / onnx.name
                scales = floats_and_scales(onnx, build.graph.opt_hw, file)
            while True:
                network, config = build.parse(file), build.config()
                self._prepare(onnx, build, (network, config), facts)
                if scales is not None:
                    build.calibrate(network, config, scales)
                cache = None
                if not self.builds_without_gpu:
                    cache = build.load_timing_cache(config, cuda().compute_capability())
                plan = build.serialize(network, config)
                if plan is not None:
                    break
                less = Path(folder) / f"{len(build.no_kernel)}-{onnx.name}"
                if not build.drop_pairs(file, less):
                    raise build.not_built(onnx.name)
                file = less
        if build.no_kernel:
            facts["no_int8_kernel"] = list(build.no_kernel)
        if cache is not None:
            build.save_timing_cache(config, cache)
        return plan

    def _prepare(
        self, onnx: Path, build: TensorRTBuild, parsed: Tuple[Any, Any], facts: Dict[str, object]
    ) -> None:
        (network, config), options = parsed, build.options
        fp32 = build.types.get("FLOAT") if build.graph.precision_asked == "fp16" else 0
        if build.strong and fp32 and not build.types.get("HALF"):
            raise BuildError(f"{onnx.name} is not an FP16 graph: {fp32} layers are FP32 as parsed")
        if options.fp32_layers:
            facts["fp32_layers"] = build.keep_fp32(network, config)
        if options.dla is not None:
            layers_on_gpu = build.use_dla(network, config, options.dla)
            facts["dla"] = {"core": options.dla, "layers_on_gpu": layers_on_gpu}
        build.capabilities = self._set_capabilities(build, config)
        if build.capabilities:
            facts["compute_capabilities"] = list(build.capabilities)

    def open(self, artifact: Path, manifest: Manifest, run: RunOptions = DEFAULT_RUN) -> Session:
        """Open an engine whose manifest was verified. Raises CannotRunHereError."""
        built_with = manifest.versions.get(self.package, "an unknown version")
        trt, gpu = self._library_and_gpu(artifact.name, target_of(manifest), built_with, run)
        return TensorRTSession(trt, artifact, manifest, gpu, backend=self.name, title=self.title)

    def open_parts(self, path: Path, plan: AdaptivePlan, run: RunOptions) -> OpenParts:
        made = plan.engine
        if made is None:
            raise CannotRunHereError(
                f"{path.name} is a plan of graphs; {self.title} runs engines",
                hint=f"srdeploy build-engine {path.name} --target TARGET -o DIR",
            )
        built_with = made.versions.get(self.package, "an unknown version")
        trt, gpu = self._library_and_gpu(path.name, target_of(made), built_with, run)
        return open_engine_parts((trt, self.name), path.parent, plan, gpu, title=self.title)

    def _library_and_gpu(
        self, name: str, target: TargetProfile, built_with: str, run: RunOptions
    ) -> Tuple[Any, Cuda]:
        """Return what an engine of `target` needs. Raises CannotRunHereError without it."""
        needs = f"target '{target.name}'"
        try:
            trt = self._library()
        except MissingPackageError as e:
            problem = f"it needs {self.title} and the GPU of {needs}: {e.message}"
            raise CannotRunHereError(problem, hint=e.hint) from e
        device = run.requested_device or Device("cuda")
        if device.kind != "cuda":
            raise CannotRunHereError(
                f"an engine of {needs} runs on an NVIDIA GPU, not on {device}",
                hint="omit --device, or run the ONNX graph instead",
            )
        reason = self.why_no_device(target, device.index)
        if reason:
            raise CannotRunHereError(f"it needs the GPU of {needs}: {reason}")
        if not same_version(built_with, trt.__version__):
            raise CannotRunHereError(
                f"{name} was built with {self.title} {built_with}, but {trt.__version__} "
                "is installed: an engine runs with one version only",
                hint=f"build it again with: srdeploy build-engine GRAPH --target {target.name}",
            )
        return trt, cuda(device.index)

    def _check_accuracy(
        self, onnx: Path, graph: Manifest, engine: Path, manifest: Manifest
    ) -> Manifest:
        """Compare the engine with onnxruntime on photographs, where possible. Raises BuildError."""
        reason = self.why_no_device(target_of(manifest))
        try:
            if not reason:
                images = [nchw_from_rgb(rgb) for rgb in sample_lr(graph.opt_shape, count=2)]
                references = graph_outputs(onnx, graph, images)
        except MissingPackageError as e:
            reason = e.message
        if reason:
            not_checked = (f"the engine's output: {reason}", *manifest.not_checked)
            return replace(manifest, not_checked=not_checked)
        with self.open(engine, manifest) as session:
            outputs = list(map(session.run, images))
        accuracy = checked_accuracy(outputs, references, f"the engine of {onnx.name}")
        return replace(manifest, checks={**manifest.checks, "accuracy": accuracy})

    def _library(self) -> Any:
        needed_for = f"building and running {self.title} engines"
        try:
            return importlib.import_module(self.package)
        except ImportError as e:
            raise MissingPackageError(self.package, needed_for=needed_for, cause=e) from e

    def _is_strongly_typed(self, target: TargetProfile) -> bool:
        major = int(self._library().__version__.split(".")[0])
        return major >= 11 or (major == 10 and target.fp16_graph == "fp16")

    def _check_precision(self, onnx: Path, build: TensorRTBuild) -> None:
        graph = build.graph
        strong = "fp16" if graph.precision_asked == "int8" else graph.precision_asked
        if graph.graph_dtype != (strong if build.strong else "fp32"):
            reason = (
                "is strongly typed: it would build an FP32 engine from it without an error"
                if build.strong
                else "is weakly typed: it builds an FP16 engine from an FP32 graph"
            )
            raise BuildError(
                f"{onnx.name} is an {graph.graph_dtype.upper()} graph, but {self.title} "
                f"{self._library().__version__} {reason}",
                hint=f"export it again with --target {build.target.option}",
            )

    def _set_capabilities(self, build: TensorRTBuild, config: Any) -> Tuple[int, ...]:
        """Set the GPU generations to build for. Only TensorRT for RTX builds for other GPUs."""
        return ()

    def _receipt(self, engine: Path, build: TensorRTBuild) -> _Receipt:
        """Return the receipt of the engine's precision. Raises BuildError when FP16 became FP32."""
        trt = self._library()
        if build.graph.precision_asked == "int8" and build.options.dla is not None:
            return _Receipt("int8", {"precision_receipt": DLA_INT8}, (DLA_LAYERS,))
        # Bindings of 8.2 to 8.5 keep neither the engine nor the context of an inspector alive.
        opened = deserialize_engine(trt, engine, library_log(trt), self.title)
        inspector = opened.create_engine_inspector()
        context = opened.create_execution_context() if build.graph.shapes else None
        if context is not None:  # without it the layers of a dynamic engine have no types
            inspector.execution_context = context
        layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        del inspector, context, opened
        obtained, counts = precision_of_layers(layers_from_json(layers))
        if obtained == "unknown" and build.strong:
            return _receipt_of_parsed(build)
        if obtained == "unknown":
            library = f"{self.title} {trt.__version__}"
            raise BuildError(f"the inspector of {library} does not report the engine's precision")
        receipt = f"engine inspector: layers by type: {counts}"
        precision = _as_asked(build, obtained, counts, receipt)
        return _Receipt(precision, {"precision_receipt": receipt}, layers=counts)


class TensorRTForRTXBackend(TensorRTBackend):
    """Builds without a GPU, in a few seconds, for several GPU generations. Strongly typed."""

    name, package = "tensorrt-rtx", "tensorrt_rtx"
    title = "TensorRT for RTX"
    builds_without_gpu = True

    def _is_strongly_typed(self, target: TargetProfile) -> bool:
        return True

    def _set_capabilities(self, build: TensorRTBuild, config: Any) -> Tuple[int, ...]:
        trt = build.trt
        capabilities = _capabilities(build.target, build.options.compute_capabilities)
        if build.graph.precision_asked == "int8" and TURING in capabilities:
            raise BuildError(
                f"{self.title} computes quantised convolutions in higher precision on Turing (SM "
                "7.5): there is no INT8 engine for it",
                hint="omit --sm 75, or export the graph with --precision fp16",
            )
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            kind = getattr(trt.ComputeCapability, f"SM{capability}", None)
            if kind is None:
                raise BuildError(f"tensorrt_rtx {trt.__version__} does not support SM{capability}")
            if not config.set_compute_capability(kind, i):
                raise build.error(f"{self.title} refused SM{capability}")
        return capabilities

    def _receipt(self, engine: Path, build: TensorRTBuild) -> _Receipt:
        header = read_header(engine)
        built = header.compute_capabilities
        if built != build.capabilities:
            raise BuildError(f"the engine is for SM {built}; expected {build.capabilities}")
        receipt = _receipt_of_parsed(build)
        versions = ", ".join(map(str, built))
        checks = {"engine_header": f"TensorRT for RTX {header.version}, SM {versions}"}
        # What its builder logs of the engine's layers; else they are seen on a GPU only.
        obtained, counts = precision_of_layers(layers_from_log(build.log.layers()))
        not_checked: Tuple[str, ...] = ("FP16 accumulation on the GPU",)
        if obtained != "unknown":
            logged = f"layers of the engine, as its builder logged them, by type: {counts}"
            precision = _as_asked(build, obtained, counts, logged)
            if build.graph.precision_asked == "int8":
                receipt = replace(receipt, precision=precision, layers=counts)
            checks["engine_layers"] = logged
        else:
            inspected = "its layers: an engine can be deserialised and inspected only on a GPU"
            not_checked = (*not_checked, inspected)
        return replace(receipt, checks={**receipt.checks, **checks}, not_checked=not_checked)


def _as_asked(build: TensorRTBuild, obtained: str, counts: Dict[str, int], receipt: str) -> str:
    """Return the precision of an engine. Raises BuildError if it is not what was asked for."""
    asked = build.graph.precision_asked
    if (asked == "fp16" and obtained == "fp32") or (asked == "int8" and "int8" not in counts):
        computes = obtained.upper() if obtained in ("fp16", "fp32") else "FP16 and FP32"
        raise BuildError(
            f"{asked.upper()} was requested, but the engine computes in {computes}: {receipt}"
        )
    return mixed_precision(counts) if obtained == "mixed" else obtained


def _receipt_of_parsed(build: TensorRTBuild) -> _Receipt:
    """Return the receipt of a strongly typed build: it computes in the parsed network's types.

    Raises BuildError if INT8 was asked for, and no convolution reads INT8.
    """
    if build.graph.precision_asked == "int8":
        total, counts = sum(build.convolutions.values()), build.convolutions
        receipt = (
            f"strongly typed build; {counts.get('int8', 0)} of {total} convolutions of the parsed "
            "network have inputs and weights of INT8"
        )
        obtained = next(iter(counts)) if len(counts) == 1 else "mixed"
        precision = _as_asked(build, obtained, counts, receipt)
        return _Receipt(precision, {"precision_receipt": receipt}, layers=counts)
    types, names = build.types, {"HALF": "fp16", "FLOAT": "fp32"}
    counts = {names[name]: n for name, n in types.items() if name in names}
    receipt = f"strongly typed build; layers of the parsed network by output type: {types}"
    return _Receipt(precision_of_counts(counts), {"precision_receipt": receipt}, layers=counts)


def _capabilities(target: TargetProfile, requested: Sequence[int]) -> Tuple[int, ...]:
    if not requested:
        return target.compute_capabilities
    known = sorted(target.compute_capabilities + target.compute_capabilities_on_request)
    for capability in requested:
        if capability not in known:
            expected = f"expected one of {', '.join(map(str, known))}"
            raise TargetError(f"target '{target.name}' has no SM {capability}; {expected}")
    return tuple(sorted(set(requested)))
