"""Score networks on several sets of images: a row per set and network, with bicubic first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Sequence, Union

from sr_deploy.bench.evaluate import (
    Bicubic,
    ImageSet,
    Quality,
    evaluate,
    finite_or_none,
    image_set,
)
from sr_deploy.bench.network_rows import row_of
from sr_deploy.core.degradation import check_degradation
from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Session
from sr_deploy.results.rows import BICUBIC, BenchmarkRow, QualityRow
from sr_deploy.runtime.opener import NetworkDescription, check_run_options, describe_all


def quality_from_artifacts(
    networks: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str], None] = None,
    data: Union[str, Path, Sequence[Union[str, Path]]] = (),
    metric: str = "y",
    degradation: str = "bi",
    run: RunOptions = DEFAULT_RUN,
    progress: Callable[[str], None] = lambda line: None,
) -> Iterator[QualityRow]:
    """Return an iterator of rows: bicubic per scale and set, then each network on each set.

    networks: checkpoints (run by torch), ONNX graphs, engines, plans, routers, or folders of them.
    variants: of checkpoints, "all" or "d1,d3". data: folders of HR images; none: scikit-image's
    photographs. The call itself scores bicubic, which reads every image, so it raises an
    SrDeployError for bad input before any network runs. The networks run while the rows are
    iterated. A network that cannot run on this machine gives rows with the reason.
    """
    sets = image_sets([data] if isinstance(data, (str, Path)) else data)
    descriptions = describe_all(networks, "all" if variants is None else variants)
    note = check_run_options(descriptions, run)
    if note:
        progress(note)
    _check_names(descriptions)
    scales = list(filter(None, (d.find_scale() for d in descriptions)))
    for scale in scales:
        check_degradation(degradation, scale)
    known_rows = [row_of(description) for description in descriptions]

    def score(row: BenchmarkRow, session: Session, images: ImageSet) -> QualityRow:
        quality = evaluate(session, images, metric=metric, degradation=degradation)
        return _scored_row(_unscored_row(row, images, metric, degradation), session, quality)

    bicubic_rows = []
    for bicubic in map(Bicubic, dict.fromkeys(scales)):
        for images in sets:
            row = score(BenchmarkRow(BICUBIC, "", BICUBIC), bicubic, images)
            progress(f"bicubic, x{bicubic.scale}, {images.name}, border {row.border_px}")
            bicubic_rows.append(row)

    def rows() -> Iterator[QualityRow]:
        yield from bicubic_rows
        for description, known in zip(descriptions, known_rows):
            name, left = description.artifact or description.name, list(sets)
            try:
                with description.open(run) as session:
                    if session.why_cpu:
                        progress(f"{name}: {session.why_cpu}")
                    while left:
                        row = score(known, session, left[0])
                        left.pop(0)
                        progress(f"{name} ({session.where}), {row.set}: {_psnr_text(row)}")
                        yield row
            except (ArtifactError, MissingPackageError) as e:
                progress(f"{name}: not run: {e.message}")
                for images in left:
                    unscored = _unscored_row(known, images, metric, degradation)
                    yield replace(unscored, error=e.message)

    return rows()


def _psnr_text(row: QualityRow) -> str:
    return "identical images" if row.psnr_db is None else f"{row.psnr_db:.3f} dB"


def image_sets(folders: Sequence[Union[str, Path]]) -> List[ImageSet]:
    """Return the sets of HR folders; of scikit-image's photographs if there are none.

    Raises InputError if two sets have the same name.
    """
    sets: Dict[str, ImageSet] = {}
    for folder in folders or [""]:
        if folders and not str(folder):
            raise InputError(
                "the name of an image folder is empty",
                hint="omit --data for scikit-image's photographs",
            )
        images = image_set(str(folder))
        if images.name in sets:
            raise InputError(
                f"two sets are named {images.name}; the second is {folder}",
                hint="a set is named like its folder, or like the folder above HR: rename one",
            )
        sets[images.name] = images
    return list(sets.values())


def _check_names(networks: Sequence[NetworkDescription]) -> None:
    """Raise InputError if networks of two sources have the same name in a table."""
    sources: Dict[str, str] = {}
    for network in networks:
        name = network.artifact or network.model
        source = sources.setdefault(name, network.source)
        if source != network.source:
            raise InputError(
                f"{source} and {network.source} are both named {name} in the table",
                hint="rename one of them",
            )


def _unscored_row(row: BenchmarkRow, images: ImageSet, metric: str, degradation: str) -> QualityRow:
    """Return the row of a network on a set without scores."""
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
    )


def _scored_row(row: QualityRow, session: Session, quality: Quality) -> QualityRow:
    images = [
        {"image": s.image, "psnr_db": finite_or_none(s.psnr_db), "ssim": s.ssim}
        for s in quality.images
    ]
    return replace(
        row,
        backend=session.backend,
        border_px=quality.border_px,
        psnr_db=finite_or_none(quality.psnr_db),
        ssim=quality.ssim,
        scale=session.scale,
        tiling=quality.tiling,
        images=tuple(images),
        backend_version=session.backend_version,
        precision=session.precision,
        device=session.device,
        settings=session.settings,
        warnings=tuple(filter(None, [session.why_cpu])),
    )
