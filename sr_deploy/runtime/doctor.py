"""Diagnoses artifacts without opening them: kind, integrity, target, differences here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError, TargetError
from sr_deploy.core.manifest import (
    Manifest,
    manifest_path,
    parse_manifest,
    same_versions,
    target_of,
)
from sr_deploy.core.onnx_file import artifact_sha256
from sr_deploy.core.sizes import Sizes
from sr_deploy.core.spec import network_name
from sr_deploy.core.target import ONNX_RUNTIMES, TargetProfile
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.ort_providers import packages_conflict
from sr_deploy.runtime.tensorrt_engine import read_header


@dataclass(frozen=True)
class Diagnosis:
    """The facts about a file that can be found without executing anything in it."""

    file: str
    what: str
    """Its kind, network, scale, sizes and precision."""
    whole: bool = False
    """Whether it is unchanged since its manifest was written."""
    why_not_whole: str = ""
    built_for: str = ""
    differs_here: Tuple[str, ...] = ()
    """Why this machine cannot run it, or would build it differently."""
    checked: Tuple[str, ...] = ()
    not_checked: Tuple[str, ...] = ("everything",)
    rebuild: str = ""
    """The command that made it; empty when it is not known."""


def diagnose(path: Path) -> Diagnosis:
    """Diagnose a graph or an engine. Raises InputError when there is no such file."""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}", hint="give graphs and engines, or nothing")
    sidecar = manifest_path(path)
    if not sidecar.is_file():
        reason = f"it has no manifest ({sidecar.name}), so nothing in it can be verified"
        return Diagnosis(str(path), _kind_from_bytes(path), why_not_whole=reason)
    try:
        manifest = parse_manifest(sidecar)
    except ArtifactError as e:
        return Diagnosis(str(path), _kind_from_bytes(path), why_not_whole=e.message)
    whole = artifact_sha256(path) == manifest.sha256
    changed = f"it was changed or truncated after {sidecar.name} was written: its SHA-256 differs"
    return Diagnosis(
        str(path),
        _describe(manifest),
        whole,
        "" if whole else changed,
        _built_for(manifest),
        _differences(manifest),
        tuple(f"{name}: {_short(value)}" for name, value in manifest.checks.items()),
        manifest.not_checked,
        manifest.command,
    )


def _describe(manifest: Manifest) -> str:
    sizes = (manifest.min_shape, manifest.opt_shape, manifest.max_shape)
    low, opt, high = ((hw[0], hw[1]) for hw in sizes)
    kind = "graph" if manifest.kind == "onnx" else manifest.kind
    precision = manifest.precision_obtained
    if manifest.kind == "engine" and precision != manifest.precision_asked:
        precision += f" (requested: {manifest.precision_asked})"
    network = f"{network_name(manifest.model, manifest.variant)}, x{manifest.scale}"
    return f"{kind} of {network}, LR {Sizes(low, opt, high)}, {precision}"


def _built_for(manifest: Manifest) -> str:
    target = _target(manifest)
    name = f"{manifest.target} ({target.title})" if target else manifest.target or "any target"
    libraries = {k: v for k, v in manifest.versions.items() if k not in ("profile", "card")}
    versions = ", ".join(f"{library} {version}" for library, version in libraries.items())
    return f"{name}; {versions}" if versions else name


def _differences(manifest: Manifest) -> Tuple[str, ...]:
    if manifest.kind != "engine":
        return tuple(filter(None, [packages_conflict()[0]]))
    target = _target(manifest)
    if target is None:
        return (f"there is no target '{manifest.target}' here",)
    differences: List[str] = []
    if manifest.versions.get("profile", target.digest) != target.digest:
        differences.append(f"the profile of '{target.name}' has changed since it was built")
    backend = BACKENDS[target.runtime]()
    try:
        for name, here in backend.versions().items():
            built_with = manifest.versions.get(name, here)
            if not same_versions({name: built_with}, {name: here}):
                differences.append(f"{name} is {here} here, but it was built with {built_with}")
    except MissingPackageError as e:
        differences.append(e.message)
    differences.append(backend.why_no_device(target))
    if target.runtime in ONNX_RUNTIMES:
        differences.append(packages_conflict()[0])
    return tuple(dict.fromkeys(filter(None, differences)))


def _target(manifest: Manifest) -> Optional[TargetProfile]:
    try:
        return target_of(manifest) if manifest.target else None
    except (ArtifactError, TargetError):
        return None


def _kind_from_bytes(path: Path) -> str:
    """Guess the kind of a file without a manifest from its first bytes."""
    try:
        header = read_header(path)
    except ArtifactError:
        with open(path, "rb") as f:
            return "perhaps an ONNX graph" if f.read(1) == b"\x08" else "unknown kind of file"
    if not header.compute_capabilities:
        return f"an engine of TensorRT {header.version}"
    versions = ", ".join(map(str, header.compute_capabilities))
    return f"an engine of TensorRT for RTX {header.version} for SM {versions}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        items = [(k, v) for k, v in value.items() if not isinstance(v, (dict, list)) or len(v) < 4]
        return ", ".join(f"{k} {_short(v)}" for k, v in items)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
