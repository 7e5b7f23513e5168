"""A torch module as a session: what a checkpoint is evaluated and timed with before anything is exported."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import numpy as np

from sr_deploy.core.device import usable_cores
from sr_deploy.core.session import Session


class TorchSession(Session):
    """Run a module that maps (1, 3, H, W) to (1, 3, scale*H, scale*W) on the CPU in FP32, outside autograd."""

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
    ) -> None:
        import torch

        self._torch = torch
        self._module = module.eval()
        self.backend_version = torch.__version__
        # As many as it has cores at most: torch counted them when it was first imported.
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
        self.threads = torch.get_num_threads()
        self.scale = scale
        self.min_hw, self.halo_px, self.align_px = min_hw, halo_px, align_px

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self._module(self._torch.from_numpy(x_nchw)).numpy()


def session_of_checkpoint(checkpoint: Any, variant: Optional[str] = None) -> TorchSession:
    """Return a session of a variant of a loaded checkpoint, the largest for None, with all that its architecture tells of it.

    Raises VariantError when the checkpoint does not hold the variant.
    """
    spec, architecture, chosen = (
        checkpoint.spec,
        checkpoint.architecture,
        checkpoint.spec.variant(variant),
    )
    return TorchSession(
        checkpoint.network(str(chosen)),
        scale=spec.scale,
        min_hw=spec.min_hw,
        halo_px=architecture.halo_px(chosen),
        align_px=architecture.align_px(chosen),
    )
