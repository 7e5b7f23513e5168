"""Write every table and figure of the documents anew, from the published rows: python3 benchmarks/regenerate.py [--check]

A table stands between two comments, of which the first is the command that prints it:

    <!-- srdeploy table benchmarks/rows.jsonl --where protocol=steady -->
    <!-- end of table -->

(or `python3 benchmarks/agreement.py --table ...`, or adaptive.py's). Figures are the report's charts as SVG (needs matplotlib).
`--check` changes nothing and fails when something is not what its command makes; figures are compared where matplotlib has the
version that drew them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict, Sequence

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DOCUMENTS = ("README.md", "benchmarks/README.md")
ROWS = "benchmarks/rows.jsonl"
X4 = "model=asrn_x4,imdeception_x4,srn-ntire_x4"
"""Without asrn_ss_x4, shipped to compare with: cut, it lies 10 dB below all others."""
FIGURES = {"benchmarks/figures/x4-256x256": (X4, "input_hw=256x256", "protocol=steady")}
"""What each figure's name begins with, and the rows it shows: of one device and one set of images."""
_PROGRAMS = (
    "srdeploy table",
    *(f"python3 benchmarks/{name}.py --table" for name in ("agreement", "adaptive")),
)
_TABLE = re.compile(
    r"<!-- ((?:"
    + "|".join(map(re.escape, _PROGRAMS))
    + r") [^\n]*?) -->\n(.*?)<!-- end of table -->",
    re.S,
)
_DRAWN_BY = re.compile(rb"Matplotlib v([\w.+]+)")


def regenerated(text: str, *, folder: Path = ROOT) -> str:
    """Return a document with its tables as their commands print them, run in `folder`. Raises RuntimeError when one fails."""

    def printed(match: re.Match) -> str:
        program, *arguments = shlex.split(match[1])
        command = [
            sys.executable,
            *(["-m", "sr_deploy.cli.main"] if program == "srdeploy" else []),
            *arguments,
        ]
        search = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(
            command,
            cwd=str(folder),
            env={**os.environ, **search},
            capture_output=True,
            encoding="utf-8",
        )
        if done.returncode != 0:
            raise RuntimeError(f"{match[1]}: {done.stderr.strip()}")
        return f"<!-- {match[1]} -->\n\n{done.stdout.strip()}\n\n<!-- end of table -->"

    begun = sum(text.count(f"<!-- {program} ") for program in _PROGRAMS)
    if not begun == text.count("<!-- end of table -->") == len(_TABLE.findall(text)):
        raise RuntimeError(
            "a table's first comment has no '<!-- end of table -->', or the other way round"
        )
    return _TABLE.sub(printed, text)


def figures(rows: Path, *, name: str, where: Sequence[str]) -> Dict[str, bytes]:
    """Return the SVG files of the rows that meet the conditions.

    Raises RuntimeError when the rows do not fit in one figure.
    """
    from sr_deploy.results.report.drawing import figure_file
    from sr_deploy.results.report.figures import draw_figures
    from sr_deploy.results.report.groups import group_rows
    from sr_deploy.results.rows import filter_rows, read_rows

    groups = group_rows(filter_rows(read_rows(rows), where))
    if len(groups) != 1:
        raise RuntimeError(
            f"{name}: the rows with {', '.join(where)} do not compare: "
            f"expected one device, set and way of measuring, found {len(groups)}"
        )
    return {
        f"{name}-{key.partition('-')[2]}.svg": figure_file(drawing.figure, "svg")
        for key, drawing in draw_figures(groups).items()
    }


def drawn_alike(path: Path, content: bytes) -> bool:
    """Whether a figure is fresh, or was drawn by another version of matplotlib, whose bytes are others."""
    if not path.is_file():
        return False
    old = path.read_bytes()
    version, here = (_DRAWN_BY.search(drawn) for drawn in (old, content))
    return old == content or (version is not None and here is not None and version[1] != here[1])


def main() -> int:
    check, stale = "--check" in sys.argv, []
    fresh: Dict[str, bytes] = {}
    for name in DOCUMENTS:
        fresh[name] = regenerated((ROOT / name).read_text(encoding="utf-8")).encode("utf-8")
    for name, where in FIGURES.items():
        fresh.update(figures(ROOT / ROWS, name=name, where=where))
    for name, content in fresh.items():
        path = ROOT / name
        is_figure = path.suffix == ".svg"
        if drawn_alike(path, content) if is_figure else path.read_bytes() == content:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    if check and stale:
        print(f"stale: {', '.join(stale)}; run: python3 benchmarks/regenerate.py", file=sys.stderr)
        return 1
    print(
        f"rewritten: {', '.join(stale)}"
        if stale
        else "every table and figure is what its command makes"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
