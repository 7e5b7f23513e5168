"""Probes torch modules of unknown origin: scale, sizes and receptive field, by small runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Optional, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.interface import ImageEnd, Interface, values_text
from sr_deploy.core.network_code import SCALE_PARAMETERS
from sr_deploy.core.run_options import CPU_RUN
from sr_deploy.core.sizes import HW, hw_text, up_to_multiple
from sr_deploy.core.spec import network_name
from sr_deploy.runtime.graph_interface import ContractError, find_values
from sr_deploy.runtime.graph_probe import Fit, find_contract, photograph_hw
from sr_deploy.runtime.receptive_field import FieldReport, measure_field
from sr_deploy.runtime.torch_device import torch_device
from sr_deploy.runtime.torch_module import array_function

if TYPE_CHECKING:
    from sr_deploy.nets.code import CodeNetwork

REPEATS = 1e-5
"""The largest difference of two runs of one image, relative to the largest output."""


def network_fit(network: CodeNetwork, variant: str) -> Fit:
    """Return the scale and the sizes of a variant, by running it; once for each network.

    Raises InputError for what is no super-resolution network, with what was found.
    """
    if variant not in network.fits:
        runs = _ModuleRuns(network.network(variant), network)
        try:
            fit = find_contract(runs, (None, None))
            runs.check(fit.sizes.min_hw, fit.sizes.multiple)
        except ContractError as e:
            raise InputError(
                f"{network_name(network.label, variant)} cannot be used as a super-resolution "
                f"network: {e}{runs.why}",
                hint="a network takes (1, 3, H, W) float, RGB in 0..1, "
                "and returns one tensor (1, 3, s*H, s*W)",
            ) from e
        network.fits[variant] = fit
    fit = network.fits[variant]
    if network.code.scale not in (None, fit.scale):
        raise InputError(
            f"{network.label} upscales by {fit.scale}, but the scale given is {network.code.scale}",
            hint=f"omit it: it only reaches parameters named {', '.join(SCALE_PARAMETERS)}",
        )
    return fit


def network_field(network: CodeNetwork, variant: str) -> FieldReport:
    """Return how far the outputs of a variant depend on their surroundings, as measured."""
    if variant not in network.fields:
        fit = network_fit(network, variant)
        run = array_function(network.network(variant), torch_device(CPU_RUN))
        network.fields[variant] = measure_field(run, scale=fit.scale, sizes=fit.sizes)
    report: FieldReport = network.fields[variant]
    return report


def network_notes(network: CodeNetwork, variant: str) -> Tuple[str, ...]:
    """Return what a user should know of a variant: whose weights it has, and if its values differ.

    It is shown photographs in 0..1 and in 0..255.
    """
    notes = [] if network.code.weights else ["without --weights: the weights are the code's own"]
    if network.code.value_range == 1:
        run = array_function(network.network(variant), torch_device(CPU_RUN))
        fit = network_fit(network, variant)
        ends = Interface(ImageEnd("input"), ImageEnd("output"))
        with network.running("running it on photographs"):
            found, _ = find_values(run, ends, fit.scale, photograph_hw(fit.sizes))
        if found.input.values[1] > 1:
            notes.append(
                f"photographs in {values_text(found.input.values)} are enlarged well, in 0..1 they "
                f"are not: is --value-range {found.input.values[1]:g} missing?"
            )
    return tuple(notes)


class _ModuleRuns:
    """Runs a module; `why` has the first failure, for messages."""

    def __init__(self, module: Any, network: CodeNetwork) -> None:
        self._module, self._network = module, network
        self.why = ""

    def __call__(self, hw: HW) -> Optional[Tuple[int, ...]]:
        """Return the shape of the output at an LR size; None if the run fails."""
        import torch

        y = self._output(torch.zeros(1, 3, *hw))
        return None if y is None else tuple(y.shape)

    def check(self, least: Tuple[int, ...], multiple: int) -> None:
        """Raise ContractError for outputs that differ from run to run, or of another type."""
        import torch

        hw = up_to_multiple((least[0], least[1]), multiple)
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

        try:
            with torch.inference_mode(), self._network.running("running it"):
                y = self._module(x)
        except InputError as e:
            reason = e.message[len(self._network.label) + 2 :]
            self.why = self.why or f"; at {hw_text(tuple(x.shape[2:]))}, {reason}"
            return None
        if not isinstance(y, torch.Tensor):
            size = f" of {len(y)}" if hasattr(y, "__len__") else ""
            raise ContractError(f"it returns a {type(y).__name__}{size}; expected one tensor")
        if any(part.training for part in self._module.modules()):
            raise ContractError("it turns its training mode on when it runs")
        return y
