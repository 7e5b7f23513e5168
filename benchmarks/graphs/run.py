"""Compare our graphs with plain exports.

Usage: python3 benchmarks/graphs/run.py [MODEL.VARIANT...] [--size HxW...] [--rounds N] [-o DIR]
       [--only onnxruntime|OpenVINO|ncnn|torch|sessions...]

Creates its own environment and runs compare.py in it. Rows go to rows.jsonl and the table to
table.md, beside this file or in the folder given with -o.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from environment import create_environment  # noqa: E402

PEERS = ["onnxslim", "ncnn", "pnnx"]
REQUIREMENTS = ["-c", "constraints.txt", "-e", ".[export,openvino]", *PEERS]

if __name__ == "__main__":
    python = str(create_environment(".venv-graphs", REQUIREMENTS))
    sys.exit(
        subprocess.run(
            [python, str(Path(__file__).with_name("compare.py")), *sys.argv[1:]]
        ).returncode
    )
