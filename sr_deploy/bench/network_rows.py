"""Fields of a row that are known before a network runs: description, counts, board latency."""

from __future__ import annotations

import functools
import math
import operator
from dataclasses import replace
from typing import Any, Dict, Optional

from sr_deploy.bench.evaluate import Quality
from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import SrDeployError
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.run_options import RunOptions
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.runtime.opener import NetworkDescription


def row_of(network: NetworkDescription, counter: str = "hooks") -> BenchmarkRow:
    """Return the row of a described network, with its counts by a counter, or why it has none."""
    row = BenchmarkRow(
        model=network.model,
        variant=network.variant,
        backend=network.backend,
        artifact=network.source if network.kind == "code" else network.artifact,
        artifact_sha256=network.sha256,
        target=network.target,
        scale=network.scale,
        precision=network.precision,
        precision_asked=network.precision_asked,
        psnr_db_vs_fp32=network.psnr_db_vs_fp32,
        int8=_int8_record(network.manifest),
    )
    try:
        counts = network.counts()
    except SrDeployError as e:
        return replace(row, warnings=(f"it cannot be counted: {e.message}",))
    return replace(row, **_count_fields(counts, counter))


def _int8_record(manifest: Optional[Manifest]) -> Optional[Dict[str, Any]]:
    """Return what the export of an INT8 graph measured; None for other networks."""
    record: Any = manifest.checks.get("int8") if manifest else None
    if not isinstance(record, dict):
        return None
    curve = [{"kept": p["kept"], "loss_db": p["loss_db"]} for p in record.get("curve", ())]
    found = {key: record.get(key) for key in ("loss_db", "max_loss_db", "kept", "method")}
    return {**found, "curve": curve}


def asked_precision(network: NetworkDescription, run: RunOptions) -> str:
    """Return the requested precision: torch's is that of the run, artifacts have their own."""
    of_run = run.precision if network.backend == "torch" else None
    return of_run or network.precision_asked


def recorded_row(network: NetworkDescription) -> Optional[BenchmarkRow]:
    """Return the row that the board recorded when it built an engine; None for other networks.

    It has latency but no quality: a board scores no images.
    """
    manifest = network.manifest
    if manifest is None or "latency_ms" not in manifest.build:
        return None
    build: Any = manifest.build
    latency, board = build["latency_ms"], build.get("board", {})
    row = row_of(network)
    devices = dict.fromkeys(filter(None, (board.get("board", ""), build["gpu"])))
    return replace(
        row,
        backend_version=manifest.versions.get(row.backend.replace("-", "_"), ""),
        device=" ".join(devices),
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


def _count_fields(counts: Dict[str, Any], counter: str) -> Dict[str, Any]:
    """Return the counts by a counter; none if an artifact of an older version lacks them.

    Those of a graph of one size have that size as `hw`; without it they are of 256x256.
    """
    values = counts if counter == "hooks" else counts.get(counter, {})
    if not {"params", "macs", "acts", "convs", "counter", "uncounted"} <= set(values):
        return {}
    return {
        "params": values["params"],
        "macs_g": values["macs"] / 1e9,
        "acts_m": values["acts"] / 1e6,
        "convs": values["convs"],
        "counter": values["counter"],
        "counted_hw": tuple(counts.get("hw", NTIRE_HW)),
        "uncounted": values["uncounted"],
        "uncounted_macs": values.get("uncounted_macs"),
        "deployed": counts.get("deployed", {}).get(counter),
        "executed_g": _executed_g(counts),
    }


def _executed_g(counts: Dict[str, Any]) -> Optional[float]:
    """Return the multiply-accumulates at 256x256 in G, by fvcore: as trained or as deployed.

    The less of both: rewriting saves some, and forms that multiply zeros are counted without them,
    as adaptive networks count their branches.
    """
    both = [counts.get("fvcore"), counts.get("deployed", {}).get("fvcore")]
    macs = [one["macs"] + sum((one.get("uncounted_macs") or {}).values()) for one in both if one]
    if not macs or tuple(counts.get("hw", NTIRE_HW)) != NTIRE_HW:
        return None
    return float(min(macs) / 1e9)


def executed_fields(
    *qualities: Optional[Quality], timed_share: Optional[float] = None
) -> Optional[Dict[str, Any]]:
    """Return the work of a network that decides how much it computes, as a row has it.

    timed_share: on the input that was timed; None: nothing else was. None for other networks.
    """
    scored = [quality for quality in qualities if quality]
    works = [quality.work for quality in scored if quality.work is not None]
    if not works:
        return None
    work = functools.reduce(operator.add, works)
    total, share = sum(work.pixels.values()), round(work.share, 4)
    lr_px = sum(math.prod(score.lr_hw) for quality in scored for score in quality.images)
    return {
        "share": share,
        "macs_g": round(work.macs / lr_px * math.prod(NTIRE_HW) / 1e9, 4),
        "timed_share": share if timed_share is None else round(timed_share, 4),
        "ways": {way: round(px / total, 4) for way, px in work.pixels.items()},
    }
