"""ONNX Runtime: sessions of graphs, on the CPU or on a GPU by one of its providers."""

from __future__ import annotations

import contextlib
import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    CannotRunHereError,
    DeviceMemoryError,
)
from sr_deploy.core.files import foreign_file, native_path
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.precisions import is_quantised
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import PeakMemory, Session, TimedOutput
from sr_deploy.runtime.graph_probe import (
    DTYPES,
    bounded_memory,
    graph_ends,
    graph_precision,
    probe_graph,
)
from sr_deploy.runtime.ort_device import OrtDevice, ort_device
from sr_deploy.runtime.ort_profile import NodeRuns
from sr_deploy.runtime.ort_providers import onnxruntime_module, short_reason
from sr_deploy.runtime.standard_graph import standard_bytes

_CPU = OrtDevice()
_NUMBERS = itertools.count()


class OnnxRuntimeSession(Session):
    """A graph, or an optimised model, on the device of `run`."""

    nodes: Optional[NodeRuns] = None
    """What ran where; None on the CPU."""

    def __init__(
        self, path: Path, manifest: Optional[Manifest] = None, run: RunOptions = DEFAULT_RUN
    ) -> None:
        """Open an ONNX file; without a manifest its contract is probed.

        Raises ArtifactError for a file that is not a model, CannotRunHereError for a graph that
        does not upscale RGB images (see `probe_graph`), and where the requested device cannot be
        used or would run nothing of the graph; without a request the CPU runs it then.
        """
        self.backend_version = onnxruntime_module().__version__
        device = ort_device(run)
        try:
            self._open(path, manifest, device)
        except DeviceMemoryError:
            raise
        except CannotRunHereError as e:
            if device.is_cpu or run.requested_provider is not None:
                raise
            self._open(path, manifest, OrtDevice(why_cpu=e.message))

    def _open(self, path: Path, manifest: Optional[Manifest], device: OrtDevice) -> None:
        self._device = device
        self.backend, self.device, self.place = device.provider.backend, device.name, device.place
        self.why_cpu = device.why_cpu
        self.threads = usable_cores() if device.is_cpu else None
        self.precision = manifest.precision_obtained if manifest else graph_precision(path)
        fp16 = (manifest.graph_dtype if manifest else self.precision) == "fp16"
        self._probed = manifest is None
        if manifest is None:
            # A GPU's libraries reserve addresses without taking memory.
            with bounded_memory(path) if device.is_cpu else contextlib.nullcontext():
                self._session = raw_session(str(path), device=device, fp16=fp16)
                contract = probe_graph(path, self._session)
                interface = contract.interface
                if not interface.is_standard:
                    content = standard_bytes(path, interface, contract.scale)
                    self._session = raw_session(content, device=device, fp16=fp16)
            self.scale, sizes = contract.scale, contract.sizes
            self.min_hw, self.max_hw = sizes.min_hw, sizes.max_hw
            self.align_px = self.multiple = sizes.multiple
        else:
            self._session = raw_session(model_of(path, manifest), device=device, fp16=fp16)
            self.scale = manifest.scale
            self.min_hw, self.max_hw = manifest.min_shape, manifest.max_shape
            self.halo_px, self.align_px = manifest.halo_px, manifest.align_px
            self.multiple = manifest.multiple
        self._dtypes = tuple(DTYPES[end.type] for end in graph_ends(path, self._session))
        if not device.is_cpu:
            self._observe()
        elif not is_quantised(self.precision):
            self.precision = "fp32"  # the CPU computes FP16 graphs in FP32 too

    @property
    def settings(self) -> str:  # type: ignore[override]
        """How the device is driven, and the nodes that it does not run; empty on the CPU."""
        return ", ".join(self._device.settings)

    @property
    def takes_tensors(self) -> bool:  # type: ignore[override]
        return self._device.torch_stream is not None and self.multiple == 1

    def run_tensor(self, x: Any) -> Any:
        shape = (1, 3, self.scale * x.shape[2], self.scale * x.shape[3])
        try:
            return self._device.run_tensor(self._session, x, shape, self._dtypes)
        except Exception as e:  # onnxruntime's errors share no base class
            raise self._device.error(f"at {x.shape[2]}x{x.shape[3]}", e) from e

    def reset_peak_memory(self) -> None:
        self._device.reset_peak_memory()

    def peak_memory(self) -> Optional[PeakMemory]:
        return self._device.peak_memory()

    def _release(self) -> None:
        self._session = None
        self._device.release()

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return self._run_timed(x_nchw).y

    def _run_timed(self, x_nchw: np.ndarray) -> TimedOutput:
        """Run, in FP32 without copies."""
        x = np.ascontiguousarray(x_nchw, self._dtypes[0])
        shape = (1, 3, self.scale * x.shape[2], self.scale * x.shape[3])
        try:
            y, ms, copies_ms = self._device.run(self._session, x, shape, self._dtypes[1])
        except Exception as e:  # onnxruntime's errors share no base class
            error = self._device.error(f"at {x.shape[2]}x{x.shape[3]}", e)
            if not error.hint and self._probed:
                error.hint = "the graph was probed at small sizes: try smaller images, or tiles"
            raise error from e
        return TimedOutput(y.astype(np.float32, copy=False), ms, copies_ms)

    def _observe(self) -> None:
        """Run once, and see which nodes the device runs and in which precision."""
        self._run(self._mirrored_up(np.zeros((1, 3, *self.min_hw), np.float32)))
        self.nodes = self._device.observe(self._session)
        if not self._device.provider.compiles and not is_quantised(self.precision):
            self.precision = self.nodes.precision


def model_of(path: Path, manifest: Manifest) -> Union[str, bytes]:
    """Return what a session opens: the file, or its standard graph where its ends are others."""
    interface = manifest.interface
    if manifest.kind != "onnx" or interface is None or interface.is_standard:
        return str(path)
    return standard_bytes(path, interface, manifest.scale)


def raw_session(
    model: Union[str, bytes],
    *,
    optimise: bool = True,
    save_to: Any = None,
    layout: str = "",
    alone: bool = True,
    device: OrtDevice = _CPU,
    fp16: bool = False,
    threads: Optional[int] = None,
) -> Any:
    """Return an onnxruntime InferenceSession that logs errors only, and none on a GPU.

    model: a path, or the bytes of a model. optimise: False runs the graph exactly as written.
    save_to: where to save the optimised model. layout: `nchw`, or empty for the default.
    alone: False for one of several sessions that run in turns. device: if it is not the CPU, the
    first run is profiled, for `OrtDevice.observe`. fp16: whether the graph is in FP16. threads: of
    each run on the CPU; None: one for each core. Raises
    ArtifactError for a file that is not a model, CannotRunHereError for one with operators or types
    that onnxruntime lacks or if the device is not used, and BuildError if the model cannot be
    saved.
    """
    ort = onnxruntime_module()
    options = _session_options(ort, optimise=optimise, layout=layout, alone=alone)
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3 if device.is_cpu else 4  # errors; smaller tiles follow on a GPU
    if not device.is_cpu:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(_profiles().name) / f"run{next(_NUMBERS)}")
    try:
        with contextlib.ExitStack() as names:
            if save_to is not None:
                name = names.enter_context(native_path(Path(save_to)))
                options.optimized_model_filepath = name
            content = model
            if isinstance(model, str):
                content = names.enter_context(native_path(Path(model)))
            session = ort.InferenceSession(
                content, options, providers=device.providers(fp16=fp16), enable_fallback=0
            )
    except Exception as e:  # onnxruntime's errors share no base class
        raise _open_error(e, model, device, saves=save_to is not None) from e
    used = session.get_provider_options()
    # onnxruntime 1.22 opens a model again, with its own options, where it failed with ours.
    found = used.get(device.provider.name)
    if found is None or found.get("use_tf32") == "1":
        raise CannotRunHereError(
            f"onnxruntime opened {_name(model)} by {', '.join(used)} instead of "
            f"{device.provider.name} as asked",
            hint="give --device cpu, if that is what you want",
        )
    return session


def _session_options(ort: Any, *, optimise: bool, layout: str, alone: bool) -> Any:
    options = ort.SessionOptions()
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
    return options


def _open_error(
    cause: Exception, model: Union[str, bytes], device: OrtDevice, *, saves: bool
) -> Exception:
    reason = short_reason(cause)
    if saves and "erialization failed" in reason:
        problem = f"onnxruntime could not write the optimised model: {reason}"
        return BuildError(problem, hint="check that the disk is not full")
    if "INVALID_PROTOBUF" in str(cause) or "No graph was found" in reason:
        foreign, hint = foreign_file(Path(model)) if isinstance(model, str) else ("", "")
        problem = f"{_name(model)} is not an ONNX model that onnxruntime can load"
        return ArtifactError(f"{problem}: {foreign or reason}", hint=hint)
    if "ORT model verification failed" in reason:
        problem = f"{_name(model)} is not in ONNX Runtime's own format, as the name .ort says"
        return ArtifactError(problem, hint="rename it to .onnx, if it is an ONNX graph")
    if device.is_cpu:
        return CannotRunHereError(f"onnxruntime cannot load {_name(model)}: {reason}")
    return device.error(_name(model), cause)


def _name(model: Union[str, bytes]) -> str:
    return model if isinstance(model, str) else "the graph"


@functools.lru_cache(maxsize=None)
def _profiles() -> Any:
    """Return the temporary folder of the profiles, which is removed at the end of the process."""
    return tempfile.TemporaryDirectory(prefix="srdeploy-profiles-")
