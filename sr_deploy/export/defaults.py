"""The exports of the shipped main models, which are made where no model is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List, Mapping, Optional, Sequence

from sr_deploy.core.shipped import MAIN_MODELS
from sr_deploy.export.checkpoint_source import CheckpointSource
from sr_deploy.export.pipeline import ExportJob, ExportOptions, PlannedGraph

_SECONDS = {"fp32": 7, "bf16": 7, "fp16": 10, "int8": 30}
"""For a graph of a main model in a target's own sizes by the engine's precision, with its checks,
on two CPU cores (AMD EPYC)."""
_GIB = 2.4
"""The most memory that one of them took there."""


def main_jobs(
    folders: Mapping[Optional[str], Path],
    options: ExportOptions = ExportOptions(),  # noqa: B008 - frozen
) -> List[ExportJob]:
    """Return the exports of all main models in the published variants.

    folders: that of the graphs, by the target's name or file. options: those of all of them, but
    the target.
    """
    sources = [CheckpointSource.from_text(model) for model in MAIN_MODELS]
    return [
        ExportJob(source, folder, replace(options, target=target))
        for target, folder in folders.items()
        for source in sources
    ]


def work_text(graphs: Sequence[PlannedGraph]) -> str:
    """Return how many graphs of the main models are to be made, and about how long it takes."""
    todo = [graph for graph in graphs if graph.to_make]
    if not todo:
        return f"all {len(graphs)} graphs are up to date"
    seconds = sum(_SECONDS[graph.precision] for graph in todo)
    time = f"{round(seconds / 60)} min" if seconds >= 90 else f"{seconds} s"
    return (
        f"{len(todo)} of {len(graphs)} graphs to export: about {time} on two CPU cores, and up to "
        f"{_GIB} GiB of memory"
    )
