"""One measured line with all its conditions, of `bench` or of `eval`, and the JSONL files such lines are kept in."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.jsonio import from_dict

SCHEMA = 2
_NUMBER = (int, float)
_IMAGE = {
    "image": str,
    "split": str,
    "lr_hw": list,
    "psnr_db": (*_NUMBER, type(None)),
    "ssim": _NUMBER,
    "ms": _NUMBER,
}
BICUBIC = "bicubic"
"""The model and backend of the rows that are no network's."""


@dataclass(frozen=True)
class BenchmarkRow:
    """Missing is None, never 0. `macs_g` is what NTIRE's tables call FLOPs."""

    model: str
    variant: str
    backend: str
    artifact: str = ""
    """The file measured; empty for a checkpoint run by torch."""
    artifact_sha256: str = ""
    target: str = ""
    """The profile the artifact was made for; empty for a checkpoint and for a graph for none."""
    cell: str = ""
    """Which cell of a sweep it is; of several rows of one cell the last one counts."""
    backend_version: str = ""
    device: str = ""
    power_mode: Optional[str] = None
    threads: Optional[int] = None
    precision: str = ""
    """What was really computed in."""
    precision_asked: str = ""
    scale: Optional[int] = None
    input_hw: Optional[Tuple[int, int]] = None
    """LR (h, w) of the latency and memory measurement; None where it is taken on images of several sizes."""
    batch: int = 1
    protocol: str = "steady"
    """One of `core/protocols.py`: it decides which statistic of the latencies is the row's time."""
    settings: str = ""
    """How a device was driven: CUDA graph, waiting, copies."""
    cadence_hz: Optional[float] = None
    """Frames came one by one at this rate; None: back to back."""
    warmup: Optional[int] = None
    runs: Optional[int] = None
    latencies_ms: Tuple[float, ...] = ()
    """Every timed run, in order."""
    latency_ms_mean: Optional[float] = None
    latency_cv: Optional[float] = None
    """Standard deviation over mean."""
    latency_ms_median: Optional[float] = None
    latency_ms_p90: Optional[float] = None
    latency_ms_p95: Optional[float] = None
    latency_ms_p99: Optional[float] = None
    first_ms: Optional[float] = None
    timer: str = ""
    """What timed it: the wall clock, or events on the device (then without `copies_ms`, the copies to and from it)."""
    copies_ms: Optional[float] = None
    mem_peak_mib: Optional[float] = None
    mem_definition: str = ""
    params: Optional[int] = None
    macs_g: Optional[float] = None
    acts_m: Optional[float] = None
    convs: Optional[int] = None
    counter: str = ""
    counted_hw: Optional[Tuple[int, int]] = None
    executed: Optional[dict] = None
    """Of a network that decides how much it computes: `share` of the largest's multiply-accumulates over the scored images,
    `timed_share` on the input that was timed, `ways`: the part of the pixels that went each way. None: always all of `macs_g`."""
    uncounted: Optional[dict] = None
    """Operators that compute but that the counter gives nothing for, with the number of their calls."""
    deployed: Optional[dict] = None
    """The same counts of the graph that really runs, where it is not the network as trained."""
    set: str = ""
    test_set: str = ""
    """The second set of a challenge; its images have the split `test`, and are in `latency_ms_mean` but not in `psnr_db`."""
    images: Tuple[dict, ...] = ()
    """For each image `image`, `split` (valid or test), `lr_hw`, `psnr_db` (None: identical), `ssim` and `ms`."""
    metric: str = ""
    border_px: Optional[int] = None
    psnr_db: Optional[float] = None
    ssim: Optional[float] = None
    tiling: str = ""
    """How images were brought to the size of a static graph: `whole`, or `tiled 256x512, overlap 16` (then not exact)."""
    conditions: Optional[dict] = None
    """`before` and `during`: load, other processes' cores, clocks, temperature, power, as far as the machine tells."""
    warnings: Tuple[str, ...] = ()
    """What a reader must know before trusting the numbers."""
    python: str = ""
    git_rev: str = ""
    date_utc: str = ""
    error: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True)
class QualityRow:
    """What a variant or artifact scores on one set. Missing is None, never 0; an infinite PSNR is None."""

    model: str
    variant: str
    backend: str
    artifact: str
    """The file scored; empty for a checkpoint run by torch."""
    set: str
    metric: str
    border_px: Optional[int]
    psnr_db: Optional[float]
    ssim: Optional[float]
    degradation: str
    scale: Optional[int]
    params: Optional[int]
    macs_g: Optional[float]
    counter: str
    counted_hw: Optional[Tuple[int, int]]
    tiling: str
    images: Tuple[dict, ...]
    """For each image `image`, `psnr_db` and `ssim`."""
    artifact_sha256: str = ""
    backend_version: str = ""
    precision: str = ""
    error: str = ""


def append_rows(path: Path, rows: Iterable[BenchmarkRow]) -> None:
    """Append rows to a JSONL file, whole lines only. Raises InputError when it cannot be written."""
    make_output_folder(path.parent)
    text = "".join(
        json.dumps(dataclasses.asdict(row), ensure_ascii=False, allow_nan=False) + "\n"
        for row in rows
    )
    drop_partial_line(path)
    try:
        with open(path, "a", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise InputError(
            f"cannot write {path}: {e.strerror or e}", hint="give another folder with -o"
        ) from e


def drop_partial_line(path: Path) -> bool:
    """Take away the last line where a killed run left half of one; tell whether it did. Raises InputError when it cannot be written."""
    try:
        whole, _, tail = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        if not tail:
            return False
        try:
            json.loads(tail.decode("utf-8"))
        except ValueError:
            os.truncate(str(path), len(whole) + 1 if whole else 0)
            return True
        with open(path, "ab") as f:
            f.write(b"\n")
        return False
    except OSError as e:
        raise InputError(
            f"cannot write {path}: {e.strerror or e}", hint="give another folder with -o"
        ) from e


def read_rows(path: Path) -> List[BenchmarkRow]:
    """Read a JSONL file of rows. Raises InputError naming the line that is not one of this schema."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as e:
        raise InputError(
            f"cannot read the rows {path}: {e.strerror or e}",
            hint="give a rows.jsonl, as srdeploy bench -o writes it",
        ) from e
    except UnicodeDecodeError as e:
        raise InputError(f"cannot read the rows {path}: not a UTF-8 text file") from e
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        source = f"{path}, line {number}"
        data = _parsed(line, source)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            seen = (
                f"; its schema is {data['schema']!r:.20}"
                if isinstance(data, dict) and "schema" in data
                else ""
            )
            raise InputError(
                f"{source}: not a row of schema {SCHEMA}{seen}",
                hint="measure again with this version",
            )
        row = from_dict(BenchmarkRow, data, source=source, error=InputError)
        for image in row.images:
            wrong = [
                key for key, kind in _IMAGE.items() if not isinstance(image.get(key, ...), kind)
            ]
            if wrong:
                raise InputError(
                    f"{source}: an image lacks its {wrong[0]}, or it is no such value",
                    hint="measure again",
                )
        for key in ("latency_ms_median", "latency_ms_mean"):
            if getattr(row, key) is not None and getattr(row, key) <= 0:
                raise InputError(
                    f"{source}: key '{key}': expected more than 0, found {getattr(row, key)!r}",
                    hint="measure again",
                )
        if row.deployed and not isinstance(row.deployed.get("macs"), _NUMBER):
            raise InputError(
                f"{source}: key 'deployed' lacks its macs, a number", hint="measure again"
            )
        rows.append(row)
    return rows


def filter_rows(rows: Sequence[BenchmarkRow], where: Sequence[str]) -> List[BenchmarkRow]:
    """Return the rows that meet each `KEY=VALUE`, in which the value may be a list `A,B`; of several rows of a cell the last.

    Raises InputError when a key is unknown or no row is left.
    """
    last = {row.cell: i for i, row in enumerate(rows) if row.cell}
    left = [row for i, row in enumerate(rows) if not row.cell or last[row.cell] == i]
    keys = [f.name for f in dataclasses.fields(BenchmarkRow)]
    for condition in where:
        key, found, value = condition.partition("=")
        if not found or key not in keys:
            hint = did_you_mean(key, keys) if key not in keys else f"say which: {key}=..."
            raise InputError(
                f"'{condition}' is no condition on rows: expected KEY=VALUE, KEY a field of rows.jsonl",
                hint=hint,
            )
        present = dict.fromkeys(text_of(getattr(row, key)) for row in left)
        left = [
            row
            for row in left
            if text_of(getattr(row, key)) == value or text_of(getattr(row, key)) in value.split(",")
        ]
        if not left:
            raise InputError(
                f"no row has {condition}; there {key} is {', '.join(map(repr, present)) or 'in no row'}"[
                    :500
                ]
            )
    return left


def text_of(value: object) -> str:
    """Return a value of a row as people write it: `256x256`, an empty text for None."""
    return (
        "x".join(map(str, value))
        if isinstance(value, tuple)
        else ""
        if value is None
        else str(value)
    )


def _parsed(line: str, source: str) -> Any:
    def refused(constant: str) -> None:
        raise ValueError(f"{constant} is no number there; what is missing is null")

    try:
        return json.loads(line, parse_constant=refused)
    except RecursionError as e:
        raise InputError(f"{source}: not valid JSON: nested too deeply") from e
    except ValueError as e:  # json's own, ours, and Python's of an integer with too many digits
        raise InputError(f"{source}: not valid JSON: {getattr(e, 'msg', e)}") from e
