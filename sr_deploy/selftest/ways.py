"""The facts of a machine, and the ways to run networks on it. Runs in a child process: libraries
are imported here, which may crash."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from sr_deploy.bench.measure import git_revision
from sr_deploy.core.device import gpu_present
from sr_deploy.core.errors import MissingPackageError, SrDeployError
from sr_deploy.core.providers import OPENVINO, PROVIDERS, TORCH
from sr_deploy.core.target import RUNTIMES, TargetProfile, load_target, target_names
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.build import why_not_here
from sr_deploy.runtime.environment import environment
from sr_deploy.selftest.checks import Check, Way

_TORCH_ON_GPU: Tuple[Tuple[str, Dict[str, Any]], ...] = (
    ("fp32", {"precision": "fp32"}),
    ("fp16", {"precision": "fp16"}),
    (
        "fp16 channels-last, CUDA graph",
        {"precision": "fp16", "channels_last": True, "cuda_graph": True},
    ),
    ("fp16 channels-last", {"precision": "fp16", "channels_last": True}),
    ("bf16", {"precision": "bf16"}),
)
_SYSTEM = {"directml": "win32", "coreml": "darwin"}
"""The only system of a device."""


def check_environment(check: Check, folder: Path) -> Dict[str, Any]:
    """Return the facts of this machine, their identity, and its ways for the target of `check`."""
    facts = {"git_rev": git_revision(), **dataclasses.asdict(environment())}
    stable = {key: facts[key] for key in ("git_rev", "version", "python", "cpu", "packages")}
    stable["board"] = {k: facts["board"].get(k) for k in ("board", "driver", "gpu", "jetpack")}
    digest = hashlib.sha256(json.dumps(stable, sort_keys=True).encode()).hexdigest()
    ways = ways_of_target(check.model) if check.model else ways_here()
    return {"facts": facts, "identity": digest, "ways": [dataclasses.asdict(w) for w in ways]}


def ways_here() -> List[Way]:
    """Return all ways, those of a GPU first."""
    ways = [*_torch_ways(), *_provider_ways()]
    ways += [way for runtime in RUNTIMES for way in _runtime_ways(runtime)]
    return sorted(ways, key=_worth)


def ways_of_target(name: str) -> List[Way]:
    """Return the only way of a target: its engines."""
    profile = load_target(name)
    return [replace(_engine_way(profile, f"{profile.runtime} for {profile.name}"), target=name)]


def _torch_ways() -> Iterator[Way]:
    try:
        from sr_deploy.runtime.torch_device import why_no_cuda, why_no_precision

        reason = why_no_cuda(0)
    except ImportError as e:
        error = MissingPackageError("torch", needed_for="running checkpoints", cause=e)
        yield Way("torch", why_not=_reason(error.message, error.hint))
        return
    if not gpu_present():
        reason = "there is no NVIDIA GPU with a driver"
    if reason:
        hint = "install a torch that fits the GPU and its driver" if gpu_present() else ""
        yield Way("torch cuda:0", why_not=_reason(reason, hint))
    else:
        for name, run in _TORCH_ON_GPU:
            reason = why_no_precision(0, run["precision"])
            yield Way(
                f"torch cuda:0 {name}",
                {"runtime": TORCH, "device": "cuda:0", **run},
                device=True,
                why_not=reason,
            )
    yield Way("torch cpu", {"runtime": TORCH, "device": "cpu", "precision": "fp32"})


def _provider_ways() -> List[Way]:
    """Return the providers that run graphs but build no engines: those are targets' runtimes.

    None without onnxruntime, as the way of its engines tells.
    """
    from sr_deploy.runtime.ort_providers import onnxruntime_module, why_unusable

    with contextlib.suppress(MissingPackageError):
        onnxruntime_module()
        return [
            Way(
                provider.backend,
                {"runtime": provider.backend},
                device=True,
                why_not=_reason(*why_unusable(provider)),
            )
            for provider in PROVIDERS.values()
            if not provider.builds and _SYSTEM.get(provider.device, sys.platform) == sys.platform
        ]
    return []


def _runtime_ways(runtime: str) -> List[Way]:
    """Return the way of the first target of a runtime that this machine builds and runs.

    Where it has none, the reason is that of a desktop's target.
    """
    profiles = [p for p in map(load_target, target_names()) if p.runtime == runtime]
    desktops_first = sorted(profiles, key=lambda p: not p.name.startswith("rtx"))
    ways = [_engine_way(profile, runtime) for profile in desktops_first]
    return sorted(ways, key=_worth)[:1]


def _engine_way(profile: TargetProfile, name: str) -> Way:
    on_gpu = not _is_cpu(profile.runtime)
    way = Way(name, target=profile.option, device=on_gpu)
    try:
        reason = why_not_here(profile)[0]
        if reason:
            return replace(way, why_not=reason)
        reason = BACKENDS[profile.runtime]().why_no_device(profile)
    except SrDeployError as e:
        return replace(way, why_not=_reason(e.message, e.hint))
    if on_gpu and profile.runtime not in OPENVINO and not gpu_present():
        reason = "there is no NVIDIA GPU with a driver to run its engines"
    return replace(way, why_builds_only=reason)


def _worth(way: Way) -> Tuple[bool, bool, bool]:
    """Sort ways that run first, among them those of a GPU; then those that build only."""
    return bool(way.why_not), bool(way.why_builds_only), not way.device


def _is_cpu(runtime: str) -> bool:
    provider = PROVIDERS.get(runtime)
    return OPENVINO.get(runtime, provider.device if provider else "") == "cpu"


def _reason(message: str, hint: str) -> str:
    return f"{message}; {hint}" if message and hint else message
