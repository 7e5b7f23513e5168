"""Regenerate the tables and figures of the documents, and the numbers of the shipped models.

All are of the published rows.

Usage: python3 benchmarks/regenerate.py [--check]

A table is enclosed by two comments. The first is the command that prints it:

    <!-- srdeploy table benchmarks/rows.jsonl --where protocol=steady -->
    <!-- end of table -->

(or `srdeploy reproduce PAPER`, `python3 benchmarks/agreement.py --table ...`, or that of
adaptive.py, devices.py, precision.py, routers.py or which_model.py). Figures are the charts of the
report as SVG and need matplotlib.
`--check` changes nothing, and fails if something differs from the output of its command. Figures
are compared only if matplotlib has the version that drew them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    "docs/benchmarks.md",
    "docs/cpu.md",
    "docs/devices.md",
    *(f"docs/papers/{page.name}" for page in sorted((ROOT / "docs/papers").glob("*.md"))),
)
ROWS = "benchmarks/rows.jsonl"
PRECISIONS = "benchmarks/precision/rows.jsonl"
NUMBERS = "models/measured.json"
X4 = "model=asrn_x4,imdeception_x4,srn-ntire_x4"
"""Without asrn_ss_x4: the smaller sizes of this comparison model lie 10 dB below all others."""
FIGURES = {
    "benchmarks/figures/x4-256x256": (X4, "input_hw=256x256", "precision=fp32", "protocol=steady")
}
"""The prefix of each figure's name, and its rows: of one device and one set of images."""
_PROGRAMS = (
    "srdeploy table",
    "srdeploy reproduce",
    *(
        f"python3 benchmarks/{name}.py --table"
        for name in ("agreement", "adaptive", "devices", "precision", "routers", "which_model")
    ),
)
_TABLE = re.compile(
    rf"<!-- ((?:{'|'.join(map(re.escape, _PROGRAMS))}) [^\n]*?) -->\n(.*?)<!-- end of table -->",
    re.S,
)
_DRAWN_BY = re.compile(rb"Matplotlib v([\w.+]+)")


def regenerated(text: str, *, folder: Path = ROOT) -> str:
    """Return a document with its tables as their commands print them in `folder`.

    Raises RuntimeError when a command fails or a table has no end.
    """
    starts = sum(text.count(f"<!-- {program} ") for program in _PROGRAMS)
    if not starts == text.count("<!-- end of table -->") == len(_TABLE.findall(text)):
        raise RuntimeError(
            "the first comment of a table has no '<!-- end of table -->', or the reverse"
        )
    return _TABLE.sub(lambda match: _print_table(match[1], folder), text)


def _print_table(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    module = ["-m", "sr_deploy.cli.main"] if program == "srdeploy" else []
    process = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=str(folder),
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    if process.returncode != 0:
        raise RuntimeError(f"{command}: {process.stderr.strip()}")
    return f"<!-- {command} -->\n\n{process.stdout.strip()}\n\n<!-- end of table -->"


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


def numbers() -> bytes:
    """Return the file of the shipped models' numbers, which `srdeploy models` shows."""
    from sr_deploy.results.rows import read_rows
    from sr_deploy.results.shipped_numbers import numbers_file

    precisions = ROOT / PRECISIONS
    of_precisions = read_rows(precisions) if precisions.is_file() else []
    return numbers_file(read_rows(ROOT / ROWS), of_precisions).encode("utf-8")


def is_fresh(path: Path, content: bytes) -> bool:
    """Return whether a file has this content, or is a figure of another version of matplotlib."""
    if not path.is_file():
        return False
    old = path.read_bytes()
    old_version, version = _DRAWN_BY.search(old), _DRAWN_BY.search(content)
    drawn_by_another = old_version and version and old_version[1] != version[1]
    return old == content or (path.suffix == ".svg" and bool(drawn_by_another))


def contents() -> Iterator[Tuple[str, bytes]]:
    """Yield the name and content of each file, the numbers before the documents that need them."""
    yield NUMBERS, numbers()
    for name in DOCUMENTS:
        yield name, regenerated((ROOT / name).read_text(encoding="utf-8")).encode("utf-8")
    for name, where in FIGURES.items():
        yield from figures(ROOT / ROWS, name=name, where=where).items()


def main() -> int:
    check = "--check" in sys.argv
    stale = []
    for name, content in contents():
        if is_fresh(ROOT / name, content):
            continue
        stale.append(name)
        if not check:
            (ROOT / name).parent.mkdir(exist_ok=True)
            (ROOT / name).write_bytes(content)
    if check and stale:
        print(f"stale: {', '.join(stale)}; run: python3 benchmarks/regenerate.py", file=sys.stderr)
        return 1
    print(f"written: {', '.join(stale)}" if stale else "all tables and figures are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
