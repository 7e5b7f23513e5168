"""Plans of adaptive networks, exported once for this machine and kept in the user's cache.

ONNX Runtime and OpenVINO run their graphs on a CPU, faster than torch runs the checkpoint. Where
there is a GPU, torch runs it there, as on request.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional, TypeVar

from sr_deploy.core.cache import cache_folder, key_of
from sr_deploy.core.device import gpu_present
from sr_deploy.core.errors import ArtifactError, MissingPackageError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.gains import GAINS
from sr_deploy.core.parts import check_part_files
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.shipped import find_checkpoint
from sr_deploy.core.version import __version__
from sr_deploy.fast.made import code_digest, make_entry, mark_used
from sr_deploy.runtime.opener import NetworkDescription, adaptive
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions
from sr_deploy.runtime.opener.folder import plans_in
from sr_deploy.runtime.opener.plan import load_plan

T = TypeVar("T")
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
    plan = _whole_plan(entry)
    if plan is not None:
        return describe(str(plan))
    as_it_is = describe(text)
    try:
        from sr_deploy.export.plans import plans_from_model
    except ImportError as e:
        if run.runtime is None:
            return as_it_is
        package = (e.name or "onnx").split(".")[0]
        raise MissingPackageError(package, needed_for="preparing a model, once,") from e
    progress(f"{name}: prepared for {run.runtime or 'onnxruntime'} on this machine, once")

    def write(folder: Path, beside: Path) -> None:
        plans_from_model(str(weights), folder)

    return describe(str(make_entry(entry, write, lambda: _whole_plan(entry))))


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
