"""Builds the engines of adaptive networks: one of each part of a plan, and a plan of them."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    CannotRunHereError,
    InputError,
    MissingPackageError,
)
from sr_deploy.core.files import sha256_of
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import same_versions
from sr_deploy.core.parts import (
    AdaptivePlan,
    PartReceipt,
    PlanEngine,
    PlanPart,
    check_part_files,
    publish_parts,
)
from sr_deploy.core.precisions import precision_of_counts, precisions_text
from sr_deploy.core.progress import as_progress
from sr_deploy.core.run_options import CPU_RUN, DEFAULT_RUN, RunOptions
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import Backend, BuildOptions
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.accuracy import compare_outputs, refuse_inaccurate
from sr_deploy.runtime.boards.job import Progress
from sr_deploy.runtime.opener.plan import PlanKind, load_plan
from sr_deploy.runtime.preflight import preflight, refuse, summary

CHECKED_HW: HW = (136, 200)
"""The LR size of the photograph on which engines are compared with their graphs."""
MIN_PSNR_DB = 40.0
"""The least PSNR of the output of a plan's engines against its graphs'. It finds engines that
compute wrongly; where precisions differ, other decisions are taken at some places."""


@dataclass(frozen=True)
class PlanToBuild:
    """A plan of graphs, and the plan of the engines that is to be made of it."""

    source: Path
    plan: AdaptivePlan
    """Of the graphs."""
    target: TargetProfile
    options: BuildOptions

    @property
    def name(self) -> str:
        """The name of the plan's file."""
        return self.plan.file_name

    @property
    def command(self) -> str:
        command = f"srdeploy build-engine {self.name} --target {self.target.option}"
        command += "".join(f" --sm {c}" for c in self.options.compute_capabilities)
        return command + (" --no-cublas-cudnn" if self.options.no_cublas_cudnn else "")

    def preflight(self) -> Dict[str, Any]:
        """Check the graphs for the target's parser; return the record. Raises BuildError."""
        folder, parts = self.source.parent, self.plan.parts
        return {role: _preflight(folder / p.file, self, p) for role, p in parts.items()}

    def engine(self, versions: Mapping[str, str]) -> PlanEngine:
        """Return what decides whether engines are up to date, without the facts of a build.

        versions: of the library that builds, as far as they are known.
        """
        return PlanEngine(
            target=self.target.name,
            runtime=self.target.runtime,
            precision_obtained="",
            versions={**versions, "profile": self.target.digest},
            command=self.command,
            graphs={role: part.sha256 for role, part in self.plan.parts.items()},
            profile=self.target.recorded,
        )


def plan_to_build(source: Path, target: TargetProfile, options: BuildOptions) -> PlanToBuild:
    """Check a plan of graphs for a target. Raises an SrDeployError."""
    plan = load_plan(source)
    if plan.engine is not None:
        raise ArtifactError(
            f"{source} is a plan of engines (target '{plan.engine.target}'), not of graphs",
            hint="give the folder that export --adaptive wrote",
        )
    check_part_files(source, plan)
    _check_target(source, plan, target)
    for option, given in (
        ("--dla", options.dla is not None),
        ("--fallback", options.fallback),
        ("an autotuned layout", options.layout),
    ):
        if given:
            raise InputError(
                f"{option} is not available for adaptive networks, such as {source.name}",
                hint="omit it, or build from a graph of the static network",
            )
    capabilities = tuple(sorted(set(options.compute_capabilities)))
    return PlanToBuild(source, plan, target, replace(options, compute_capabilities=capabilities))


def _check_target(source: Path, plan: AdaptivePlan, target: TargetProfile) -> None:
    """Raise BuildError where a target would misread a plan's graphs or change their precision."""
    again = f"export it again with --adaptive --target {target.option}"
    if plan.precision not in target.precisions:
        raise BuildError(
            f"{source.name} was exported for {plan.precision.upper()} engines, but target "
            f"'{target.name}' builds {precisions_text(target.precisions)} engines",
            hint=again,
        )
    expected = target.graph_dtype(plan.precision)
    found = sorted({part.dtype for part in plan.parts.values()} - {expected})
    if found:
        raise BuildError(
            f"{source.name} has parts of {found[0].upper()} tensors, but target '{target.name}' "
            f"builds an {plan.precision.upper()} engine from graphs of {expected.upper()}",
            hint=again,
        )
    for part in plan.parts.values():
        if (part.opset or 0) > target.opset:
            raise BuildError(
                f"{part.file} has opset {part.opset}, but target '{target.name}' reads at most "
                f"{target.opset}",
                hint=again,
            )


def plan_is_up_to_date(
    folder: Path, build: PlanToBuild, versions: Optional[Mapping[str, str]]
) -> bool:
    """Return whether a folder has the engines of a plan, intact and made in the same way.

    versions: of the library here; None for those that a board built, whose versions are not known.
    """
    path = folder / build.name
    try:
        plan = load_plan(path)
        check_part_files(path, plan)
    except ArtifactError:
        return False
    made, expected = plan.engine, build.engine(versions or {})
    keys = ("target", "runtime", "command", "graphs")
    if made is None or any(getattr(made, key) != getattr(expected, key) for key in keys):
        return False
    if versions is None:
        return made.versions.get("profile") == expected.versions["profile"]
    return same_versions(made.versions, expected.versions)


def refuse_replacing_graphs(path: Path) -> None:
    """Raise InputError if there is a plan of graphs where a plan of engines is to be written."""
    with contextlib.suppress(ArtifactError):
        if load_plan(path).engine is None:
            raise InputError(
                f"the engines' plan would replace {path}", hint="give another folder with -o"
            )


def build_plan(build: PlanToBuild, backend: Backend, folder: Path, progress: Progress) -> str:
    """Build the engines of a plan into a folder, with their plan; return a line about them.

    Nothing is written unless all engines were built and checked. Raises an SrDeployError.
    """
    refuse_replacing_graphs(folder / build.name)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=str(folder), prefix=".partial-") as temporary:
        made = _built_parts(build, backend, Path(temporary), progress)
        made = _checked(build, made, Path(temporary))
        seconds = time.perf_counter() - start
        files = [part.file for part in made.parts.values()]
        size_bytes = sum((Path(temporary) / file).stat().st_size for file in files)
        publish_parts(Path(temporary), folder, made)
    engine = made.engine
    assert engine is not None
    mib = size_bytes / 2**20
    return (
        f"{build.name}: {len(files)} engines, {engine.precision_obtained}, {mib:.2f} MiB, built "
        f"in {seconds:.1f} s"
    )


def _built_parts(
    build: PlanToBuild, backend: Backend, folder: Path, progress: Progress
) -> AdaptivePlan:
    """Build each part into a folder; return the plan of the engines, which are not checked yet."""
    plan = build.plan
    parts: Dict[str, PlanPart] = {}
    receipts: Dict[str, PartReceipt] = {}
    checks: Dict[str, Any] = {}
    with as_progress(progress).track(f"building {build.name}", len(plan.parts)) as advance:
        for role, part in plan.parts.items():
            graph, file = build.source.parent / part.file, folder / plan.engine_name(role)
            advance(file.name, steps=0)
            checks[role] = _preflight(graph, build, part)
            precision = plan.precision_of(role)
            receipts[role] = backend.build_part(
                graph, part, build.target, precision, file, build.options
            )
            parts[role] = replace(part, file=file.name, sha256=sha256_of(file))
            advance()
    layers: Dict[str, int] = {}
    for receipt in receipts.values():
        for kind, number in receipt.layers.items():
            layers[kind] = layers.get(kind, 0) + number
    if plan.precision not in {kind.partition("+")[0] for kind in layers}:
        raise BuildError(
            f"{plan.precision.upper()} was asked for, but {backend.title} computes {build.name} in "
            f"{precision_of_counts(layers) or 'no layer that it applies to'}",
            hint="" if plan.precision == "fp32" else "export it with --precision fp32",
        )
    not_checked = dict.fromkeys(line for r in receipts.values() for line in r.not_checked)
    engine = replace(
        build.engine(backend.versions()),
        precision_obtained=precision_of_counts(layers),
        receipts={
            role: {
                "precision": receipt.precision,
                "layers": receipt.layers,
                "seconds": receipt.seconds,
                "size_bytes": (folder / parts[role].file).stat().st_size,
                **receipt.facts,
            }
            for role, receipt in receipts.items()
        },
        not_checked=tuple(not_checked),
    )
    checks = {**plan.checks, "preflight": checks}
    return replace(plan, target=build.target.name, parts=parts, checks=checks, engine=engine)


def _preflight(graph: Path, build: PlanToBuild, part: PlanPart) -> Dict[str, object]:
    """Check a part's graph for the target's parser. Raises BuildError."""
    precision = build.plan.precision
    if precision == "int8" and not part.quantised:
        precision = part.dtype
    try:
        findings = preflight(graph, build.target, precision=precision, part=True)
    except MissingPackageError:
        return {"not checked": "onnx is not installed here"}
    refuse(findings, part.file, build.target)
    return summary(findings, build.target)


def _checked(build: PlanToBuild, made: AdaptivePlan, folder: Path) -> AdaptivePlan:
    """Write the plan of engines beside them; where they can run here, compare their output.

    Returns the plan as it was written. Raises BuildError.
    """
    path, engine = folder / build.name, made.engine
    assert engine is not None
    path.write_text(to_json(made), encoding="utf-8")
    image = nchw_from_rgb(sample_lr(CHECKED_HW, count=1)[0])
    try:
        outputs = _output(path, image, DEFAULT_RUN)
        references = _output(build.source, image, CPU_RUN)
    except (CannotRunHereError, MissingPackageError) as e:
        not_checked = (f"the engines' output: {e.message}", *engine.not_checked)
        made = replace(made, engine=replace(engine, not_checked=not_checked))
    else:
        accuracy = compare_outputs(outputs, references)
        refuse_inaccurate(accuracy, build.name, MIN_PSNR_DB, "", "the graphs")
        against = "the graphs by onnxruntime on the CPU"
        if build.plan.graph_precision:  # what these lose against FP32 was measured at the export
            accuracy["psnr_db_vs_graph"] = accuracy.pop("psnr_db_vs_fp32")
        accuracy = {**accuracy, "at": hw_text(CHECKED_HW), "against": against}
        made = replace(made, checks={**made.checks, "accuracy": accuracy})
    path.write_text(to_json(made), encoding="utf-8")
    return made


def _output(path: Path, image: Any, run: RunOptions) -> List[Any]:
    with PlanKind().describe(str(path), None, False)[0].open(run) as session:
        return [session.run(image)]
