"""ONNX Runtime on the CPU. The engine of the target `cpu` is the optimised model that it saves."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import numpy as np

from sr_deploy.core.device import cpu_features, cpu_model, usable_cores
from sr_deploy.core.errors import ArtifactError, BuildError, CannotRunHereError, MissingPackageError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Backend, BackendInfo, Session
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.graph_probe import DTYPES, graph_ends, probe_graph


class OnnxRuntimeSession(Session):
    """A graph, or an optimised model, on the CPU provider."""

    backend = "onnxruntime"
    precision = "fp32"
    """The CPU provider computes FP16 graphs in FP32 too."""
    _multiple = 1

    def __init__(
        self, path: Path, manifest: Optional[Manifest] = None, run: RunOptions = DEFAULT_RUN
    ) -> None:
        """Open an ONNX file; without a manifest its contract is probed.

        Raises ArtifactError for a file that is not a model, CannotRunHereError for a graph that
        does not upscale RGB images (see `probe_graph`).
        """
        self.backend_version = _onnxruntime().__version__
        self.threads = usable_cores()
        self._session = raw_session(str(path))
        if manifest is None:
            contract = probe_graph(path, self._session)
            self.scale, sizes = contract.scale, contract.sizes
            self.precision = contract.precision
            self.min_hw, self.max_hw = sizes.min_hw, sizes.max_hw
            self.align_px = self._multiple = sizes.multiple
            self._input, self._output = contract.input, contract.output
            self._dtype, self._output_dtype = contract.input_dtype, contract.output_dtype
            return
        self.scale = manifest.scale
        self.min_hw, self.max_hw = manifest.min_shape, manifest.max_shape
        self.halo_px, self.align_px = manifest.halo_px, manifest.align_px
        source, target = graph_ends(path, self._session)
        self._input, self._output = source.name, target.name
        self._dtype, self._output_dtype = DTYPES[source.type], DTYPES[target.type]

    def _release(self) -> None:
        self._session = None

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        """Run, in FP32 without copies; other sizes are mirrored up to the graph's multiple."""
        h, w = x_nchw.shape[2:]
        below, right = -h % self._multiple, -w % self._multiple
        if below or right:
            x_nchw = np.pad(x_nchw, ((0, 0), (0, 0), (0, below), (0, right)), mode="symmetric")
        x = np.ascontiguousarray(x_nchw, self._dtype)
        y = np.empty((1, 3, self.scale * x.shape[2], self.scale * x.shape[3]), self._output_dtype)
        binding = self._session.io_binding()
        binding.bind_input(self._input, "cpu", 0, self._dtype, x.shape, x.ctypes.data)
        binding.bind_output(self._output, "cpu", 0, self._output_dtype, y.shape, y.ctypes.data)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as e:  # onnxruntime's errors share no base class
            raise _run_error(f"at {x.shape[2]}x{x.shape[3]}", e) from e
        y = y[:, :, : self.scale * h, : self.scale * w]
        return y.astype(np.float32, copy=False)


class OnnxRuntimeBackend(Backend):
    """Saves optimised models, which are valid for one onnxruntime version and one kind of CPU."""

    name = package = "onnxruntime"
    layouts = ("nchw",)
    """The default is NCHWc, blocks of channels, with conversions around other operators."""

    def versions(self) -> Dict[str, str]:
        return {"onnxruntime": _onnxruntime().__version__, "cpu_features": " ".join(cpu_features())}

    def build(
        self, onnx: Path, graph: Manifest, target: TargetProfile, temporary: Path, options: Any
    ) -> Manifest:
        if graph.precision_asked != "fp32" or graph.precision_obtained != "fp32":
            raise BuildError(
                f"{onnx.name} was exported for an {graph.precision_asked.upper()} engine "
                f"({graph.precision_obtained} tensors); "
                "ONNX Runtime's CPU provider computes in FP32 only",
                hint=f"export it with --target {target.name}, or --precision fp32",
            )
        start = time.perf_counter()
        raw_session(str(onnx), save_to=temporary, layout=options.layout)
        build = {
            "seconds": round(time.perf_counter() - start, 3),
            "size_bytes": temporary.stat().st_size,
            "cpu": cpu_model(),
        }
        x = np.random.default_rng(0).random((1, 3, *graph.min_shape), dtype=np.float32)
        y, expected = (OnnxRuntimeSession(path, graph).run(x) for path in (temporary, onnx))
        error = float(np.abs(y - expected).max())
        if not error < 1e-3:
            raise BuildError(
                f"the optimised model of {onnx.name} differs from its graph by {error:.2g}"
            )
        return replace(
            graph,
            kind="engine",
            target=target.name,
            precision_asked="fp32",
            precision_obtained="fp32",
            versions=self.versions(),
            checks={"max_abs_err_vs_graph": error, "checked_at": list(graph.min_shape)},
            not_checked=(
                "its output at other sizes",
                "CPUs with other features: there it is refused",
            ),
            build=build,
        )

    def open(self, artifact: Path, manifest: Manifest, run: RunOptions = DEFAULT_RUN) -> Session:
        """Open an engine or a graph.

        Raises CannotRunHereError for an engine of another onnxruntime version or kind of CPU.
        """
        here = self.versions()
        built = {key: manifest.versions.get(key, "unknown") for key in here}
        if manifest.kind == "engine" and built != here:
            raise CannotRunHereError(
                f"{artifact} was built by onnxruntime {built['onnxruntime']} for CPUs with "
                f"{built['cpu_features']}; this machine has onnxruntime {here['onnxruntime']} "
                f"and {here['cpu_features']}",
                hint="build it again here: "
                f"srdeploy build-engine GRAPH.onnx --target {manifest.target} -o DIR",
            )
        return OnnxRuntimeSession(artifact, manifest, run)


class OnnxParts:
    """The open graphs of a plan: `parts` take inputs by name and return outputs in order."""

    def __init__(self, plan: Path, graphs: Dict[str, str], run: RunOptions = DEFAULT_RUN) -> None:
        """graphs: SHA-256 by name of the files beside `plan`.

        Raises ArtifactError if one is missing or was changed.
        """
        for name, sha256 in graphs.items():
            graph = plan.parent / name
            if not graph.is_file():
                raise ArtifactError(
                    f"{plan} names {name}, which does not exist", hint="export the model again"
                )
            if sha256_of(graph) != sha256:
                raise ArtifactError(
                    f"{graph} was changed after its plan was written", hint="export the model again"
                )
        self.info = BackendInfo("onnxruntime", _onnxruntime().__version__, usable_cores())
        self.parts = [_open_part(plan.parent / name) for name in graphs]


def _open_part(path: Path) -> Callable[..., List[np.ndarray]]:
    session = raw_session(str(path), alone=False)

    def run(**inputs: np.ndarray) -> List[np.ndarray]:
        try:
            return session.run(None, inputs)
        except Exception as e:  # onnxruntime's errors share no base class
            raise _run_error(path.name, e) from e

    return run


def _run_error(what: str, cause: Exception) -> CannotRunHereError:
    reason = str(cause).splitlines()[0][:300]
    return CannotRunHereError(f"onnxruntime could not run {what}: {reason}")


def raw_session(
    model: Union[str, bytes],
    *,
    optimise: bool = True,
    save_to: Any = None,
    layout: str = "",
    alone: bool = True,
) -> Any:
    """Return an onnxruntime InferenceSession on the CPU that logs errors only.

    model: a path, or the bytes of a model. optimise: False runs the graph exactly as written.
    save_to: where to save the optimised model. layout: `nchw`, or empty for the default.
    alone: False for one of several sessions that run in turns. Raises ArtifactError for a file that
    is not a model, CannotRunHereError for one with operators or types that onnxruntime lacks, and
    BuildError if the model cannot be saved.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    # Memory patterns double the memory (dynamic ASRN d5 at 256x512: 435 MiB instead of 267, see
    # benchmarks/graphs) and save no time. The arena stays: without it every run allocates anew.
    options.enable_mem_pattern = False
    if not alone:
        # Otherwise its threads spin after a run and slow down the next session.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if layout:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if not optimise:
        # The default order keeps watched tensors alive to the end: an FP16 check of IMDeception at
        # 256x256 took 5.5 GB and 10 s, in the order as written 0.7 GB and 2.4 s.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        options.enable_cpu_mem_arena = False
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's errors share no base class
        reason = str(e).splitlines()[0]
        if save_to is not None and "erialization failed" in reason:
            problem = f"onnxruntime could not write the optimised model: {reason}"
            raise BuildError(problem, hint="check that the disk is not full") from e
        name = model if isinstance(model, str) else "the graph"
        if "INVALID_PROTOBUF" in reason or "No graph was found" in reason:
            problem = f"{name} is not an ONNX model that onnxruntime can load: {reason}"
            raise ArtifactError(problem) from e
        raise CannotRunHereError(f"onnxruntime cannot load {name}: {reason}") from e


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingPackageError(
            "onnxruntime", needed_for="running ONNX graphs", extra="export", cause=e
        ) from e
    return onnxruntime
