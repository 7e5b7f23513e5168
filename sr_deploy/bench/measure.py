"""Measure networks: one row per network and protocol with quality, latency, memory and counts."""

from __future__ import annotations

import contextlib
import datetime
import functools
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.bench.budgets import budget_refused, with_budgets
from sr_deploy.bench.evaluate import (
    ImageSet,
    Planner,
    Quality,
    bicubic_psnr_db,
    check_images,
    evaluate,
    finite_or_none,
    image_set,
    lr_of,
)
from sr_deploy.bench.memory_bound import memory_bytes, planner_within, why_not_timed
from sr_deploy.bench.monitor import (
    ConditionMonitor,
    condition_warnings,
    conditions_before,
    device_facts,
)
from sr_deploy.bench.network_rows import (
    asked_precision,
    executed_fields,
    recorded_row,
    row_of,
)
from sr_deploy.bench.own_memory import (
    MEM_DEFINITION,
    MEM_OF_IMAGES,
    MemoryProcessError,
    peak_mib,
    request_of,
)
from sr_deploy.bench.turns import BaselineTurns, Turns, baseline_networks
from sr_deploy.core.device import cpu_name, limit_cores, python_and_os
from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError
from sr_deploy.core.images import modcrop, nchw_from_rgb, read_rgb
from sr_deploy.core.progress import as_progress
from sr_deploy.core.providers import TORCH
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, parse_hw
from sr_deploy.core.spec import network_name
from sr_deploy.core.timing import TOLERANCE, WARMUP_S, latency_statistics, measure_latency
from sr_deploy.core.version import __version__
from sr_deploy.fast.made import is_made
from sr_deploy.fast.opener import describe_all
from sr_deploy.results.precisions import precision_of
from sr_deploy.results.protocols import (
    DEFAULT_PROTOCOL,
    PROTOCOLS,
    Protocol,
    deviations,
    get_protocol,
    time_ms,
)
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.runtime.opener import NetworkDescription, check_run_options
from sr_deploy.upscale.memory import bytes_text

DEFAULT_HW = (256, 256)
MAX_CV = 0.05


@dataclass(frozen=True)
class MeasureOptions:
    """How networks are measured. Raises InputError if options are invalid or contradictory.

    >>> options = sr_deploy.MeasureOptions(data="photos", metric="y", runs=20)
    """

    variants: Union[str, Sequence[str], None] = None
    """Of checkpoints: "all", or a list such as "d1,d3"; None: all."""
    data: str = ""
    """Folder of HR images; empty: scikit-image's photographs."""
    lr_data: str = ""
    """Folder of their LR images; empty: made from HR, as each network was trained for."""
    test: str = ""
    """A challenge's second folder, its test set."""
    lr_test: str = ""
    """Folder of the test set's LR images; empty: made from HR likewise."""
    protocols: Sequence[str] = (DEFAULT_PROTOCOL,)
    """Names in `results/protocols.py`."""
    metric: Optional[str] = None
    """"y" or "rgb"; None: the protocol's, else "y"."""
    lr: Optional[str] = None
    """LR size of latency and memory under `steady` for networks that accept several sizes; None:
    256x256, or the nearest accepted size."""
    runs: Optional[int] = None
    """Number of timed runs; None: as many as fit in 3 s."""
    cadence_hz: Optional[float] = None
    """Start runs at this rate, as frames of a video arrive; None: back to back."""
    threads: Optional[int] = None
    """Use only so many CPU cores; None: all."""
    trust: bool = False
    """Open artifacts that were changed after their manifests were written. An engine is code."""
    score: bool = False
    """Also measure the challenge's baseline in turns with each network."""
    max_flops: Sequence[str] = ()
    """Budgets of adaptive networks, `70%` of the plain network: each is measured with each. None:
    as trained."""
    max_memory: Union[str, int, None] = None
    """The most resident memory of a process, in bytes or as `2GiB`: larger images are run in tiles,
    and a size that does not fit whole is not timed. None: as `upscale` bounds it by default, and
    under a challenge's protocol no bound, as it runs images whole."""
    run: RunOptions = DEFAULT_RUN
    """Where and how the networks run."""

    def __post_init__(self) -> None:
        protocols = self.resolved_protocols
        if not protocols:
            raise InputError("the list of protocols is empty", hint="omit it for steady")
        if self.runs is not None and self.runs < 1:
            raise InputError(f"{self.runs} timed runs; expected at least 1")
        if self.cadence_hz is not None and not 0 < self.cadence_hz <= 1000:
            raise InputError(
                f"a cadence of {self.cadence_hz:g} frames per second; expected 0 to 1000"
            )
        if self.lr is not None:
            parse_hw(self.lr)
        memory_bytes(self.max_memory)
        for protocol in protocols:
            if self.metric is not None and protocol.metric not in (None, self.metric):
                raise InputError(
                    f"{protocol.name} scores on {protocol.metric}, not on {self.metric}",
                    hint="omit --metric",
                )
        of_images = [protocol.name for protocol in protocols if protocol.of_images]
        if len(of_images) == len(protocols) and (self.lr or self.runs or self.cadence_hz):
            raise InputError(
                f"{of_images[0]} times each image once at its own size; "
                "--size, --runs and --cadence do not apply",
                hint="omit them, or also measure by steady",
            )
        if self.score and not any(protocol.baseline for protocol in protocols):
            years = ", ".join(name for name, p in PROTOCOLS.items() if p.baseline)
            raise InputError(
                f"no protocol has a score: {', '.join(p.name for p in protocols)}",
                hint=f"omit --score, or give --protocol with one of {years}",
            )
        if self.test and not of_images:
            raise InputError(
                "only the protocol of a challenge has a test set",
                hint="omit --test, or give for example --protocol ntire2025",
            )
        for lr, hr, option in (
            (self.lr_data, self.data, "data"),
            (self.lr_test, self.test, "test"),
        ):
            if lr and not hr:
                raise InputError(
                    f"--lr-{option} {lr} has LR images of no HR images",
                    hint=f"give the folder of the HR images with --{option}",
                )

    @property
    def resolved_protocols(self) -> List[Protocol]:
        """The protocols. Those without a warm-up come first, as in a fresh process."""
        protocols = [get_protocol(name) for name in dict.fromkeys(self.protocols)]
        return sorted(protocols, key=lambda protocol: not protocol.of_images)

    def metric_of(self, protocol: Protocol) -> str:
        return protocol.metric or self.metric or "y"

    def planner(
        self, session: Session, network: NetworkDescription, protocol: Protocol
    ) -> Optional[Planner]:
        """Return what plans the tiles of images; None: they are run whole."""
        bound = memory_bytes(self.max_memory)
        if bound is None and protocol.of_images:
            return None
        return planner_within(session, bound, identity=network.identity)

    def valid_set(self) -> ImageSet:
        return image_set(self.data, self.lr_data)

    def test_set(self) -> Optional[ImageSet]:
        return image_set(self.test, self.lr_test) if self.test else None


def rows_from_artifacts(
    networks: Union[str, Path, Sequence[Union[str, Path]]],
    options: MeasureOptions = MeasureOptions(),  # noqa: B008 - frozen
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[BenchmarkRow]:
    """Yield a row per network and protocol as soon as it is measured, each in a session of its own.

    >>> options = sr_deploy.MeasureOptions(data="photos", lr="32x32", runs=3)
    >>> rows = list(sr_deploy.rows_from_artifacts("fsrcnn-w16_x4", options))
    >>> rows[0].variant, rows[0].input_hw, len(rows[0].latencies_ms)
    ('w16', (32, 32), 3)

    networks: checkpoints (in their fastest form here, see `sr_deploy.fast`; under a challenge's
    protocol by torch, as its harness), architectures at a scale such as `span_x4` (with random
    weights, not scored), ONNX graphs, engines, plans, routers, or folders of them. With `score`,
    the first row of a challenge's protocol is preceded by that of its baseline, unless that is one
    of the networks.
    Work starts with the first row that is requested. `list(rows_from_artifacts(...))` measures all.
    A network that cannot run on this machine gives a row with the reason. With `threads`, import
    torch and onnxruntime only afterwards: they take one thread per usable core when they are
    imported. Raises an SrDeployError for bad input before anything is measured.
    """
    with limit_cores(options.threads):
        variants = "all" if options.variants is None else options.variants
        protocols = options.resolved_protocols
        options.valid_set(), options.test_set()  # before models are prepared
        descriptions = describe_all(
            networks,
            variants,
            _run_of_models(options),
            trust=options.trust,
            untrained=True,
            progress=progress,
        )
        descriptions = with_budgets(descriptions, options.max_flops)
        for note in filter(
            None, [check_run_options(descriptions, options.run), _mixed(descriptions)]
        ):
            progress(note)
        _check_sets(descriptions, options, progress)
        baselines = baseline_networks(descriptions, protocols) if options.score else {}
        shown = {network.identity for network in descriptions}
        cells = [(network, protocol) for network in descriptions for protocol in protocols]
        with as_progress(progress).track("measuring", len(cells)) as advance:
            for network, protocol in cells:
                advance(network.name, steps=0)
                baseline = baselines.get(protocol.name)
                with contextlib.closing(_turns(protocol, baseline, options)) as turns:
                    row = measure_row(network, protocol, options, turns)
                    partner = None if row.error else turns.partner()
                rows = [row]
                if baseline is not None and partner is not None and baseline.identity not in shown:
                    shown.add(baseline.identity)
                    rows.insert(0, partner)
                advance()
                for row in rows:
                    progress(_progress_line(row, show_protocol=len(protocols) > 1))
                    yield row


def _run_of_models(options: MeasureOptions) -> RunOptions:
    """Return how models are run: under a challenge's protocol by torch, as its harness does."""
    if options.run.runtime is None and any(p.of_images for p in options.resolved_protocols):
        return replace(options.run, runtime=TORCH)
    return options.run


def _mixed(networks: Sequence[NetworkDescription]) -> str:
    """Return a note where torch runs some networks, and others are engines that were made here."""
    by_torch = [n.name for n in networks if n.kind in ("checkpoint", "code")]
    if not by_torch or not any(is_made(Path(network.source)) for network in networks):
        return ""
    return (
        f"{', '.join(by_torch)}: run by torch, the other models by their engines; "
        "--runtime torch runs all by torch"
    )


def _turns(
    protocol: Protocol, baseline: Optional[NetworkDescription], options: MeasureOptions
) -> Turns:
    if baseline is None or protocol.baseline is None:
        return Turns()
    keys = ("data", "lr_data", "test", "lr_test")
    given = {"protocols": [protocol.name], **{key: getattr(options, key) for key in keys}}
    return BaselineTurns(protocol.baseline, {**request_of(baseline), "options": given})


def _check_sets(
    networks: Sequence[NetworkDescription],
    options: MeasureOptions,
    progress: Callable[[str], None],
) -> None:
    """Raise InputError for an image that cannot be scored, before other networks are measured."""
    known = (network.find_scale() for network in networks)
    scales = {scale for scale in known if scale is not None}
    metrics = {options.metric_of(protocol) for protocol in options.resolved_protocols}
    for images in filter(None, (options.valid_set(), options.test_set())):
        for note in images.notes(scales):
            progress(note)
        check_images(images, metrics=metrics, scales=scales)


def _progress_line(row: BenchmarkRow, *, show_protocol: bool) -> str:
    name = network_name(row.model, row.variant)
    name += "" if precision_of(row) in ("", "fp32") else f" {precision_of(row)}"
    on_gpu = row.device and row.threads is None and not row.error
    where = f"{row.backend}, {row.device}" if on_gpu else row.backend
    name = f"{name} ({where})" + (f", {row.protocol}" if show_protocol else "")
    if row.error:
        return f"{name}: not run: {row.error}"
    if row.psnr_db is not None:
        quality = f"{row.psnr_db:.3f} dB"
    else:
        quality = "identical images" if row.ssim is not None else "not scored"
    ms = time_ms(row)
    return f"{name}: {quality}, {'not timed' if ms is None else f'{ms:.1f} ms'}"


@dataclass
class _Run:
    """A network that was opened and timed; by a challenge's protocol also scored."""

    session: Session
    network: NetworkDescription
    before: Dict[str, Any]
    """The machine's conditions before."""
    turns: Turns
    during: Dict[str, Any] = field(default_factory=dict)
    mem_peak_mib: Optional[float] = None
    mem_definition: str = ""
    timing: Optional[Dict[str, Any]] = None
    """Fields of the row, if one size was to be timed repeatedly."""
    timed_share: Optional[float] = None
    """Share of its largest multiply-accumulates that an adaptive network executed then."""
    valid: Optional[Quality] = None
    warnings: Tuple[str, ...] = ()


def measure_row(
    network: NetworkDescription, protocol: Protocol, options: MeasureOptions, turns: Turns
) -> BenchmarkRow:
    """Measure a network under one protocol, image by image in turns with a partner if it has one.

    One that cannot run on this machine gives a row with the reason.
    """
    row = row_of(network, protocol.counter)
    row = replace(
        row,
        warnings=(*row.warnings, *network.notes),
        protocol=protocol.name,
        device=cpu_name(),
        precision_asked=asked_precision(network, options.run),
        python=python_and_os(),
        git_rev=git_revision(),
        date_utc=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    try:
        with budget_refused(network):
            run = _open_and_time(network, protocol, options, turns)
    except (ArtifactError, MissingPackageError) as e:
        recorded = None if protocol.of_images else recorded_row(network)
        return recorded or replace(row, error=e.message)
    with run.session as session:
        try:
            with budget_refused(network):
                row = _measured_row(row, session, run, protocol, options)
            return _without_quality(row) if network.untrained else row
        except ArtifactError as e:  # such as an image that the device's memory cannot hold
            return replace(row, error=e.message)


def _measured_row(
    row: BenchmarkRow, session: Session, run: _Run, protocol: Protocol, options: MeasureOptions
) -> BenchmarkRow:
    metric, test = options.metric_of(protocol), None
    plan, made_by = options.planner(session, run.network, protocol), run.network.degradation
    how: Dict[str, Any] = {"metric": metric, "degradation": made_by}
    if run.timing is not None:
        valid, timing = evaluate(session, options.valid_set(), plan=plan, **how), run.timing
    else:
        assert run.valid is not None
        valid, test_set = run.valid, options.test_set()
        turn = run.turns.turn
        if test_set:
            test = evaluate(session, test_set, turn=turn, plan=plan, **how)
        timing = _timing_of_images(valid, test)
    conditions = {"before": run.before, "during": run.during}
    known, executed = row.warnings, executed_fields(valid, test, timed_share=run.timed_share)
    row = replace(row, **{**_session_fields(session), **quality_fields(valid, test), **timing})
    row = replace(
        row,
        device=session.device or row.device,
        power_mode=run.before.get("power_mode"),
        mem_peak_mib=run.mem_peak_mib,
        mem_definition=run.mem_definition,
        bicubic_psnr_db=bicubic_psnr_db(options.valid_set(), scale=session.scale, **how),
        executed=executed,
        executed_g=row.executed_g if executed is None else executed["macs_g"],
        conditions=conditions,
        baseline=run.turns.fields(),
    )
    timed = timing.get("warnings", ())
    warnings = (*_not_finite(valid, test), *known, *timed, *condition_warnings(conditions))
    warnings = (*filter(None, [session.why_cpu]), *warnings, *run.warnings)
    return replace(row, warnings=(*warnings, *deviations(row)))


def _without_quality(row: BenchmarkRow) -> BenchmarkRow:
    """Return the row of a network with random weights: its images are timed, not scored."""
    images = tuple({**image, "psnr_db": None, "ssim": None} for image in row.images)
    warnings = ("its weights are random: its quality is not known", *row.warnings)
    return replace(row, images=images, psnr_db=None, ssim=None, warnings=warnings)


def _open_and_time(
    network: NetworkDescription, protocol: Protocol, options: MeasureOptions, turns: Turns
) -> _Run:
    run_options = replace(options.run, harness=protocol.of_images)
    before = conditions_before()
    session = network.open(run_options)
    try:
        turns.begin(session)
        run = _time(_Run(session, network, before, turns), protocol, options)
        if not session.device:
            _measure_memory(run, run_options, options)
    except BaseException:
        session.close()
        raise
    return run


def _measure_memory(run: _Run, run_options: RunOptions, options: MeasureOptions) -> None:
    bound = memory_bytes(options.max_memory)
    if run.timing is not None and "runs" not in run.timing:
        return  # not timed: it does not fit
    if run.timing is not None:
        x = timing_input(run.session, options.valid_set(), run.timing["input_hw"])
        definition = MEM_DEFINITION
    else:
        x, definition = _largest_lr(run, options.valid_set()), MEM_OF_IMAGES
        definition += "" if bound is None else f"; in tiles within {bytes_text(bound)}"
    try:
        run.mem_peak_mib = peak_mib(run.network, run_options, x, bound)
    except MemoryProcessError as e:
        run.warnings = (f"its memory is not known: {e}",)
    else:
        run.mem_definition = definition if run.mem_peak_mib is not None else ""


def _largest_lr(run: _Run, images: ImageSet) -> np.ndarray:
    """Return the largest LR image of the set that was scored, (h, w, 3) uint8."""
    assert run.valid is not None
    areas = [score.lr_hw[0] * score.lr_hw[1] for score in run.valid.images]
    pair = images.pairs(run.session.scale)[int(np.argmax(areas))]
    hr = modcrop(read_rgb(pair[0]), run.session.scale)
    return lr_of(hr, pair, scale=run.session.scale, degradation=run.network.degradation)


def _time(run: _Run, protocol: Protocol, options: MeasureOptions) -> _Run:
    session, turns = run.session, run.turns
    run.before.update(device_facts(session.place, session.device) if session.device else {})
    with ConditionMonitor(session.device, lambda: turns.partner_cpu_s) as monitor:
        session.reset_work()
        if protocol.of_images:
            run.valid = evaluate(
                session,
                options.valid_set(),
                metric=options.metric_of(protocol),
                degradation=run.network.degradation,
                turn=turns.turn,
                plan=options.planner(session, run.network, protocol),
            )
        else:
            run.timing = _timing_of_one_size(run, options, monitor)
            work = session.executed_work()
            run.timed_share = None if work is None else work.share
        _read_device_memory(run)
    run.during = monitor.summary()
    return run


def _read_device_memory(run: _Run) -> None:
    """Record the GPU's memory; the process's own does not tell it."""
    peak = run.session.peak_memory()
    if peak is not None:
        run.mem_peak_mib, run.mem_definition = peak.mib, peak.definition
        if peak.in_use_mib is not None:
            run.before["gpu_in_use_mib"] = round(peak.in_use_mib, 1)


def _session_fields(session: Session) -> Dict[str, Any]:
    keys = ("backend", "backend_version", "precision", "threads", "settings", "scale")
    return {key: getattr(session, key) for key in keys}


def quality_fields(valid: Quality, test: Optional[Quality]) -> Dict[str, Any]:
    sets = {"valid": valid, **({"test": test} if test else {})}
    images = [
        {
            "image": score.image,
            "split": split,
            "lr_hw": list(score.lr_hw),
            "psnr_db": finite_or_none(score.psnr_db),
            "ssim": score.ssim,
            "ms": round(score.ms, 4),
            **({} if score.macs is None else {"macs_g": round(score.macs / 1e9, 6)}),
        }
        for split, quality in sets.items()
        for score in quality.images
    ]
    return {
        "set": valid.set,
        "test_set": test.set if test else "",
        "images": tuple(images),
        "degradation": valid.degradation,
        "metric": valid.metric,
        "border_px": valid.border_px,
        "psnr_db": finite_or_none(valid.psnr_db),
        "ssim": valid.ssim,
        "tiling": valid.tiling,
    }


def _not_finite(*qualities: Optional[Quality]) -> List[str]:
    finite = [score.finite for quality in qualities if quality for score in quality.images]
    if all(finite):
        return []
    return [
        f"{finite.count(False)} of {len(finite)} images came out with pixels that are no finite "
        "numbers: scored as black or white"
    ]


def _timing_of_one_size(
    run: _Run, options: MeasureOptions, monitor: ConditionMonitor
) -> Dict[str, Any]:
    """Time one LR size repeatedly; return fields of the row, which say why if it does not fit."""
    session = run.session
    h, w = parse_hw(options.lr) if options.lr else session.nearest_hw(DEFAULT_HW)
    fixed_h, fixed_w = session.fixed_sides
    hw = (fixed_h or h, fixed_w or w)
    session.check_hw(hw)
    if options.lr is not None or options.max_memory is not None:
        bound = memory_bytes(options.max_memory)
        problem = why_not_timed(session, hw, bound, run.network.identity)
        session.reset_work()  # of its probes
        if problem:
            return {"input_hw": hw, "warnings": (problem,)}
    x = timing_input(session, options.valid_set(), hw)
    samples = measure_latency(
        lambda: session.run_timed(x),
        runs=options.runs,
        cadence_hz=options.cadence_hz,
        between=monitor.sample,
    )
    output_px = session.scale**2 * hw[0] * hw[1]
    monitor.timed_runs(samples.span_s, runs=len(samples.times_ms), output_px=output_px)
    statistics = latency_statistics(samples.times_ms)
    warnings = []
    if not samples.settled:
        warnings.append(
            f"it was not steady yet after {WARMUP_S:g} s of warm-up: "
            f"windows differed by more than {TOLERANCE:.0%}"
        )
    if statistics["latency_cv"] > MAX_CV:
        warnings.append(
            f"single runs vary by {statistics['latency_cv']:.0%} (standard deviation over mean)"
        )
    if samples.late:
        warnings.append(
            f"{samples.late} of {len(samples.times_ms)} frames were not done when the next one came"
        )
    return {
        **statistics,
        "input_hw": hw,
        "cadence_hz": options.cadence_hz,
        "warmup": samples.warmup,
        "runs": len(samples.times_ms),
        "latencies_ms": tuple(round(ms, 4) for ms in samples.times_ms),
        "first_ms": samples.first_ms,
        "timer": samples.timer,
        "copies_ms": samples.copies_ms,
        "warnings": tuple(warnings),
    }


def _timing_of_images(valid: Quality, test: Optional[Quality]) -> Dict[str, Any]:
    """Return fields of the row for images that were timed once each.

    The mean is that of the set; for two sets the mean of their means.
    """
    sets = [quality.images for quality in (valid, test) if quality]
    images = [score for scores in sets for score in scores]
    times_ms = [score.ms for score in images]
    copies = [score.copies_ms for score in images if score.copies_ms is not None]
    means = [float(np.mean([score.ms for score in scores])) for scores in sets]
    return {
        **latency_statistics(times_ms),
        "latency_ms_mean": float(np.mean(means)),
        "warmup": 0,
        "runs": len(times_ms),
        "latencies_ms": tuple(round(ms, 4) for ms in times_ms),
        "first_ms": times_ms[0],
        "timer": images[0].timer,
        "copies_ms": float(np.median(copies)) if copies else None,
    }


def timing_input(session: Session, images: ImageSet, hw: HW) -> np.ndarray:
    """Return the (1, 3, h, w) input that a network is timed on.

    Noise. For an adaptive network, whose time depends on its input, LR images side by side.
    """
    if session.executed_work() is None:
        return np.random.default_rng(0).random((1, 3, *hw), dtype=np.float32)
    files = images.pairs(session.scale)
    strips: List[np.ndarray] = []
    height, number = 0, 0
    while height < hw[0]:
        strip: List[np.ndarray] = []
        while sum(lr.shape[1] for lr in strip) < hw[1]:
            pair = files[number % len(files)]
            hr = modcrop(read_rgb(pair[0]), session.scale)
            strip.append(lr_of(hr, pair, scale=session.scale))
            number += 1
        low = min(lr.shape[0] for lr in strip)
        strips.append(np.concatenate([lr[:low] for lr in strip], axis=1)[:, : hw[1]])
        height += low
    return nchw_from_rgb(np.ascontiguousarray(np.concatenate(strips)[: hw[0]]))


@functools.lru_cache(maxsize=None)
def git_revision() -> str:
    """Return the checkout's revision, `+` for uncommitted changes; the version if installed."""
    folder = Path(__file__).resolve().parents[2]
    version = f"srdeploy {__version__}"
    if not (folder / ".git").exists():
        return version
    describe = "describe --always --dirty=+ --abbrev=12 --exclude=*".split()
    command = ["git", "-C", str(folder), *describe]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return version
    return run.stdout.strip()
