"""What there is to measure: the variants of a checkpoint, graphs, engines, and folders of them, each with what its file says."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Union

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import files_with_suffix, sha256_of
from sr_deploy.core.manifest import Manifest, manifest_path, read_manifest
from sr_deploy.core.routers import RoutedPlan
from sr_deploy.core.session import Session
from sr_deploy.core.target import load_target
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.adaptive.adadsr import depth_of
from sr_deploy.runtime.adaptive.models import is_adaptive, is_plan, opened, plan_of

ARTIFACT_SUFFIXES = (".onnx", ".engine")
COUNTED_HW = (256, 256)


@dataclass(frozen=True)
class Subject:
    """Something to measure: what is known before it runs, and how to open it."""

    row: BenchmarkRow
    open: Callable[[], Session]
    counts: Dict[str, Any] = field(default_factory=dict)
    """As a manifest holds them: of the network as trained and as deployed, by both counters."""
    recorded: Optional[BenchmarkRow] = None
    """Its speed as the board that built it measured it; stands in where it cannot run here."""


def given_items(
    given: Union[str, Path, Sequence[Union[str, Path]]], variants: Union[str, Sequence[str], None]
) -> List[str]:
    """Return what is to be measured as a list. Raises InputError when it is empty, or `variants` names some of no checkpoint."""
    items = [str(item) for item in ([given] if isinstance(given, (str, Path)) else given)]
    if not items:
        raise InputError(
            "nothing to measure",
            hint="give a checkpoint, an ONNX graph, an engine or a folder of them",
        )
    if variants is not None and not variants:
        raise InputError("an empty list of variants", hint="give some, or leave it out for all")
    if variants not in (None, "all") and all(_holds_artifacts(item) for item in items):
        raise InputError(
            "variants are given, and no checkpoint to take them from: a graph or an engine is one variant",
            hint="leave --variants out, or give the files of those variants",
        )
    return items


def _holds_artifacts(item: str) -> bool:
    return Path(item).is_dir() or Path(item).suffix in ARTIFACT_SUFFIXES


def subjects_of(
    item: str, variants: Union[str, Sequence[str], None], *, trust: bool = False
) -> Iterator[Subject]:
    """Yield the variants of a checkpoint, an artifact, or the artifacts of a folder. Raises an SrDeployError on bad input."""
    path = Path(item)
    if is_adaptive(item):
        yield from _adaptive_subjects(item, variants)
    elif path.is_dir():
        plans = [str(file) for file in files_with_suffix(path, ".json") if is_plan(str(file))]
        parts = {name for plan in plans for name in plan_of(plan).graphs}
        for plan in plans:
            yield from _adaptive_subjects(plan, None)
        found = [
            file for file in files_with_suffix(path, *ARTIFACT_SUFFIXES) if file.name not in parts
        ]
        if not found and not plans:
            raise InputError(f"the folder {path} holds no .onnx or .engine file")
        for artifact in found:
            yield _artifact_subject(artifact, trust)
    elif path.suffix in ARTIFACT_SUFFIXES:
        yield _artifact_subject(path, trust)
    else:
        yield from _checkpoint_subjects(item, variants)


def _checkpoint_subjects(
    model: str, variants: Union[str, Sequence[str], None]
) -> Iterator[Subject]:
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.nets.complexity import NTIRE_HW, count
    from sr_deploy.runtime.torch_module import session_of_checkpoint

    checkpoint = load_checkpoint(model)
    spec = checkpoint.spec
    for variant in checkpoint.variants(variants):
        row = BenchmarkRow(
            model=checkpoint.name,
            variant=str(variant),
            backend="torch",
            scale=spec.scale,
            precision_asked="fp32",
            artifact_sha256=spec.weights_sha256,
        )
        net = checkpoint.network(str(variant))
        of_hooks, of_fvcore = (
            asdict(count(net, NTIRE_HW, counter=counter)) for counter in ("hooks", "fvcore")
        )
        counts = {**of_hooks, "fvcore": of_fvcore}

        def open_session(variant: str = str(variant)) -> Session:
            return session_of_checkpoint(checkpoint, variant)

        yield Subject(with_counts(row, counts), open_session, counts)


def _adaptive_subjects(item: str, variants: Union[str, Sequence[str], None]) -> Iterator[Subject]:
    """A router, or a plan; of an AdaDSR's plan the variants are desired depths."""
    plan, path = plan_of(item), Path(item)
    row = BenchmarkRow(
        model=plan.model,
        variant="",
        backend="onnxruntime" if is_plan(item) else "torch",
        scale=plan.scale,
        precision_asked="fp32",
        artifact=path.name if is_plan(item) else "",
        artifact_sha256=sha256_of(path) if is_plan(item) else plan.parent_sha256,
    )
    if isinstance(plan, RoutedPlan) or plan.fixed:
        if variants not in (None, "all"):
            why = (
                "chooses among its branches itself"
                if isinstance(plan, RoutedPlan)
                else "was trained for one depth"
            )
            raise InputError(f"'{item}' {why}: it has no variants", hint="leave --variants out")
        yield Subject(row, lambda: opened(item))
        return
    asked = (
        variants.split(",")
        if isinstance(variants, str) and variants != "all"
        else None
        if variants == "all"
        else variants
    )
    depths = {
        name: depth_of(name, plan.blocks)
        for name in ([f"d{plan.blocks / 2:g}"] if asked is None else asked)
    }
    for name, depth in depths.items():
        yield Subject(replace(row, variant=name), lambda depth=depth: opened(item, depth))  # type: ignore[misc]


def _artifact_subject(path: Path, trust: bool) -> Subject:
    if path.suffix == ".onnx" and path.is_file() and not manifest_path(path).is_file():
        bare = BenchmarkRow(
            model=path.stem,
            variant="",
            backend="onnxruntime",
            artifact=path.name,
            artifact_sha256=sha256_of(path),
        )
        return Subject(bare, lambda: _open_bare(path))
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    manifest = read_manifest(path, trust=trust)
    runtime = "onnxruntime" if manifest.kind == "onnx" else load_target(manifest.target).runtime
    row = BenchmarkRow(
        model=manifest.model,
        variant=manifest.variant,
        backend=runtime,
        artifact=path.name,
        artifact_sha256=manifest.sha256,
        target=manifest.target,
        scale=manifest.scale,
        precision=manifest.precision_obtained,
        precision_asked=manifest.precision_asked,
    )
    row = with_counts(row, manifest.counts)
    return Subject(
        row,
        lambda: BACKENDS[runtime]().open(path, manifest),
        manifest.counts,
        _recorded(row, manifest),
    )


def _recorded(row: BenchmarkRow, manifest: Manifest) -> Optional[BenchmarkRow]:
    """The row of an engine that a board built and measured: no images were scored there."""
    build: Any = manifest.build
    if "latency_ms" not in build:
        return None
    latency, board = build["latency_ms"], build.get("board", {})
    package = row.backend.replace("-", "_")
    return replace(
        row,
        backend_version=manifest.versions.get(package, ""),
        device=" ".join(
            dict.fromkeys(part for part in (board.get("board", ""), build["gpu"]) if part)
        ),
        power_mode=board.get("power_mode"),
        input_hw=(manifest.opt_shape[0], manifest.opt_shape[1]),
        runs=latency["runs"],
        latency_ms_median=latency["median"],
        latency_ms_p90=latency["p90"],
        latency_ms_p95=latency["p95"],
        latency_ms_p99=latency["p99"],
        timer=f"{latency['timer']}, by the board's trtexec",
        protocol="trtexec",
    )


def _open_bare(path: Path) -> Session:
    from sr_deploy.runtime.ort import OnnxRuntimeSession

    return OnnxRuntimeSession(path)


def with_counts(row: BenchmarkRow, counts: Any, counter: str = "hooks") -> BenchmarkRow:
    """Fill in the counts by a counter, none where an artifact of an older version lacks them."""
    found = counts if counter == "hooks" else counts.get(counter, {})
    if not {"params", "macs", "acts", "convs", "counter", "uncounted"} <= set(found):
        return replace(
            row,
            params=None,
            macs_g=None,
            acts_m=None,
            convs=None,
            counter="",
            counted_hw=None,
            uncounted=None,
        )
    return replace(
        row,
        params=found["params"],
        macs_g=found["macs"] / 1e9,
        acts_m=found["acts"] / 1e6,
        convs=found["convs"],
        counter=found["counter"],
        counted_hw=COUNTED_HW,
        uncounted=found["uncounted"],
        deployed=counts.get("deployed", {}).get(counter),
    )
