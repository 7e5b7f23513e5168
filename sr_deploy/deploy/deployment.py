"""From a model to one folder with graphs, engines or a bundle, rows, a choice and a report."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, List, Optional, Tuple, Union

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.core.files import remove_empty_folders, write_text
from sr_deploy.core.shipped import DEFAULT_MODELS
from sr_deploy.deploy.choice import Choice, choose
from sr_deploy.deploy.measured import measure_parts
from sr_deploy.deploy.options import DeployOptions
from sr_deploy.deploy.parts import (
    GRAPHS,
    Model,
    Parts,
    check_model,
    lacks_images,
    make_parts,
    remove_stale,
)
from sr_deploy.deploy.readme import README, readme_text
from sr_deploy.deploy.record import (
    FILE,
    UNFINISHED,
    DeployRecord,
    check_same,
    own_folder,
    read_record,
    write_record,
)
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.runtime.boards.job import bundle_folder
from sr_deploy.runtime.readiness import why_not_run

REPORT = "report.html"
PICTURE = "photo.jpg"
"""In commands that a user adapts."""


@dataclass(frozen=True)
class Deployment:
    """A finished deployment: its folder, what is in it, and what to type next."""

    folder: Path
    record: DeployRecord
    rows: Tuple[BenchmarkRow, ...]
    hint: str = ""
    """What to do where no variant meets the limits; empty otherwise."""

    @property
    def use(self) -> str:
        """The command that upscales a picture by the chosen engine; empty if none is chosen."""
        if not self.record.artifact:
            return ""
        artifact = shlex.quote(str(self.folder / self.record.artifact))
        return f"srdeploy upscale {PICTURE} -m {artifact}"


def deployment_from_model(
    model: Optional[str],
    folder: Union[str, Path, None] = None,
    options: DeployOptions = DeployOptions("cpu"),  # noqa: B008 - frozen
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Deployment:
    """Deploy a model to a folder: graphs, engines or a bundle, rows, the choice, the report.

    model: a shipped name, a checkpoint, an imported graph or code, as `export` takes it; None: that
    of the folder, else the default model of x4. folder: None: `NAME-TARGET` in the current folder.
    Finished parts are kept, so a start after a kill, after `adopt`, or on another machine goes on.
    Where this machine cannot run the engines, they are not timed, and the choice says so. Raises an
    SrDeployError; InputError also for a folder of another model.

    >>> options = sr_deploy.DeployOptions("xavier", size="32x32", data="photos")
    >>> made = sr_deploy.deployment_from_model("fsrcnn-w16_x4", "deployed", options)
    >>> made.record.chosen, made.record.by_time
    ('fsrcnn-w16_x4.w16', False)
    """
    named, place, record = planned_deployment(model, folder, options)
    command = command_of(named, place, options)
    begun = record or DeployRecord(named.text, named.name, options.profile.name)
    begun = replace(begun, model=named.text, command=command, chosen="", artifact="", next=())
    begun = replace(begun, why=UNFINISHED, remarks=())
    with remove_empty_folders(place / GRAPHS, place), own_folder(place):
        write_record(place, begun)  # a start after a kill knows whose files these are
        try:
            parts = make_parts(named, place, options, record, progress)
        finally:
            if record is None and not list(place.glob(f"{GRAPHS}/*")):
                (place / FILE).unlink()
        unfinished = _with_parts(begun, parts)
        write_record(place, unfinished)
        rows = measure_parts(parts, place, options, progress)
        for name in remove_stale(place, record, parts):
            progress(f"{name}: removed, it is no part of this deployment any more")
        choice = choose(rows, options)
        finished = _finished(unfinished, parts, choice, rows, options)
        finished = replace(finished, report=_write_report(place, rows, progress))
        write_text(place / README, readme_text(finished, options.profile, rows))
        write_record(place, finished)
        return Deployment(place, finished, tuple(rows), choice.hint)


def planned_deployment(
    model: Optional[str], folder: Union[str, Path, None], options: DeployOptions
) -> Tuple[Model, Path, Optional[DeployRecord]]:
    """Return the model, its folder, and what the folder records. Nothing is written.

    Raises SrDeployErrors, also for a folder of another model or target.
    """
    record = read_record(Path(folder)) if folder is not None else None
    named = Model.from_text(model or (record.model if record else DEFAULT_MODELS[4]))
    check_model(named)
    for images in filter(None, (options.data, options.calibrate)):  # before the work
        if not Path(images).is_dir():
            raise InputError(f"there is no folder {images}", hint="give a folder of images")
    target = options.profile.name
    place = Path(folder) if folder is not None else Path(f"{named.name}-{target}")
    record = record or read_record(place)
    if record is None and lacks_images(named, options):
        raise InputError(
            "INT8 graphs are calibrated with images, and none are given",
            hint="give a folder of HR images with --calibrate",
        )
    check_same(record, named.name, target, place)
    return named, place, record


def command_of(model: Model, folder: Path, options: DeployOptions) -> str:
    """Return the command that makes or continues a deployment."""
    words = ["srdeploy", "deploy", shlex.quote(model.text), "--target", options.target]
    words += [options.limits_text] if options.limits_text else []
    words += ["--precision", options.precision] if options.precision else []
    words += ["--calibrate", shlex.quote(options.calibrate)] if options.calibrate else []
    words += ["--size", options.size] if options.size else []
    words += ["--data", shlex.quote(options.data)] if options.data else []
    return " ".join([*words, "-o", shlex.quote(str(folder))])


def _with_parts(record: DeployRecord, parts: Parts) -> DeployRecord:
    return replace(
        record,
        graphs=tuple(path.name for path in parts.graphs),
        engines=tuple(path.name for path in parts.engines.values()),
        bundle=parts.bundle.name if parts.bundle is not None else "",
    )


def _finished(
    record: DeployRecord,
    parts: Parts,
    choice: Choice,
    rows: List[BenchmarkRow],
    options: DeployOptions,
) -> DeployRecord:
    """Return the record with the choice and what comes next."""
    chosen = [parts.engines.get(g) for g, row in zip(parts.graphs, rows) if row is choice.row]
    artifact = f"engines/{chosen[0].name}" if chosen and chosen[0] is not None else ""
    return replace(
        record,
        chosen=choice.name,
        artifact=artifact,
        why=choice.why,
        remarks=choice.remarks,
        by_time=choice.by_time,
        next=tuple(_next_commands(record, parts, choice, options)),
    )


def _next_commands(
    record: DeployRecord, parts: Parts, choice: Choice, options: DeployOptions
) -> List[str]:
    """Return the commands that get the engines timed on the target; empty if they are."""
    folder = shlex.split(record.command)[-1]
    if parts.bundle is not None:
        bundle = shlex.quote(str(parts.bundle))
        there = bundle_folder(parts.bundle)
        return [
            f"scp {bundle} USER@BOARD: && "
            f"ssh USER@BOARD 'tar xf {parts.bundle.name} && sh {there}/build.sh' && "
            f"scp USER@BOARD:{there}/result.tar .",
            f"srdeploy adopt result.tar -o {shlex.quote(folder + '/engines')} && {record.command}",
        ]
    if choice.by_time or not (parts.why_not_built or why_not_run(options.profile)):
        return []
    there = f"srdeploy deploy --target {options.target} {options.limits_text}".rstrip()
    there += f" --precision {options.precision}" if options.precision else ""
    there += f" --size {options.size}" if options.size else ""
    return [
        f"scp -r {shlex.quote(folder)} USER@MACHINE:",
        f'ssh USER@MACHINE "{there} -o {shlex.quote(Path(folder).resolve().name)}"',
    ]


def _write_report(folder: Path, rows: List[BenchmarkRow], progress: Callable[[str], None]) -> str:
    """Write the page; return its name, or an empty text where its packages are missing."""
    from sr_deploy.results.report.html import report_html

    measured = [row for row in rows if not row.error]
    if not measured:
        return ""
    try:
        write_text(folder / REPORT, report_html(measured))
        return REPORT
    except MissingPackageError as e:
        progress(f"no {REPORT}: {e.message}; {e.hint}, then: srdeploy report {folder} -o FILE")
    except InputError as e:
        progress(f"no {REPORT}: {e.message}")
    return ""
