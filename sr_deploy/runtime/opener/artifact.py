"""ONNX graphs and engines: one file each with a manifest, which a graph may lack."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.interface import Interface
from sr_deploy.core.manifest import Manifest, manifest_path, read_manifest, target_of
from sr_deploy.core.onnx_file import artifact_sha256
from sr_deploy.core.run_options import CPU_RUN, RunOptions
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, hw_text, up_to_multiple
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

    def open_artifact(run: RunOptions) -> Session:
        name = (run.requested_openvino or backend) if graph else backend
        return BACKENDS[name]().open(path, manifest, run)

    return NetworkDescription(
        kind="graph" if graph else "engine",
        source=str(path),
        model=manifest.model,
        variant=manifest.variant,
        identity=manifest.sha256,
        sha256=manifest.sha256,
        backend=backend,
        opener=open_artifact,
        scale=manifest.scale,
        sizes=manifest.sizes,
        precision=manifest.precision_obtained,
        precision_asked=manifest.precision_asked,
        target=manifest.target,
        artifact=path.name,
        degradation=manifest.degradation,
        weights_sha256s=(manifest.parent_sha256,),
        manifest=manifest,
        counts=functools.lru_cache(maxsize=None)(functools.partial(_counts, path, manifest)),
    )


def _describe_bare(path: Path) -> NetworkDescription:
    sha256 = artifact_sha256(path)

    def open_graph(run: RunOptions) -> Session:
        from sr_deploy.runtime.ort import OnnxRuntimeSession

        if run.requested_openvino is not None:
            return BACKENDS[run.requested_openvino]().open_bare(path, run)
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
        counts=functools.lru_cache(maxsize=None)(functools.partial(_bare_counts, path, open_graph)),
    )


def _counts(path: Path, manifest: Manifest, hw: HW = NTIRE_HW) -> Dict[str, Any]:
    """Return the manifest's counts; at other sizes, the graph's own."""
    recorded: Dict[str, Any] = dict(manifest.counts)
    if hw == NTIRE_HW and (recorded or manifest.kind != "onnx"):
        return recorded
    if manifest.kind != "onnx":
        raise InputError(
            f"{path} is an engine, whose counts at {hw_text(NTIRE_HW)} its manifest has; "
            f"it cannot be counted at {hw_text(hw)}",
            hint="count the graph or the checkpoint that it was made from",
        )
    return _graph_counts(path, hw, manifest.multiple, manifest.interface)


def _bare_counts(
    path: Path, opener: Callable[[RunOptions], Session], hw: HW = NTIRE_HW
) -> Dict[str, Any]:
    try:
        return _graph_counts(path, hw)
    except ArtifactError:  # it may take multiples only, which a probe finds
        with opener(CPU_RUN) as session:
            if session.multiple == 1:
                raise
            return _graph_counts(path, hw, session.multiple)


def _graph_counts(
    path: Path, hw: HW, multiple: int = 1, interface: Optional[Interface] = None
) -> Dict[str, Any]:
    from sr_deploy.runtime.graph_counts import count_graph

    asked = up_to_multiple(hw, multiple)
    record = count_graph(path, asked, interface)
    size = tuple(record.get("hw", NTIRE_HW))
    if size != asked and hw != NTIRE_HW:
        raise InputError(f"{path} is of a fixed size: it takes {hw_text(size)}, not {hw_text(hw)}")
    return record
