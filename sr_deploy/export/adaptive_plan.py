"""Any adaptive network as it is deployed: a router with its branches, or an AdaEDSR both ways."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Callable, List, Union

from sr_deploy.core.depth_plan import WAYS, read_plan
from sr_deploy.core.files import write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.routers import is_router
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import hw_text
from sr_deploy.core.timing import time_in_turns
from sr_deploy.export.depth_graphs import plan_from_checkpoint
from sr_deploy.export.router_graphs import plan_from_router
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.runtime.adaptive.adadsr import AdaDSR

TIMED_HW = (256, 256)
ROUNDS = 3


def plans_from_model(
    model: Union[str, Path],
    output: Union[str, Path],
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export a router or an AdaEDSR checkpoint to `output`; return the paths of its plans, the fastest here first.

    An AdaEDSR's two ways are timed in turns on a photograph at half its depth, which their plans note. Raises an SrDeployError on
    bad input.
    """
    if is_router(str(model)):
        return [plan_from_router(model, output, progress=progress)]
    checkpoint = load_checkpoint(model)
    paths = [plan_from_checkpoint(checkpoint, output, way=way) for way in WAYS]
    x = nchw_from_rgb(sample_lr(TIMED_HW, count=1)[0])
    sessions = {path: AdaDSR.from_plan(path) for path in paths}
    times = time_in_turns(
        {path: lambda session=session: session.timed(x).ms for path, session in sessions.items()},
        ROUNDS,
    )  # type: ignore[misc]
    medians = {path: statistics.median(taken) for path, taken in times.items()}
    for path, ms in medians.items():
        plan = read_plan(path)
        write_text(path, to_json(replace(plan, timed_ms=round(ms, 3))))
        progress(f"{path.name}: {ms:.0f} ms at {hw_text(TIMED_HW)}, depth {plan.blocks / 2:g}")
    return sorted(paths, key=lambda path: medians[path])
