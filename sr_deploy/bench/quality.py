"""Score networks on several sets of images: a row per set and network, with bicubic first."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

from sr_deploy.bench.budgets import budget_refused, with_budgets
from sr_deploy.bench.evaluate import (
    Bicubic,
    ImageSet,
    Planner,
    Quality,
    evaluate,
    finite_or_none,
    image_set,
)
from sr_deploy.bench.memory_bound import memory_bytes, planner_within
from sr_deploy.bench.network_rows import executed_fields, row_of
from sr_deploy.core.degradation import GIVEN, check_degradation
from sr_deploy.core.errors import ArtifactError, InputError, MissingPackageError
from sr_deploy.core.progress import as_progress
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import Session
from sr_deploy.core.spec import network_name
from sr_deploy.fast.opener import describe_all
from sr_deploy.results.rows import BICUBIC, BenchmarkRow, QualityRow
from sr_deploy.runtime.opener import NetworkDescription, check_run_options


@dataclass(frozen=True)
class ScoringOptions:
    """How images are scored. Raises InputError for an amount of memory that is none."""

    metric: str = "y"
    """`y` or `rgb`."""
    degradation: Optional[str] = None
    """Makes LR where it is not given; None: as each network was trained for."""
    max_flops: Sequence[str] = ()
    """Budgets of adaptive networks, as in `MeasureOptions`."""
    max_memory: Union[str, int, None] = None
    """The most resident memory of the process, in bytes or as `2GiB`: larger images are run in
    tiles. None: as `upscale` bounds it by default."""

    def __post_init__(self) -> None:
        memory_bytes(self.max_memory)


Folders = Union[str, Path, Sequence[Union[str, Path]]]
"""One folder, or several."""


def quality_from_artifacts(
    networks: Union[str, Path, Sequence[Union[str, Path]]],
    *,
    variants: Union[str, Sequence[str]] = "all",
    data: Folders = (),
    lr_data: Folders = (),
    run: RunOptions = DEFAULT_RUN,
    progress: Callable[[str], None] = lambda line: None,
    **scoring: Any,
) -> Iterator[QualityRow]:
    """Return an iterator of rows: bicubic per scale and set, then each network on each set.

    >>> rows = list(sr_deploy.quality_from_artifacts("fsrcnn-w16_x4", data="photos"))
    >>> [row.model for row in rows]
    ['bicubic', 'fsrcnn-w16_x4']

    networks: checkpoints (in their fastest form here, see `sr_deploy.fast`), ONNX graphs, engines,
    plans, routers, or folders of them. variants: of checkpoints, "all" or "d1,d3". data: folders of
    HR images; none: scikit-image's photographs. lr_data: the folder of LR images of each; none:
    they are made. scoring: fields of `ScoringOptions`. The call scores bicubic, and raises errors;
    the networks run while the rows are iterated. One that cannot run gives rows with the reason.
    """
    options = ScoringOptions(**scoring)
    sets = image_sets(_listed(data), _listed(lr_data))
    as_trained = describe_all(networks, variants, run, progress=progress)
    descriptions = with_budgets(as_trained, options.max_flops)
    _check_names(descriptions)
    kinds = [(d.find_scale(), options.degradation or d.degradation) for d in descriptions]
    scales = [scale for scale, _ in kinds if scale is not None]
    _check_degradation(options.degradation, sets, scales)
    folders = (note for images in sets for note in images.notes(scales))
    for note in filter(None, [check_run_options(descriptions, run), *folders]):
        progress(note)
    bicubic_rows = list(_bicubic_rows(kinds, sets, options, progress))

    def rows() -> Iterator[QualityRow]:
        yield from bicubic_rows
        for description in descriptions:
            yield from _network_rows(description, run, sets, options, progress)

    return _with_bar(rows(), len(descriptions) * len(sets), progress)


def _network_rows(
    network: NetworkDescription,
    run: RunOptions,
    sets: Sequence[ImageSet],
    options: ScoringOptions,
    progress: Callable[[str], None],
) -> Iterator[QualityRow]:
    """Yield a row for each set; with the reason where the network cannot run."""
    known, name, left = row_of(network), network.name, list(sets)
    made_by = options.degradation or network.degradation
    try:
        with budget_refused(network), network.open(run) as session:
            if session.why_cpu:
                progress(f"{name}: {session.why_cpu}")
            plan = planner_within(
                session, memory_bytes(options.max_memory), identity=network.identity
            )
            while left:
                row = _score(known, session, left[0], options.metric, made_by, plan)
                left.pop(0)
                progress(f"{name} ({session.where}), {row.set}: {_psnr_text(row)}")
                yield row
    except (ArtifactError, MissingPackageError) as e:
        progress(f"{name}: not run: {e.message}")
        for images in left:
            row = _unscored_row(known, images, options.metric, made_by)
            yield replace(row, error=e.message)


def _score(
    row: BenchmarkRow,
    session: Session,
    images: ImageSet,
    metric: str,
    made_by: str,
    plan: Planner,
) -> QualityRow:
    quality = evaluate(session, images, metric=metric, degradation=made_by, plan=plan)
    return _scored_row(_unscored_row(row, images, metric, made_by), session, quality)


def _with_bar(
    rows: Iterator[QualityRow], total: int, progress: Callable[[str], None]
) -> Iterator[QualityRow]:
    with as_progress(progress).track("scoring", total) as advance:
        for row in rows:
            if row.backend != BICUBIC:
                advance(network_name(row.model, row.variant))
            yield row


def _bicubic_rows(
    kinds: Iterable[Tuple[Optional[int], str]],
    sets: Sequence[ImageSet],
    options: ScoringOptions,
    progress: Callable[[str], None],
) -> Iterator[QualityRow]:
    """Yield a row for each scale and set; for each degradation too, if LR images are made."""
    if any(images.lr_folder for images in sets):
        kinds = dict(kinds).items()
    for scale, made_by in dict.fromkeys(kinds):
        if scale is None:
            continue
        bicubic, known = Bicubic(scale), BenchmarkRow(BICUBIC, "", BICUBIC)
        plan = planner_within(bicubic, memory_bytes(options.max_memory), identity=BICUBIC)
        for images in sets:
            row = _score(known, bicubic, images, options.metric, made_by, plan)
            progress(f"bicubic, x{scale}, {images.name}, border {row.border_px}")
            yield row


def _check_degradation(
    asked: Optional[str], sets: Sequence[ImageSet], scales: Sequence[int]
) -> None:
    """Raise InputError if LR is given too, or a scale has no such degradation."""
    if asked is None:
        return
    if any(images.lr_folder for images in sets):
        raise InputError(
            f"LR images are given, so the degradation '{asked}' does not make them",
            hint="omit --degradation or --lr-data",
        )
    for scale in scales:
        check_degradation(asked, scale)


def _psnr_text(row: QualityRow) -> str:
    return "identical images" if row.psnr_db is None else f"{row.psnr_db:.3f} dB"


def _listed(folders: Folders) -> List[str]:
    return list(map(str, [folders] if isinstance(folders, (str, Path)) else folders))


def image_sets(folders: Sequence[str], lr_folders: Sequence[str] = ()) -> List[ImageSet]:
    """Return the sets of HR folders; of scikit-image's photographs if there are none.

    Raises InputError if two sets have the same name, or if not each has an LR folder, or none.
    """
    if lr_folders and len(lr_folders) != len(folders):
        raise InputError(
            f"{len(lr_folders)} LR folders for {len(folders)} HR folders",
            hint="give one --lr-data for each --data, in the same order, or none",
        )
    sets: Dict[str, ImageSet] = {}
    for folder, lr_folder in itertools.zip_longest(folders or [""], lr_folders, fillvalue=""):
        if "" in (folders and [folder]) or "" in (lr_folders and [lr_folder]):
            raise InputError(
                "the name of an image folder is empty",
                hint="omit --data for scikit-image's photographs",
            )
        images = image_set(folder, lr_folder)
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
        degradation=degradation if images.lr_folder is None else GIVEN,
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
        {
            "image": s.image,
            "psnr_db": finite_or_none(s.psnr_db),
            "ssim": s.ssim,
            **({} if s.macs is None else {"macs_g": round(s.macs / 1e9, 6)}),
        }
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
        executed=executed_fields(quality),
        backend_version=session.backend_version,
        precision=session.precision,
        device=session.device,
        settings=session.settings,
        warnings=tuple(filter(None, [session.why_cpu])),
    )
