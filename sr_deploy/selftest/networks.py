"""Checks of networks: builds, precision, accuracy, latency, memory, protocols, energy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Union

import numpy as np

from sr_deploy.bench.measure import MeasureOptions, rows_from_artifacts
from sr_deploy.bench.network_rows import recorded_row
from sr_deploy.core.errors import BuildError, how_to_install
from sr_deploy.core.files import files_with_suffix
from sr_deploy.core.images import nchw_from_rgb, read_rgb
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.core.precisions import lowest_precision
from sr_deploy.core.run_options import CPU_RUN, RunOptions
from sr_deploy.core.samples import mirrored_crop, shipped_crops
from sr_deploy.core.session import Session
from sr_deploy.core.spec import network_name
from sr_deploy.core.target import load_target
from sr_deploy.results.protocols import time_ms
from sr_deploy.results.rows import BenchmarkRow, append_rows
from sr_deploy.runtime.build import engine_from_onnx
from sr_deploy.runtime.opener import NetworkDescription, describe_all
from sr_deploy.runtime.opener.plan import load_plan
from sr_deploy.selftest.checks import Check, SkippedError, Way

GPU_LR, CPU_LR = "256x512", "128x256"
GPU_RUNS, CPU_RUNS = 20, 3
ACCURACY_HW = (64, 64)
MIN_PSNR_DB = {"fp32": 90.0, "bf16": 40.0, "int8": 30.0}
"""The least accuracy against torch on the CPU in FP32, by the lowest precision that is computed in.
Others have that of FP16."""
PROTOCOLS = ("ntire2022", "ntire2026")
PROTOCOL_MODELS = ("srn-ntire_x4", "asrn_x4.d5")
VALID_HW = {True: (680, 1020), False: (340, 512)}
"""Of the protocols' images on a GPU (half of DIV2K's sides, for scoring is slow), and on a CPU."""
ENERGY_S = 10.0


def run_of(way: Way) -> RunOptions:
    """Return the options with which a way opens networks."""
    return RunOptions(**way.run)


def sources(check: Check, folder: Path) -> List[str]:
    """Return what a check's networks are: a checkpoint, or the artifacts of its build.

    Raises SkippedError if none was built, as the check of the build tells.
    """
    way = check.on
    if way.run.get("precision") is not None:
        return [check.model]
    built = artifacts_folder(way, folder)
    suffix = ".engine" if way.target else ".onnx"
    names = files_with_suffix(built, suffix) if built.is_dir() else []
    files = [str(path) for path in names if path.name.startswith(f"{check.model}.")]
    if not files:
        raise SkippedError(f"nothing of {check.model} was built for {way.name}")
    return files


def artifacts_folder(way: Way, folder: Path) -> Path:
    """Return the folder of the graphs and engines of a way."""
    return folder / "artifacts" / (Path(way.target).stem or "graphs")


def check_build(check: Check, folder: Path) -> Dict[str, Any]:
    """Export and build the slices of a family: on the CPU the smallest and the largest.

    Rows that a board recorded with its trtexec are kept.
    Graphs that are there already are used where the exporter's packages are missing.
    """
    way = check.on
    output = artifacts_folder(way, folder)
    graphs = output if not way.target else folder / "artifacts" / f"{output.name}-graphs"
    files = [path for path in _exported(check, graphs) if path.name.startswith(check.model + ".")]
    if not files:
        raise SkippedError(
            f"there is no graph of {check.model} in {graphs}",
            hint=f"export {check.model} into it on another machine",
        )
    if way.target:
        files = engine_from_onnx([str(f) for f in files], output, target=way.target)
    described = describe_all([str(f) for f in files])
    recorded = [(network, recorded_row(network)) for network in described]
    rows = [replace(r, cell=f"{check.name}: {_key(n)}") for n, r in recorded if r is not None]
    append_rows(folder / "rows.jsonl", rows)
    receipts = {
        _key(network): {
            "asked": network.precision_asked,
            "obtained": network.precision,
            **_build_facts(network),
        }
        for network in described
    }
    wrong = [
        f"{key} was asked for in {r['asked']} and is in {r['obtained']}"
        for key, r in receipts.items()
        if lowest_precision(r["obtained"]) != r["asked"]
    ]
    if wrong:
        raise BuildError("; ".join(wrong))
    precisions = ", ".join(sorted({r["obtained"] for r in receipts.values()}))
    return {"found": f"{len(receipts)} in {precisions}", "receipts": receipts}


def _key(network: Union[NetworkDescription, BenchmarkRow]) -> str:
    """Return the network's name, with the precision that was asked for if that is not FP32.

    A folder may hold a variant in several.
    """
    asked = "" if network.precision_asked == "fp32" else network.precision_asked
    return f"{network_name(network.model, network.variant)} {asked}".rstrip()


def _build_facts(network: NetworkDescription) -> Dict[str, Any]:
    manifest = network.manifest
    if manifest is None:
        return {}
    return {"build": manifest.build, "checks": manifest.checks, "not_checked": manifest.not_checked}


def _exported(check: Check, folder: Path) -> List[Path]:
    """Return the graphs of a family in `folder`, exported where that can be done here."""
    try:
        from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint
        from sr_deploy.nets.checkpoint import load_checkpoint
    except ImportError as e:
        graphs = files_with_suffix(folder, ".onnx") if folder.is_dir() else []
        if graphs:
            return graphs
        raise SkippedError(
            f"exporting graphs needs the package '{e.name}', which cannot be imported here",
            hint=f"{how_to_install(e.name or 'torch')}, or export {check.model} on another "
            f"machine into {folder}",
        ) from e
    way = check.on
    variants = [str(v) for v in load_checkpoint(check.model).variants("all")]
    if not way.device or way.why_builds_only:
        variants = list(dict.fromkeys([variants[0], variants[-1]]))
    target: Dict[str, Any] = {"target": way.target} if way.target else {"sizes": [GPU_LR]}
    options = ExportOptions(variants=variants, **target)
    return onnx_from_checkpoint(check.model, folder, options)


def check_networks(check: Check, folder: Path) -> Dict[str, Any]:
    """Measure all slices of a family, and compare each with torch on the CPU in FP32."""
    way = check.on
    options = MeasureOptions(
        data=str(shipped_crops()[0].parent),
        lr=_lr(way),
        runs=GPU_RUNS if way.device else CPU_RUNS,
        run=run_of(way),
    )
    rows = measured(check, sources(check, folder), options, folder)
    accuracy = _accuracies(check, describe_all(sources(check, folder)))
    _refuse(rows, accuracy, way)
    worst = min((a["psnr_db_vs_fp32"] for a in accuracy.values()), default=None)
    against = "no reference: torch is missing" if worst is None else f"{worst:.0f} dB against FP32"
    times = [ms for ms in map(time_ms, rows) if ms is not None]
    sizes = sorted({f"{row.input_hw[0]}x{row.input_hw[1]}" for row in rows if row.input_hw})
    span = f"{min(times):.2f}" + (f" to {max(times):.2f}" if len(times) > 1 else "")
    slices = "1 slice" if len(rows) == 1 else f"{len(rows)} slices"
    found = f"{slices}, {span} ms at {', '.join(sizes)}, {against}"
    return {"found": found, "accuracy": accuracy}


def _lr(way: Way) -> Optional[str]:
    """Return the size that is timed; None for engines of one size."""
    if way.target and ":" not in load_target(way.target).shapes[0]:
        return None
    return GPU_LR if way.device else CPU_LR


def measured(
    check: Check, networks: Sequence[str], options: MeasureOptions, folder: Path
) -> List[BenchmarkRow]:
    """Measure networks and append their rows to the folder's; return them.

    Repeated rows replace earlier ones: `cell` names them.
    """
    rows = []
    for row in rows_from_artifacts(networks, options):
        rows.append(replace(row, cell=f"{check.name}: {_key(row)}, {row.protocol}"))
        append_rows(folder / "rows.jsonl", rows[-1:])
    return rows


def _accuracies(check: Check, networks: Sequence[NetworkDescription]) -> Dict[str, Any]:
    """Return the accuracy and the precision by `_key`; nothing where torch is missing."""
    try:
        references = {n.name: n for n in describe_all(check.model)}
    except ImportError:
        return {}
    accuracies = {}
    for network in networks:
        with network.open(run_of(check.on)) as session:
            x = _input(session)
            y, precision = session.run(x), session.precision
        with references[network.name].open(CPU_RUN) as reference:
            expected = reference.run(x)
        finite = bool(np.isfinite(y).all())
        psnr_db = psnr_unit(y, expected) if finite else 0.0
        accuracies[_key(network)] = {
            "psnr_db_vs_fp32": round(psnr_db, 2),
            "finite": finite,
            "precision": precision,
            "hw": list(x.shape[2:]),
        }
    return accuracies


def _input(session: Session) -> np.ndarray:
    """Return a part of a photograph in a size that the session takes."""
    hw = session.nearest_hw(ACCURACY_HW)
    return nchw_from_rgb(mirrored_crop(read_rgb(shipped_crops()[0]), hw))


def _refuse(rows: Sequence[BenchmarkRow], accuracy: Dict[str, Any], way: Way) -> None:
    """Raise BuildError for rows with errors, a wrong precision or too low an accuracy."""
    problems = [f"{_key(row)}: {row.error}" for row in rows if row.error]
    problems += [
        f"{_key(row)}: {warning}"
        for row in rows
        for warning in row.warnings
        if "no finite" in warning
    ]
    asked = way.run.get("precision")
    for name, found in accuracy.items():
        least = MIN_PSNR_DB.get(lowest_precision(found["precision"]), MIN_FP16_PSNR_DB)
        if asked is not None and found["precision"] != asked:
            problems.append(f"{name} computed in {found['precision']}, asked for {asked}")
        elif not found["finite"]:
            problems.append(f"{name}: the output is not finite")
        elif found["psnr_db_vs_fp32"] < least:
            problems.append(
                f"{name}: {found['psnr_db_vs_fp32']:.1f} dB against FP32, expected {least:.0f}"
            )
    if problems:
        raise BuildError("; ".join(problems))


def check_protocols(check: Check, folder: Path) -> Dict[str, Any]:
    """Measure two networks by NTIRE's protocols on two mirrored photographs."""
    way = check.on
    data = folder / "pictures" / "mirrored-photographs"
    if not data.is_dir():
        data.mkdir(parents=True)
        for path in shipped_crops()[:2]:
            picture = mirrored_crop(read_rgb(path), VALID_HW[way.device])
            np.save(str(data / path.name), picture)
    options = MeasureOptions(data=str(data), protocols=PROTOCOLS, run=run_of(way))
    rows = measured(check, PROTOCOL_MODELS, options, folder)
    _refuse(rows, {}, Way(way.name))
    times = [f"{row.model} {row.protocol} {time_ms(row) or 0:.1f} ms" for row in rows]
    where = "" if way.device else "; on a CPU these are not the challenge's times"
    return {"found": ", ".join(times) + where}


def check_adaptive(check: Check, folder: Path) -> Dict[str, Any]:
    """Measure an adaptive network, as a checkpoint by torch, or as a plan of graphs or engines.

    Engines are compared with their graphs when they are built.
    """
    way = check.on
    network = check.model
    if way.run.get("precision") is None:
        network = str(_plan(check, folder))
    options = MeasureOptions(
        data=str(shipped_crops()[0].parent),
        lr=_lr(way),
        runs=GPU_RUNS if way.device else CPU_RUNS,
        run=replace(run_of(way), precision=None),
    )
    (row,) = rows = measured(check, [network], options, folder)
    _refuse(rows, {}, Way(way.name))
    share = (row.executed or {}).get("share", 1.0)
    found = f"{time_ms(row) or 0:.1f} ms, {share:.0%} of the plain network's work"
    return {"found": found, **_plan_facts(network)}


def _plan(check: Check, folder: Path) -> Path:
    """Export an adaptive network for a way, and build its engines; return their plan."""
    try:
        from sr_deploy.export.part_forms import PlanForm
        from sr_deploy.export.plans import plans_from_model
    except ImportError as e:
        raise SkippedError(
            f"exporting {check.model} needs the package '{e.name}', which cannot be imported here",
            hint=how_to_install(e.name or "torch"),
        ) from e
    way = check.on
    output = artifacts_folder(way, folder) / check.model
    graphs = output.with_name(f"{check.model}-graphs") if way.target else output
    form = PlanForm.from_names(way.target or None, None)
    plans = plans_from_model(check.model, graphs, form=form)
    if way.target:
        plans = engine_from_onnx([str(path) for path in plans], output, target=way.target)
    return plans[0]


def _plan_facts(network: str) -> Dict[str, Any]:
    """Return what the plan of engines records; nothing of others."""
    path = Path(network)
    plan = load_plan(path) if path.is_file() else None
    if plan is None or plan.engine is None:
        return {}
    return {
        "precision": plan.engine.precision_obtained,
        "accuracy": plan.checks.get("accuracy"),
        "receipts": plan.engine.receipts,
        "not_checked": plan.engine.not_checked,
    }


def check_energy(check: Check, folder: Path) -> Dict[str, Any]:
    """Run the largest slice for ten seconds and read the power."""
    way = check.on
    network = sources(check, folder)[-1:]
    probe = MeasureOptions(lr=_lr(way), runs=5, run=run_of(way))
    (first,) = list(rows_from_artifacts(network, probe))
    _refuse([first], {}, Way(way.name))
    runs = int(min(max(ENERGY_S * 1000 / (time_ms(first) or 1.0), 10), 10000))
    options = replace(probe, runs=runs)
    (row,) = rows = measured(check, network, options, folder)
    _refuse(rows, {}, Way(way.name))
    during = (row.conditions or {}).get("during", {})
    if "watts" not in during:
        raise SkippedError("neither nvidia-smi nor tegrastats tells the power here")
    joules = during["joules_per_megapixel"]
    return {"found": f"{during['watts']:.1f} W, {joules:.3g} J per megapixel", "during": during}
