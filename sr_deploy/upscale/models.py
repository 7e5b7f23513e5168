"""What a user may upscale with: a checkpoint (by torch), a graph, an engine, or a folder of these of one model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional, Union

from sr_deploy.core.errors import InputError, VariantError, did_you_mean
from sr_deploy.core.files import files_with_suffix, sha256_of
from sr_deploy.core.manifest import manifest_path, read_manifest
from sr_deploy.core.session import Session
from sr_deploy.core.target import load_target
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.adaptive.models import Adaptive, adaptive_session

ARTIFACT_SUFFIXES = (".onnx", ".engine")


@dataclass(frozen=True)
class Runnable:
    """One network that can be opened."""

    model: str
    variant: str
    """Empty for a graph that is not ours."""
    identity: str
    """What decides its output: the checksum of its weights or its file."""
    open: Callable[[], Session]

    @property
    def name(self) -> str:
        return f"{self.model}.{self.variant}" if self.variant else self.model


def session_of(model: Union[str, Path], variant: Optional[str] = None) -> Session:
    """Open a checkpoint, a graph, an engine, or a folder of these of one model: the named variant, the largest for None.

    Raises an SrDeployError on bad input, or where this machine cannot run it.
    """
    return runnable(str(model), variant).open()


def adaptive_runnable(asked: Adaptive, model: Optional[str]) -> Runnable:
    """Return an adaptive network, the kind's shipped default where no model is given. Raises an SrDeployError on bad input."""
    session = adaptive_session(asked, model)
    return Runnable(session.name, "", session.identity, lambda: session)


def runnable(given: str, variant: Optional[str] = None) -> Runnable:
    """Return the named variant of what is given, the largest for None. Raises an SrDeployError when there is none such."""
    found = runnables(given)
    if variant is None:
        return found[-1]
    match = next((r for r in found if r.variant == variant), None)
    if match is None:
        held = [r.variant for r in found if r.variant]
        raise VariantError(
            f"{given} holds no variant '{variant}'; it holds {', '.join(held) or 'one network of no named variant'}",
            hint=did_you_mean(variant, held),
        )
    return match


def runnables(given: str) -> List[Runnable]:
    """Return what a checkpoint, an artifact or a folder of artifacts holds, smallest first. Raises an SrDeployError on bad input."""
    path = Path(given)
    if path.is_dir():
        return _family(path)
    if path.suffix in ARTIFACT_SUFFIXES:
        return [_artifact(path)]
    return _checkpoint(given)


def _family(folder: Path) -> List[Runnable]:
    files = files_with_suffix(folder, *ARTIFACT_SUFFIXES)
    if not files:
        raise InputError(
            f"the folder {folder} holds no .onnx or .engine file",
            hint="give a model's name, or a folder of its artifacts",
        )
    found = [_artifact(path) for path in files]
    for i, other in enumerate(found):
        if other.model != found[0].model:
            raise InputError(
                f"{folder} holds artifacts of several models, {found[0].model} and {other.model}",
                hint="give one file, or a folder of one",
            )
        if other.variant in [r.variant for r in found[:i]]:
            raise InputError(
                f"{folder} holds {other.name} more than once; the second is {files[i].name}",
                hint="give that file itself",
            )
    return found


def _artifact(path: Path) -> Runnable:
    if path.suffix == ".onnx" and path.is_file() and not manifest_path(path).is_file():
        return Runnable(path.stem, "", sha256_of(path), lambda: _open_bare(path))
    manifest = read_manifest(path)
    runtime = "onnxruntime" if manifest.kind == "onnx" else load_target(manifest.target).runtime
    return Runnable(
        manifest.model,
        manifest.variant,
        manifest.sha256,
        lambda: BACKENDS[runtime]().open(path, manifest),
    )


def _open_bare(path: Path) -> Session:
    from sr_deploy.runtime.ort import OnnxRuntimeSession

    return OnnxRuntimeSession(path)


def _checkpoint(given: str) -> List[Runnable]:
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.runtime.torch_module import session_of_checkpoint

    checkpoint = load_checkpoint(given)
    return [
        Runnable(
            checkpoint.name,
            variant,
            f"{checkpoint.spec.weights_sha256} {variant}",
            lambda variant=variant: session_of_checkpoint(checkpoint, variant),  # type: ignore[misc]
        )
        for variant in checkpoint.spec.variants
    ]
