"""Write every table of the documents anew, from the published rows: python3 benchmarks/regenerate.py [--check]

A table stands between two comments, of which the first is the command that prints it:

    <!-- srdeploy table benchmarks/rows.jsonl --where protocol=steady -->
    <!-- end of table -->

`--check` changes nothing and fails when a table is not what its command prints.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", "benchmarks/README.md")
_TABLE = re.compile(r"<!-- srdeploy (table [^\n]*?) -->\n(.*?)<!-- end of table -->", re.S)


def regenerated(text: str, *, folder: Path = ROOT) -> str:
    """Return a document with its tables as their commands print them, run in `folder`. Raises RuntimeError when one fails."""

    def printed(match: re.Match) -> str:
        command = [sys.executable, "-m", "sr_deploy.cli.main", *shlex.split(match[1])]
        search = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        done = subprocess.run(command, cwd=str(folder), env={**os.environ, **search}, capture_output=True, encoding="utf-8")
        if done.returncode != 0:
            raise RuntimeError(f"srdeploy {match[1]}: {done.stderr.strip()}")
        return f"<!-- srdeploy {match[1]} -->\n\n{done.stdout.strip()}\n\n<!-- end of table -->"

    if text.count("<!-- srdeploy table") != len(_TABLE.findall(text)) or text.count("<!-- end of table -->") != len(_TABLE.findall(text)):
        raise RuntimeError("a table's first comment has no '<!-- end of table -->', or the other way round")
    return _TABLE.sub(printed, text)


def main() -> int:
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        fresh = regenerated(text)
        if fresh != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(fresh, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"tables are stale in {', '.join(stale)}; run: python3 benchmarks/regenerate.py", file=sys.stderr)
        return 1
    print(f"rewritten: {', '.join(stale)}" if stale else "every table is what its command prints")
    return 0


if __name__ == "__main__":
    sys.exit(main())
