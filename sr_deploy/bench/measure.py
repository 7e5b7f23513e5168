"""One row per model variant or artifact: quality, latency, memory and counts under recorded conditions."""

from __future__ import annotations

import datetime
import functools
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

import sr_deploy
from sr_deploy.bench.evaluate import ImageSet, Quality, check_images, evaluate, image_set
from sr_deploy.bench.monitor import (
    ConditionMonitor,
    condition_warnings,
    conditions_before,
    device_facts,
)
from sr_deploy.bench.subjects import recorded_row, row_of
from sr_deploy.core.degradation import degrade
from sr_deploy.core.device import cpu_name, limit_cores, python_and_os, track_peak_memory
from sr_deploy.core.errors import CannotRunHereError, InputError, MissingPackageError
from sr_deploy.core.images import modcrop, nchw_from_rgb, read_rgb
from sr_deploy.core.session import Session, Spent
from sr_deploy.core.sizes import HW, parse_hw
from sr_deploy.core.timing import TOLERANCE, WARMUP_S, latency_statistics, measure_latency
from sr_deploy.results.protocols import (
    DEFAULT_PROTOCOL,
    Protocol,
    deviations,
    get_protocol,
    time_ms,
)
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.runtime.opener import NetworkDescription, describe_all

DEFAULT_HW = (256, 256)
MEM_DEFINITION = (
    "peak rise of the process's resident memory over opening and timing it, weights included"
)
MEM_OF_IMAGES = "peak rise of the process's resident memory over opening it and the images of the valid set, weights and images included"
MAX_CV = 0.05


@dataclass(frozen=True)
class Request:
    """How everything of one call is measured."""

    images: ImageSet
    test: Optional[ImageSet]
    metric: Optional[str]
    hw: Optional[HW]
    runs: Optional[int]
    cadence_hz: Optional[float]


def rows_from_artifacts(
    given: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str], None] = None,
    data: str = "",
    test: str = "",
    protocols: Sequence[str] = (DEFAULT_PROTOCOL,),
    metric: Optional[str] = None,
    lr: Optional[str] = None,
    runs: Optional[int] = None,
    cadence_hz: Optional[float] = None,
    threads: Optional[int] = None,
    trust: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> List[BenchmarkRow]:
    """Measure checkpoints (by torch), ONNX graphs and engines, or folders of them; return their rows (see `measured`)."""
    return list(
        measured(
            given,
            variants=variants,
            data=data,
            test=test,
            protocols=protocols,
            metric=metric,
            lr=lr,
            runs=runs,
            cadence_hz=cadence_hz,
            threads=threads,
            trust=trust,
            progress=progress,
        )
    )


def measured(
    given: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str], None] = None,
    data: str = "",
    test: str = "",
    protocols: Sequence[str] = (DEFAULT_PROTOCOL,),
    metric: Optional[str] = None,
    lr: Optional[str] = None,
    runs: Optional[int] = None,
    cadence_hz: Optional[float] = None,
    threads: Optional[int] = None,
    trust: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[BenchmarkRow]:
    """Yield a row of each subject by each protocol as it is measured, each in a session of its own.

    variants: of the checkpoints, "all" or "d1,d3". data: a folder of HR images; empty: scikit-image's photographs.
    test: the second folder of a challenge. protocols: of `core/protocols.py`. metric: "y" or "rgb"; None: the protocol's own, else y.
    lr: the LR size that latency and memory are taken at by `steady`, where the artifact leaves it open; None: 256x256, or what
    comes nearest. runs: timed ones; None: as many as fit 3 s. cadence_hz: as frames of a video come; None: back to back.
    threads: use so many cores only; what runs the networks is best imported after that.
    trust: also open artifacts that were changed after their manifests were written; an engine is code that runs.
    What cannot run on this machine becomes a row with its reason. Raises an SrDeployError on bad input.
    """
    chosen = [get_protocol(name) for name in dict.fromkeys(protocols)]
    with limit_cores(threads):
        networks = describe_all(given, "all" if variants is None else variants, trust=trust)
        request = _request(
            chosen, data=data, test=test, metric=metric, lr=lr, runs=runs, cadence_hz=cadence_hz
        )
        _check_images(request, chosen, networks)
        for network in networks:
            # What takes no warm-up comes first, as it would in a process of its own.
            for protocol in sorted(chosen, key=lambda p: not p.of_images):
                row = _measure(network, protocol, request)
                what = (
                    f"{row.model}.{row.variant} ({row.backend})"
                    if row.variant
                    else f"{row.model} ({row.backend})"
                )
                what += f", {row.protocol}" if len(chosen) > 1 else ""
                quality = (
                    f"{row.psnr_db:.3f} dB"
                    if row.psnr_db is not None
                    else "identical images"
                    if row.set
                    else "not scored here"
                )
                progress(
                    f"{what}: "
                    + (
                        f"not run: {row.error}"
                        if row.error
                        else f"{quality}, {time_ms(row):.1f} ms"
                    )
                )
                yield row


def _request(
    chosen: Sequence[Protocol],
    *,
    data: str,
    test: str,
    metric: Optional[str],
    lr: Optional[str],
    runs: Optional[int],
    cadence_hz: Optional[float],
) -> Request:
    """Check what can be checked before anything is opened. Raises InputError."""
    if not chosen:
        raise InputError("no protocol", hint="leave it out for steady")
    if runs is not None and runs < 1:
        raise InputError(f"{runs} timed runs; expected at least 1")
    if cadence_hz is not None and not 0 < cadence_hz <= 1000:
        raise InputError(
            f"a cadence of {cadence_hz:g} frames a second; expected more than 0, at most 1000"
        )
    for protocol in chosen:
        if protocol.metric not in (None, metric) and metric is not None:
            raise InputError(
                f"{protocol.name} scores on {protocol.metric}, not {metric}",
                hint="leave --metric out",
            )
    of_images = [p.name for p in chosen if p.of_images]
    if len(of_images) == len(chosen) and (lr or runs or cadence_hz):
        raise InputError(
            f"{of_images[0]} times each image once, at its own size: --lr, --runs and --cadence mean nothing to it",
            hint="leave them out, or measure by steady too",
        )
    if test and not of_images:
        raise InputError(
            "a test set belongs to a challenge's protocol",
            hint="leave --test out, or give --protocol ntire2025, say",
        )
    return Request(
        image_set(data),
        image_set(test) if test else None,
        metric,
        None if lr is None else parse_hw(lr),
        runs,
        cadence_hz,
    )


def _check_images(
    request: Request, chosen: Sequence[Protocol], networks: Sequence[NetworkDescription]
) -> None:
    """Raise InputError for an image that cannot be scored: found later, it would cost what was measured before it."""
    scales = {
        scale for scale in (network.find_scale() for network in networks) if scale is not None
    }
    ways = {
        (protocol.metric or request.metric or "y", scale) for protocol in chosen for scale in scales
    }
    for images in filter(None, (request.images, request.test)):
        for metric, scale in sorted(ways):
            check_images(images, metrics=[metric], scales=[scale])


def _measure(network: NetworkDescription, protocol: Protocol, request: Request) -> BenchmarkRow:
    row = replace(
        row_of(network, protocol.counter),
        protocol=protocol.name,
        device=cpu_name(),
        python=python_and_os(),
        git_rev=_git_revision(),
        date_utc=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    earlier = conditions_before()
    memory: List[Optional[float]] = []
    metric = protocol.metric or request.metric or "y"
    try:
        with track_peak_memory(memory):
            session = network.open()
            earlier.update(device_facts() if session.device else {})
            with ConditionMonitor(session.device) as watch:
                session.begin()
                if protocol.of_images:
                    valid = evaluate(session, request.images, metric=metric)
                else:
                    found = _repeated(session, request, watch)
    except (CannotRunHereError, MissingPackageError) as e:
        recorded = None if protocol.of_images else recorded_row(network)
        return recorded if recorded is not None else replace(row, error=e.message)
    if protocol.of_images:
        test = evaluate(session, request.test, metric=metric) if request.test else None
        found = _of_images(valid, test)
    else:
        session.begin()
        valid, test = evaluate(session, request.images, metric=metric), None
    hw = found.get("input_hw")
    output_px = session.scale**2 * hw[0] * hw[1] if hw else None
    conditions = {
        "before": earlier,
        "during": watch.summary(found["latencies_ms"], output_px=output_px),
    }
    row = replace(
        row,
        backend=session.backend,
        backend_version=session.backend_version,
        device=session.device or row.device,
        power_mode=earlier.get("power_mode"),
        precision=session.precision,
        threads=session.threads,
        settings=session.settings,
        scale=session.scale,
        mem_peak_mib=memory[0],
        mem_definition=""
        if memory[0] is None
        else MEM_OF_IMAGES
        if protocol.of_images
        else MEM_DEFINITION,
        set=valid.set,
        test_set=test.set if test else "",
        images=(*_images(valid, "valid"), *(_images(test, "test") if test else ())),
        metric=valid.metric,
        border_px=valid.border_px,
        psnr_db=valid.psnr_db if np.isfinite(valid.psnr_db) else None,
        ssim=valid.ssim,
        tiling=valid.tiling,
        executed=_executed(session.spent(), found.pop("timed_share", None)),
        conditions=conditions,
        **found,
    )
    return replace(
        row,
        warnings=(
            *_not_finite(valid, test),
            *row.warnings,
            *condition_warnings(conditions),
            *deviations(row),
        ),
    )


def _not_finite(*qualities: Optional[Quality]) -> List[str]:
    images = [image for quality in qualities if quality for image in quality.images]
    broken = sum(not image.finite for image in images)
    return (
        [
            f"{broken} of {len(images)} images came out with pixels that are no finite numbers: scored as black or white"
        ]
        if broken
        else []
    )


def _executed(spent: Optional[Spent], timed_share: Optional[float]) -> Optional[dict]:
    if spent is None:
        return None
    total = sum(spent.pixels.values())
    ways = {way: round(px / total, 4) for way, px in spent.pixels.items()}
    share = round(spent.share, 4)
    return {
        "share": share,
        "timed_share": share if timed_share is None else round(timed_share, 4),
        "ways": ways,
    }


def _repeated(session: Session, request: Request, watch: ConditionMonitor) -> Dict[str, Any]:
    """Time one size again and again; return what a row holds of it."""
    h, w = request.hw or session.nearest_hw(DEFAULT_HW)
    fixed_h, fixed_w = session.fixed_sides
    hw = (fixed_h or h, fixed_w or w)
    session.check_hw(hw)
    adaptive = session.spent() is not None
    x = (
        typical_input(request.images, session.scale, hw)
        if adaptive
        else np.random.default_rng(0).random((1, 3, *hw), dtype=np.float32)
    )
    latency = measure_latency(
        lambda: session.timed(x),
        runs=request.runs,
        cadence_hz=request.cadence_hz,
        between=watch.sample,
    )
    found: Dict[str, Any] = latency_statistics(latency.times_ms)
    warnings = []
    if not latency.settled:
        warnings.append(
            f"it was not steady yet after {WARMUP_S:g} s of warm-up: windows differed by more than {TOLERANCE:.0%}"
        )
    if found["latency_cv"] > MAX_CV:
        warnings.append(
            f"single runs vary by {found['latency_cv']:.0%} (standard deviation over mean)"
        )
    if latency.late:
        warnings.append(
            f"{latency.late} of {len(latency.times_ms)} frames were not done when the next one came"
        )
    spent = session.spent()
    return {
        **found,
        **({} if spent is None else {"timed_share": spent.share}),
        "input_hw": hw,
        "cadence_hz": request.cadence_hz,
        "warmup": latency.warmup,
        "runs": len(latency.times_ms),
        "latencies_ms": _rounded(latency.times_ms),
        "first_ms": latency.first_ms,
        "timer": latency.timer,
        "copies_ms": latency.copies_ms,
        "warnings": tuple(warnings),
    }


def typical_input(images: ImageSet, scale: int, hw: HW) -> np.ndarray:
    """The LR images of a set side by side, (1, 3, h, w): to a network that decides what it computes, noise is no image."""
    rows: List[np.ndarray] = []
    height, number = 0, 0
    while height < hw[0]:
        row: List[np.ndarray] = []
        while sum(lr.shape[1] for lr in row) < hw[1]:
            row.append(
                degrade(
                    modcrop(read_rgb(images.files[number % len(images.files)]), scale), scale=scale
                )
            )
            number += 1
        low = min(lr.shape[0] for lr in row)
        rows.append(np.concatenate([lr[:low] for lr in row], axis=1)[:, : hw[1]])
        height += low
    return nchw_from_rgb(np.ascontiguousarray(np.concatenate(rows)[: hw[0]]))


def _of_images(valid: Quality, test: Optional[Quality]) -> Dict[str, Any]:
    """Return what a row holds of images that were timed once each: the mean of a set, of two sets the mean of their means."""
    images = (*valid.images, *(test.images if test else ()))
    times = [image.ms for image in images]
    copies = [image.copies_ms for image in images if image.copies_ms is not None]
    means = [
        float(np.mean([image.ms for image in quality.images]))
        for quality in (valid, test)
        if quality
    ]
    return {
        **latency_statistics(times),
        "latency_ms_mean": float(np.mean(means)),
        "warmup": 0,
        "runs": len(times),
        "latencies_ms": _rounded(times),
        "first_ms": times[0],
        "timer": images[0].timer,
        "copies_ms": float(np.median(copies)) if copies else None,
    }


def _images(quality: Quality, split: str) -> Iterator[dict]:
    for s in quality.images:
        psnr = s.psnr_db if np.isfinite(s.psnr_db) else None
        yield {
            "image": s.image,
            "split": split,
            "lr_hw": list(s.lr_hw),
            "psnr_db": psnr,
            "ssim": s.ssim,
            "ms": round(s.ms, 4),
        }


def _rounded(times_ms: Sequence[float]) -> Tuple[float, ...]:
    return tuple(round(t, 4) for t in times_ms)


@functools.lru_cache(maxsize=None)
def _git_revision() -> str:
    """The revision of a checkout this runs from, `+` when it has uncommitted changes; the version when it is installed."""
    folder = Path(sr_deploy.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return f"srdeploy {sr_deploy.__version__}"
    try:
        run = subprocess.run(
            [
                "git",
                "-C",
                str(folder),
                "describe",
                "--always",
                "--dirty=+",
                "--abbrev=12",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return f"srdeploy {sr_deploy.__version__}"
    return run.stdout.strip()
