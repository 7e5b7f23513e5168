"""The tables of the papers, with our values beside the printed ones.

What a paper prints is in the folder `papers`, one JSON file each: its tables and figures, cell by
cell as printed, that of other networks too. A column may say which of our values belongs beside it,
a line which of our networks it is about.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.degradation import GIVEN
from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.shipped import read_card, shipped_checkpoints
from sr_deploy.core.spec import network_name
from sr_deploy.results.render import Table, make_table
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.results.shipped_numbers import shipped_numbers
from sr_deploy.results.slips import slips_in

FOLDER = Path(__file__).with_name("papers")
HERE = "here"
"""What the heading of a column of ours ends with."""


@dataclass(frozen=True)
class OurValue:
    """Which of our values stands beside a printed column: a count or a score."""

    count: str = ""
    """params, macs, acts or convs: computed."""
    unit: float = 1.0
    digits: int = 0
    hw: Tuple[int, ...] = NTIRE_HW
    """The LR size that the paper's numbers are of."""
    counter: str = "hooks"
    times: int = 1
    """2 where a paper counts a multiply-accumulate as two operations."""
    score: str = ""
    """The set: PSNR in dB, and SSIM where the paper prints it."""


@dataclass(frozen=True)
class PaperColumn:
    heading: str
    ours: Optional[OurValue] = None


@dataclass(frozen=True)
class PaperLine:
    """A line of a table."""

    cells: Tuple[str, ...]
    """As printed, one for each column."""
    network: str = ""
    """Our network, such as `asrn_x4`; empty: one of others, of which only printed numbers exist."""
    variant: str = ""
    config: Dict[str, Any] = field(default_factory=dict)
    """Where it differs from the architecture's default."""
    checkpoint: Optional[str] = ""
    """The shipped checkpoint of this line, where its name is not that of the network; None: no
    shipped one was trained so."""
    degradation: str = "bi"
    """How the LR images of its scores are made, as in `core/degradation.py`."""
    recipe: str = ""
    recorded: Dict[str, str] = field(default_factory=dict)
    """Our value by heading, of measurements that a note describes."""


@dataclass(frozen=True)
class PaperItem:
    """A table or a figure of a paper. The lines of a figure without printed numbers are empty."""

    name: str
    shows: str
    columns: Tuple[PaperColumn, ...] = ()
    lines: Tuple[PaperLine, ...] = ()
    notes: Tuple[str, ...] = ()
    never_run: Tuple[str, ...] = ()
    ours: bool = False
    """Whether its cells were measured here, to answer a question that the paper leaves open."""


@dataclass(frozen=True)
class Paper:
    """What a paper prints."""

    paper: str
    title: str
    authors: str
    published: str
    url: str = ""
    code: str = ""
    items: Tuple[PaperItem, ...] = ()


CountOf = Callable[[PaperLine, OurValue], int]
"""Returns a count of a line's network."""
Scores = Dict[Tuple[str, str, str], Tuple[Optional[float], Optional[float]]]
"""PSNR in dB and SSIM on Y, by network (`asrn_x4.d5`), set, in lower case, and degradation."""


def paper_names() -> List[str]:
    """Return the names of the papers, such as `asrn`."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_paper(name: str) -> Paper:
    """Read what a paper prints. Raises InputError when there is no such paper."""
    names = paper_names()
    if name not in names:
        raise InputError(
            f"unknown paper '{name}'; expected {', '.join(names)}", hint=did_you_mean(name, names)
        )
    path = FOLDER / f"{name}.json"
    data = read_json(path, InputError)
    items = tuple(_item(item, path) for item in data.pop("items"))
    return replace(from_dict(Paper, data, source=path, error=InputError), items=items)


def _item(data: Dict[str, Any], path: Path) -> PaperItem:
    def read(cls: Any, key: str) -> Any:
        found = data.get(key, [])
        return tuple(from_dict(cls, part, source=path, error=InputError) for part in found)

    parts = {"columns": read(PaperColumn, "columns"), "lines": read(PaperLine, "lines")}
    plain = {key: value for key, value in data.items() if key not in parts}
    return replace(from_dict(PaperItem, plain, source=path, error=InputError), **parts)


def scores_of(rows: Sequence[BenchmarkRow]) -> Scores:
    """Return the scores of the shipped models, and those of measured rows in their place."""
    conditions, numbers = shipped_numbers()
    scores: Scores = {}
    if conditions is not None:
        shipped = set_key(conditions.set)
        made_by = {path.stem: read_card(path).degradation for path in shipped_checkpoints()}
        scores = {
            (name, shipped, made_by.get(name.partition(".")[0], "bi")): (n.psnr_db, n.ssim)
            for name, n in numbers.items()
        }
    for row in rows:
        if not row.error and row.metric == "y" and row.psnr_db is not None:
            degradation = "bi" if row.degradation == GIVEN else row.degradation
            key = network_name(row.model, row.variant), set_key(row.set), degradation
            scores[key] = row.psnr_db, row.ssim
    return scores


def item_table(item: PaperItem, count_of: CountOf, scores: Scores) -> Table:
    """Return an item's table: each printed column, and ours after it where we have a value.

    A last column names the recipes.
    """
    headings: List[str] = []
    texts: List[List[str]] = []
    for i, column in enumerate(item.columns):
        headings.append(column.heading)
        texts.append([line.cells[i] for line in item.lines])
        ours = [_our_text(column, line, i, count_of, scores) for line in item.lines]
        if any(ours):
            headings.append(f"{column.heading}, {HERE}")
            texts.append(ours)
    recipes = [line.recipe for line in item.lines]
    if any(recipes):
        headings.append("recipe")
        texts.append(recipes)
    return make_table(headings, list(zip(*texts)), item_notes(item))


def item_notes(item: PaperItem) -> List[str]:
    """Return what stands below an item."""
    return [*item.notes, *(f"never run here: {text}" for text in item.never_run)]


def _our_text(
    column: PaperColumn, line: PaperLine, index: int, count_of: CountOf, scores: Scores
) -> str:
    recorded = line.recorded.get(column.heading)
    if recorded is not None or column.ours is None or not line.network:
        return recorded or ""
    ours = column.ours
    if ours.count:
        return f"{ours.times * count_of(line, ours) / ours.unit:.{ours.digits}f}"
    if line.checkpoint is None or (line.config and not line.checkpoint):
        return ""
    name = network_name(line.checkpoint or line.network, line.variant)
    psnr_db, ssim = scores.get((name, set_key(ours.score), line.degradation), (None, None))
    if psnr_db is None:
        return ""
    has_ssim = "/" in line.cells[index] and ssim is not None
    return f"{psnr_db:.2f}" + (f"/{ssim:.4f}" if has_ssim else "")


def set_key(name: str) -> str:
    """Return the name of a set of images whatever its case; BSD100 is B100."""
    return {"bsd100": "b100", "bsds100": "b100"}.get(name.lower(), name.lower())


def introduction(paper: Paper) -> List[str]:
    """Return the paragraphs before the items: the paper, and what the columns are."""
    conditions, _ = shipped_numbers()
    links = "".join(f", {text}" for text in (paper.url, paper.code) if text)
    scored = ""
    if conditions is not None:
        scored = f" (PSNR on {conditions.set}: {conditions.metric.upper()}, border the scale)"
    return [
        f"{paper.authors}, {paper.title}, {paper.published}{links}",
        f"Columns that end in '{HERE}' are ours: parameters, operations, activations and "
        "convolutions are counted when this is printed, scores are those of the shipped "
        f"checkpoints{scored}. All other cells are printed in the paper, those of other networks "
        "too: copied, not measured. A recipe is the printed schedule; the shipped checkpoints were "
        "trained for hours on a CPU (see their cards).",
    ]


def slips(paper: Paper) -> List[str]:
    """Return the numbers of the paper that a recount does not give."""
    return [slip.text for slip in slips_in({paper.paper})]
