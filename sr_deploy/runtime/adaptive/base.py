"""A network that decides how much it computes, as a session like any other: pictures, folders, video and bench run it as they do all."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import List, Optional

import numpy as np

from sr_deploy.core.session import Session, Spent


@dataclass(frozen=True)
class Adapted:
    """An upscaled image with what it took."""

    y_nchw: np.ndarray
    """(1, 3, scale*H, scale*W) float32, not clipped."""
    decisions: np.ndarray
    """(H, W) float32: how much was computed at each LR pixel, 0 for the least that there is, 1 for all."""
    spent: Spent


class AdaptiveSession(Session):
    """Adds up what its runs spend."""

    precision = "fp32"

    def __init__(
        self, *, name: str, scale: int, backend: str, backend_version: str, threads: int
    ) -> None:
        self.name, self.scale = name, scale
        self.backend, self.backend_version, self.threads = backend, backend_version, threads
        self.decisions: Optional[List[np.ndarray]] = None
        """Of each run since `begin` (H, W, 2), what was decided and the image's luma, where a list was put here."""
        self._spent = Spent()

    def begin(self) -> None:
        self._spent = Spent()
        if self.decisions is not None:
            self.decisions = []

    def spent(self) -> Spent:
        return self._spent

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        done = self.adapted(x_nchw)
        self._spent += done.spent
        if self.decisions is not None:
            luma = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), x_nchw[0], axes=1)
            self.decisions.append(np.stack([done.decisions, luma], axis=-1))
        return done.y_nchw

    @abc.abstractmethod
    def adapted(self, x_nchw: np.ndarray) -> Adapted:
        """Upscale a checked (1, 3, H, W) float32 input, 0..1, RGB."""
