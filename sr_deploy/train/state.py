"""The state of a training run, and NAME.state.pt, the file from which it resumes."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

import torch
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError, InputError, SrDeployError
from sr_deploy.core.files import atomic_path
from sr_deploy.nets.checkpoint import check_state_dict

_RUN_FIELDS: Dict[str, Any] = {
    "step": int,
    "hours": float,
    "best_psnr_db": (float, type(None)),
    "history": list,
    "precision": dict,
    "card": dict,
}
_PARTS: Dict[str, Any] = {
    "recipe": dict,
    "net": dict,
    "ema": dict,
    "optimiser": dict,
    **_RUN_FIELDS,
}


@dataclass
class TrainingRun:
    """Everything that changes during a run."""

    net: nn.Module  # the trained network: Lightning moves and synchronises it
    optimiser: torch.optim.Optimizer
    ema: Dict[str, Tensor]  # the moving average of the weights
    step: int = 0  # number of updates done
    hours: float = 0.0  # time spent, with that of earlier sessions
    best_psnr_db: Optional[float] = None
    history: List[dict] = field(default_factory=list)
    """About twenty entries (step, loss, validation PSNR) for the card."""
    precision: Dict[str, Any] = field(default_factory=dict)
    """State of the gradient scaler of fp16."""
    card: Dict[str, Any] = field(default_factory=dict)
    """Further facts for the card: device, licence, trained_on, images and their fingerprint."""
    interrupted: bool = False
    consistent: bool = True
    """False while an update changes the weights and is not counted yet: nothing may be saved."""

    def save(self, path: Path, fixed: Dict[str, Any]) -> None:
        """Write the state atomically. fixed: recipe, seed and start, shared by all resumed runs."""
        state = {key: getattr(self, key) for key in _RUN_FIELDS}
        state.update(
            recipe=fixed,
            net=self.net.state_dict(),
            ema=self.ema,
            optimiser=self.optimiser.state_dict(),
        )
        buffer = io.BytesIO()  # torch.save to a file does not report a full disk as an OSError
        torch.save(state, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getvalue())

    def begin(self, weights: Dict[str, Tensor]) -> None:
        """Go back to the first step, with the weights of a run's start."""
        self.net.load_state_dict(weights)
        self.ema = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.optimiser.state.clear()
        self.step, self.precision, self.consistent = 0, {}, True

    def load(self, path: Path, fixed: Dict[str, Any], defaults: Dict[str, Any]) -> int:
        """Restore the state and return the run's number of steps, which may differ from `fixed`.

        defaults: of the recipe's fields, for a state of a version that did not have them yet.
        Raises InputError for another run, CheckpointError for a damaged file.
        """
        state = _read_state(path)
        saved = {**defaults, **state["recipe"]}
        steps = saved.get("steps")
        saved["steps"] = fixed["steps"]
        if saved != fixed:
            differing = sorted(str(k) for k in {*saved, *fixed} if saved.get(k) != fixed.get(k))
            raise InputError(
                f"{path} belongs to another run: it differs in {', '.join(differing)}",
                hint="resume with its recipe, seed and start, or choose another --name or -o",
            )
        if not isinstance(steps, int) or not 0 <= state["step"] <= steps:
            raise _unusable(path, f"its step is {state['step']} of {steps}")
        try:
            for part in ("net", "ema"):
                check_state_dict(self.net, state[part], source=f"its '{part}'")
            self.net.load_state_dict(state["net"])
            self.optimiser.load_state_dict(state["optimiser"])
            for p, averages in self.optimiser.state.items():
                if any(averages[key].shape != p.shape for key in ("exp_avg", "exp_avg_sq")):
                    raise ValueError
            for name, value in self.ema.items():
                value.copy_(state["ema"][name])
        except SrDeployError as e:
            raise _unusable(path, e.message) from e
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as e:
            raise _unusable(path, "its optimiser does not fit the network") from e
        for key in _RUN_FIELDS:
            setattr(self, key, state[key])
        return steps


def _read_state(path: Path) -> Dict[str, Any]:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as e:  # damaged bytes can raise any exception
        reason = e.strerror if isinstance(e, OSError) else None
        raise _unusable(path, reason or "it is damaged, or not the state of a run") from e
    if not isinstance(state, dict):
        raise _unusable(path, "it is not the state of a run")
    for key, kind in _PARTS.items():
        if key not in state:
            raise _unusable(path, f"it has no '{key}': another version of srdeploy wrote it")
        if not isinstance(state[key], kind):
            raise _unusable(path, f"its '{key}' has the wrong type")
    return state


def _unusable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"cannot resume from {path}: {reason}", hint="start a new run with another --name or -o"
    )
