"""What a user may upscale with adaptively: a router or an AdaEDSR checkpoint (run by torch), or what `export` made of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Optional, Union

import numpy as np

from sr_deploy.core.depth_plan import DepthPlan, is_depth_plan, read_plan
from sr_deploy.core.device import usable_cores
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import files_with_suffix
from sr_deploy.core.routers import PLAN_SUFFIX, RoutedPlan, is_router, read_routed_plan, share_from
from sr_deploy.runtime.adaptive.adadsr import AdaDSR
from sr_deploy.runtime.adaptive.base import AdaptiveSession
from sr_deploy.runtime.adaptive.patches import Routed

DEFAULTS = {"cdnsr": "cdnsr-fsrcnn_x4", "elastic": "elastic-asrn_x4", "adadsr": "adaedsr_x4"}
"""The shipped network of each kind."""


@dataclass(frozen=True)
class Adaptive:
    """What is asked for: a kind of `DEFAULTS`, and how much to compute."""

    kind: str
    max_flops: Optional[str] = None
    """`60%`: of the largest branch, of the kinds that route patches."""
    depth: Optional[float] = None
    """The desired depth of `adadsr`; None: half of all blocks."""


def adaptive_session(asked: Adaptive, model: Optional[str] = None) -> AdaptiveSession:
    """Open an adaptive network: of the kind's shipped default, or a router, a checkpoint, or a plan that `export` wrote.

    Raises an SrDeployError on bad input: another kind of network, a budget below the smallest branch, a depth beyond the backbone.
    """
    if asked.kind not in DEFAULTS:
        raise InputError(f"unknown kind '{asked.kind}'; expected {', '.join(DEFAULTS)}")
    given = (
        DEFAULTS[asked.kind]
        if model is None
        else _fastest_plan(Path(model))
        if Path(model).is_dir()
        else model
    )
    if asked.kind == "adadsr":
        if asked.max_flops is not None:
            raise InputError(
                "a budget of FLOPs is for networks that route patches; AdaDSR has a desired depth",
                hint="give --depth 8, say",
            )
        return _adadsr(given, asked.depth)
    if asked.depth is not None:
        raise InputError(
            f"a desired depth is AdaDSR's; '{asked.kind}' routes patches",
            hint="give --max-flops 60%, say",
        )
    session = _routed(given, None if asked.max_flops is None else share_from(asked.max_flops))
    elastic = session.plan.elastic
    if elastic != (asked.kind == "elastic"):
        kind = "elastic" if elastic else "cdnsr"
        raise InputError(
            f"'{given}' chooses between {', '.join(session.plan.names)}: that is {kind}, not {asked.kind}",
            hint=f"give --adaptive {kind}",
        )
    return session


def _fastest_plan(folder: Path) -> str:
    """The plan in a folder; of both ways of one AdaEDSR the one that was faster where it was exported."""
    plans = [path for path in files_with_suffix(folder, ".json") if is_plan(str(path))]
    if not plans:
        raise InputError(
            f"the folder {folder} holds no plan of an adaptive network",
            hint="srdeploy export MODEL --adaptive -o DIR",
        )
    if len({path.name.split(".")[0] for path in plans}) > 1:
        raise InputError(
            f"{folder} holds plans of several networks: {', '.join(p.name for p in plans)}",
            hint="give one file",
        )
    if len(plans) == 1:
        return str(plans[0])
    return str(min(plans, key=lambda path: read_plan(path).timed_ms or float("inf")))


def is_plan(given: str) -> bool:
    """Tell by its name whether a path is a plan of an adaptive network."""
    return given.endswith(PLAN_SUFFIX) or is_depth_plan(Path(given))


def is_adaptive(given: str) -> bool:
    """Tell whether a name or a path is a router, or a plan of an adaptive network."""
    return is_router(given) or is_plan(given)


def plan_of(given: str) -> Union[RoutedPlan, DepthPlan]:
    """Return what is known of what `is_adaptive` before it is opened. Raises an SrDeployError on bad input."""
    if is_depth_plan(Path(given)):
        return read_plan(Path(given))
    return read_routed_plan(Path(given)) if given.endswith(PLAN_SUFFIX) else _router(given).plan()


def opened(given: str, depth: Optional[float] = None) -> AdaptiveSession:
    """Open what `is_adaptive`, at its own budget, or a desired depth (None: half of all). Raises an SrDeployError on bad input."""
    return _adadsr(given, depth) if is_depth_plan(Path(given)) else _routed(given, None)


def _router(given: str) -> Any:
    from sr_deploy.nets.router import load_router

    return load_router(given)


def _routed(given: str, max_share: Optional[float]) -> Routed:
    path = Path(given)
    if path.name.endswith(PLAN_SUFFIX):
        from sr_deploy.runtime.ort import OnnxParts

        plan = read_routed_plan(path)
        plan.check_budget(max_share)
        graphs = OnnxParts(path, plan.graphs)
        networks = [lambda patches, part=part: part(lr=patches)[0] for part in graphs.parts]  # type: ignore[misc]
        facts = {
            "backend": "onnxruntime",
            "backend_version": graphs.version,
            "threads": graphs.threads,
        }
        return Routed(plan, networks[0], networks[1:], max_share=max_share, **facts)
    if is_depth_plan(path):
        raise InputError(
            f"{given} is the plan of an AdaDSR, not of a router", hint="give --adaptive adadsr"
        )
    from sr_deploy.nets.fuse import fuse_network

    router = _router(given)
    plan = router.plan()
    plan.check_budget(max_share)
    # Rewritten as they are for export: that is what the costs on the card are of.
    networks = [
        _torch_network(net)
        for net in (router.network(), *(fuse_network(net)[0] for net in router.branch_networks()))
    ]
    return Routed(plan, networks[0], networks[1:], max_share=max_share, **_torch_facts())


def _adadsr(given: str, depth: Optional[float]) -> AdaDSR:
    path = Path(given)
    if is_depth_plan(path):
        return AdaDSR.from_plan(path, depth=depth)
    if is_adaptive(given):
        raise InputError(
            f"'{given}' routes patches; it is no AdaDSR", hint="give --adaptive cdnsr or elastic"
        )
    from sr_deploy.nets.sparse import depth_plan, load_adaedsr, split_network

    checkpoint, net = load_adaedsr(given)
    plan = depth_plan(checkpoint, net)
    parts = split_network(net, plan.depths, plan.way)
    return AdaDSR(plan, [_torch_part(part) for part in parts], depth=depth, **_torch_facts())


def _torch_facts() -> dict:
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    return {
        "backend": "torch",
        "backend_version": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _torch_network(net: Any) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    def run(patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(patches)).numpy()

    return run


def _torch_part(net: Any) -> Callable[..., List[np.ndarray]]:
    import torch

    def run(**given: np.ndarray) -> List[np.ndarray]:
        with torch.inference_mode():
            found = net(*map(torch.from_numpy, given.values()))
            return [y.numpy() for y in (found if isinstance(found, tuple) else (found,))]

    return run
