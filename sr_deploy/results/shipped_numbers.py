"""What the shipped models measured: numbers from the published rows, which an install lacks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import read_dataclass, to_json
from sr_deploy.core.spec import network_name
from sr_deploy.results.columns import fps
from sr_deploy.results.precisions import losses_db, precision_of
from sr_deploy.results.protocols import time_ms
from sr_deploy.results.rows import BenchmarkRow, text_of

FILE = "measured.json"
"""In the folder of the shipped models. Written by `python3 benchmarks/regenerate.py`."""
_ROWS = {
    "backend": "onnxruntime",
    "precision": "fp32",
    "input_hw": (256, 256),
    "protocol": "steady",
}
"""The rows whose numbers are shipped: of the form that a machine without a GPU runs."""


@dataclass(frozen=True)
class MeasuredConditions:
    """What the numbers of all shipped models were measured with."""

    runtime: str
    precision: str
    device: str
    threads: int
    input: str
    """LR size, height x width."""
    protocol: str
    set: str
    images: int
    metric: str
    dates: str

    def __str__(self) -> str:
        return (
            f"PSNR on {self.set} ({self.metric.upper()}, border the scale); time of an LR image of "
            f"{self.input} by {self.runtime}, {self.precision}, on {self.device}, {self.threads} "
            "threads"
        )


@dataclass(frozen=True)
class MeasuredNumbers:
    """The numbers of a variant. None: not measured."""

    psnr_db: Optional[float]
    ssim: Optional[float]
    time_ms: Optional[float]
    fps: Optional[float]
    memory_mib: Optional[float]
    params: Optional[int]
    macs_g: Optional[float]
    """Multiply-accumulates at 256x256, as NTIRE's tables count FLOPs."""


@dataclass(frozen=True)
class PrecisionNumbers:
    """The numbers of a variant in one precision by one runtime. None: not measured."""

    network: str
    """`asrn_x4.d3`."""
    runtime: str
    precision: str
    psnr_db: Optional[float]
    loss_db: Optional[float]
    """PSNR lost against FP32."""
    time_ms: Optional[float]
    fps: Optional[float]


@dataclass(frozen=True)
class MeasuredPrecisions:
    """The numbers in all precisions, which were timed in turns, so not with the others."""

    conditions: str
    networks: Tuple[PrecisionNumbers, ...]


@dataclass(frozen=True)
class _File:
    conditions: Dict[str, Any]
    networks: Dict[str, Any]
    precisions: Optional[Dict[str, Any]] = None


def shipped_numbers() -> Tuple[Optional[MeasuredConditions], Mapping[str, MeasuredNumbers]]:
    """Return the conditions, and the numbers by network, such as `asrn_x4.d3`.

    None and nothing without the file, as in a checkout of which only a part is there.
    """
    path = data_folder("models") / FILE
    if not path.is_file():
        return None, {}
    content = read_dataclass(_File, path, InputError)
    numbers = {name: MeasuredNumbers(**values) for name, values in content.networks.items()}
    return MeasuredConditions(**content.conditions), numbers


def shipped_precisions() -> Optional[MeasuredPrecisions]:
    """Return the numbers of the shipped models in all precisions; None where there are none."""
    path = data_folder("models") / FILE
    content = read_dataclass(_File, path, InputError) if path.is_file() else None
    if content is None or content.precisions is None:
        return None
    networks = tuple(PrecisionNumbers(**values) for values in content.precisions["networks"])
    return MeasuredPrecisions(content.precisions["conditions"], networks)


def numbers_file(rows: Sequence[BenchmarkRow], of_precisions: Sequence[BenchmarkRow] = ()) -> str:
    """Return the content of FILE: of a network measured twice, the last row.

    of_precisions: rows of networks in all precisions, timed in turns; empty: there are none. Those
    of another checkpoint of the same name, by its PSNR in FP32, are left out.
    Raises InputError when the rows were not measured alike.
    """
    chosen = [r for r in rows if not r.error and _is_shown(r)]
    conditions = [_conditions(r, chosen) for r in chosen]
    if len(set(conditions)) != 1:
        raise InputError(f"rows of {len(set(conditions))} conditions; expected one")
    networks = {network_name(r.model, r.variant): dataclasses.asdict(_numbers(r)) for r in chosen}
    content = {"conditions": dataclasses.asdict(conditions[0]), "networks": networks}
    psnr_db = {name: values["psnr_db"] for name, values in networks.items()}
    measured = _of_checkpoints([row for row in of_precisions if not row.error], psnr_db)
    if measured:
        content["precisions"] = dataclasses.asdict(_precisions(measured))
    return to_json(content)


def _of_checkpoints(
    rows: Sequence[BenchmarkRow], psnr_db: Mapping[str, Optional[float]]
) -> Sequence[BenchmarkRow]:
    """Return the rows of networks whose row in FP32 has that PSNR."""
    known = {
        name
        for name, row in ((network_name(r.model, r.variant), r) for r in rows if _is_shown(r))
        if _rounded(row.psnr_db, 2) == _rounded(psnr_db.get(name), 2)
    }
    return [r for r in rows if network_name(r.model, r.variant) in known]


def _precisions(rows: Sequence[BenchmarkRow]) -> MeasuredPrecisions:
    alike = {(r.device, r.threads, r.input_hw, r.set, r.metric) for r in rows}
    if len(alike) != 1:
        raise InputError(f"rows in several precisions of {len(alike)} conditions; expected one")
    row = rows[0]
    runtimes = sorted({f"{r.backend} {r.backend_version}" for r in rows})
    conditions = (
        f"PSNR on {row.set} ({row.metric.upper()}, border the scale); time of an LR image of "
        f"{text_of(row.input_hw)}, all precisions in turns, by {' and '.join(runtimes)}, on "
        f"{row.device}, {row.threads} threads"
    )
    numbers = [
        PrecisionNumbers(
            network=network_name(r.model, r.variant),
            runtime=r.backend,
            precision=precision_of(r),
            psnr_db=_rounded(r.psnr_db, 3),
            loss_db=_rounded(loss, 3),
            time_ms=_rounded(time_ms(r), 2),
            fps=_rounded(fps(r), 2),
        )
        for r, loss in zip(rows, losses_db(rows))
    ]
    return MeasuredPrecisions(conditions, tuple(numbers))


def _is_shown(row: BenchmarkRow) -> bool:
    return all(getattr(row, key) == value for key, value in _ROWS.items())


def _conditions(row: BenchmarkRow, rows: Sequence[BenchmarkRow]) -> MeasuredConditions:
    days = sorted(r.date_utc[:10] for r in rows)
    return MeasuredConditions(
        runtime=f"{row.backend} {row.backend_version}",
        precision=row.precision,
        device=row.device,
        threads=row.threads or 0,
        input=text_of(row.input_hw),
        protocol=row.protocol,
        set=row.set,
        images=len(row.images),
        metric=row.metric,
        dates=f"{days[0]} to {days[-1]}",
    )


def _rounded(value: Optional[float], digits: int) -> Optional[float]:
    return None if value is None else round(value, digits) + 0.0


def _numbers(row: BenchmarkRow) -> MeasuredNumbers:
    return MeasuredNumbers(
        psnr_db=_rounded(row.psnr_db, 3),
        ssim=_rounded(row.ssim, 4),
        time_ms=_rounded(time_ms(row), 2),
        fps=_rounded(fps(row), 2),
        memory_mib=_rounded(row.mem_peak_mib, 1),
        params=row.params,
        macs_g=_rounded(row.macs_g, 3),
    )
