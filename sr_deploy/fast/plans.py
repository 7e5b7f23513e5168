"""Plans of adaptive networks, made and timed once for this machine and kept in the user's cache.

ONNX Runtime and OpenVINO run their graphs on a CPU, faster than torch runs the checkpoint. Where
there is a GPU, torch runs it there, as on request. Those of the default networks are shipped, and
need no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from sr_deploy.core.cache import cache_folder, key_of
from sr_deploy.core.device import gpu_present
from sr_deploy.core.elastic_plan import ElasticPlan
from sr_deploy.core.errors import ArtifactError, MissingPackageError
from sr_deploy.core.files import sha256_of, write_bytes
from sr_deploy.core.gains import GAINS
from sr_deploy.core.parts import check_part_files
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.shipped import find_checkpoint, shipped_graphs
from sr_deploy.core.version import __version__
from sr_deploy.fast.made import code_digest, make_entry, mark_used
from sr_deploy.runtime.adaptive.elastic import record_rates
from sr_deploy.runtime.opener import NetworkDescription, adaptive
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions
from sr_deploy.runtime.opener.folder import plans_in
from sr_deploy.runtime.opener.plan import load_plan

T = TypeVar("T")
Write = Callable[[Path, Path], Any]
"""Writes an entry of the cache, as `make_entry` takes it."""
Log = Callable[[str], None]
_ON_CPU = (None, "onnxruntime", "openvino")


def describe_adaptive(
    options: AdaptiveOptions,
    text: Optional[str] = None,
    run: RunOptions = DEFAULT_RUN,
    *,
    progress: Log = lambda line: None,
) -> NetworkDescription:
    """Describe an adaptive network as `runtime.opener.adaptive` does, in its fastest form.

    progress: receives what is made. Raises an SrDeployError.
    """
    network = options.default if text is None else text
    return by_plan(
        network, run, lambda form: adaptive.describe_adaptive(options, form), progress=progress
    )


def is_adaptive(text: str) -> bool:
    """Return whether a text names what chooses between networks: a router or a gains head."""
    return ROUTERS.includes(text) or GAINS.includes(text)


def by_plan(text: str, run: RunOptions, describe: Callable[[str], T], *, progress: Log) -> T:
    """Return what `describe` says of an adaptive network's plan, made when it is first needed.

    Of the text itself where it names no checkpoint, and where torch runs it. Raises an
    SrDeployError; nothing is made if `describe` raises one.
    """
    weights = _weights(text) if _on_cpu(run) else None
    if weights is None:
        return describe(text)
    name, files = weights.name.split(".")[0], (weights, weights.with_suffix(".json"))
    key = key_of(*map(sha256_of, files), __version__, code_digest())
    entry = cache_folder() / "plans" / f"{name}.{key}"
    backend = run.requested_openvino or "onnxruntime"
    plan = _whole_plan(entry)
    if plan is not None and _is_timed(plan, backend):
        return describe(str(plan))
    shipped = None if plan is not None else _shipped_plan(weights)
    described = describe(str(plan or shipped or text))
    if plan is None:
        write = _copy_of(shipped) if shipped is not None else _export_of(weights, run)
        if write is None:
            return described
        progress(f"{name}: prepared for {backend} on this machine, once")
        plan = make_entry(entry, write, lambda: _whole_plan(entry))
    if not _is_timed(plan, backend):
        progress(f"{name}: timed with {backend} on this machine, once")
        try:
            record_rates(plan, RunOptions(runtime=backend))
        except MissingPackageError:
            if run.runtime is not None:
                raise
            return describe(text)
    return describe(str(plan))


def _is_timed(path: Path, backend: str) -> bool:
    """Return whether a plan has the times of its tiles with a backend, where it has tiles."""
    plan = load_plan(path)
    return not isinstance(plan, ElasticPlan) or backend in plan.rates


def _export_of(weights: Path, run: RunOptions) -> Optional[Write]:
    """Return what exports a plan; None where packages are missing and no runtime is asked for."""
    try:
        from sr_deploy.export.plans import plans_from_model
    except ImportError as e:
        if run.runtime is None:
            return None
        package = (e.name or "onnx").split(".")[0]
        raise MissingPackageError(package, needed_for="preparing a model, once,") from e
    return lambda folder, beside: plans_from_model(str(weights), folder)


def _copy_of(plan: Path) -> Write:
    """Return what copies a plan and its parts."""

    def write(folder: Path, beside: Path) -> None:
        files = [part.file for part in load_plan(plan).parts.values()]
        for file in (*files, plan.name):
            write_bytes(folder / file, (plan.parent / file).read_bytes())

    return write


def _shipped_plan(weights: Path) -> Optional[Path]:
    """Return the plan that is shipped of an adaptive network; None if there is none."""
    digest = sha256_of(weights)
    plans = plans_in(shipped_graphs())
    return next((path for path in plans if load_plan(path).parent_sha256 == digest), None)


def _on_cpu(run: RunOptions) -> bool:
    """Return whether a run is one of graphs on the CPU."""
    if run.torch_settings or run.runtime not in _ON_CPU:
        return False
    device = run.requested_device
    return device.kind == "cpu" if device is not None else not gpu_present()


def _weights(text: str) -> Optional[Path]:
    """Return the weights file of an adaptive network; None for other texts, and without a card."""
    if ROUTERS.includes(text):
        return ROUTERS.find(text)
    return GAINS.find(text) if GAINS.includes(text) else find_checkpoint(text)


def _whole_plan(entry: Path) -> Optional[Path]:
    """Return the first plan of an entry whose parts are as they were written."""
    if not entry.is_dir():
        return None
    try:
        for path in plans_in(entry):
            check_part_files(path, load_plan(path))
            mark_used(entry)
            return path
    except ArtifactError:
        pass
    return None
