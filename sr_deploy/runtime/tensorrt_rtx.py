"""TensorRT for RTX: real FP16 engines for several GPU generations, built without a GPU in a few seconds.

Every network is strongly typed there: the engine computes in the graph's own tensor types, and an FP32 graph would give
an FP32 engine without an error. So the graph's types are the receipt, and an FP32 graph is refused.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import ArtifactError, BuildError, CannotRunHereError, MissingPackageError, TargetError
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.session import Backend, Session
from sr_deploy.core.target import TargetProfile

MAGIC = b"vtrt"
_LOGGER: Any = None  # one for the process: the library ignores a second one


@dataclass(frozen=True)
class RTXOptions:
    """Which GPU generations the engine is for."""

    compute_capabilities: Optional[Tuple[int, ...]] = None
    """SM versions, 75 for 7.5; None: the profile's."""


class TensorRTForRTXBackend(Backend):
    """Build by the Python package `tensorrt_rtx`."""

    name, package = "tensorrt-rtx", "tensorrt_rtx"

    def versions(self) -> Dict[str, str]:
        return {"tensorrt_rtx": _tensorrt_rtx().__version__}

    def build(self, onnx: Path, graph: Manifest, target: TargetProfile, temporary: Path, options: Any) -> Manifest:
        trt = _tensorrt_rtx()
        if graph.precision_obtained != "fp16":
            raise BuildError(
                f"{onnx.name} is an FP32 graph ({graph.precision_obtained}): TensorRT for RTX is strongly typed and would build "
                "an FP32 engine from it without an error, and FP32 matrix products do not exist on Turing",
                hint=f"export it again with --target {target.name}, or --precision fp16",
            )
        capabilities = _capabilities(target, (options or RTXOptions()).compute_capabilities)
        log = _log(trt)
        log.messages.clear()
        start = time.perf_counter()
        builder = _made(trt.Builder(log), "the builder could not be created", log)
        network = _made(builder.create_network(0), "the network could not be created", log)
        parser = _made(trt.OnnxParser(network, log), "the parser could not be created", log)
        if not parser.parse_from_file(str(onnx)):
            raise BuildError(f"TensorRT for RTX cannot read {onnx.name}: " + "; ".join(_parser_errors(parser)))
        types = _layer_types(trt, network)
        if types.get("FLOAT"):
            raise BuildError(f"{onnx.name} is no FP16 graph: as parsed, {types['FLOAT']} of its layers compute in FP32")
        config = _made(builder.create_builder_config(), "the configuration could not be created", log)
        if target.workspace_mib:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, target.workspace_mib << 20)
        if graph.dynamic:
            _add_profile(builder, config, graph, log)
        config.num_compute_capabilities = len(capabilities)
        for i, capability in enumerate(capabilities):
            name = f"SM{capability}"
            if not hasattr(trt.ComputeCapability, name):
                raise BuildError(f"tensorrt_rtx {trt.__version__} knows no {name}")
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name), i):
                raise BuildError(f"TensorRT for RTX refused {name}" + _because(log))
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(f"TensorRT for RTX could not build {onnx.name}" + _because(log))
        temporary.write_bytes(plan)
        header = read_header(temporary)
        if header.compute_capabilities != capabilities:
            raise BuildError(f"the engine is for SM {header.compute_capabilities}, asked for were {capabilities}")
        return replace(
            graph,
            kind="engine",
            target=target.name,
            # Strong typing: the graph's own tensor types, read back at export, are what the engine computes in.
            precision_obtained=graph.precision_obtained,
            versions=self.versions(),
            checks={
                "precision_receipt": f"strongly typed build; layers of the parsed network by output type: {types}",
                "engine_header": f"TensorRT for RTX {header.version}, SM {', '.join(map(str, header.compute_capabilities))}",
            },
            not_checked=(
                "the engine's output: no RTX GPU ran it",
                "FP16 accumulation on the GPU",
                "its layers: it cannot be deserialised, and so not inspected, without a GPU",
            ),
            build={
                "seconds": round(time.perf_counter() - start, 3),
                "size_bytes": temporary.stat().st_size,
                "compute_capabilities": list(capabilities),
                "warnings": log.warnings(),
            },
        )

    def open(self, artifact: Path, manifest: Manifest) -> Session:
        raise CannotRunHereError("it needs an RTX GPU, and this version of srdeploy cannot run TensorRT for RTX engines yet")


@dataclass(frozen=True)
class Header:
    """What the first bytes of an engine say."""

    version: str
    compute_capabilities: Tuple[int, ...]


def read_header(path: Path) -> Header:
    """Read the version and the SM versions from an engine file. Raises ArtifactError when it is none.

    The layout is not documented by the vendor; it was read off engines of 1.7.1 (tag, version at byte 24, SM bits at 32).
    """
    with open(path, "rb") as f:
        head = f.read(40)
    if len(head) < 40 or head[:4] != MAGIC:
        raise ArtifactError(f"{path} is not a TensorRT for RTX engine")
    version = ".".join(str(b) for b in head[24:28])
    (bits,) = struct.unpack("<Q", head[32:40])
    order = (75, 80, 86, 89, 120, 121)
    return Header(version, tuple(sm for i, sm in enumerate(order) if bits >> i & 1))


def _layer_types(trt: Any, network: Any) -> Dict[str, int]:
    """Count the layers of a parsed, strongly typed network by the type of their first output; casts and constants aside."""
    aside = (trt.LayerType.CAST, trt.LayerType.CONSTANT)
    counted: Dict[str, int] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type not in aside and layer.num_outputs:
            name = layer.get_output(0).dtype.name
            counted[name] = counted.get(name, 0) + 1
    return counted


def _capabilities(target: TargetProfile, asked: Optional[Sequence[int]]) -> Tuple[int, ...]:
    if not asked:
        return target.compute_capabilities
    known = sorted(target.compute_capabilities + target.compute_capabilities_on_request)
    for capability in asked:
        if capability not in known:
            raise TargetError(f"target '{target.name}' has no SM {capability}; it has {', '.join(map(str, known))}")
    return tuple(sorted(set(asked)))


def _add_profile(builder: Any, config: Any, graph: Manifest, log: Any) -> None:
    profile = _made(builder.create_optimization_profile(), "the optimisation profile could not be created", log)
    low, opt, high = ((1, 3, *hw) for hw in (graph.min_shape, graph.opt_shape, graph.max_shape))
    profile.set_shape(graph.input_name, low, opt, high)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"TensorRT for RTX refused the sizes {low} to {high}" + _because(log))


def _parser_errors(parser: Any) -> List[str]:
    lines = []
    for i in range(parser.num_errors):
        error = parser.get_error(i)
        where = f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_name() else ""
        lines.append(f"{where}{error.desc()}")
    return lines or ["the parser gave no reason"]


def _made(thing: Any, problem: str, log: Any) -> Any:
    if thing is None:
        raise BuildError(f"TensorRT for RTX: {problem}" + _because(log))
    return thing


def _because(log: Any) -> str:
    reasons = [text for severity, text in log.messages if severity in ("ERROR", "INTERNAL_ERROR")]
    return ": " + "; ".join(reasons) if reasons else ", and gave no reason"


def _log(trt: Any) -> Any:
    global _LOGGER
    if _LOGGER is None:

        class Log(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.messages: List[Tuple[str, str]] = []

            def log(self, severity: Any, msg: str) -> None:
                if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                    self.messages.append((severity.name, msg))

            def warnings(self) -> List[str]:
                return list(dict.fromkeys(text for severity, text in self.messages if severity == "WARNING"))

        _LOGGER = Log()
    return _LOGGER


def _tensorrt_rtx() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as e:
        raise MissingPackageError("tensorrt_rtx", needed_for="building RTX engines", extra="rtx", cause=e) from e
    return tensorrt_rtx
