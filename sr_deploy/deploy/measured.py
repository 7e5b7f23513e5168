"""The rows of a deployment: engines timed on the target, or what is known of them without."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Iterator, List, Tuple

from sr_deploy.bench.evaluate import ImageSet, evaluate, image_set
from sr_deploy.bench.measure import MeasureOptions, quality_fields, rows_from_artifacts
from sr_deploy.bench.network_rows import recorded_row, row_of
from sr_deploy.core.cache import key_of
from sr_deploy.core.device import cpu_name
from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError
from sr_deploy.core.files import write_text
from sr_deploy.core.progress import as_progress
from sr_deploy.core.run_options import CPU_RUN
from sr_deploy.deploy.options import DeployOptions
from sr_deploy.deploy.parts import Parts
from sr_deploy.results.rows import (
    DEPLOY_CELL,
    BenchmarkRow,
    append_rows,
    drop_partial_line,
    read_rows,
)
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.opener import describe_one
from sr_deploy.runtime.readiness import why_not_run

ROWS = "rows.jsonl"


def measure_parts(
    parts: Parts, folder: Path, options: DeployOptions, progress: Callable[[str], None]
) -> List[BenchmarkRow]:
    """Return a row for each graph: of its engine, timed, or of the graph, with its PSNR only.

    Each is kept in `rows.jsonl` as soon as it is measured, and not measured again. Raises
    SrDeployErrors for bad images.
    """
    images = image_set(options.data)
    file = folder / ROWS
    drop_partial_line(file)
    try:
        old_rows = read_rows(file) if file.exists() else []
    except InputError as e:
        e.hint = e.hint or f"remove {file}: all is measured again then"
        raise
    ours = [row for row in old_rows if row.cell.startswith(DEPLOY_CELL) and not row.error]
    known = {row.cell: row for row in ours}
    rows: List[BenchmarkRow] = []
    with as_progress(progress).track("measuring", len(parts.graphs)) as advance:
        for row, is_new in _rows(parts, options, images, known):
            if is_new:
                append_rows(file, [row])
            rows.append(row)
            progress(_line(row, is_new))
            advance(row.artifact)
    _drop_stale(file, {row.cell for row in rows})
    return rows


def _rows(
    parts: Parts, options: DeployOptions, images: ImageSet, known: Dict[str, BenchmarkRow]
) -> Iterator[Tuple[BenchmarkRow, bool]]:
    """Yield the row of each graph, and whether it was measured now."""
    runs_here = not why_not_run(options.profile)
    for graph in parts.graphs:
        engine = parts.engines.get(graph)
        if engine is not None and runs_here:
            cell = _cell(engine, options, images, timed=True)
            row = known.get(cell) or _timed_row(engine, options)
        elif engine is not None and recorded_row(describe_one(engine)) is not None:
            cell = _cell(engine, options, images, timed=False)
            row = known.get(cell) or _recorded(engine, _scored(graph, options, images, known))
        else:
            row = _scored(graph, options, images, known)
            cell = row.cell
        yield replace(row, cell=cell), cell not in known


def _scored(
    graph: Path, options: DeployOptions, images: ImageSet, known: Dict[str, BenchmarkRow]
) -> BenchmarkRow:
    """Return the row of a graph; where it cannot run, that of an earlier start on other images."""
    cell = _cell(graph, options, images, timed=False)
    if cell in known:
        return known[cell]
    row = replace(_scored_row(graph, options, images), cell=cell)
    earlier = [r for r in known.values() if r.artifact_sha256 == row.artifact_sha256]
    return earlier[-1] if row.error and earlier else row


def _cell(path: Path, options: DeployOptions, images: ImageSet, *, timed: bool) -> str:
    """Return the name of a measurement; it changes with all that decides its result."""
    network = describe_one(path)
    files = [(file.name, file.stat().st_size) for file in images.files]
    facts: List[Any] = [network.sha256, images.name, files]
    if timed:
        backend = BACKENDS[options.profile.runtime]()
        facts += [options.size, cpu_name(), sorted(backend.versions().items())]
    return f"{DEPLOY_CELL}{path.name} #{key_of(*facts)}"


def _timed_row(engine: Path, options: DeployOptions) -> BenchmarkRow:
    """Time and score an engine that runs here."""
    measure = MeasureOptions(variants=None, data=options.data, lr=options.size)
    return next(iter(rows_from_artifacts(engine, measure)))


def _scored_row(graph: Path, options: DeployOptions, images: ImageSet) -> BenchmarkRow:
    """Score a graph on the CPU: its time there says nothing of the target."""
    network = describe_one(graph)
    row = row_of(network)
    try:
        with network.open(CPU_RUN) as session:
            quality = evaluate(session, images, metric="y", degradation=network.degradation)
            fields = quality_fields(quality, None)
            return replace(
                row,
                **fields,
                precision=session.precision,
                backend=session.backend,
                backend_version=session.backend_version,
                warnings=(*row.warnings, f"not timed on '{options.target}'"),
            )
    except (ArtifactError, MissingPackageError) as e:
        return replace(row, error=e.message)


def _recorded(engine: Path, of_graph: BenchmarkRow) -> BenchmarkRow:
    """Return the times that the board recorded in an engine's manifest, with its graph's PSNR."""
    network = describe_one(engine)
    row = recorded_row(network)
    assert row is not None and network.manifest is not None
    accuracy: Any = network.manifest.checks.get("accuracy")
    quality = "images set degradation metric border_px psnr_db ssim tiling".split()
    compared = "the board's output was not compared"
    if accuracy:
        compared = f"the board's output differs from FP32 by {accuracy['psnr_db_vs_fp32']:.1f} dB"
    scored = f"PSNR is that of its graph, run in {of_graph.precision.upper()} on a CPU; {compared}"
    return replace(
        row,
        **{key: getattr(of_graph, key) for key in quality},
        warnings=(*row.warnings, scored),
    )


def _line(row: BenchmarkRow, is_new: bool) -> str:
    if row.error:
        return f"{row.artifact}: not run: {row.error}"
    parts = [f"{row.psnr_db:.3f} dB"] if row.psnr_db is not None else []
    parts += [f"{row.latency_ms_median:.2f} ms"] if row.latency_ms_median is not None else []
    return f"{row.artifact}: {', '.join(parts)}" + ("" if is_new else ", up to date")


def _drop_stale(file: Path, current: Collection[str]) -> None:
    """Remove the rows of earlier starts that are no part any more; rows of others stay."""
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = []
    for line in lines:
        cell = json.loads(line).get("cell", "")
        if not cell.startswith(DEPLOY_CELL) or cell in current:
            kept.append(line)
    if len(kept) < len(lines):
        write_text(file, "".join(kept))
