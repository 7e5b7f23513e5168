"""Torch modules as sessions: checkpoints run by torch before any export."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from sr_deploy.core.device import usable_cores
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.session import BackendInfo, Session


class TorchSession(Session):
    """Runs a module, (1, 3, H, W) -> (1, 3, scale*H, scale*W), on the CPU in FP32."""

    backend = "torch"
    precision = "fp32"

    def __init__(
        self,
        module: Any,
        *,
        scale: int,
        min_hw: Tuple[int, ...] = (1, 1),
        halo_px: Optional[int] = None,
        align_px: int = 1,
        run: RunOptions = DEFAULT_RUN,
    ) -> None:
        self._run_module = array_function(module.eval())
        info = torch_info()
        self.backend_version, self.threads = info.version, info.threads
        self.scale = scale
        self.min_hw, self.halo_px, self.align_px = min_hw, halo_px, align_px

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        return self._run_module(x_nchw)


def torch_info() -> BackendInfo:
    """Return torch's version and threads; limit its threads to the cores of this process."""
    import torch

    # torch counted the cores when it was first imported.
    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    return BackendInfo("torch", torch.__version__, torch.get_num_threads())


def array_function(module: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a module of one input and one output as a function of arrays, without autograd."""
    import torch

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return run


def array_part(module: Any) -> Callable[..., List[np.ndarray]]:
    """Return a module as a function of named arrays, given in its order; it returns a list."""
    import torch

    def run(**inputs: np.ndarray) -> List[np.ndarray]:
        with torch.inference_mode():
            outputs = module(*map(torch.from_numpy, inputs.values()))
            return [y.numpy() for y in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return run
