"""The folders that commands use where none is given, in the current folder."""

from __future__ import annotations

from pathlib import Path

ENGINES = Path("engines")
GRAPHS = ENGINES / "graphs"
"""ONNX graphs, in a folder for each target."""
BUILT = ENGINES / "built"
"""Engines and bundles, in a folder for each target."""
ROWS = ENGINES / "rows"
"""Measured rows, in its rows.jsonl."""


def graphs_folder(target: str) -> Path:
    """Return the folder of the graphs for a target, where none is given."""
    return GRAPHS / target


def engines_folder(target: str) -> Path:
    """Return the folder of the engines for a target, where none is given."""
    return BUILT / target
