"""From a router to what is deployed: its graph and one for each branch, for any number of patches at once, and their plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Tuple, Union

import numpy as np
import torch
from torch import nn

from sr_deploy.core.files import make_output_folder, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.routers import PLAN_SUFFIX
from sr_deploy.core.samples import sample_lr
from sr_deploy.export.parts import Part, free, part_of, write_parts
from sr_deploy.nets.fuse import rewritten
from sr_deploy.nets.router import Router, load_router

CHECKED_PATCHES = 3


def plan_from_router(
    model: Union[str, Path, Router],
    output: Union[str, Path],
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Export a router to `output`, its branches with it; return the path of their plan, NAME.routed.json.

    Each graph takes lr (N, 3, patch, patch), N free: the router's gives logits (N, classes), a branch's sr, its exact rewrites
    done. Raises an SrDeployError on bad input, ExportError when a graph differs from torch; then nothing is written.
    """
    router = model if isinstance(model, Router) else load_router(model)
    plan = router.plan()
    x = torch.from_numpy(
        np.concatenate(
            [
                nchw_from_rgb(rgb)
                for rgb in sample_lr((plan.patch, plan.patch), count=CHECKED_PATCHES)
            ]
        )
    )
    networks: Dict[str, Tuple[nn.Module, str]] = {"router": (router.network(), "logits")}
    networks.update((name, (net, "sr")) for name, net in zip(plan.names, router.branch_networks()))
    parts: Dict[str, Part] = {}
    for number, (name, (net, result)) in enumerate(networks.items(), 1):
        file = f"{router.name}.{name}.onnx"
        made = rewritten(net)[0] if result == "sr" else net
        parts[file] = part_of(made, net, (x,), inputs=["lr"], outputs=[result], dynamic=(free(0),))
        progress(f"[{number}/{len(networks)}] {file}: {parts[file][1]:.2g} from torch at most")
    folder = make_output_folder(Path(output))
    graphs, checks = write_parts(folder, parts)
    path = folder / (router.name + PLAN_SUFFIX)
    write_text(path, to_json(replace(plan, graphs=graphs, checks=checks)))
    return path
