"""The manifest of a network's engine that a board built."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, List

from sr_deploy.core.manifest import Manifest, target_of, write_artifact
from sr_deploy.runtime.boards import trtexec
from sr_deploy.runtime.boards.board import energy, facts_from_text, samples_from_text, within
from sr_deploy.runtime.boards.job import FP32_REFERENCE, checked_rows
from sr_deploy.runtime.boards.returned import (
    DLA_RECEIPT,
    Returned,
    gpu_of,
    judged,
    latency_of,
    obtained_precision,
    output_text,
    read_text,
    reference_array,
    times_of,
)
from sr_deploy.runtime.dla_calibration import DLA_INT8, DLA_LAYERS
from sr_deploy.runtime.graph_outputs import GraphOutputs, checked_accuracy


def engine_manifest(
    folder: Path, report: trtexec.EngineResult, draft: Manifest, results: trtexec.Results
) -> Manifest:
    """Return an engine's manifest. Raises BuildError or ArtifactError when it is not as asked."""
    fp32_layers: Any = draft.build.get("fp32_layers", ())
    engine = Returned(
        folder,
        report,
        target_of(draft),
        draft.precision_asked,
        fp32_layers=len(fp32_layers),
        on_dla="dla" in draft.build,
    )
    with judged(engine):
        return _manifest(engine, draft, results)


def write_engine(source: Path, path: Path, manifest: Manifest) -> None:
    def write(temporary: Path) -> Manifest:
        shutil.copyfile(str(source), str(temporary))
        return manifest

    write_artifact(path, write)


def summary_of(name: str, manifest: Manifest) -> str:
    latency: Any = manifest.build["latency_ms"]
    accuracy: Any = manifest.checks.get("accuracy")
    quality = f"{accuracy['psnr_db_vs_fp32']:.1f} dB against FP32" if accuracy else "not checked"
    speed = f"{latency['median']:.3f} ms on {manifest.build['gpu'] or 'an unknown GPU'}"
    used: Any = manifest.build.get("energy")
    power = f", {used['watts_mean']:.1f} W ({used['covers']})" if used else ""
    return f"{name}: {manifest.precision_obtained}, output: {quality}, {speed}{power}"


def _manifest(engine: Returned, draft: Manifest, results: trtexec.Results) -> Manifest:
    profile, report = engine.profile, engine.report
    log = engine.text("build.log")
    facts = facts_from_text(read_text(engine.folder / "out" / "board.txt"))
    gpu, capability = gpu_of(engine, facts)
    obtained = obtained_precision(engine)
    receipt = obtained.receipt
    unseen = {DLA_RECEIPT: "the precision of its layers on the GPU", DLA_INT8: DLA_LAYERS}
    if receipt in unseen:
        draft = replace(draft, not_checked=(*draft.not_checked, unseen[receipt]))
    evidence = f"{report.size_bytes} bytes; flags: {report.build_command}"
    checks = {**draft.checks, "precision_receipt": receipt, "precision_evidence": evidence}
    not_checked = list(draft.not_checked)
    build: Dict[str, object] = {
        **draft.build,
        "seconds": report.build_seconds,
        "size_bytes": report.size_bytes,
        "by": results.trtexec,
        "command": report.build_command,
        "gpu": gpu,
    }
    if capability is not None:
        build["compute_capability"] = capability
    if not gpu:
        not_checked.append("the GPU that it was timed on: no log names it")
    dla = draft.build.get("dla")
    if isinstance(dla, dict):
        build["dla"] = {**dla, "layers_on_gpu": trtexec.layers_off_dla(log)}
    times = times_of(engine)
    build["latency_ms"] = latency_of(times)
    used = _energy(engine, draft, times)
    if used:
        build["energy"] = used
    else:
        not_checked.append("power and throttling: the board reported too few samples")
    known = {key: value for key, value in asdict(facts).items() if value not in (None, "")}
    if known:
        build["board"] = known
    accuracy = _accuracy(engine, draft)
    if accuracy:
        checks["accuracy"] = accuracy
    else:
        not_checked.append(
            "its output: the job has no reference, as it was made without onnxruntime"
        )
    return replace(
        draft,
        precision_obtained=obtained.precision,
        versions={**draft.versions, profile.runtime.replace("-", "_"): results.version},
        checks=checks,
        not_checked=tuple(not_checked),
        build=build,
    )


def _energy(engine: Returned, draft: Manifest, times: List[float]) -> Dict[str, object]:
    """Return the energy of the timed runs, which were the last ones; empty where it is unknown."""
    seconds = sum(times) / 1000
    samples = samples_from_text(engine.text("power.txt"))
    end = max((s.time_s for s in samples if s.time_s is not None), default=0.0)
    h, w = draft.opt_shape
    used = energy(
        within(samples, end - seconds, end),
        output_px=h * w * draft.scale**2,
        runs=len(times),
        seconds=seconds,
    )
    return {k: v for k, v in asdict(used).items() if v is not None} if used else {}


def _accuracy(engine: Returned, draft: Manifest) -> Dict[str, object]:
    """Compare rows of the output for one image with FP32; empty without a reference.

    Raises BuildError.
    """
    reference = engine.folder / "desk" / f"{engine.name}.npy"
    if not reference.is_file():
        return {}
    text, expected = output_text(engine), reference_array(reference, engine.name)
    in_fp32 = reference.with_name(f"{engine.name}.{FP32_REFERENCE}")
    fp32 = [reference_array(in_fp32, engine.name)] if in_fp32.is_file() else None
    accuracy = checked_accuracy(
        [trtexec.output_from_values(text, expected.shape)],
        GraphOutputs([expected], fp32),
        engine.name,
        not_finite=engine.report.output_not_finite or 0,
    )
    rows = ", ".join(f"{first} to {stop - 1}" for first, stop in checked_rows(draft))
    against = f"{accuracy['against']}, stored in half precision"
    return {**accuracy, "against": against, "rows": rows}
