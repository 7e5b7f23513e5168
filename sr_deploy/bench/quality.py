"""Quality only: PSNR and SSIM of variants and artifacts on several sets, bicubic first."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np

from sr_deploy.bench.evaluate import Bicubic, ImageSet, Quality, evaluate, image_set
from sr_deploy.bench.subjects import row_of
from sr_deploy.core.degradation import check_degradation
from sr_deploy.core.errors import CannotRunHereError, InputError, MissingPackageError
from sr_deploy.core.metrics import border_px
from sr_deploy.core.session import Session
from sr_deploy.results.rows import BICUBIC, BenchmarkRow, QualityRow
from sr_deploy.runtime.opener import describe_all


def quality_from_artifacts(
    given: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str], None] = None,
    data: Union[str, Path, Sequence[Union[str, Path]]] = (),
    metric: str = "y",
    degradation: str = "bi",
    progress: Callable[[str], None] = lambda line: None,
) -> List[QualityRow]:
    """Score checkpoints (by torch), ONNX graphs and engines, or folders of them; return a row per set and variant (see `scored`)."""
    return list(
        scored(
            given,
            variants=variants,
            data=data,
            metric=metric,
            degradation=degradation,
            progress=progress,
        )
    )


def scored(
    given: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str], None] = None,
    data: Union[str, Path, Sequence[Union[str, Path]]] = (),
    metric: str = "y",
    degradation: str = "bi",
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[QualityRow]:
    """Return an iterator of rows: bicubic on each set at each scale, then each subject on each set as it is scored.

    variants: of the checkpoints, "all" or "d1,d3". data: folders of HR images; none: scikit-image's photographs.
    Bicubic reads every image, so what is wrong with the input is raised by this call, before any network runs. What cannot
    run on this machine becomes rows with the reason. Raises an SrDeployError on bad input.
    """
    sets = image_sets([data] if isinstance(data, (str, Path)) else data)
    networks = describe_all(given, "all" if variants is None else variants)
    scales: List[int] = []
    owners: Dict[str, str] = {}
    for network in networks:
        called = network.artifact or network.model
        if owners.setdefault(called, network.source) != network.source:
            raise InputError(
                f"{owners[called]} and {network.source} are both named {called}, and a table could not tell them apart",
                hint="rename one of them",
            )
        scale = network.find_scale()
        if scale is not None:
            check_degradation(degradation, scale)
            scales += [scale] if scale not in scales else []
    named_rows = [(network, row_of(network)) for network in networks]
    first = []
    for scale in scales:
        bicubic, border = (
            BenchmarkRow(model=BICUBIC, variant="", backend=BICUBIC),
            border_px(metric, scale),
        )
        for images in sets:
            progress(f"bicubic, x{scale}, {images.name}, border {border}")
            first.append(
                _row(
                    bicubic,
                    evaluate(Bicubic(scale), images, metric=metric, degradation=degradation),
                    Bicubic(scale),
                )
            )

    def rows() -> Iterator[QualityRow]:
        yield from first
        for network, known in named_rows:
            try:
                session = network.open()
            except (CannotRunHereError, MissingPackageError) as e:
                progress(f"{_name(known)}: not run: {e.message}")
                yield from (
                    _failed(known, images, e.message, metric=metric, degradation=degradation)
                    for images in sets
                )
                continue
            for images in sets:
                row = _row(
                    known,
                    evaluate(session, images, metric=metric, degradation=degradation),
                    session,
                )
                quality = "identical images" if row.psnr_db is None else f"{row.psnr_db:.3f} dB"
                progress(f"{_name(known)} ({session.backend}), {images.name}: {quality}")
                yield row

    return rows()


def image_sets(folders: Sequence[Union[str, Path]]) -> List[ImageSet]:
    """Return the sets of HR folders, or of none scikit-image's photographs. Raises InputError when two have the same name."""
    sets: Dict[str, ImageSet] = {}
    for folder in folders or [""]:
        if folders and not str(folder):
            raise InputError(
                "an empty name for a folder of images",
                hint="leave --data out for scikit-image's photographs",
            )
        images = image_set(str(folder))
        if images.name in sets:
            raise InputError(
                f"two sets are named {images.name}, and a table could not tell them apart: {folder} is the second",
                hint="a set has the name of its folder, or of the one above HR: rename one",
            )
        sets[images.name] = images
    return list(sets.values())


def _name(row: BenchmarkRow) -> str:
    return row.artifact or f"{row.model}.{row.variant}"


def _row(row: BenchmarkRow, quality: Quality, session: Session) -> QualityRow:
    return QualityRow(
        model=row.model,
        variant=row.variant,
        backend=session.backend,
        artifact=row.artifact,
        set=quality.set,
        metric=quality.metric,
        border_px=quality.border_px,
        psnr_db=_finite(quality.psnr_db),
        ssim=quality.ssim,
        degradation=quality.degradation,
        scale=session.scale,
        params=row.params,
        macs_g=row.macs_g,
        counter=row.counter,
        counted_hw=row.counted_hw,
        tiling=quality.tiling,
        images=tuple(
            {"image": s.image, "psnr_db": _finite(s.psnr_db), "ssim": s.ssim}
            for s in quality.images
        ),
        artifact_sha256=row.artifact_sha256,
        backend_version=session.backend_version,
        precision=session.precision,
    )


def _failed(
    row: BenchmarkRow, images: ImageSet, error: str, *, metric: str, degradation: str
) -> QualityRow:
    return QualityRow(
        model=row.model,
        variant=row.variant,
        backend=row.backend,
        artifact=row.artifact,
        set=images.name,
        metric=metric,
        border_px=None,
        psnr_db=None,
        ssim=None,
        degradation=degradation,
        scale=row.scale,
        params=row.params,
        macs_g=row.macs_g,
        counter=row.counter,
        counted_hw=row.counted_hw,
        tiling="",
        images=(),
        artifact_sha256=row.artifact_sha256,
        error=error,
    )


def _finite(value: float) -> Optional[float]:
    return value if np.isfinite(value) else None
