"""One row per model variant or artifact: quality, latency, memory and counts under recorded conditions."""

from __future__ import annotations

import datetime
import functools
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, Union

import numpy as np

import sr_deploy
from sr_deploy.bench.evaluate import ImageSet, evaluate, image_set
from sr_deploy.core.device import cpu_name, peak_memory_mib, python_and_os
from sr_deploy.core.errors import CannotRunHereError, InputError, MissingPackageError
from sr_deploy.core.files import files_in, sha256_of
from sr_deploy.core.manifest import Manifest, manifest_path, read_manifest
from sr_deploy.core.rows import BenchmarkRow
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, parse_hw
from sr_deploy.core.target import load_target
from sr_deploy.core.timing import measure_latency
from sr_deploy.runtime import BACKENDS

ARTIFACT_SUFFIXES = (".onnx", ".engine")
DEFAULT_HW = (256, 256)
MEM_DEFINITION = "peak rise of the process's resident memory over opening and timing it, weights included"


@dataclass(frozen=True)
class Subject:
    """Something to measure: what is known before it runs, and how to open it."""

    row: BenchmarkRow
    open: Callable[[], Session]
    recorded: Optional[BenchmarkRow] = None
    """Its speed as the board that built it measured it; stands in where it cannot run here."""


def rows_from_artifacts(
    given: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str], None] = None,
    data: str = "",
    metric: str = "y",
    lr: Optional[str] = None,
    runs: Optional[int] = None,
    trust: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> List[BenchmarkRow]:
    """Measure checkpoints (by torch), ONNX graphs and engines, or folders of them; return one row each (see `measured`)."""
    return list(measured(given, variants=variants, data=data, metric=metric, lr=lr, runs=runs, trust=trust, progress=progress))


def measured(
    given: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str], None] = None,
    data: str = "",
    metric: str = "y",
    lr: Optional[str] = None,
    runs: Optional[int] = None,
    trust: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[BenchmarkRow]:
    """Yield the row of each subject as it is measured.

    variants: of the checkpoints, "all" or "d1,d3". data: a folder of HR images; empty: scikit-image's photographs.
    lr: the LR size latency and memory are taken at where the artifact leaves it open; None: 256x256, or what comes nearest.
    trust: also open artifacts that were changed after their manifests were written; an engine is code that runs.
    What cannot run on this machine becomes a row with its reason. Raises an SrDeployError on bad input.
    """
    if runs is not None and runs < 1:
        raise InputError(f"{runs} timed runs; expected at least 1")
    subjects = [subject for item in given_items(given, variants) for subject in subjects_of(item, variants, trust=trust)]
    images = image_set(data)
    hw = None if lr is None else parse_hw(lr)
    for subject in subjects:
        row = _measure(subject, images, metric=metric, hw=hw, runs=runs)
        what = f"{row.model}.{row.variant} ({row.backend})" if row.variant else f"{row.model} ({row.backend})"
        quality = f"{row.psnr_db:.3f} dB" if row.psnr_db is not None else "identical images" if row.set else "not scored here"
        progress(f"{what}: " + (f"not run: {row.error}" if row.error else f"{quality}, {row.latency_ms_median:.1f} ms"))
        yield row


def given_items(given: Union[str, Path, Sequence[Union[str, Path]]], variants: Union[str, Sequence[str], None]) -> List[str]:
    """Return what is to be measured as a list. Raises InputError when it is empty, or `variants` names some of no checkpoint."""
    items = [str(item) for item in ([given] if isinstance(given, (str, Path)) else given)]
    if not items:
        raise InputError("nothing to measure", hint="give a checkpoint, an ONNX graph, an engine or a folder of them")
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


def _measure(subject: Subject, images: ImageSet, *, metric: str, hw: Optional[HW], runs: Optional[int]) -> BenchmarkRow:
    row = replace(
        subject.row,
        device=cpu_name(),
        python=python_and_os(),
        git_rev=_git_revision(),
        date_utc=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
    memory: List[Optional[float]] = []
    try:
        with peak_memory_mib(memory):
            session = subject.open()
            hw = session.fixed_hw or hw or session.nearest_hw(DEFAULT_HW)
            session.check_hw(hw)
            x = np.random.default_rng(0).random((1, 3, *hw), dtype=np.float32)
            latency = measure_latency(lambda: session.timed(x), runs=runs)
    except (CannotRunHereError, MissingPackageError) as e:
        return subject.recorded if subject.recorded is not None else replace(row, error=e.message)
    quality = evaluate(session, images, metric=metric)
    return replace(
        row,
        backend=session.backend,
        backend_version=session.backend_version,
        device=session.device or row.device,
        precision=session.precision,
        threads=session.threads,
        scale=session.scale,
        input_hw=hw,
        warmup=latency.warmup,
        runs=latency.runs,
        latency_ms_median=latency.median_ms,
        latency_ms_p90=latency.p90_ms,
        latency_ms_p95=latency.p95_ms,
        latency_ms_p99=latency.p99_ms,
        first_ms=latency.first_ms,
        timer=latency.timer,
        copies_ms=latency.copies_ms,
        mem_peak_mib=memory[0],
        mem_definition="" if memory[0] is None else MEM_DEFINITION,
        set=quality.set,
        images=len(quality.images),
        metric=quality.metric,
        border_px=quality.border_px,
        psnr_db=quality.psnr_db if np.isfinite(quality.psnr_db) else None,
        ssim=quality.ssim,
        tiling=quality.tiling,
    )


def subjects_of(item: str, variants: Union[str, Sequence[str], None], *, trust: bool = False) -> Iterator[Subject]:
    """Yield the variants of a checkpoint, an artifact, or the artifacts of a folder. Raises an SrDeployError on bad input."""
    path = Path(item)
    if path.is_dir():
        found = files_in(path, *ARTIFACT_SUFFIXES)
        if not found:
            raise InputError(f"the folder {path} holds no .onnx or .engine file")
        for artifact in found:
            yield _artifact_subject(artifact, trust)
    elif path.suffix in ARTIFACT_SUFFIXES:
        yield _artifact_subject(path, trust)
    else:
        yield from _checkpoint_subjects(item, variants)


def _checkpoint_subjects(model: str, variants: Union[str, Sequence[str], None]) -> Iterator[Subject]:
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.nets.complexity import NTIRE_HW, count
    from sr_deploy.runtime.torch_module import TorchSession

    checkpoint = load_checkpoint(model)
    spec = checkpoint.spec
    for variant in checkpoint.variants(variants):
        row = BenchmarkRow(
            model=checkpoint.name, variant=str(variant), backend="torch", scale=spec.scale, precision_asked="fp32",
            artifact_sha256=spec.weights_sha256,
        )  # fmt: skip
        row = _with_counts(row, vars(count(checkpoint.network(str(variant)), NTIRE_HW, counter="hooks")))

        def open_session(variant: str = str(variant)) -> Session:
            return TorchSession(checkpoint.network(variant), scale=spec.scale, min_hw=spec.min_hw)

        yield Subject(row, open_session)


def _artifact_subject(path: Path, trust: bool) -> Subject:
    if path.suffix == ".onnx" and path.is_file() and not manifest_path(path).is_file():
        bare = BenchmarkRow(model=path.stem, variant="", backend="onnxruntime", artifact=path.name, artifact_sha256=sha256_of(path))
        return Subject(bare, lambda: _open_bare(path))
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    manifest = read_manifest(path, trust=trust)
    runtime = "onnxruntime" if manifest.kind == "onnx" else load_target(manifest.target).runtime
    row = BenchmarkRow(
        model=manifest.model, variant=manifest.variant, backend=runtime, artifact=path.name, artifact_sha256=manifest.sha256,
        scale=manifest.scale, precision=manifest.precision_obtained, precision_asked=manifest.precision_asked,
    )  # fmt: skip
    row = _with_counts(row, manifest.counts)
    return Subject(row, lambda: BACKENDS[runtime]().open(path, manifest), _recorded(row, manifest))


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
        device=" ".join(dict.fromkeys(part for part in (board.get("board", ""), build["gpu"]) if part)),
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


def _with_counts(row: BenchmarkRow, counts: Any) -> BenchmarkRow:
    if not {"params", "macs", "acts", "convs", "counter", "uncounted"} <= set(counts):
        return row
    return replace(
        row,
        params=counts["params"],
        macs_g=counts["macs"] / 1e9,
        acts_m=counts["acts"] / 1e6,
        convs=counts["convs"],
        counter=counts["counter"],
        counted_hw=DEFAULT_HW,
        uncounted=counts["uncounted"],
    )


@functools.lru_cache(maxsize=None)
def _git_revision() -> str:
    """The revision of a checkout this runs from, `+` when it has uncommitted changes; the version when it is installed."""
    folder = Path(sr_deploy.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return f"srdeploy {sr_deploy.__version__}"
    try:
        run = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return f"srdeploy {sr_deploy.__version__}"
    return run.stdout.strip()
