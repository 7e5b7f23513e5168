"""What an artifact is, whether it is whole, what it was built for and what differs on this machine. Nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError, TargetError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.manifest import Manifest, manifest_path, parse_manifest
from sr_deploy.core.sizes import Sizes
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.tensorrt_engine import read_header


@dataclass(frozen=True)
class Diagnosis:
    """What can be said of a file without executing anything in it."""

    file: str
    what: str
    whole: bool
    why_not_whole: str
    built_for: str
    differs_here: Tuple[str, ...]
    """Why this machine cannot run it, or would not build the same."""
    checked: Tuple[str, ...]
    not_checked: Tuple[str, ...]
    rebuild: str
    """The command that made it; empty when that is not known."""


def diagnose(path: Path) -> Diagnosis:
    """Examine a graph or an engine. Raises InputError when there is no such file."""
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    sidecar = manifest_path(path)
    if not sidecar.is_file():
        why = f"it has no manifest ({sidecar.name}): nothing vouches for it"
        return Diagnosis(str(path), _seen(path), False, why, "", (), (), ("everything",), "")
    try:
        manifest = parse_manifest(sidecar)
    except ArtifactError as e:
        return Diagnosis(str(path), _seen(path), False, e.message, "", (), (), ("everything",), "")
    whole = sha256_of(path) == manifest.sha256
    why = (
        ""
        if whole
        else f"it was changed, or cut short, after {sidecar.name} was written: its SHA-256 is another"
    )
    differs = _differences(manifest)
    checked = tuple(f"{name}: {_short(value)}" for name, value in manifest.checks.items())
    what, built_for = _described(manifest), _built_for(manifest)
    return Diagnosis(
        str(path),
        what,
        whole,
        why,
        built_for,
        differs,
        checked,
        manifest.not_checked,
        manifest.command,
    )


def _described(manifest: Manifest) -> str:
    low, opt, high = (
        (hw[0], hw[1]) for hw in (manifest.min_shape, manifest.opt_shape, manifest.max_shape)
    )
    kind = "graph" if manifest.kind == "onnx" else manifest.kind
    precision = manifest.precision_obtained
    if manifest.kind == "engine" and precision != manifest.precision_asked:
        precision += f" ({manifest.precision_asked} was asked for)"
    return f"{kind} of {manifest.model}.{manifest.variant}, x{manifest.scale}, LR {Sizes(low, opt, high)}, {precision}"


def _built_for(manifest: Manifest) -> str:
    versions = ", ".join(
        f"{name} {version}"
        for name, version in manifest.versions.items()
        if name not in ("profile", "card")
    )
    target = _target(manifest)
    name = (
        f"{manifest.target} ({target.title})"
        if target
        else manifest.target or "no target in particular"
    )
    return f"{name}; {versions}" if versions else name


def _differences(manifest: Manifest) -> Tuple[str, ...]:
    if manifest.kind != "engine":
        return ()
    target = _target(manifest)
    if target is None:
        return (f"there is no target '{manifest.target}' here",)
    found: List[str] = []
    if manifest.versions.get("profile", target.digest) != target.digest:
        found.append(f"the profile of '{target.name}' has changed since")
    backend = BACKENDS[target.runtime]()
    try:
        here = backend.versions()
    except MissingPackageError as e:
        found.append(e.message)
    else:
        for name, version in here.items():
            made = manifest.versions.get(name)
            if made is not None and made != version:
                found.append(f"{name} is {version} here; it was built by {made}")
    device = backend.why_no_device(target)
    return (*found, device) if device else tuple(found)


def _target(manifest: Manifest) -> Optional[TargetProfile]:
    try:
        return load_target(manifest.target) if manifest.target else None
    except TargetError:
        return None


def _seen(path: Path) -> str:
    """What a file without a manifest seems to be, from its first bytes."""
    try:
        header = read_header(path)
    except ArtifactError:
        with open(path, "rb") as f:
            return (
                "perhaps an ONNX graph" if f.read(1) == b"\x08" else "no file that srdeploy knows"
            )
    of = (
        f" for SM {', '.join(map(str, header.compute_capabilities))}"
        if header.compute_capabilities
        else ""
    )
    library = "TensorRT for RTX" if header.compute_capabilities else "TensorRT"
    return f"an engine of {library} {header.version}{of}"


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{k} {_short(v)}"
            for k, v in value.items()
            if not isinstance(v, (dict, list)) or len(v) < 4
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
