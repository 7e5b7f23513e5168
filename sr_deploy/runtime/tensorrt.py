"""TensorRT 8.5 to 11 by its Python API, and TensorRT for RTX, which has the same one.

Two ways of typing decide what a graph becomes, and neither says when it gives FP32 for a wanted FP16:
8.x is weakly typed (an FP32 graph and a flag; an FP16 graph without the flag computes in FP32), 11 and RTX are strongly typed
(the graph's own tensor types), and 10 takes both. So every engine has a receipt of the precision it got.
"""

from __future__ import annotations

import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from sr_deploy.core.errors import BuildError, CannotRunHereError, MissingPackageError, TargetError
from sr_deploy.core.files import atomic_path
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.manifest import Manifest, mixed_precision
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import Backend, BuildOptions, Session
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.runtime.accuracy import compare_outputs, refuse_inaccurate
from sr_deploy.runtime.boards.trtexec import precision_from_layers
from sr_deploy.runtime.cuda import cuda
from sr_deploy.runtime.fallback import with_fp32_nodes
from sr_deploy.runtime.ort import OnnxRuntimeSession
from sr_deploy.runtime.tensorrt_engine import (
    TensorRTSession,
    because,
    library_log,
    opened_engine,
    read_header,
)


class TensorRTBackend(Backend):
    """Builds and runs on the GPU that is in this machine: an engine holds for it and for this version only."""

    name = package = "tensorrt"
    title = "TensorRT"
    builds_without_gpu = False

    def why_unavailable(self, target: TargetProfile) -> str:
        reason = super().why_unavailable(target)
        return reason if reason or self.builds_without_gpu else self.why_no_device(target)

    def why_no_device(self, target: TargetProfile) -> str:
        try:
            here = cuda().compute_capability()
        except (CannotRunHereError, MissingPackageError) as e:
            return e.message
        wanted = target.compute_capabilities + target.compute_capabilities_on_request
        if wanted and here not in wanted:
            return f"this machine's GPU is of SM {here / 10:.1f}; the target's is {' or '.join(f'{c / 10:.1f}' for c in wanted)}"
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
        trt = self._library()
        log = library_log(trt)
        log.messages.clear()
        build = _Build(trt, self.title, log)
        strong = self._strongly_typed(target)
        self._check_precision(onnx, graph, target, strong=strong)
        start = time.perf_counter()
        facts: Dict[str, object] = {}
        if strong and options.fp32_layers:
            with tempfile.TemporaryDirectory() as folder:
                rewritten = Path(folder) / onnx.name
                with_fp32_nodes(onnx, options.fp32_layers, rewritten)
                network = build.network(rewritten, strong=strong)
            facts["fp32_layers"] = list(options.fp32_layers)
        else:
            network = build.network(onnx, strong=strong)
        config = build.config(graph, target, options, strong=strong)
        types = _layer_types(trt, network)
        if (
            strong
            and graph.precision_asked == "fp16"
            and types.get("FLOAT")
            and not options.fp32_layers
        ):
            raise BuildError(
                f"{onnx.name} is no FP16 graph: as parsed, {types['FLOAT']} of its layers compute in FP32"
            )
        if not strong and options.fp32_layers:
            facts["fp32_layers"] = build.keep_fp32(network, config, options.fp32_layers)
        if options.dla is not None:
            facts["dla"] = {
                "core": options.dla,
                "layers_on_gpu": build.use_dla(network, config, options.dla),
            }
        capabilities = self._set_generations(build, config, target, options)
        cache = None
        if options.timing_cache is not None and not self.builds_without_gpu:
            cache = (
                options.timing_cache
                / f".timing-{target.name}-{trt.__version__}-sm{cuda().compute_capability()}.cache"
            )
            build.take_timing_cache(config, cache)
        plan = build.builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"{self.title} could not build {onnx.name}" + because(log))
        temporary.write_bytes(plan)
        facts.update(
            seconds=round(time.perf_counter() - start, 3),
            size_bytes=temporary.stat().st_size,
            warnings=log.warnings(),
        )
        if cache is not None:
            build.keep_timing_cache(config, cache)
        obtained, checks, not_checked = self._receipt(
            temporary, graph, types, strong=strong, capabilities=capabilities
        )
        if capabilities:
            facts["compute_capabilities"] = list(capabilities)
        manifest = replace(
            graph,
            kind="engine",
            target=target.name,
            precision_obtained=obtained,
            versions=self.versions(),
            checks=checks,
            not_checked=not_checked,
            build=facts,
        )
        return self._gated(onnx, graph, temporary, manifest)

    def open(self, artifact: Path, manifest: Manifest) -> Session:
        """Open an engine, whose manifest was verified, on this machine's GPU. Raises CannotRunHereError."""
        try:
            trt = self._library()
        except MissingPackageError as e:
            raise CannotRunHereError(
                f"it needs {self.title} and the GPU of target '{manifest.target}': {e.message}",
                hint=e.hint,
            ) from e
        reason = self.why_no_device(load_target(manifest.target))
        if reason:
            raise CannotRunHereError(f"it needs the GPU of target '{manifest.target}': {reason}")
        made = manifest.versions.get(self.package, "an unknown version")
        if made != trt.__version__:
            raise CannotRunHereError(
                f"{artifact.name} was built by {self.title} {made}, and {trt.__version__} is installed: engines hold for one version",
                hint=f"build it again with: srdeploy build-engine GRAPH --target {manifest.target}",
            )
        return TensorRTSession(trt, artifact, manifest, cuda(), backend=self.name, title=self.title)

    def _gated(self, onnx: Path, graph: Manifest, engine: Path, manifest: Manifest) -> Manifest:
        """Run the engine on photographs beside onnxruntime, where both are possible. Raises BuildError when they differ."""
        reason = self.why_no_device(load_target(manifest.target))
        try:
            if not reason:
                images = [nchw_from_rgb(rgb) for rgb in sample_lr(graph.opt_shape, count=2)]
                reference = OnnxRuntimeSession(onnx, graph)
        except MissingPackageError as e:
            reason = e.message
        if reason:
            return replace(
                manifest, not_checked=(f"the engine's output: {reason}", *manifest.not_checked)
            )
        session = self.open(engine, manifest)
        found = compare_outputs(
            [session.run(x) for x in images], [reference.run(x) for x in images]
        )
        refuse_inaccurate(found, f"the engine of {onnx.name}")
        return replace(
            manifest,
            checks={**manifest.checks, "accuracy": {**found, "against": "onnxruntime, FP32"}},
        )

    def _library(self) -> Any:
        try:
            import tensorrt
        except ImportError as e:
            raise MissingPackageError(
                "tensorrt", needed_for="building and running TensorRT engines", extra="gpu", cause=e
            ) from e
        return tensorrt

    def _strongly_typed(self, target: TargetProfile) -> bool:
        major = int(self._library().__version__.split(".")[0])
        return major >= 11 or (major == 10 and target.fp16_graph == "fp16")

    def _check_precision(
        self, onnx: Path, graph: Manifest, target: TargetProfile, *, strong: bool
    ) -> None:
        expected = graph.precision_asked if strong else "fp32"
        if graph.precision_obtained != expected:
            raise BuildError(
                f"{onnx.name} is an {graph.precision_obtained.upper()} graph, and {self.title} {self._library().__version__} is "
                + (
                    "strongly typed: it would build an FP32 engine from it without an error"
                    if strong
                    else "told of FP16 by a flag"
                ),
                hint=f"export it again with --target {target.name}",
            )

    def _set_generations(
        self, build: _Build, config: Any, target: TargetProfile, options: BuildOptions
    ) -> Tuple[int, ...]:
        """Tell the builder which GPUs to build for; only TensorRT for RTX builds for others than this machine's."""
        return ()

    def _receipt(
        self,
        engine: Path,
        graph: Manifest,
        types: Dict[str, int],
        *,
        strong: bool,
        capabilities: Tuple[int, ...],
    ) -> Tuple[str, Dict[str, object], Tuple[str, ...]]:
        """Return the precision obtained, the checks and what was not checked. Raises BuildError when FP16 became FP32."""
        trt = self._library()
        inspector = opened_engine(
            trt, engine, library_log(trt), self.title
        ).create_engine_inspector()
        obtained, counts = precision_from_layers(
            inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        )
        receipt = f"engine inspector: layers by what they compute in: {counts}"
        if obtained == "unknown":
            if not strong:
                raise BuildError(
                    f"the inspector of {self.title} {trt.__version__} says nothing of the engine's precision"
                )
            return *_of_types(types), ()
        if graph.precision_asked == "fp16" and obtained == "fp32":
            raise BuildError(f"FP16 was asked for, and the engine computes in FP32: {receipt}")
        return (
            mixed_precision(counts) if obtained == "mixed" else obtained,
            {"precision_receipt": receipt},
            (),
        )


class TensorRTForRTXBackend(TensorRTBackend):
    """Builds without a GPU, in a few seconds, for several generations of them. Always strongly typed."""

    name, package, title = "tensorrt-rtx", "tensorrt_rtx", "TensorRT for RTX"
    builds_without_gpu = True

    def _library(self) -> Any:
        try:
            import tensorrt_rtx
        except ImportError as e:
            raise MissingPackageError(
                "tensorrt_rtx", needed_for="building RTX engines", extra="rtx", cause=e
            ) from e
        return tensorrt_rtx

    def _strongly_typed(self, target: TargetProfile) -> bool:
        return True

    def _set_generations(
        self, build: _Build, config: Any, target: TargetProfile, options: BuildOptions
    ) -> Tuple[int, ...]:
        capabilities = _capabilities(target, options.compute_capabilities)
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            kind = getattr(build.trt.ComputeCapability, f"SM{capability}", None)
            if kind is None:
                raise BuildError(f"tensorrt_rtx {build.trt.__version__} knows no SM{capability}")
            if not config.set_compute_capability(kind, i):
                raise BuildError(f"{self.title} refused SM{capability}" + because(build.log))
        return capabilities

    def _receipt(
        self,
        engine: Path,
        graph: Manifest,
        types: Dict[str, int],
        *,
        strong: bool,
        capabilities: Tuple[int, ...],
    ) -> Tuple[str, Dict[str, object], Tuple[str, ...]]:
        header = read_header(engine)
        if header.compute_capabilities != capabilities:
            raise BuildError(
                f"the engine is for SM {header.compute_capabilities}, asked for were {capabilities}"
            )
        obtained, checks = _of_types(types)
        checks["engine_header"] = (
            f"TensorRT for RTX {header.version}, SM {', '.join(map(str, header.compute_capabilities))}"
        )
        not_checked = (
            "FP16 accumulation on the GPU",
            "its layers: it cannot be deserialised, and so not inspected, without a GPU",
        )
        return obtained, checks, not_checked


class _Build:
    """One build's objects of the library, each checked: it fails by returning None or False."""

    def __init__(self, trt: Any, title: str, log: Any) -> None:
        self.trt, self.title, self.log = trt, title, log
        try:
            self.builder = self._made(trt.Builder(log), "the builder could not be created")
        except TypeError as e:  # the binding's way to say that the factory returned nothing
            raise BuildError(
                f"{title}: the builder could not be created" + because(log),
                hint="is there an NVIDIA GPU and driver?",
            ) from e

    def network(self, onnx: Path, *, strong: bool) -> Any:
        """Parse the graph. Raises BuildError with the parser's errors, which name the nodes."""
        kinds, flags = self.trt.NetworkDefinitionCreationFlag, 0
        for wanted, name in (
            (True, "EXPLICIT_BATCH"),
            (strong, "STRONGLY_TYPED"),
        ):  # by name: their numbers differ by version
            kind = getattr(kinds, name, None)
            if wanted and kind is not None:
                flags |= 1 << int(kind)
        network = self._made(self.builder.create_network(flags), "the network could not be created")
        self._parser = self._made(
            self.trt.OnnxParser(network, self.log), "the parser could not be created"
        )  # holds the weights
        if not self._parser.parse_from_file(str(onnx)):
            raise BuildError(
                f"{self.title} cannot read {onnx.name}: " + "; ".join(_parser_errors(self._parser))
            )
        return network

    def config(
        self, graph: Manifest, target: TargetProfile, options: BuildOptions, *, strong: bool
    ) -> Any:
        trt = self.trt
        config = self._made(
            self.builder.create_builder_config(), "the configuration could not be created"
        )
        if target.workspace_mib:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
        config.profiling_verbosity = (
            trt.ProfilingVerbosity.DETAILED
        )  # without it the inspector names no types
        if graph.precision_asked == "fp16" and not strong:
            if getattr(trt.BuilderFlag, "FP16", None) is None:
                raise BuildError(
                    f"{self.title} {trt.__version__} has no FP16 flag: it would build an FP32 engine without an error"
                )
            config.set_flag(trt.BuilderFlag.FP16)
        if graph.precision_asked == "fp32":
            config.clear_flag(
                trt.BuilderFlag.TF32
            )  # on by default: 10 bits of mantissa where 23 were asked for
        if graph.dynamic:
            profile = self._made(
                self.builder.create_optimization_profile(),
                "the optimisation profile could not be created",
            )
            low, opt, high = (
                (1, 3, *hw) for hw in (graph.min_shape, graph.opt_shape, graph.max_shape)
            )
            profile.set_shape(graph.input_name, low, opt, high)
            if config.add_optimization_profile(profile) < 0:
                raise BuildError(
                    f"{self.title} refused the sizes {low} to {high}" + because(self.log)
                )
        return config

    def keep_fp32(self, network: Any, config: Any, names: Sequence[str]) -> List[str]:
        """Make the named layers of a weakly typed network compute in FP32; return the layers found. Raises BuildError."""
        trt, kept = self.trt, []
        for i in range(network.num_layers):
            layer = network.get_layer(i)
            if _onnx_name(layer.name) in names and layer.type not in (
                trt.LayerType.CONSTANT,
                trt.LayerType.SHAPE,
            ):
                layer.precision = trt.float32
                for output in range(layer.num_outputs):
                    layer.set_output_type(output, trt.float32)
                kept.append(layer.name)
        missing = sorted(set(names) - {_onnx_name(name) for name in kept})
        if missing:
            raise BuildError(
                f"there is no layer {', '.join(missing)} to keep in FP32",
                hint="names are those of the graph's nodes",
            )
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        return kept

    def use_dla(self, network: Any, config: Any, core: int) -> List[str]:
        """Put what the DLA can run on core `core`, the rest on the GPU; return the layers of the rest. Raises BuildError."""
        trt = self.trt
        if core >= self.builder.num_DLA_cores:
            raise BuildError(
                f"there is no DLA core {core}: this GPU has {self.builder.num_DLA_cores}"
            )
        config.default_device_type, config.DLA_core = trt.DeviceType.DLA, core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        return [layer.name for layer in layers if not config.can_run_on_DLA(layer)]

    def take_timing_cache(self, config: Any, path: Path) -> None:
        """Begin with what earlier builds of the family measured; a cache of another device or version is passed over."""
        blob = path.read_bytes() if path.is_file() else b""
        cache = self._made(
            config.create_timing_cache(blob), "the timing cache could not be created"
        )
        if not config.set_timing_cache(cache, False):
            config.set_timing_cache(
                self._made(
                    config.create_timing_cache(b""), "the timing cache could not be created"
                ),
                False,
            )

    def keep_timing_cache(self, config: Any, path: Path) -> None:
        cache = config.get_timing_cache()
        if cache is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_bytes(
                    self._made(cache.serialize(), "the timing cache could not be serialised")
                )

    def _made(self, thing: Any, problem: str) -> Any:
        if thing is None:
            raise BuildError(f"{self.title}: {problem}" + because(self.log))
        return thing


def _layer_types(trt: Any, network: Any) -> Dict[str, int]:
    """Count the layers of a parsed network by the type of their first output; casts and constants aside."""
    aside = [
        kind
        for kind in (getattr(trt.LayerType, "CAST", None), trt.LayerType.CONSTANT)
        if kind is not None
    ]
    counted: Dict[str, int] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type not in aside and layer.num_outputs:
            name = layer.get_output(0).dtype.name
            counted[name] = counted.get(name, 0) + 1
    return counted


def _of_types(types: Dict[str, int]) -> Tuple[str, Dict[str, object]]:
    """The precision and the receipt of a strongly typed build: the parsed network's own tensor types are what it computes in."""
    counts = {
        {"HALF": "fp16", "FLOAT": "fp32"}[name]: n
        for name, n in types.items()
        if name in ("HALF", "FLOAT")
    }
    obtained = next(iter(counts)) if len(counts) == 1 else mixed_precision(counts)
    return obtained, {
        "precision_receipt": f"strongly typed build; layers of the parsed network by output type: {types}"
    }


def _onnx_name(layer: str) -> str:
    """The ONNX node a layer came from: the parser appends `_0`, ` + ...` and the like where one node became several."""
    return re.split(r" \+ |\s\[", layer)[0]


def _capabilities(target: TargetProfile, asked: Sequence[int]) -> Tuple[int, ...]:
    if not asked:
        return target.compute_capabilities
    known = sorted(target.compute_capabilities + target.compute_capabilities_on_request)
    for capability in asked:
        if capability not in known:
            raise TargetError(
                f"target '{target.name}' has no SM {capability}; it has {', '.join(map(str, known))}"
            )
    return tuple(sorted(set(asked)))


def _parser_errors(parser: Any) -> List[str]:
    lines = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        name = getattr(error, "node_name", None)  # 10.0 and newer
        where = (
            f"node '{name()}' ({error.node_operator()})"
            if name is not None and name()
            else f"node {error.node()}"
        )
        lines.append(f"{where}: {error.desc()}")
    return lines or ["the parser gave no reason"]
