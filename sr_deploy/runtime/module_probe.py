"""Probes torch modules of unknown origin: scale, sizes and receptive field, by small runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.graph_interface import ContractError
from sr_deploy.runtime.graph_probe import Fit, find_contract
from sr_deploy.runtime.receptive_field import FieldReport, measure_field

_FITS: Dict[str, Fit] = {}
_FIELDS: Dict[str, FieldReport] = {}
"""By identity of the network: each is probed once in a process."""
REPEATS = 1e-5
"""The largest difference of two runs of one image, relative to the largest output."""


def probe_module(
    module: Any, identity: str, label: str, files: Tuple[Path, ...] = ()
) -> Fit:
    """Return the scale and the sizes of a module in eval mode on the CPU, by running it.

    identity: decides what it computes. files: a user's sources, for the lines of errors. Raises
    InputError for a module that is no super-resolution network, with what was found.
    """
    if identity not in _FITS:
        runs = _ModuleRuns(module, files)
        try:
            fit = find_contract(runs, (None, None))
            runs.check(fit.sizes.min_hw, fit.sizes.multiple)
        except ContractError as e:
            raise InputError(
                f"{label} cannot be used as a super-resolution network: {e}{runs.why}",
                hint="a network takes (1, 3, H, W) float, RGB in 0..1, "
                "and returns one tensor (1, 3, s*H, s*W)",
            ) from e
        _FITS[identity] = fit
    return _FITS[identity]


def module_field(module: Any, identity: str, fit: Fit) -> FieldReport:
    """Return how far the outputs of a module depend on their surroundings, as measured."""
    if identity not in _FIELDS:
        import torch

        def run(x: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                y: np.ndarray = module(torch.from_numpy(x)).numpy()
            return y

        _FIELDS[identity] = measure_field(run, scale=fit.scale, sizes=fit.sizes)
    return _FIELDS[identity]


class _ModuleRuns:
    """Runs a module; `why` has the first failure, for messages."""

    def __init__(self, module: Any, files: Tuple[Path, ...]) -> None:
        self._module, self._files = module, files
        self.why = ""

    def __call__(self, hw: HW) -> Optional[Tuple[int, ...]]:
        """Return the shape of the output at an LR size; None if the run fails."""
        import torch

        y = self._output(torch.zeros(1, 3, *hw))
        return None if y is None else tuple(y.shape)

    def check(self, least: Tuple[int, ...], multiple: int) -> None:
        """Raise ContractError for outputs that differ from run to run, or of another type."""
        import torch

        hw = [-(-n // multiple) * multiple for n in least]
        x = torch.rand(1, 3, *hw, generator=torch.Generator().manual_seed(0))
        first, second = self._output(x), self._output(x)
        assert first is not None and second is not None
        if first.dtype != torch.float32:
            raise ContractError(f"its output is {first.dtype}; expected float32")
        difference = float((first - second).abs().max())
        if difference > REPEATS * max(1.0, float(first.abs().max())):
            raise ContractError(f"two runs of the same image differ by {difference:.2g}")

    def _output(self, x: Any) -> Any:
        import torch

        from sr_deploy.nets.code import code_errors

        try:
            with torch.inference_mode(), code_errors("it fails", self._files):
                y = self._module(x)
        except InputError as e:
            self.why = self.why or f"; at {hw_text(tuple(x.shape[2:]))} {e.message}"
            return None
        if not isinstance(y, torch.Tensor):
            size = f" of {len(y)}" if hasattr(y, "__len__") else ""
            raise ContractError(f"it returns a {type(y).__name__}{size}; expected one tensor")
        if any(part.training for part in self._module.modules()):
            raise ContractError("it turns its training mode on when it runs")
        return y
