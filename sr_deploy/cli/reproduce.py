"""srdeploy reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple

import click

from sr_deploy.cli.output import emit, emit_json
from sr_deploy.cli.tables import TEXT, chosen_format, format_option, formatted, terminal_width
from sr_deploy.core.counts import Counts
from sr_deploy.core.errors import InputError, did_you_mean


@click.command()
@click.argument("paper", required=False)
@click.argument("rows", nargs=-1, metavar="[ROWS.jsonl]...")
@click.option("--only", metavar="NAME", help='One table or figure, such as "Table 4".')
@format_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the tables, cell by cell.")
def reproduce(
    paper: Optional[str],
    rows: Tuple[str, ...],
    only: Optional[str],
    table_format: Optional[str],
    as_json: bool,
) -> None:
    """Print a paper's tables with our values beside the printed ones. Without PAPER: the papers.

    Counts are computed. Scores are those of the shipped checkpoints; rows that bench measured fill
    in other sets, and replace them. Below each table: what differs and why, and what was never run.
    """
    from sr_deploy.results.reproduction import paper_names, read_paper

    if paper is None:
        _list_papers([(name, read_paper(name)) for name in paper_names()], as_json)
        return
    read = read_paper(paper.lower())
    items = [item for item in read.items if only is None or item.name.lower() == only.lower()]
    if not items:
        names = [item.name for item in read.items]
        raise InputError(
            f"{read.paper} has no '{only}'; it has {', '.join(names)}",
            hint=did_you_mean(only or "", names),
        )
    from sr_deploy.results.reproduction import introduction, item_table, scores_of, slips
    from sr_deploy.results.rows import read_rows

    scores = scores_of([row for path in rows for row in read_rows(Path(path))])
    tables = [(item, item_table(item, _Counted(), scores)) for item in items]
    if as_json:
        emit_json([_json(item, table) for item, table in tables])
        return
    form = chosen_format(table_format)
    parts = (
        []
        if only
        else [_heading(read.paper, 1, form), *(_below(text, form) for text in introduction(read))]
    )
    for item, table in tables:
        mark = " (measured here)" if item.ours else ""
        parts += [_heading(f"{item.name}: {item.shows}{mark}", 2, form), _table(table, form)]
    found = [] if only else slips(read)
    if found:
        parts += [_heading("What a recount does not give", 2, form), _notes(found, form)]
    emit("\n\n".join(part for part in parts if part))


def _list_papers(papers: Any, as_json: bool) -> None:
    if as_json:
        emit_json([{"name": name, "paper": p.paper, "title": p.title} for name, p in papers])
        return
    for name, p in papers:
        emit(f"{name:<12} {p.paper}: {p.title}; {len(p.items)} tables and figures")


class _Counted:
    """Counts networks, each once."""

    def __init__(self) -> None:
        self.counts: Dict[Tuple[Any, ...], Counts] = {}

    def __call__(self, line: Any, ours: Any) -> int:
        key = (line.network, line.variant, str(line.config), ours.hw, ours.counter)
        if key not in self.counts:
            from sr_deploy.nets.checkpoint import parse_untrained
            from sr_deploy.nets.complexity import count

            untrained = parse_untrained(line.network)
            assert untrained is not None
            net = untrained.network(line.variant or None, line.config)
            self.counts[key] = count(net, ours.hw, counter=ours.counter)
        return int(getattr(self.counts[key], ours.count))


def _heading(text: str, level: int, form: str) -> str:
    if form == TEXT:
        return f"{text}\n{'=-'[level - 1] * len(text)}"
    return _below(f"{'#' * level} " * (form == "markdown") + text, form)


def _below(text: str, form: str) -> str:
    """Return a line that is no part of a table: filled, as it is, or as a comment."""
    from sr_deploy.results.screen import fill

    if form == TEXT:
        return fill(text, terminal_width())
    return text if form == "markdown" else {"csv": "# ", "latex": "% "}[form] + text


def _notes(notes: Sequence[str], form: str) -> str:
    dash = "- " if form == "markdown" else ""
    return "\n".join(_below(dash + note, form) for note in notes)


def _table(table: Any, form: str) -> str:
    return formatted(table, form) if table.cells else _notes(table.notes, form)


def _json(item: Any, table: Any) -> Dict[str, Any]:
    return {
        "name": item.name,
        "shows": item.shows,
        "measured_here": item.ours,
        "headings": table.headings,
        "lines": table.cells,
        "notes": table.notes,
    }
