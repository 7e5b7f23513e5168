"""What a graph loses in dB: its output on crops against the pictures they were made of, and against
the output in FP32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence

import numpy as np
import onnx

from sr_deploy.core.images import rgb_from_nchw
from sr_deploy.core.metrics import border_px, psnr_db
from sr_deploy.export.int8.calibration import CropPair
from sr_deploy.runtime.ort import raw_session

ONE_LEVEL_DB = 20 * float(np.log10(255.0))
"""PSNR of an error of one grey level of 255. A higher one counts as this: what a flat crop loses
above it cannot be seen, and would outweigh the other crops in the mean."""


@dataclass(frozen=True)
class Loss:
    """What a graph loses."""

    loss_db: float
    """Mean of the PSNR of FP32 minus that of this graph, RGB, against ground truth; negative if it
    gains."""
    psnr_db_vs_fp32: float
    """Of its output against that of FP32, of all crops together, at most 120."""
    noise: np.ndarray
    """Squared difference from FP32 in units of FP32's own squared error, of each crop. Those of
    layers add up."""


class OutputsMeter:
    """Measures outputs against those of FP32 on crops."""

    def __init__(self, fp32: Sequence[np.ndarray], pairs: Sequence[CropPair]) -> None:
        self._pairs, self._fp32 = pairs, fp32
        self._border = border_px("rgb", pairs[0].hr.shape[0] // pairs[0].lr.shape[2])
        self._fp32_db = self._psnrs(fp32)

    @property
    def psnr_db(self) -> float:
        """The mean PSNR of FP32 against ground truth."""
        return float(np.mean(self._fp32_db))

    def __call__(self, outputs: Sequence[np.ndarray]) -> Loss:
        """Measure outputs for the LR crops, in order."""
        crop = np.s_[..., self._border : -self._border, self._border : -self._border]
        differences = [
            float(np.mean((np.clip(y, 0, 1)[crop] - np.clip(x, 0, 1)[crop]).astype(float) ** 2))
            for y, x in zip(outputs, self._fp32)
        ]
        own = 10 ** (-self._fp32_db / 10)
        return Loss(
            float(np.mean(self._fp32_db - self._psnrs(outputs))),
            -10 * float(np.log10(max(float(np.mean(differences)), 1e-12))),
            np.array(differences) / own,
        )

    def _psnrs(self, outputs: Sequence[np.ndarray]) -> np.ndarray:
        return np.array(
            [
                min(
                    psnr_db(rgb_from_nchw(y), pair.hr, metric="rgb", border=self._border),
                    ONE_LEVEL_DB,
                )
                for y, pair in zip(outputs, self._pairs)
            ]
        )


class LossMeter:
    """Measures graphs against an FP32 graph on crops.

    The graphs run in ONNX Runtime on the CPU without its optimisations: as written, with Q/DQ
    nodes in floating point. So all targets' arithmetic is measured alike: the products of 8-bit
    numbers and their sums are exact there too.
    """

    def __init__(self, fp32: onnx.ModelProto, pairs: Sequence[CropPair]) -> None:
        self._pairs = pairs
        self._meter = OutputsMeter(_outputs(fp32, pairs), pairs)

    @property
    def psnr_db(self) -> float:
        """The mean PSNR of FP32 against ground truth."""
        return self._meter.psnr_db

    def __call__(self, model: onnx.ModelProto) -> Loss:
        """Measure a graph of the same ends."""
        return self._meter(_outputs(model, self._pairs))


def _outputs(model: onnx.ModelProto, pairs: Sequence[CropPair]) -> List[np.ndarray]:
    session = raw_session(model.SerializeToString(), optimise=False)
    return [session.run(None, {session.get_inputs()[0].name: pair.lr})[0] for pair in pairs]
