"""Tables of text, and how they are written: Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
import textwrap
from dataclasses import dataclass
from typing import Callable, List, Mapping, Sequence, Tuple


@dataclass(frozen=True)
class Table:
    """A table of text. Every row has as many cells as there are headings."""

    headings: Tuple[str, ...]
    cells: Tuple[Tuple[str, ...], ...]
    notes: Tuple[str, ...] = ()
    """Lines below the table: the conditions that the numbers hold for."""


def make_table(
    headings: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]
) -> Table:
    """Return a Table of any sequences."""
    return Table(tuple(headings), tuple(map(tuple, cells)), tuple(notes))


def render_table(table: Table, table_format: str) -> str:
    """Return a table as `markdown`, `csv` or `latex`.

    Notes follow the table: as a list, as comments with `#` or as comments with `%`.
    """
    return TABLE_FORMATS[table_format](table)


def markdown(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> List[str]:
    """Return the lines of a Markdown table: first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(headings, *cells)]

    def line(values: Sequence[str]) -> str:
        first, *others = (
            v.rjust(w) if i else v.ljust(w) for i, (v, w) in enumerate(zip(values, widths))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = [f"{'-' * (w + 1)}:" if i else "-" * (w + 2) for i, w in enumerate(widths)]
    return [line(headings), f"|{'|'.join(rule)}|", *map(line, cells)]


def table_lines(
    headings: Sequence[str], cells: Sequence[Sequence[str]], *, narrow: bool = False
) -> List[str]:
    """Return the lines of a plain table: as wide as its texts, without borders.

    Columns of numbers and their headings are right-aligned, other columns left-aligned. narrow:
    headings that are wider than their cells take several lines.
    """
    texts = [tuple(_one_line(cell) for cell in column) for column in zip(*cells)]
    columns = list(zip(headings, texts or [()] * len(headings)))
    heads = [_wrapped(h, max(map(len, c), default=0) if narrow else len(h)) for h, c in columns]
    widths = [max(map(len, (*head, *c))) for head, (_, c) in zip(heads, columns)]
    right = [i > 0 and all(map(_is_number, c)) for i, (_, c) in enumerate(columns)]
    height = max(map(len, heads))

    def line(values: Sequence[str]) -> str:
        aligned = (v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right))
        return "  ".join(aligned).rstrip()

    titles = zip(*([""] * (height - len(head)) + head for head in heads))
    return [*map(line, titles), "  ".join("-" * w for w in widths), *map(line, zip(*texts))]


def _wrapped(heading: str, width: int) -> List[str]:
    """Return a heading in lines of at most `width`, or of its longest word, characters."""
    longest = max(map(len, heading.split()), default=1)
    return textwrap.wrap(heading, max(width, longest), break_on_hyphens=False) or [heading]


def _is_number(text: str) -> bool:
    return not text or text[0] in "0123456789+-" or text.startswith("inf")


def _one_line(text: str) -> str:
    """Return a cell's text without line breaks and `|`, which would end the cell."""
    return " ".join(text.split()).replace("|", "/")


def _markdown(table: Table) -> str:
    cells = [[_one_line(cell) for cell in row] for row in table.cells]
    lines = markdown([_one_line(heading) for heading in table.headings], cells)
    # Without the empty line and the dashes the notes would become one paragraph.
    return "\n".join(lines + [""] * bool(table.notes) + [f"- {note}" for note in table.notes])


def _csv(table: Table) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([table.headings, *table.cells])
    return out.getvalue() + "".join(f"# {note}\n" for note in table.notes).rstrip("\n")


_TEX = {c: "\\" + c for c in "&%$#_{}"}
_TEX["\\"] = r"\textbackslash{}"
_TEX["~"] = r"\textasciitilde{}"
_TEX["^"] = r"\textasciicircum{}"
_TEX["†"] = r"\dag{}"


def _latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = ["".join(_TEX.get(c, c) for c in _one_line(cell)) for cell in cells]
        return " & ".join(escaped) + r" \\"

    lines = [
        r"\begin{tabular}{l" + "r" * (len(table.headings) - 1) + "}",
        r"\hline",
        line(table.headings),
        r"\hline",
        *map(line, table.cells),
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join(lines + [f"% {_one_line(note)}" for note in table.notes])


TABLE_FORMATS: Mapping[str, Callable[[Table], str]] = {
    "markdown": _markdown,
    "csv": _csv,
    "latex": _latex,
}
