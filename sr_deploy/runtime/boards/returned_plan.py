"""The plan of an adaptive network whose engines a board built."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from sr_deploy.core.errors import ArtifactError, BuildError
from sr_deploy.core.files import atomic_path, write_text
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import target_of
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB
from sr_deploy.core.parts import AdaptivePlan, PlanPart
from sr_deploy.core.precisions import precision_of_counts
from sr_deploy.runtime.accuracy import compare_outputs, refuse_inaccurate
from sr_deploy.runtime.boards import trtexec
from sr_deploy.runtime.boards.board import facts_from_text
from sr_deploy.runtime.boards.returned import (
    BUILD_AGAIN,
    Obtained,
    Returned,
    gpu_of,
    judged,
    latency_of,
    output_text,
    read_text,
    reference_array,
    times_of,
    told_precision,
)
from sr_deploy.runtime.graph_outputs import MIN_INT8_PSNR_DB
from sr_deploy.runtime.plan_build import refuse_replacing_graphs

_ONE_BY_ONE = "the output of the whole network: each part was compared with its graph by itself"
_NO_REFERENCE = "the parts' outputs: the job has no references, as it was made without onnxruntime"


def plan_of_engines(folder: Path, draft: AdaptivePlan, results: trtexec.Results) -> AdaptivePlan:
    """Return a plan of engines. Raises BuildError or ArtifactError when they are not as asked."""
    assert draft.engine is not None
    target = target_of(draft.engine)
    reports = {report.engine: report for report in results.engines}
    facts = facts_from_text(read_text(folder / "out" / "board.txt"))
    parts: Dict[str, PlanPart] = {}
    receipts: Dict[str, Dict[str, Any]] = {}
    compared: Dict[str, Any] = {}
    obtained: List[Obtained] = []
    for role, part in draft.parts.items():
        report = reports[part.file]
        engine = Returned(folder, report, target, draft.precision_of(role))
        with judged(engine):
            obtained.append(told_precision(engine))
            gpu, capability = gpu_of(engine, facts)
            receipts[role] = {
                "precision": obtained[-1].precision,
                "layers": obtained[-1].layers,
                "precision_receipt": obtained[-1].receipt,
                "seconds": report.build_seconds,
                "size_bytes": report.size_bytes,
                "by": results.trtexec,
                "command": report.build_command,
                "gpu": gpu,
                "compute_capability": capability,
                "latency_ms": latency_of(times_of(engine)),
                "latency_at": part.shapes(1),
            }
            compared[role] = _compared(engine, part)
        parts[role] = replace(part, sha256=report.sha256)
    known = {key: value for key, value in asdict(facts).items() if value not in (None, "")}
    checks = {**draft.checks, **({"board": known} if known else {})}
    checks.update({"parts": compared} if all(compared.values()) else {})
    versions = {
        **draft.engine.versions,
        target.runtime.replace("-", "_"): results.version,
    }
    made = replace(
        draft.engine,
        precision_obtained=_precision_of_all(draft, obtained),
        versions=versions,
        receipts=receipts,
        not_checked=(_ONE_BY_ONE if all(compared.values()) else _NO_REFERENCE,),
    )
    return replace(draft, parts=parts, checks=checks, engine=made)


def write_plan_of_engines(folder: Path, output: Path, plan: AdaptivePlan) -> None:
    """Write the engines, and their plan last: the old one is removed before.

    Raises InputError where a plan of graphs is in their place.
    """
    path = output / plan.file_name
    refuse_replacing_graphs(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(str(path))
    for part in plan.parts.values():
        with atomic_path(output / part.file) as temporary:
            shutil.copyfile(str(folder / "out" / part.file), str(temporary))
    write_text(path, to_json(plan))


def summary_of_plan(plan: AdaptivePlan) -> str:
    assert plan.engine is not None
    receipts = plan.engine.receipts.values()
    gpu = next((r["gpu"] for r in receipts if r["gpu"]), "an unknown GPU")
    parts = plan.checks.get("parts")
    least = min((p["psnr_db_vs_graph"] for p in parts.values()), default=0.0) if parts else None
    quality = "not checked" if least is None else f"{least:.1f} dB or more against their graphs"
    return (
        f"{plan.file_name}: {len(plan.parts)} engines, {plan.engine.precision_obtained}, outputs: "
        f"{quality}, timed on {gpu}"
    )


def _compared(engine: Returned, part: PlanPart) -> Dict[str, Any]:
    """Compare a part's outputs with its graph's; empty without references. Raises BuildError."""
    references = [
        engine.folder / "desk" / f"{engine.name}.{i}.npy" for i in range(len(part.outputs))
    ]
    if not all(path.is_file() for path in references):
        return {}
    expected = {
        name: reference_array(path, engine.name) for name, path in zip(part.outputs, references)
    }
    values = trtexec.values_from_text(output_text(engine))
    order = engine.text("outputs.txt").splitlines()
    sizes = [expected[name].size for name in order if name in expected]
    if sorted(order) != sorted(expected) or sum(sizes) != values.size:
        raise ArtifactError(
            f"the outputs of {engine.name} are {', '.join(order)} with {values.size} values; "
            f"expected {', '.join(expected)} with {sum(y.size for y in expected.values())}",
            hint=BUILD_AGAIN,
        )
    found = dict(zip(order, np.split(values, np.cumsum(sizes)[:-1])))
    peaks = {name: float(np.abs(y).max()) or 1.0 for name, y in expected.items()}
    accuracy = compare_outputs(
        [found[name].reshape(y.shape) / peaks[name] for name, y in expected.items()],
        [y / peaks[name] for name, y in expected.items()],
    )
    accuracy["not_finite"] = max(accuracy["not_finite"], engine.report.output_not_finite or 0)
    limit = MIN_INT8_PSNR_DB if engine.asked == "int8" else MIN_FP16_PSNR_DB
    refuse_inaccurate(accuracy, engine.name, limit, "", "its graph")
    return {
        "psnr_db_vs_graph": accuracy["psnr_db_vs_fp32"],
        "peak": "the largest absolute value of each output",
        "against": "onnxruntime",
    }


def _precision_of_all(plan: AdaptivePlan, obtained: List[Obtained]) -> str:
    """Return the lowest precision of the parts. Raises BuildError if none is as asked."""
    layers: Dict[str, int] = {}
    for part in obtained:
        for kind, number in (part.layers or {part.precision: 1}).items():
            for name in kind.split("+")[:1]:
                layers[name] = layers.get(name, 0) + number
    if plan.precision not in layers:
        found = precision_of_counts(layers) or "an unknown precision"
        raise BuildError(
            f"{plan.precision.upper()} was requested, but the engines of {plan.file_name} compute "
            f"in {found}",
            hint="see the build logs for the flags they used",
        )
    return precision_of_counts(layers)
