"""One measured line with all its conditions, of `bench` or of `eval`, and the JSONL files such lines are kept in."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, List, Optional, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import output_folder
from sr_deploy.core.jsonio import from_dict

SCHEMA = 1
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
    backend_version: str = ""
    device: str = ""
    power_mode: Optional[str] = None
    threads: Optional[int] = None
    precision: str = ""
    """What was really computed in."""
    precision_asked: str = ""
    scale: Optional[int] = None
    input_hw: Optional[Tuple[int, int]] = None
    """LR (h, w) of the latency and memory measurement."""
    batch: int = 1
    protocol: str = "steady"
    warmup: Optional[int] = None
    runs: Optional[int] = None
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
    uncounted: Optional[dict] = None
    set: str = ""
    images: Optional[int] = None
    metric: str = ""
    border_px: Optional[int] = None
    psnr_db: Optional[float] = None
    ssim: Optional[float] = None
    tiling: str = ""
    """How images were brought to the size of a static graph: `whole`, or `tiled 256x512, overlap 16` (then not exact)."""
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
    output_folder(path.parent)
    text = "".join(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)
    try:
        torn = path.is_file() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        with open(path, "a", encoding="utf-8") as f:
            f.write("\n" * torn + text)  # a line that a killed run left unfinished stays a line of its own
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror or e}", hint="give another folder with -o") from e


def read_rows(path: Path) -> List[BenchmarkRow]:
    """Read a JSONL file of rows. Raises InputError naming the line that is not one of this schema."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"cannot read the rows {path}: {e}") from e
    rows = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        source = f"{path}, line {number}"
        try:
            data = json.loads(line)
        except json.JSONDecodeError as e:
            raise InputError(f"{source}: not valid JSON: {e.msg}") from e
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise InputError(f"{source}: not a row of schema {SCHEMA}", hint="measure again with this version")
        rows.append(from_dict(BenchmarkRow, data, source=source, error=InputError))
    return rows
