"""NAME.state.pt: all that a run needs to go on as if it had not stopped."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Dict

import torch

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError
from sr_deploy.core.files import atomic_path
from sr_deploy.nets.checkpoint import check_state_dict
from sr_deploy.train.module import Run

_OF_RUN = {
    "step": int,
    "hours": float,
    "best_psnr_db": (float, type(None)),
    "history": list,
    "precision": dict,
    "card": dict,
}
_PARTS = {"recipe": dict, "net": dict, "ema": dict, "optimiser": dict, **_OF_RUN}


def save_state(path: Path, fixed: Dict[str, Any], run: Run) -> None:
    """Write the state atomically. fixed: what the resumed run must share: the recipe, the seed, the start."""
    state = {key: getattr(run, key) for key in _OF_RUN}
    state.update(
        recipe=fixed, net=run.net.state_dict(), ema=run.ema, optimiser=run.optimiser.state_dict()
    )
    buffer = io.BytesIO()  # torch's own writer tells a full disk apart from nothing else
    torch.save(state, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_state(path: Path, fixed: Dict[str, Any], run: Run) -> None:
    """Put the state into `run`. Raises InputError when it is of another run, CheckpointError when it is damaged."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as e:  # there is no end to what reading damaged bytes raises
        reason = (
            e.strerror
            if isinstance(e, OSError) and e.strerror
            else "it is damaged, or no state of a run"
        )
        raise _unusable(path, reason) from e
    if not isinstance(state, dict):
        raise _unusable(path, "it is no state of a run")
    for key, kind in _PARTS.items():
        if key not in state:
            raise _unusable(path, f"it holds no '{key}': another version of srdeploy wrote it")
        if not isinstance(state[key], kind):
            raise _unusable(path, f"its '{key}' is a {type(state[key]).__name__}")
    if state["recipe"] != fixed:
        differ = sorted(
            str(k) for k in {*state["recipe"], *fixed} if state["recipe"].get(k) != fixed.get(k)
        )
        raise InputError(
            f"{path} belongs to another run: it differs in {', '.join(differ)}",
            hint="resume with the recipe, the seed and the start it began with, or give another --name or -o",
        )
    if not 0 <= state["step"] <= run.recipe.steps:
        raise _unusable(path, f"its step is {state['step']} of {run.recipe.steps}")
    net = run.net
    try:
        for part in ("net", "ema"):
            check_state_dict(net, state[part], source=f"its '{part}'")
        net.load_state_dict(state["net"])
        run.optimiser.load_state_dict(state["optimiser"])
        if any(
            of[key].shape != p.shape
            for p, of in run.optimiser.state.items()
            for key in ("exp_avg", "exp_avg_sq")
        ):
            raise ValueError
        for name, value in run.ema.items():
            value.copy_(state["ema"][name])
    except SrDeployError as e:
        raise _unusable(path, e.message) from e
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as e:
        raise _unusable(path, "its optimiser does not fit the network") from e
    for key in _OF_RUN:
        setattr(run, key, state[key])


def _unusable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be resumed from: {reason}", hint="begin again, by another --name or -o"
    )
