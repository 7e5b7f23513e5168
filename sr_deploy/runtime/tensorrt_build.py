"""The objects of TensorRT's Python library for one build, of TensorRT 8.5 to 11 and for RTX."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from sr_deploy.core.errors import BuildError
from sr_deploy.core.files import atomic_path
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.parts import PlanPart
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.boards.trtexec import KEEP_NODE, NO_KERNEL
from sr_deploy.runtime.dla_calibration import calibration_cache, calibrator
from sr_deploy.runtime.fallback import load_onnx, with_fp32_nodes
from sr_deploy.runtime.quantised_graph import nodes_in, quantised_nodes, without_quantisation
from sr_deploy.runtime.tensorrt_engine import library_log, logged_errors

_TYPES = {"HALF": "fp16", "FLOAT": "fp32"}


@dataclass(frozen=True)
class EngineGraph:
    """What a build must know of a graph."""

    precision_asked: str
    graph_dtype: str
    """The type of its tensors: `fp32` or `fp16`."""
    fp32_nodes: Tuple[str, ...] = ()
    """Nodes that compute in FP32."""
    shapes: Mapping[str, Tuple[Tuple[int, ...], ...]] = field(default_factory=dict)
    """The smallest, usual and largest shape of each input; empty for a graph of one size."""
    opt_hw: Tuple[int, int] = (1, 1)
    """The usual LR size of a whole network, for its calibration."""

    @classmethod
    def of_manifest(cls, graph: Manifest) -> EngineGraph:
        sizes = (graph.min_shape, graph.opt_shape, graph.max_shape)
        shapes = {graph.input_name: tuple((1, 3, *hw) for hw in sizes)} if graph.dynamic else {}
        asked, dtype = graph.precision_asked, graph.graph_dtype
        return cls(asked, dtype, graph.fp32_nodes, shapes, graph.opt_shape)

    @classmethod
    def of_part(cls, part: PlanPart, precision: str) -> EngineGraph:
        by_size = [part.shapes(i) for i in range(3)] if part.sizes else []
        shapes = {name: tuple(shape[name] for shape in by_size) for name in part.inputs}
        return cls(precision, part.dtype, shapes=shapes if by_size else {})


class TensorRTBuild:
    """The library's objects for one build. Its calls may return None or False: all are checked."""

    def __init__(
        self,
        trt: Any,
        title: str,
        graph: EngineGraph,
        target: TargetProfile,
        options: BuildOptions,
        strong: bool,
    ) -> None:
        self.trt, self.title, self.log = trt, title, library_log(trt)
        self.graph, self.target, self.options, self.strong = graph, target, options, strong
        self.types: Dict[str, int] = {}
        """Layers of the parsed network by the type of their first output."""
        self.convolutions: Dict[str, int] = {}
        """Convolutions of the parsed network by what they multiply: `int8`, or the type they
        return."""
        self.no_kernel: List[str] = []
        """Convolutions of an INT8 graph that have no INT8 kernel."""
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
        if self.graph.precision_asked == "int8" and self.options.dla is None:
            self.convolutions = self._convolutions(network)
        return network

    def config(self) -> Any:
        trt, graph = self.trt, self.graph
        config = self._checked(self.builder.create_builder_config(), "create the configuration")
        if self.target.workspace_mib:
            size_bytes = self.target.workspace_mib << 20
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size_bytes)
        # Without it the inspector reports no types.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        flags = {"fp16": ["FP16"], "int8": ["INT8", "FP16"]}.get(graph.precision_asked, [])
        for flag in [] if self.strong else flags:  # FP16 for what INT8 leaves
            if getattr(trt.BuilderFlag, flag, None) is None:
                library = f"{self.title} {trt.__version__}"
                raise BuildError(f"{library} has no {flag} flag: it would build an FP32 engine")
            config.set_flag(getattr(trt.BuilderFlag, flag))
        if graph.precision_asked == "fp32":
            # On by default, with 10 bits of mantissa instead of 23.
            config.clear_flag(trt.BuilderFlag.TF32)
        if self.options.no_cublas_cudnn:
            self._mask_tactics(config)
        if graph.shapes:
            profile = self._checked(
                self.builder.create_optimization_profile(), "create the optimisation profile"
            )
            for name, (low, opt, high) in graph.shapes.items():
                profile.set_shape(name, low, opt, high)
            if config.add_optimization_profile(profile) < 0:
                refused = ", ".join(f"{a} to {b}" for a, _, b in graph.shapes.values())
                raise self.error(f"{self.title} refused the sizes {refused}")
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

    def _convolutions(self, network: Any) -> Dict[str, int]:
        kinds, layers = self.trt.LayerType, _layers(network)
        makers = {
            layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)
        }

        def is_dequantised(tensor: Any) -> bool:
            maker = makers.get(tensor.name) if tensor is not None else None
            while maker is not None and maker.type == getattr(kinds, "CAST", None):
                maker = makers.get(maker.get_input(0).name)
            return maker is not None and maker.type == kinds.DEQUANTIZE

        counts: Dict[str, int] = {}
        for layer in layers:
            if layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION):
                inputs = [layer.get_input(i) for i in (0, 1)] if layer.num_inputs > 1 else [None]
                kind = layer.get_output(0).dtype.name
                name = "int8" if all(map(is_dequantised, inputs)) else _TYPES.get(kind, kind)
                counts[name] = counts.get(name, 0) + 1
        return counts

    def keep_fp32(self, network: Any, config: Any) -> List[str]:
        """Make the named layers compute in FP32; return their names. Raises BuildError."""
        if self.strong:
            return list(self.options.fp32_layers)  # done by `parse`
        return self._keep(network, config, self.options.fp32_layers, self.trt.float32)

    def calibrate(self, network: Any, config: Any, scales: Dict[str, float]) -> None:
        """Take the ranges of INT8 from scales; keep the convolutions without them in FP16."""
        trt, names = self.trt, self.options.fp16_layers
        self._calibrator = calibrator(trt, calibration_cache(scales, trt.__version__))
        config.int8_calibrator = self._calibrator
        if names:
            self._keep(network, config, names, trt.float16)

    def _keep(self, network: Any, config: Any, names: Sequence[str], kind: Any) -> List[str]:
        """Make the named layers compute in a type; return their names. Raises BuildError."""
        trt = self.trt
        excluded = (trt.LayerType.CONSTANT, trt.LayerType.SHAPE)
        layers = [
            layer
            for layer in _layers(network)
            if _node_name(layer.name) in names and layer.type not in excluded
        ]
        for layer in layers:
            layer.precision = kind
            for output in range(layer.num_outputs):
                layer.set_output_type(output, kind)
        missing = sorted(set(names) - {_node_name(layer.name) for layer in layers})
        if missing:
            type_name = "FP32" if kind == trt.float32 else "FP16"
            problem = f"there is no layer {', '.join(missing)} to keep in {type_name}"
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

    def load_timing_cache(self, config: Any, compute_capability: int) -> Optional[Path]:
        """Start with the timings of earlier builds; return the cache's path, None without a folder.

        A cache of another device or version is ignored.
        """
        if self.options.timing_cache is None:
            return None
        device = f"{self.trt.__version__}-sm{compute_capability}"
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

    def serialize(self, network: Any, config: Any) -> Optional[bytes]:
        """Build the engine; None if that fails."""
        self._serialized_from = len(self.log.messages)
        engine: Optional[bytes] = self.builder.build_serialized_network(network, config)
        return engine

    def drop_pairs(self, onnx: Path, result: Path) -> bool:
        """Write an INT8 graph without the Q/DQ pairs of the convolutions that the failed build had
        no kernel for; return whether there are any. They then compute in higher precision.
        """
        logged = self.log.messages[self._serialized_from :]
        messages = [text for _, text in logged if NO_KERNEL in text]
        if self.graph.precision_asked != "int8" or not messages:
            return False
        model, library = load_onnx(onnx)
        names = nodes_in(" ".join(messages), quantised_nodes(model))
        if names:
            library.save(without_quantisation(model, names), str(result))
            self.no_kernel += names
        return bool(names)

    def not_built(self, name: str) -> BuildError:
        """Return the error of a build that failed."""
        lacking = any(NO_KERNEL in text for _, text in self.log.messages)
        quantised = lacking and self.graph.precision_asked == "int8"
        return self.error(
            f"{self.title} could not build {name}", hint=KEEP_NODE if quantised else ""
        )

    def warnings(self) -> List[str]:
        """Return what the build did otherwise than was asked."""
        if not self.no_kernel:
            return []
        names = ", ".join(self.no_kernel)
        return [f"{self.title} has no INT8 kernel for {names}, which compute in higher precision"]

    def error(self, message: str, *, hint: str = "") -> BuildError:
        """Return an error with the reasons that the library logged."""
        return BuildError(message + logged_errors(self.log), hint=hint)

    def _checked(self, result: Any, action: str) -> Any:
        if result is None:
            raise self.error(f"{self.title}: could not {action}")
        return result


def _layers(network: Any) -> List[Any]:
    return [network.get_layer(i) for i in range(network.num_layers)]


def _node_name(layer: str) -> str:
    """Return the ONNX node of a layer: the parser appends ` + ...` or ` [...]` to its name."""
    return re.split(r" \+ |\s\[", layer)[0]


def _parser_errors(parser: Any) -> List[str]:
    lines = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        name = error.node_name() if hasattr(error, "node_name") else ""  # 10.0 and newer
        node = f"'{name}' ({error.node_operator()})" if name else error.node()
        lines.append(f"node {node}: {error.desc()}")
    return lines or ["the parser gave no reason"]
