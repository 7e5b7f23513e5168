"""README.md of a deployment: the choice, how to use it, what comes next, the table, the files."""

from __future__ import annotations

from typing import List, Sequence

from sr_deploy.core.errors import how_to_install
from sr_deploy.core.target import TargetProfile
from sr_deploy.core.version import __version__
from sr_deploy.deploy.record import FILE, DeployRecord
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.results.tables import ntire_table

README = "README.md"


def readme_text(record: DeployRecord, profile: TargetProfile, rows: Sequence[BenchmarkRow]) -> str:
    """Return the text. Its commands are for this folder as the current one."""
    lines = [
        f"# {record.name} for {profile.title}",
        "",
        f"Made by srdeploy {__version__}: `{record.command}`",
        "",
        *_choice(record),
        *_use(record),
        *_next(record),
        "## All variants",
        "",
        ntire_table(rows),
        "",
        *_files(record),
    ]
    return "\n".join(lines)


def _choice(record: DeployRecord) -> List[str]:
    title = f"## Use {record.chosen}" if record.chosen else "## Nothing is chosen yet"
    text = record.why[:1].upper() + record.why[1:] + "."
    remarks = [f"- {remark}" for remark in record.remarks]
    return [title, "", text, "", *remarks, *([""] if remarks else [])]


def _use(record: DeployRecord) -> List[str]:
    if not record.artifact:
        return []
    python = f'sr_deploy.session_of("{record.artifact}")'
    return [
        "On the machine that it is for, in this folder:",
        "",
        "```",
        f"srdeploy upscale photo.jpg -m {record.artifact}",
        f"srdeploy upscale film.mp4 -m {record.artifact} -o film_up.mp4",
        "```",
        "",
        f"In Python: `{python}`, for `sr_deploy.upscale_image`.",
        "",
    ]


def _next(record: DeployRecord) -> List[str]:
    if not record.next:
        return []
    why = "The engines are not timed on the target yet." if not record.by_time else "To go on:"
    return [
        "## Next",
        "",
        f"{why} From the folder where it was started, with the name of your board or machine:",
        "",
        "```",
        *record.next,
        "```",
        "",
        "The last command then chooses by the times that were measured there.",
        "",
    ]


def _files(record: DeployRecord) -> List[str]:
    report = "- `report.html`: charts, tables and conditions"
    if not record.report:
        report = (
            f"- the report with charts: `{how_to_install('matplotlib')}` and "
            f"`{how_to_install('jinja2')}`, then `srdeploy report rows.jsonl -o report.html`"
        )
    engines = "- `engines/`: an engine of each variant, with its manifest"
    bundle = "- `bundle.tar`: builds the engines where only sh and trtexec are"
    return [
        "## Files",
        "",
        "- `graphs/`: an ONNX graph of each variant, with its manifest",
        *([engines] if record.engines else []),
        *([bundle] if record.bundle else []),
        "- `rows.jsonl`: what was measured, with its conditions; without it, all is measured again",
        report,
        f"- `{FILE}`: this deployment, for a later start",
        "",
    ]
