from __future__ import annotations

import csv
import io

import pytest

from sr_deploy.results.render import TABLE_FORMATS, Table, markdown, render_table, table_lines

HOSTILE = Table(("a|b", "x_1 & 50%"), (("1\n2|3", "{\\}#$~^†"),), ("note % one",))


@pytest.mark.parametrize("form", TABLE_FORMATS)
def test_hostile_text_breaks_no_form(form):
    text = render_table(HOSTILE, form)
    if form == "markdown":
        assert text.splitlines()[2].count("|") == 3 and len(text.splitlines()) == 5
    elif form == "csv":
        assert list(csv.reader(io.StringIO(text)))[:2] == [
            list(HOSTILE.headings),
            list(HOSTILE.cells[0]),
        ]
        assert text.splitlines()[-1] == "# note % one"
    else:
        assert (
            r"x\_1 \& 50\% \\" in text
            and r"\{\textbackslash{}\}\#\$\textasciitilde{}\textasciicircum{}\dag{}" in text
        )
        assert text.startswith(r"\begin{tabular}{lr}") and text.endswith("% note % one")


@pytest.mark.parametrize("rows", [[], [["x", "1"]], [["much longer", "12345"], ["é", ""]]])
def test_markdown_is_aligned(rows):
    lines = markdown(["a", "bb"], rows)
    assert len(lines) == 2 + len(rows)
    assert len({len(line) for line in lines}) == 1
    assert lines[1].endswith(":|") and not lines[1].startswith("|:")


def test_plain_tables_align_numbers_to_the_right_and_texts_to_the_left():
    lines = table_lines(["name", "runtime", "time [ms]"], [["a", "torch", "1.5"], ["bb", "x", ""]])
    assert lines == [
        "name  runtime  time [ms]",
        "----  -------  ---------",
        "a     torch          1.5",
        "bb    x",
    ]


def test_narrow_plain_tables_have_headings_of_several_lines():
    assert table_lines(["name", "Ave. Time [ms]"], [["a", "1.5"]], narrow=True) == [
        "      Ave.",
        "      Time",
        "name  [ms]",
        "----  ----",
        "a      1.5",
    ]
    assert table_lines(["name", "x"], [["a|b\nc", "1"]])[2] == "a/b c  1"
