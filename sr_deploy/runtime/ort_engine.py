"""Engines of ONNX Runtime: the optimised models that it saves, for the CPU or for CUDA."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np

from sr_deploy.core.device import cpu_features, cpu_model
from sr_deploy.core.errors import BuildError, CannotRunHereError, MissingPackageError
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.parts import AdaptivePlan, OpenParts, PartReceipt, PlanPart
from sr_deploy.core.precisions import is_quantised, precision_of_counts
from sr_deploy.core.providers import PROVIDERS, Provider
from sr_deploy.core.run_options import CPU_RUN, DEFAULT_RUN, RunOptions
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import Backend, BuildOptions, Session
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.accuracy import compare_outputs, refuse_inaccurate
from sr_deploy.runtime.fallback import load_onnx
from sr_deploy.runtime.graph_nodes import all_nodes
from sr_deploy.runtime.graph_outputs import checked_accuracy, graph_outputs
from sr_deploy.runtime.ort import OnnxRuntimeSession, raw_session
from sr_deploy.runtime.ort_device import ort_device
from sr_deploy.runtime.ort_parts import observed_part, open_ort_parts
from sr_deploy.runtime.ort_providers import onnxruntime_module, why_unusable


class OnnxRuntimeBackend(Backend):
    """Saves optimised models, which are valid for one onnxruntime version and one kind of CPU."""

    name = package = title = "onnxruntime"
    layouts: Tuple[str, ...] = ("nchw",)
    """The default is NCHWc, blocks of channels, with conversions around other operators."""

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.name]

    def versions(self) -> Dict[str, str]:
        version = onnxruntime_module().__version__
        return {"onnxruntime": version, "cpu_features": " ".join(cpu_features())}

    def build(
        self, onnx: Path, graph: Manifest, target: TargetProfile, temporary: Path, options: Any
    ) -> Manifest:
        asked = graph.precision_asked
        if asked not in ("fp32", "int8") or graph.graph_dtype != "fp32":
            raise BuildError(
                f"{onnx.name} was exported for an {asked.upper()} engine "
                f"({graph.precision_obtained} tensors); "
                "ONNX Runtime's CPU provider computes in FP32 and INT8 only",
                hint=f"export it with --target {target.name}, or --precision fp32",
            )
        start = time.perf_counter()
        raw_session(str(onnx), save_to=temporary, layout=options.layout)
        build = {
            "seconds": round(time.perf_counter() - start, 3),
            "size_bytes": temporary.stat().st_size,
            "cpu": cpu_model(),
        }
        if asked == "int8":
            return self._int8_engine(onnx, graph, target, temporary, build)
        return replace(
            graph,
            kind="engine",
            target=target.name,
            versions=self.versions(),
            checks=_same_output(onnx, graph, temporary),
            not_checked=("its output at other sizes", _OTHER_CPUS),
            build=build,
        )

    def build_part(
        self,
        onnx: Path,
        part: PlanPart,
        target: TargetProfile,
        precision: str,
        temporary: Path,
        options: BuildOptions,
    ) -> PartReceipt:
        if precision not in ("fp32", "int8"):
            raise BuildError(
                f"ONNX Runtime's CPU provider has no {precision.upper()} kernels for {onnx.name}",
                hint=f"export it with --target {target.option}, or --precision fp32",
            )
        start = time.perf_counter()
        raw_session(str(onnx), save_to=temporary)
        seconds = round(time.perf_counter() - start, 3)
        layers, kernels = multiplying_nodes(temporary)
        return PartReceipt(precision_of_counts(layers), layers, seconds, {"kernels": kernels})

    def open_parts(self, path: Path, plan: AdaptivePlan, run: RunOptions) -> OpenParts:
        if plan.engine is not None:
            self._refuse_other_runtime(path, plan.engine.target, run)
            self.refuse_other_versions(path, plan.engine)
            run = replace(run, runtime=self.name)
        return open_ort_parts(path.parent, plan, ort_device(run))

    def _int8_engine(
        self,
        onnx: Path,
        graph: Manifest,
        target: TargetProfile,
        engine: Path,
        build: Dict[str, object],
    ) -> Manifest:
        """Return the manifest of an INT8 engine. Raises BuildError if nothing in it is INT8."""
        precisions, kernels = multiplying_nodes(engine)
        if "int8" not in precisions:
            found = precision_of_counts(precisions) or "no layer that it applies to"
            raise BuildError(
                f"INT8 was asked for, but ONNX Runtime computes {onnx.name} in {found}",
                hint="export it with --precision fp32",
            )
        images = [nchw_from_rgb(rgb) for rgb in sample_lr(graph.opt_shape, count=2)]
        with OnnxRuntimeSession(engine, graph, CPU_RUN) as session:
            outputs = list(map(session.run, images))
        references = graph_outputs(onnx, graph, images)
        return replace(
            graph,
            kind="engine",
            target=target.name,
            precision_obtained=precision_of_counts(precisions),
            versions=self.versions(),
            checks={
                "accuracy": checked_accuracy(outputs, references, f"the engine of {onnx.name}"),
                "layers": precisions,
            },
            not_checked=("its output at other sizes", _OTHER_CPUS),
            build={**build, "kernels": kernels},
        )

    def open(self, artifact: Path, manifest: Manifest, run: RunOptions = DEFAULT_RUN) -> Session:
        """Open an engine on its own device, or a graph on that of `run`.

        Raises CannotRunHereError for an engine of another onnxruntime version or kind of CPU, or if
        another device than its own is requested.
        """
        if manifest.kind != "engine":
            return OnnxRuntimeSession(artifact, manifest, run)
        self._refuse_other_runtime(artifact, manifest.target, run)
        self.refuse_other_versions(artifact, manifest)
        return OnnxRuntimeSession(artifact, manifest, replace(run, runtime=self.name))

    def _refuse_other_runtime(self, artifact: Path, target: str, run: RunOptions) -> None:
        provider = run.requested_provider
        requested = run.requested_openvino or (provider.backend if provider else None)
        if requested not in (None, self.name):
            raise CannotRunHereError(
                f"{artifact.name} is an engine of target '{target}': it runs on "
                f"{self.provider.device} by {self.name}, not by {requested}",
                hint="omit --device and --runtime, or give its graph",
            )


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """Saves optimised models for the CUDA provider, valid for one onnxruntime version."""

    name = "onnxruntime-cuda"
    layouts = ()

    def versions(self) -> Dict[str, str]:
        return {"onnxruntime": onnxruntime_module().__version__}

    def why_unavailable(self, target: TargetProfile) -> str:
        return super().why_unavailable(target) or "; ".join(
            filter(None, why_unusable(self.provider))
        )

    def remedy(self, missing: MissingPackageError) -> str:
        return f"pip install {self.provider.package}"

    def why_no_device(self, target: TargetProfile, index: int = 0) -> str:
        try:
            return why_unusable(self.provider, index)[0]
        except MissingPackageError as e:
            return e.message

    def build_part(
        self,
        onnx: Path,
        part: PlanPart,
        target: TargetProfile,
        precision: str,
        temporary: Path,
        options: BuildOptions,
    ) -> PartReceipt:
        device = ort_device(RunOptions(runtime=self.name))
        start = time.perf_counter()
        fp16 = part.dtype == "fp16"
        raw_session(str(onnx), save_to=temporary, device=device, fp16=fp16)
        seconds = round(time.perf_counter() - start, 3)
        nodes = observed_part(temporary, part, device)
        facts = {"gpu": device.name, "elsewhere": nodes.elsewhere(self.provider.name)}
        return PartReceipt(nodes.precision, nodes.counts, seconds, facts)

    def build(
        self, onnx: Path, graph: Manifest, target: TargetProfile, temporary: Path, options: Any
    ) -> Manifest:
        run, fp16 = RunOptions(runtime=self.name), graph.graph_dtype == "fp16"
        device = ort_device(run)
        start = time.perf_counter()
        raw_session(str(onnx), save_to=temporary, device=device, fp16=fp16)
        seconds = round(time.perf_counter() - start, 3)
        try:
            session = OnnxRuntimeSession(temporary, graph, run)
        except CannotRunHereError as e:
            raise BuildError(
                f"onnxruntime cannot run the optimised model of {onnx.name}: {e.message}",
                hint="run the graph itself with --device cuda",
            ) from e
        images = [nchw_from_rgb(rgb) for rgb in sample_lr(graph.opt_shape, count=2)]
        reference = OnnxRuntimeSession(onnx, graph, CPU_RUN)
        outputs, references = (list(map(s.run, images)) for s in (session, reference))
        accuracy = compare_outputs(outputs, references)
        refuse_inaccurate(accuracy, f"the engine of {onnx.name}")
        assert session.nodes is not None
        nodes = session.nodes
        return replace(
            graph,
            kind="engine",
            target=target.name,
            precision_obtained=session.precision,
            versions=self.versions(),
            checks={
                "accuracy": {**accuracy, "against": "onnxruntime on the CPU, FP32"},
                "nodes": {name: len(names) for name, names in nodes.providers.items()},
                "types": nodes.types,
            },
            not_checked=("its output at other sizes", f"GPUs other than {device.name}"),
            build={
                "seconds": seconds,
                "size_bytes": temporary.stat().st_size,
                "gpu": device.name,
                "provider": self.provider.name,
                "elsewhere": nodes.elsewhere(self.provider.name),
            },
        )


_OTHER_CPUS = "CPUs with other features: there it is refused"


def _same_output(onnx: Path, graph: Manifest, engine: Path) -> Dict[str, object]:
    """Compare an optimised model with its graph at the smallest size. Raises BuildError."""
    x = np.random.default_rng(0).random((1, 3, *graph.min_shape), dtype=np.float32)
    y, expected = (OnnxRuntimeSession(path, graph, CPU_RUN).run(x) for path in (engine, onnx))
    error = float(np.abs(y - expected).max())
    # The kernels of a quantised layer may round to the next of its levels.
    if not error < (2e-2 if is_quantised(graph.precision_obtained) else 1e-3):
        raise BuildError(
            f"the optimised model of {onnx.name} differs from its graph by {error:.2g}"
        )
    return {"max_abs_err_vs_graph": error, "checked_at": list(graph.min_shape)}


def multiplying_nodes(model: Path) -> Tuple[Dict[str, int], Dict[str, int]]:
    """Count the convolutions and products of matrices of an optimised model, by precision and by
    operator. Raises MissingPackageError without onnx."""
    precisions: Dict[str, int] = {}
    operators: Dict[str, int] = {}
    for node in all_nodes(load_onnx(model)[0].graph):
        name = node.op_type
        if not any(part in name for part in ("Conv", "MatMul", "Gemm", "Attention")):
            continue
        kind = "int8" if name.startswith("Q") or "Integer" in name else "fp32"
        for counts, key in ((precisions, kind), (operators, name)):
            counts[key] = counts.get(key, 0) + 1
    return precisions, operators
