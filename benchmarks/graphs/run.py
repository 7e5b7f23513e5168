"""What our graphs cost against plain exports: python3 benchmarks/graphs/run.py [MODEL.VARIANT...] [--size HxW...] [--rounds N]

Makes its own environment and measures in it (compare.py); rows go to rows.jsonl, the table to table.md, both beside this file,
or to the folder given with -o.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from environment import create_environment  # noqa: E402

if __name__ == "__main__":
    python = str(
        create_environment(".venv-graphs", ["-c", "constraints.txt", "-e", ".[export]", "onnxslim"])
    )
    sys.exit(
        subprocess.run(
            [python, str(Path(__file__).with_name("compare.py")), *sys.argv[1:]]
        ).returncode
    )
