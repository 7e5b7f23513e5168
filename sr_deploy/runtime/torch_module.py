"""Torch modules as sessions: checkpoints run by torch before any export."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import PeakMemory, Session, TimedOutput
from sr_deploy.runtime.torch_device import TorchDevice, TorchNetwork, torch_device


class TorchSession(Session):
    """Runs a module, (1, 3, H, W) -> (1, 3, scale*H, scale*W)."""

    backend = "torch"

    def __init__(
        self,
        module: Any,
        *,
        scale: int,
        min_hw: Tuple[int, ...] = (1, 1),
        halo_px: Optional[int] = None,
        align_px: int = 1,
        multiple: int = 1,
        run: RunOptions = DEFAULT_RUN,
    ) -> None:
        """Raises CannotRunHereError where torch cannot use the device of `run`."""
        self.torch_device = device = torch_device(run)
        info = device.info()
        self.backend_version = info.version
        self.threads = None if device.name else info.threads
        self.device, self.place, self.why_cpu = device.name, device.place, device.why_cpu
        device.reset_peak_memory()
        with device.computing():
            self._network = TorchNetwork(module, device, run)
        self.precision, self._has_settings = self._network.precision, bool(run.torch_settings)
        self.scale = scale
        self.min_hw, self.halo_px, self.align_px = min_hw, halo_px, align_px
        self.multiple = multiple

    @property
    def settings(self) -> str:  # type: ignore[override]
        """How torch is driven; empty for its defaults on the CPU."""
        shown = self._has_settings or self.place != "cpu"
        return self._network.settings if shown else ""

    @property
    def takes_tensors(self) -> bool:  # type: ignore[override]
        return self.place != "cpu" and self.multiple == 1

    def run_tensor(self, x: Any) -> Any:
        with self.torch_device.computing():
            return self._network(x)

    def reset_peak_memory(self) -> None:
        self.torch_device.reset_peak_memory()

    def peak_memory(self) -> Optional[PeakMemory]:
        return self.torch_device.peak_memory()

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return self._run_timed(x_nchw).y

    def _run_timed(self, x_nchw: np.ndarray) -> TimedOutput:
        return self.torch_device.timed(self._network, x_nchw)

    def _release(self) -> None:
        self._network.release()
        self.torch_device.release()


def array_function(module: Any, device: TorchDevice) -> Callable[[np.ndarray], np.ndarray]:
    """Return a module of one input and one output as a function of arrays, without autograd.

    They are copied to the device and back.
    """
    part = tensor_part(module, device)
    return lambda x: device.to_host(part(x=x)[0])


def tensor_part(module: Any, device: TorchDevice) -> Callable[..., List[Any]]:
    """Return a module as a function of named inputs, given in its order, without autograd.

    Inputs are arrays, or tensors on the device; outputs are a list of tensors on the device, which
    have been computed when it returns.
    """
    import torch

    with device.computing():
        module = module.requires_grad_(False).to(device.where)

    def run(**inputs: Any) -> List[Any]:
        with torch.inference_mode(), device.computing():
            outputs = module(*map(device.to_device, inputs.values()))
            device.wait()
            return list(outputs) if isinstance(outputs, tuple) else [outputs]

    return run
