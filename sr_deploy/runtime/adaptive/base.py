"""Base of sessions whose network decides how much it computes."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, CannotRunHereError
from sr_deploy.core.interface import LUMA
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import BackendInfo, ExecutedWork, PeakMemory, Session
from sr_deploy.runtime.adaptive.tiles import HostArrays


@dataclass(frozen=True)
class AdaptiveOutput:
    """An upscaled image, and what was computed for it."""

    y_nchw: np.ndarray
    """(1, 3, scale*H, scale*W) float32, not clipped."""
    decisions: np.ndarray
    """(H, W) float32: how much was computed at each LR pixel, from 0 (the least) to 1 (all)."""
    work: ExecutedWork


def check_adaptive_run(run: RunOptions) -> None:
    """Raise CannotRunHereError for settings that adaptive networks do not have."""
    if run.precision == "fp32":
        run = replace(run, precision=None)
    if run.torch_settings:
        raise CannotRunHereError(
            f"--{run.torch_settings[0]} is not available for adaptive networks: "
            "they run in FP32, by eager torch or by ONNX Runtime",
            hint=f"omit --{run.torch_settings[0]}",
        )


def check_outputs(name: str, outputs: Sequence[Any], *shapes: Tuple[int, ...]) -> None:
    """Raise ArtifactError unless a part of the network has outputs of these shapes, in floats.

    outputs: arrays, or tensors on a device. -1 in a shape stands for any size.
    """
    found = [tuple(output.shape) for output in outputs]
    same = len(found) == len(shapes) and all(
        len(a) == len(b) and all(n in (m, -1) for m, n in zip(a, b)) for a, b in zip(found, shapes)
    )
    if not same or not all("float" in str(output.dtype) for output in outputs):
        raise ArtifactError(
            f"{name} does not fit its plan: it gives {_listed(found)}, expected {_listed(shapes)} "
            "in floating point",
            hint="export the model again",
        )


def _listed(shapes: Sequence[Tuple[int, ...]]) -> str:
    return ", ".join(str(shape).replace("-1", "any") for shape in shapes) or "nothing"


class AdaptiveSession(Session):
    """Sums up the work of its runs, and records their decisions on request."""

    precision = "fp32"
    levels: Tuple[str, ...] = ()
    """Names of evenly spaced decisions, from 0 to 1."""

    def __init__(self, name: str, scale: int, info: BackendInfo) -> None:
        self.name, self.scale = name, scale
        self.backend, self.backend_version = info.backend, info.version
        self.threads, self.precision = info.threads, info.precision
        if info.device is not None:
            self.device, self.place = info.device.name, info.device.place
            self.why_cpu = info.device.why_cpu
            self.threads = None if self.device else info.threads
        self._info = info
        self.arrays: HostArrays = info.arrays or HostArrays()
        self.decisions: Optional[List[np.ndarray]] = None
        """If a list: one (H, W, 2) array per run since `reset_work`, its decisions and its luma."""
        self._work, self._own, self._budget = ExecutedWork(), 1.0, True
        self._fed_px: Optional[int] = None

    @property
    def settings(self) -> str:  # type: ignore[override]
        """How the device is driven, as far as it has run."""
        device = () if self._info.device is None else self._info.device.settings
        return ", ".join((*self._info.settings, *device))

    def _release(self) -> None:
        self.arrays.release()
        if self._info.device is not None:
            self._info.device.release()

    def reset_peak_memory(self) -> None:
        if self._info.device is not None:
            self._info.device.reset_peak_memory()

    def peak_memory(self) -> Optional[PeakMemory]:
        return None if self._info.device is None else self._info.device.peak_memory()

    def reset_work(
        self, *, own: float = 1.0, budget: bool = True, fed_px: Optional[int] = None
    ) -> None:
        self._work, self._own, self._budget = ExecutedWork(), own, budget
        self._fed_px = fed_px
        if self.decisions is not None:
            self.decisions = []

    def executed_work(self) -> ExecutedWork:
        return self._work

    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        output = self.run_adaptive(x_nchw)
        self._work += output.work
        if self.decisions is not None:
            luma = np.tensordot(np.array(LUMA, np.float32), x_nchw[0], axes=1)
            self.decisions.append(np.stack([output.decisions, luma], axis=-1))
        return output.y_nchw

    @abc.abstractmethod
    def run_adaptive(self, x_nchw: np.ndarray) -> AdaptiveOutput:
        """Upscale a checked (1, 3, H, W) float32 input in 0..1, RGB."""
