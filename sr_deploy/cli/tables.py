"""Printing tables: for a terminal as wide as it is, or as Markdown, CSV or LaTeX."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, TypeVar

import click

from sr_deploy.cli.output import emit, log, stdout_is_terminal
from sr_deploy.core.errors import InputError

_Command = TypeVar("_Command", bound=Callable[..., Any])

TEXT = "text"
FORMATS = (TEXT, "markdown", "csv", "latex")


def format_option(command: _Command) -> _Command:
    """Add --format, which arrives as `table_format`; None where it is not given."""
    option = click.option(
        "--format",
        "table_format",
        type=click.Choice(FORMATS),
        help="text fits the terminal; the others have all columns and conditions.  "
        "[default: text on a terminal, else markdown]",
    )
    return option(command)


def chosen_format(table_format: Optional[str]) -> str:
    """Return the given format, else text on a terminal and Markdown in a pipe."""
    return table_format or (TEXT if stdout_is_terminal() else "markdown")


def terminal_width() -> int:
    """Return the columns of the terminal, or of COLUMNS; 100 where there is none."""
    return max(40, shutil.get_terminal_size((100, 24)).columns)


def emit_table(table: Any, table_format: Optional[str] = None) -> None:
    """Print a `results.render.Table` in a format, or in that which stdout asks for."""
    emit(formatted(table, chosen_format(table_format)))


def formatted(table: Any, form: str) -> str:
    """Return a `results.render.Table` as text for the terminal, or in another format."""
    from sr_deploy.results.render import render_table
    from sr_deploy.results.screen import table_text

    return table_text(table, terminal_width()) if form == TEXT else render_table(table, form)


def emit_rows(
    rows: Sequence[Any], table_format: Optional[str] = None, *, kept: Optional[Path] = None
) -> None:
    """Print measured rows: a table for each protocol, set and metric, then those that failed.

    rows: of `results.rows.BenchmarkRow`. kept: the rows.jsonl that has them, named as the place of
    all columns and conditions. Rows of several protocols are also ranked by each.
    """
    from sr_deploy.results.published import ranks
    from sr_deploy.results.render import render_table
    from sr_deploy.results.screen import fill, rows_text
    from sr_deploy.results.tables import bench_table, comparable_groups, failures

    form, width = chosen_format(table_format), terminal_width()
    file = f'"{kept}"' if " " in str(kept) else str(kept)
    details = f"srdeploy table {file} --format markdown" if kept else "--format markdown"
    parts: List[str] = [
        rows_text(group, width=width, details=details)
        if form == TEXT
        else render_table(bench_table(group), form)
        for group in comparable_groups(rows)
    ]
    failed = failures(rows)
    if form == TEXT:
        failed = [fill(line, width) for line in failed]
    if form in (TEXT, "markdown"):
        parts += ["\n".join(failed)] if failed else []
    if parts:
        emit("\n\n".join(parts))
    if form not in (TEXT, "markdown"):
        for line in failed:
            log(line)
    if len({row.protocol for row in rows if not row.error}) > 1:
        with contextlib.suppress(InputError):  # no network was measured under all protocols
            table = ranks(rows)
            emit("")
            emit_table(table, form)


def emit_quality(rows: Sequence[Any], table_format: Optional[str] = None) -> None:
    """Print rows of `eval`, of `results.rows.QualityRow`, then those that failed."""
    from sr_deploy.results.render import render_table
    from sr_deploy.results.screen import quality_text
    from sr_deploy.results.tables import failures, quality_table, quality_tables

    form = chosen_format(table_format)
    if form == TEXT:
        emit(quality_text(rows, width=terminal_width(), details="--format markdown"))
    elif form == "markdown":
        emit(quality_table(rows))
    else:
        emit("\n\n".join(render_table(table, form) for table in quality_tables(rows)))
        for line in dict.fromkeys(failures(rows)):
            log(line)
