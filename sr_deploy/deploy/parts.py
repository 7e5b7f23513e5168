"""The graphs, engines and bundle of a deployment. What is up to date is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import (
    ArtifactError,
    InputError,
    MissingPackageError,
    SrDeployError,
    how_to_install,
)
from sr_deploy.core.manifest import Manifest, manifest_path, read_manifest
from sr_deploy.core.network_code import is_code, parse_code
from sr_deploy.core.shipped import (
    find_checkpoint,
    is_trained_for_int8,
    read_card,
    shipped_checkpoints,
)
from sr_deploy.core.target import LOCAL_RUNTIMES
from sr_deploy.deploy.options import DeployOptions
from sr_deploy.deploy.record import DeployRecord
from sr_deploy.runtime.build import (
    SUFFIX,
    bundle_from_onnx,
    check_builds_here,
    engine_from_onnx,
    why_not_here,
)
from sr_deploy.runtime.opener import require_kind

if TYPE_CHECKING:
    from sr_deploy.export.pipeline import ExportJob

GRAPHS, ENGINES, BUNDLE = "graphs", "engines", "bundle.tar"
KINDS = ("artifact", "code", "checkpoint")
"""The kinds of networks that can be exported."""
Log = Callable[[str], None]


@dataclass(frozen=True)
class Model:
    """A model that is deployed."""

    text: str
    """As the user gave it."""
    source: str
    """Without its variant."""
    variant: Optional[str]
    kind: str

    @staticmethod
    def from_text(text: str) -> Model:
        """Raises InputError for routers, plans and folders."""
        source, variant, kind = require_kind(text, "deploy", KINDS)
        return Model(text, source, variant, kind)

    @property
    def name(self) -> str:
        """A name for folders and messages: `asrn_x4`, `asrn_x4.d3`, `Net`."""
        if is_code(self.source):
            name = parse_code(self.source)[0].attribute
        else:
            file = Path(self.source)
            known = (".onnx", ".safetensors", ".pth", ".json")
            name = file.stem if file.suffix in known else file.name
        return f"{name}.{self.variant}" if self.variant else name

    @property
    def is_missing(self) -> bool:
        """Whether its file is not on this machine."""
        if self.kind == "code":
            file = parse_code(self.source)[0].source
            return file.endswith(".py") and not Path(file).exists()
        if self.source in (p.stem for p in shipped_checkpoints()):
            return False
        return not Path(self.source).exists()


@dataclass(frozen=True)
class Parts:
    """The files of a deployment."""

    graphs: List[Path]
    engines: Dict[Path, Path]
    """The engine of each graph that has one."""
    bundle: Optional[Path] = None
    """Where engines cannot be built here: what builds them elsewhere."""
    why_not_built: str = ""
    """Why this machine builds no engines for the target; empty if it does."""


def make_parts(
    model: Model,
    folder: Path,
    options: DeployOptions,
    record: Optional[DeployRecord],
    progress: Log,
) -> Parts:
    """Export the graphs, and build their engines or write their bundle. Raises SrDeployErrors."""
    graphs = _graphs(model, folder / GRAPHS, options, record, progress)
    profile, engines = options.profile, folder / ENGINES
    why_not = "" if options.on else why_not_here(profile)[0]
    if not why_not:
        paths = engine_from_onnx(
            graphs, engines, target=options.target, on=options.on, progress=progress
        )
        return Parts(graphs, dict(zip(graphs, paths)))
    adopted = adopted_engines(graphs, engines, profile.digest)
    for path in adopted.values():
        progress(f"{path.name}: up to date, built elsewhere")
    parts = Parts(graphs, adopted, why_not_built=why_not)
    if len(adopted) == len(graphs):
        return parts
    if profile.runtime == "onnxruntime":
        check_builds_here(profile)
    if profile.runtime in LOCAL_RUNTIMES:  # its engines are built where they run, from the graphs
        return parts
    bundle = bundle_from_onnx(graphs, folder / BUNDLE, target=options.target, progress=progress)
    if profile.runtime == "tensorrt-rtx":  # it builds without a GPU
        progress(f"to build here: {how_to_install('tensorrt_rtx')}, then the same command again")
    return replace(parts, bundle=bundle)


def export_jobs(model: Model, folder: Path, options: DeployOptions) -> List[ExportJob]:
    """Return the export of the graphs in each precision.

    Raises SrDeployErrors; ImportError without its packages.
    """
    from sr_deploy.export.pipeline import ExportJob, ExportOptions
    from sr_deploy.export.source import SOURCES

    source = SOURCES[model.kind].from_text(model.source)
    export = ExportOptions(
        variants=model.variant,
        sizes=[options.graph_sizes] if options.graph_sizes else (),
        target=options.target,
    )
    calibrate = {"int8": options.calibrate or None}
    return [
        ExportJob(source, folder, replace(export, precision=p, calibrate=calibrate.get(p)))
        for p in options.precisions
    ]


def _graphs(
    model: Model,
    folder: Path,
    options: DeployOptions,
    record: Optional[DeployRecord],
    progress: Log,
) -> List[Path]:
    """Export the graphs; where that is impossible, as on a board, take those that are there."""
    try:
        from sr_deploy.export.pipeline import onnx_from_jobs

        return onnx_from_jobs(export_jobs(model, folder, options), progress=progress)
    except (ImportError, MissingPackageError, SrDeployError) as e:
        lacks_package = isinstance(e, (ImportError, MissingPackageError))
        finished = [folder / name for name in record.graphs] if record else []
        uncalibrated = lacks_images(model, options)
        if not finished or not (lacks_package or model.is_missing or uncalibrated):
            raise
        precisions = {path: read_manifest(path).precision_asked for path in finished}
        if not set(options.precisions) <= set(precisions.values()):
            raise
        wanted = [path for path in finished if precisions[path] in options.precisions]
        reason = "--calibrate is not given" if uncalibrated else "nothing here exports"
        reason = f"{model.source} is not here" if model.is_missing else reason
        progress(f"graphs kept as they are ({len(wanted)}): {reason}")
        return wanted


def lacks_images(model: Model, options: DeployOptions) -> bool:
    """Return whether INT8 graphs are to be calibrated, and no images are given for it.

    A checkpoint that was trained for INT8 needs none.
    """
    if "int8" not in options.precisions or options.calibrate:
        return False
    weights = find_checkpoint(model.source) if model.kind == "checkpoint" else None
    if weights is None:
        return True
    variants = [model.variant] if model.variant else read_card(weights).variants
    return not all(is_trained_for_int8(weights, variant) for variant in variants)


def adopted_engines(graphs: Sequence[Path], folder: Path, profile: str) -> Dict[Path, Path]:
    """Return the intact engines in a folder that were built of graphs; profile: its digest."""
    found: Dict[Tuple[str, str], Path] = {}  # a graph may be of engines in several precisions
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        engine = _manifest(path)
        if engine is not None and engine.versions.get("profile") == profile:
            found[engine.parent_sha256, engine.precision_asked] = path
    manifests = {graph: read_manifest(graph) for graph in graphs}
    keys = {graph: (m.sha256, m.precision_asked) for graph, m in manifests.items()}
    return {graph: found[key] for graph, key in keys.items() if key in found}


def _manifest(path: Path) -> Optional[Manifest]:
    try:
        return read_manifest(path)
    except ArtifactError:
        return None


def remove_stale(folder: Path, record: Optional[DeployRecord], parts: Parts) -> List[str]:
    """Remove the graphs and engines of an earlier start that are no part any more.

    Returns their names. Files that deploy did not record are left alone.
    """
    if record is None:
        return []
    current = {GRAPHS: parts.graphs, ENGINES: list(parts.engines.values())}
    removed = []
    for place, names in ((GRAPHS, record.graphs), (ENGINES, record.engines)):
        for name in names:
            path = folder / place / Path(name).name
            if path not in current[place] and path.is_file():
                manifest_path(path).unlink(missing_ok=True)
                path.unlink()
                removed.append(name)
    return removed


def check_model(model: Model) -> None:
    """Raise InputError for an engine, which was made for a target already."""
    if model.kind == "artifact" and model.source.endswith(SUFFIX):
        raise InputError(
            f"{model.source} is an engine: it is built already",
            hint="give the model that it was made from",
        )
