"""Builds engines with TensorRT 8.5 to 11, and with TensorRT for RTX, whose Python API is the same.

TensorRT 8 is weakly typed: an FP32 graph and a flag give an FP16 engine, and an FP16 graph without
the flag computes in FP32. TensorRT 11 and RTX are strongly typed: an engine computes in the graph's
tensor types. TensorRT 10 does both. None of them reports an error when an engine that should be
FP16 becomes FP32, so every engine gets a receipt of the precision it has.
"""

from __future__ import annotations

import importlib
import re
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import BuildError, CannotRunHereError, MissingPackageError, TargetError
from sr_deploy.core.files import atomic_path
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.manifest import Manifest, target_of
from sr_deploy.core.precisions import mixed_precision
from sr_deploy.core.run_options import CPU_RUN, DEFAULT_RUN, Device, RunOptions
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import Backend, BuildOptions, Session
from sr_deploy.core.target import TargetProfile, same_version
from sr_deploy.runtime.accuracy import compare_outputs, refuse_inaccurate
from sr_deploy.runtime.boards.trtexec import precision_from_layers
from sr_deploy.runtime.cuda import cuda
from sr_deploy.runtime.fallback import with_fp32_nodes
from sr_deploy.runtime.ort import OnnxRuntimeSession
from sr_deploy.runtime.tensorrt_engine import (
    TensorRTSession,
    deserialize_engine,
    library_log,
    logged_errors,
    read_header,
)


@dataclass(frozen=True)
class _Receipt:
    """The precision an engine has, and the evidence for it."""

    precision: str
    checks: Dict[str, object]
    not_checked: Tuple[str, ...] = ()


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
        strong = self._is_strongly_typed(target)
        build = _Build(self._library(), self.title, graph, target, options, strong)
        self._check_precision(onnx, build)
        start = time.perf_counter()
        network, config = build.parse(onnx), build.config()
        fp32 = build.types.get("FLOAT") if graph.precision_asked == "fp16" else 0
        if strong and fp32 and not build.types.get("HALF"):
            raise BuildError(f"{onnx.name} is not an FP16 graph: {fp32} layers are FP32 as parsed")
        facts: Dict[str, object] = {}
        if options.fp32_layers:
            facts["fp32_layers"] = build.keep_fp32(network, config)
        if options.no_cublas_cudnn:
            facts["no_cublas_cudnn"] = True
        if options.dla is not None:
            layers_on_gpu = build.use_dla(network, config, options.dla)
            facts["dla"] = {"core": options.dla, "layers_on_gpu": layers_on_gpu}
        build.capabilities = self._set_capabilities(build, config)
        if build.capabilities:
            facts["compute_capabilities"] = list(build.capabilities)
        cache = None if self.builds_without_gpu else build.load_timing_cache(config)
        temporary.write_bytes(build.serialize(network, config, onnx.name))
        facts["seconds"] = round(time.perf_counter() - start, 3)
        if cache is not None:
            build.save_timing_cache(config, cache)
        facts["size_bytes"] = temporary.stat().st_size
        if not self.builds_without_gpu:
            gpu = cuda()
            facts["gpu"], facts["compute_capability"] = gpu.gpu_name(), gpu.compute_capability()
        facts["warnings"] = build.log.warnings()
        receipt = self._receipt(temporary, build)
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

    def open(self, artifact: Path, manifest: Manifest, run: RunOptions = DEFAULT_RUN) -> Session:
        """Open an engine whose manifest was verified. Raises CannotRunHereError."""
        needs = f"target '{manifest.target}'"
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
        reason = self.why_no_device(target_of(manifest), device.index)
        if reason:
            raise CannotRunHereError(f"it needs the GPU of {needs}: {reason}")
        built_with = manifest.versions.get(self.package, "an unknown version")
        if not same_version(built_with, trt.__version__):
            raise CannotRunHereError(
                f"{artifact.name} was built with {self.title} {built_with}, but {trt.__version__} "
                "is installed: an engine runs with one version only",
                hint=f"build it again with: srdeploy build-engine GRAPH --target {manifest.target}",
            )
        gpu = cuda(device.index)
        return TensorRTSession(trt, artifact, manifest, gpu, backend=self.name, title=self.title)

    def _check_accuracy(
        self, onnx: Path, graph: Manifest, engine: Path, manifest: Manifest
    ) -> Manifest:
        """Compare the engine with onnxruntime on photographs, where possible. Raises BuildError."""
        reason = self.why_no_device(target_of(manifest))
        try:
            if not reason:
                images = [nchw_from_rgb(rgb) for rgb in sample_lr(graph.opt_shape, count=2)]
                reference = OnnxRuntimeSession(onnx, graph, CPU_RUN)
        except MissingPackageError as e:
            reason = e.message
        if reason:
            not_checked = (f"the engine's output: {reason}", *manifest.not_checked)
            return replace(manifest, not_checked=not_checked)
        with self.open(engine, manifest) as session:
            outputs, references = map(session.run, images), map(reference.run, images)
            accuracy = compare_outputs(list(outputs), list(references))
        refuse_inaccurate(accuracy, f"the engine of {onnx.name}")
        checks = {**manifest.checks, "accuracy": {**accuracy, "against": "onnxruntime, FP32"}}
        return replace(manifest, checks=checks)

    def _library(self) -> Any:
        needed_for = f"building and running {self.title} engines"
        try:
            return importlib.import_module(self.package)
        except ImportError as e:
            raise MissingPackageError(self.package, needed_for=needed_for, cause=e) from e

    def _is_strongly_typed(self, target: TargetProfile) -> bool:
        major = int(self._library().__version__.split(".")[0])
        return major >= 11 or (major == 10 and target.fp16_graph == "fp16")

    def _check_precision(self, onnx: Path, build: _Build) -> None:
        graph = build.graph
        if graph.graph_dtype != (graph.precision_asked if build.strong else "fp32"):
            reason = (
                "is strongly typed: it would build an FP32 engine from it without an error"
                if build.strong
                else "is weakly typed: it builds an FP16 engine from an FP32 graph"
            )
            raise BuildError(
                f"{onnx.name} is an {graph.precision_obtained.upper()} graph, but {self.title} "
                f"{self._library().__version__} {reason}",
                hint=f"export it again with --target {build.target.option}",
            )

    def _set_capabilities(self, build: _Build, config: Any) -> Tuple[int, ...]:
        """Set the GPU generations to build for. Only TensorRT for RTX builds for other GPUs."""
        return ()

    def _receipt(self, engine: Path, build: _Build) -> _Receipt:
        """Return the receipt of the engine's precision. Raises BuildError when FP16 became FP32."""
        trt = self._library()
        # Bindings of 8.2 to 8.5 keep neither the engine nor the context of an inspector alive.
        opened = deserialize_engine(trt, engine, library_log(trt), self.title)
        inspector = opened.create_engine_inspector()
        context = opened.create_execution_context() if build.graph.dynamic else None
        if context is not None:  # without it the layers of a dynamic engine have no types
            inspector.execution_context = context
        layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        del inspector, context, opened
        obtained, counts = precision_from_layers(layers)
        if obtained == "unknown" and build.strong:
            return _receipt_of_types(build.types)
        if obtained == "unknown":
            library = f"{self.title} {trt.__version__}"
            raise BuildError(f"the inspector of {library} does not report the engine's precision")
        receipt = f"engine inspector: layers by type: {counts}"
        if build.graph.precision_asked == "fp16" and obtained == "fp32":
            raise BuildError(f"FP16 was requested, but the engine computes in FP32: {receipt}")
        precision = mixed_precision(counts) if obtained == "mixed" else obtained
        return _Receipt(precision, {"precision_receipt": receipt})


class TensorRTForRTXBackend(TensorRTBackend):
    """Builds without a GPU, in a few seconds, for several GPU generations. Strongly typed."""

    name, package = "tensorrt-rtx", "tensorrt_rtx"
    title = "TensorRT for RTX"
    builds_without_gpu = True

    def _is_strongly_typed(self, target: TargetProfile) -> bool:
        return True

    def _set_capabilities(self, build: _Build, config: Any) -> Tuple[int, ...]:
        trt = build.trt
        capabilities = _capabilities(build.target, build.options.compute_capabilities)
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            kind = getattr(trt.ComputeCapability, f"SM{capability}", None)
            if kind is None:
                raise BuildError(f"tensorrt_rtx {trt.__version__} does not support SM{capability}")
            if not config.set_compute_capability(kind, i):
                raise build.error(f"{self.title} refused SM{capability}")
        return capabilities

    def _receipt(self, engine: Path, build: _Build) -> _Receipt:
        header = read_header(engine)
        built = header.compute_capabilities
        if built != build.capabilities:
            raise BuildError(f"the engine is for SM {built}; expected {build.capabilities}")
        receipt = _receipt_of_types(build.types)
        versions = ", ".join(map(str, built))
        checks = {"engine_header": f"TensorRT for RTX {header.version}, SM {versions}"}
        not_checked = (
            "FP16 accumulation on the GPU",
            "its layers: an engine can be deserialised and inspected only on a GPU",
        )
        return replace(receipt, checks={**receipt.checks, **checks}, not_checked=not_checked)


class _Build:
    """The library's objects for one build. Its calls may return None or False: all are checked."""

    def __init__(
        self,
        trt: Any,
        title: str,
        graph: Manifest,
        target: TargetProfile,
        options: BuildOptions,
        strong: bool,
    ) -> None:
        self.trt, self.title, self.log = trt, title, library_log(trt)
        self.graph, self.target, self.options, self.strong = graph, target, options, strong
        self.types: Dict[str, int] = {}
        """Layers of the parsed network by the type of their first output."""
        self.capabilities: Tuple[int, ...] = ()
        """The SM versions built for, where the library builds for several."""
        self.log.messages.clear()
        try:
            self.builder = self._checked(trt.Builder(self.log), "create the builder")
        except TypeError as e:  # the Python binding, when the factory returned nothing
            hint = "check that this machine has an NVIDIA GPU and its driver"
            raise self.error(f"{title}: could not create the builder", hint=hint) from e

    def parse(self, onnx: Path) -> Any:
        """Parse the graph. Raises BuildError with the parser's errors, which name the nodes."""
        layers = self.options.fp32_layers
        rewrite = self.strong and not set(layers) <= set(self.graph.fp32_nodes)
        kinds, flags = self.trt.NetworkDefinitionCreationFlag, 0
        for name in ("EXPLICIT_BATCH", *(("STRONGLY_TYPED",) if self.strong else ())):
            kind = getattr(kinds, name, None)  # by name: the numbers differ between versions
            flags |= 1 << int(kind) if kind is not None else 0
        network = self._checked(self.builder.create_network(flags), "create the network")
        parser = self._checked(self.trt.OnnxParser(network, self.log), "create the parser")
        self._parser = parser  # owns the weights
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / onnx.name if rewrite else onnx
            if rewrite:
                with_fp32_nodes(onnx, layers, file)
            if not parser.parse_from_file(str(file)):
                errors = "; ".join(_parser_errors(parser))
                raise BuildError(f"{self.title} cannot read {onnx.name}: {errors}")
        self.types = self._layer_types(network)
        return network

    def config(self) -> Any:
        trt, graph = self.trt, self.graph
        config = self._checked(self.builder.create_builder_config(), "create the configuration")
        if self.target.workspace_mib:
            size_bytes = self.target.workspace_mib << 20
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)
        # Without it the inspector reports no types.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if graph.precision_asked == "fp16" and not self.strong:
            if getattr(trt.BuilderFlag, "FP16", None) is None:
                library = f"{self.title} {trt.__version__}"
                raise BuildError(f"{library} has no FP16 flag: it would build an FP32 engine")
            config.set_flag(trt.BuilderFlag.FP16)
        if graph.precision_asked == "fp32":
            # On by default, with 10 bits of mantissa instead of 23.
            config.clear_flag(trt.BuilderFlag.TF32)
        if self.options.no_cublas_cudnn:
            self._mask_tactics(config)
        if graph.dynamic:
            profile = self._checked(
                self.builder.create_optimization_profile(), "create the optimisation profile"
            )
            sizes = (graph.min_shape, graph.opt_shape, graph.max_shape)
            low, opt, high = ((1, 3, *hw) for hw in sizes)
            profile.set_shape(graph.input_name, low, opt, high)
            if config.add_optimization_profile(profile) < 0:
                raise self.error(f"{self.title} refused the sizes {low} to {high}")
        return config

    def _mask_tactics(self, config: Any) -> None:
        """Build without kernels of cuBLAS and cuDNN. RTX and TensorRT 11 have none."""
        known, mask = self.trt.TacticSource, config.get_tactic_sources()
        for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
            if hasattr(known, name):
                mask &= ~(1 << int(getattr(known, name)))
        if not config.set_tactic_sources(mask):
            raise self.error(f"{self.title} refused to build without cuBLAS and cuDNN")

    def _layer_types(self, network: Any) -> Dict[str, int]:
        """Count the layers by type, without casts and constants."""
        kinds = self.trt.LayerType
        excluded = [kinds.CONSTANT, *([kinds.CAST] if hasattr(kinds, "CAST") else [])]
        counts: Dict[str, int] = {}
        for layer in _layers(network):
            if layer.type not in excluded and layer.num_outputs:
                name = layer.get_output(0).dtype.name
                counts[name] = counts.get(name, 0) + 1
        return counts

    def keep_fp32(self, network: Any, config: Any) -> List[str]:
        """Make the named layers compute in FP32; return their names. Raises BuildError."""
        trt, names = self.trt, self.options.fp32_layers
        if self.strong:
            return list(names)  # done by `parse`
        excluded = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE)
        layers = [
            layer
            for layer in _layers(network)
            if _node_name(layer.name) in names and layer.type not in excluded
        ]
        for layer in layers:
            layer.precision = trt.float32
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.float32)
        missing = sorted(set(names) - {_node_name(layer.name) for layer in layers})
        if missing:
            problem = f"there is no layer {', '.join(missing)} to keep in FP32"
            raise BuildError(problem, hint="give names of the graph's nodes")
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        return [layer.name for layer in layers]

    def use_dla(self, network: Any, config: Any, core: int) -> List[str]:
        """Use a DLA core with fallback to the GPU; return the GPU's layers. Raises BuildError."""
        trt, cores = self.trt, self.builder.num_DLA_cores
        if core >= cores:
            raise BuildError(f"there is no DLA core {core}: this GPU has {cores}")
        config.default_device_type, config.DLA_core = trt.DeviceType.DLA, core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        return [layer.name for layer in _layers(network) if not config.can_run_on_DLA(layer)]

    def load_timing_cache(self, config: Any) -> Optional[Path]:
        """Start with the timings of earlier builds; return the cache's path, None without a folder.

        A cache of another device or version is ignored.
        """
        if self.options.timing_cache is None:
            return None
        device = f"{self.trt.__version__}-sm{cuda().compute_capability()}"
        path = self.options.timing_cache / f".timing-{self.target.name}-{device}.cache"
        blob = path.read_bytes() if path.is_file() else b""
        for content in (blob, b""):
            cache = self._checked(config.create_timing_cache(content), "create the timing cache")
            if config.set_timing_cache(cache, False):
                break
        return path

    def save_timing_cache(self, config: Any, path: Path) -> None:
        cache = config.get_timing_cache()
        if cache is not None:
            with atomic_path(path) as temporary:
                content = self._checked(cache.serialize(), "serialise the timing cache")
                temporary.write_bytes(content)

    def serialize(self, network: Any, config: Any, name: str) -> bytes:
        """Build the engine. Raises BuildError."""
        engine = self.builder.build_serialized_network(network, config)
        if engine is None:
            raise self.error(f"{self.title} could not build {name}")
        return engine

    def error(self, message: str, *, hint: str = "") -> BuildError:
        """Return an error with the reasons that the library logged."""
        return BuildError(message + logged_errors(self.log), hint=hint)

    def _checked(self, result: Any, action: str) -> Any:
        if result is None:
            raise self.error(f"{self.title}: could not {action}")
        return result


def _layers(network: Any) -> List[Any]:
    return [network.get_layer(i) for i in range(network.num_layers)]


def _receipt_of_types(types: Dict[str, int]) -> _Receipt:
    """Return the receipt of a strongly typed build: it computes in the parsed network's types."""
    names = {"HALF": "fp16", "FLOAT": "fp32"}
    counts = {names[name]: n for name, n in types.items() if name in names}
    precision = next(iter(counts)) if len(counts) == 1 else mixed_precision(counts)
    receipt = f"strongly typed build; layers of the parsed network by output type: {types}"
    return _Receipt(precision, {"precision_receipt": receipt})


def _node_name(layer: str) -> str:
    """Return the ONNX node of a layer: the parser appends ` + ...` or ` [...]` to its name."""
    return re.split(r" \+ |\s\[", layer)[0]


def _capabilities(target: TargetProfile, requested: Sequence[int]) -> Tuple[int, ...]:
    if not requested:
        return target.compute_capabilities
    known = sorted(target.compute_capabilities + target.compute_capabilities_on_request)
    for capability in requested:
        if capability not in known:
            expected = f"expected one of {', '.join(map(str, known))}"
            raise TargetError(f"target '{target.name}' has no SM {capability}; {expected}")
    return tuple(sorted(set(requested)))


def _parser_errors(parser: Any) -> List[str]:
    lines = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        name = error.node_name() if hasattr(error, "node_name") else ""  # 10.0 and newer
        node = f"'{name}' ({error.node_operator()})" if name else error.node()
        lines.append(f"node {node}: {error.desc()}")
    return lines or ["the parser gave no reason"]
