"""ONNX graphs and engines: one file each with a manifest, which a graph may lack."""

from __future__ import annotations

from pathlib import Path
from typing import List

from sr_deploy.core.errors import InputError
from sr_deploy.core.manifest import Manifest, manifest_path, read_manifest, target_of
from sr_deploy.core.onnx_file import artifact_sha256
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session, SizeContract
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants

SUFFIXES = (".onnx", ".engine")


class ArtifactKind(Kind):
    has_variants = False

    def matches(self, text: str) -> bool:
        return artifact_path(text).suffix in SUFFIXES

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        path = artifact_path(text)
        if not path.is_file():
            raise InputError(f"there is no file {path}")
        if path.suffix == ".onnx" and not manifest_path(path).is_file():
            return [_describe_bare(path)]
        return [_describe(path, read_manifest(path, trust=trust))]


def artifact_path(text: str) -> Path:
    """Return the path of the artifact that a path, or the path of its manifest, stands for."""
    path = Path(text)
    if path.suffix == ".json" and Path(path.stem).suffix in SUFFIXES:
        return path.with_suffix("")
    return path


def _describe(path: Path, manifest: Manifest) -> NetworkDescription:
    graph = manifest.kind == "onnx"
    backend = "onnxruntime" if graph else target_of(manifest).runtime
    return NetworkDescription(
        kind="graph" if graph else "engine",
        source=str(path),
        model=manifest.model,
        variant=manifest.variant,
        identity=manifest.sha256,
        sha256=manifest.sha256,
        backend=backend,
        opener=lambda run: BACKENDS[backend]().open(path, manifest, run),
        scale=manifest.scale,
        sizes=SizeContract(
            manifest.min_shape,
            manifest.max_shape,
            halo_px=manifest.halo_px,
            align_px=manifest.align_px,
            multiple=manifest.multiple,
        ),
        precision=manifest.precision_obtained,
        precision_asked=manifest.precision_asked,
        target=manifest.target,
        artifact=path.name,
        weights_sha256s=(manifest.parent_sha256,),
        manifest=manifest,
        counts=lambda: manifest.counts,
    )


def _describe_bare(path: Path) -> NetworkDescription:
    sha256 = artifact_sha256(path)

    def open_graph(run: RunOptions) -> Session:
        from sr_deploy.runtime.ort import OnnxRuntimeSession

        return OnnxRuntimeSession(path, run=run)

    return NetworkDescription(
        kind="graph",
        source=str(path),
        model=path.stem,
        variant="",
        identity=sha256,
        sha256=sha256,
        backend="onnxruntime",
        opener=open_graph,
        artifact=path.name,
    )
