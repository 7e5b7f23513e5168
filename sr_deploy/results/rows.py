"""Rows: the results of a measurement with all its conditions. And the JSONL files of rows."""

from __future__ import annotations

import dataclasses
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.core.files import make_output_folder, write_hint
from sr_deploy.core.jsonio import LONE_SURROGATE, from_dict, has_lone_surrogates
from sr_deploy.core.precisions import lowest_precision

SCHEMA = 3
"""3: `executed` is of the plain network on the whole image; 2: of the largest branch on the same
patches, overlaps on both sides."""
READABLE_SCHEMAS = (2, SCHEMA)
DEPLOY_CELL = "deploy "
"""Begins the cells of rows of `deploy`: their files are in `engines/` and `graphs/` beside them."""
BICUBIC = "bicubic"
"""The model and backend of the rows of bicubic upscaling."""
PUBLISHED = "published"
"""The backend of numbers that a challenge's results.json has: not measured here."""

_NUMBER = (int, float)
_IMAGE_TYPES: Dict[str, Any] = {
    "image": str,
    "split": str,
    "lr_hw": list,
    "psnr_db": (*_NUMBER, type(None)),
    "ssim": (*_NUMBER, type(None)),
    "ms": _NUMBER,
}


@dataclass(frozen=True)
class BenchmarkRow:
    """A row of `bench`. A missing value is None, never 0. NTIRE's tables call `macs_g` FLOPs."""

    model: str
    variant: str
    backend: str
    artifact: str = ""
    """The measured file, or the text of a network's code; empty for a checkpoint run by torch."""
    artifact_sha256: str = ""
    target: str = ""
    """The target of the artifact; empty for a checkpoint and for a graph without a target."""
    cell: str = ""
    """The cell of a sweep. The last row of a cell replaces the earlier ones."""
    backend_version: str = ""
    device: str = ""
    power_mode: Optional[str] = None
    threads: Optional[int] = None
    precision: str = ""
    """The precision that was really computed in."""
    precision_asked: str = ""
    psnr_db_vs_fp32: Optional[float] = None
    """Of an engine: how near its output is to the FP32 graph's, as its build measured it."""
    int8: Optional[Dict[str, Any]] = None
    """Of an INT8 graph or its engine, as the export measured it with the pictures for calibration:
    `loss_db` (PSNR lost), `max_loss_db` (the limit), `kept` (layers in floating point), the
    `method` of the calibration, and `curve`: `loss_db` by the number of layers `kept`."""
    scale: Optional[int] = None
    input_hw: Optional[Tuple[int, int]] = None
    """LR (h, w) of the latency and memory; None where images of several sizes are timed."""
    batch: int = 1
    protocol: str = "steady"
    """A name in `results/protocols.py`. It decides which statistic of the latencies is the time."""
    settings: str = ""
    """How a device was driven: CUDA graph, waiting, copies."""
    cadence_hz: Optional[float] = None
    """The rate at which single frames came; None: back to back."""
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
    """The wall clock, or events on the device. Events do not include `copies_ms`."""
    copies_ms: Optional[float] = None
    """Copies to and from the device."""
    mem_peak_mib: Optional[float] = None
    mem_definition: str = ""
    params: Optional[int] = None
    macs_g: Optional[float] = None
    acts_m: Optional[float] = None
    convs: Optional[int] = None
    counter: str = ""
    counted_hw: Optional[Tuple[int, int]] = None
    executed: Optional[Dict[str, Any]] = None
    """Of an adaptive network: `share` of the plain network's multiply-accumulates on whole images,
    over the scored images, `timed_share` on the timed input, `ways`: the part of the pixels that
    took each way, and `macs_g`: the multiply-accumulates executed over the scored images, for an
    image of 256x256 on average. A share is above 1 where overlaps and the router cost more than is
    saved. Older rows lack `macs_g`, and have another basis: see SCHEMA. None: always all of the
    row's `macs_g`."""
    executed_g: Optional[float] = None
    """Multiply-accumulates for an image of 256x256, in G, counted alike for all networks: by fvcore
    with what it leaves out, as trained or as deployed, the less of both, so without the zeros that
    a faster form multiplies; of an adaptive network those executed over the scored images, on
    average. Older rows lack it."""
    uncounted: Optional[Dict[str, Any]] = None
    """Operators that compute but are not counted, with the number of their calls."""
    uncounted_macs: Optional[Dict[str, Any]] = None
    """Of these, the multiply-accumulates of convolutions and matrix products by operator, which
    `macs_g` lacks."""
    deployed: Optional[Dict[str, Any]] = None
    """The same counts of the graph that runs, where it is not the network as trained."""
    set: str = ""
    test_set: str = ""
    """The second set of a challenge. Its images have the split `test`: they are part of
    `latency_ms_mean` but not of `psnr_db`."""
    images: Tuple[Dict[str, Any], ...] = ()
    """For each image `image`, `split` (valid or test), `lr_hw`, `psnr_db` (None: identical), `ssim`
    (both None: not scored) and `ms`; of an adaptive network also `macs_g`, the multiply-accumulates
    executed for it, which older rows lack."""
    degradation: str = "bi"
    """How LR was made from HR, as in `core/degradation.py`; `given` if it was not."""
    metric: str = ""
    border_px: Optional[int] = None
    psnr_db: Optional[float] = None
    ssim: Optional[float] = None
    bicubic_psnr_db: Optional[float] = None
    """Of bicubic upscaling, over the same images: a network below it makes them worse."""
    tiling: str = ""
    """How images fit a static graph: `whole`, or `tiled 256x512, overlap 16` (then not exact)."""
    conditions: Optional[Dict[str, Any]] = None
    """`before` and `during`: load, cores used by other processes, clocks, temperature and power, as
    far as the machine reports them."""
    warnings: Tuple[str, ...] = ()
    """Reasons to distrust the numbers."""
    python: str = ""
    git_rev: str = ""
    date_utc: str = ""
    baseline: Optional[Dict[str, Any]] = None
    """The challenge's baseline as measured in turns with this network: its `name`, `ms`, `macs_g`
    and `params_m`. None: it was not measured."""
    error: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True)
class QualityRow:
    """A row of `eval`: the score of a variant or artifact on one set.

    A missing value is None, never 0. An infinite PSNR is None.
    """

    model: str
    variant: str
    backend: str
    artifact: str
    """The scored file; empty for a checkpoint run by torch."""
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
    images: Tuple[Dict[str, Any], ...]
    """For each image `image`, `psnr_db` and `ssim`; of an adaptive network also `macs_g`."""
    executed: Optional[Dict[str, Any]] = None
    """Of an adaptive network, as in `BenchmarkRow`: its `timed_share` is the `share`."""
    artifact_sha256: str = ""
    backend_version: str = ""
    precision: str = ""
    device: str = ""
    """Name of the GPU; empty: the CPU."""
    settings: str = ""
    """How the device was driven, as in `BenchmarkRow`."""
    warnings: Tuple[str, ...] = ()
    error: str = ""


def append_rows(path: Path, rows: Iterable[BenchmarkRow]) -> None:
    """Append rows to a JSONL file. Raises InputError when it cannot be written."""
    append_lines(path, map(dataclasses.asdict, rows))


def append_lines(path: Path, dicts: Iterable[Dict[str, Any]]) -> None:
    """Append a line of JSON for each dict. Raises InputError when the file cannot be written."""
    make_output_folder(path.parent)
    lines = [json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in dicts]
    drop_partial_line(path)
    with _writing(path), open(path, "a", encoding="utf-8") as f:
        f.write("".join(lines))
        f.flush()
        os.fsync(f.fileno())


def drop_partial_line(path: Path) -> bool:
    """Remove an incomplete last line, which a killed process leaves; return whether there was one.

    A complete last line without a line break gets one. Raises InputError when the file cannot be
    written.
    """
    with _writing(path):
        lines, _, tail = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        if not tail:
            return False
        try:
            json.loads(tail.decode("utf-8"))
        except ValueError:
            os.truncate(str(path), len(lines) + 1 if lines else 0)
            return True
        with open(path, "ab") as f:
            f.write(b"\n")
        return False


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror or e}", hint=write_hint(e)) from e


def executed_of_plain(row: BenchmarkRow) -> bool:
    """Return whether `executed` is of the plain network on the whole image, as since schema 3."""
    return row.executed is not None and row.schema > 2


def read_rows(path: Path) -> List[BenchmarkRow]:
    """Read a JSONL file of rows, or the rows.jsonl of a folder.

    Raises InputError with the number of an invalid line.
    """
    path = path / "rows.jsonl" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as e:
        raise InputError(
            f"cannot read the rows {path}: {e.strerror or e}",
            hint="expected a rows.jsonl as written by srdeploy bench -o",
        ) from e
    except UnicodeDecodeError as e:
        raise InputError(f"cannot read the rows {path}: not a UTF-8 text file") from e
    return [
        _parse_row(line, f"{path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _parse_row(line: str, source: str) -> BenchmarkRow:
    data = _parse_json(line, source)
    if isinstance(data, dict) and any(is_challenge_entry(entry) for entry in data.values()):
        raise InputError(
            f"{source}: the results.json of a challenge, not rows",
            hint="srdeploy table reads it",
        )
    if not isinstance(data, dict) or data.get("schema") not in READABLE_SCHEMAS:
        schema = data.get("schema", "") if isinstance(data, dict) else ""
        if schema == "":
            raise InputError(
                f"{source}: not a row of schema {SCHEMA}: it has no 'schema'",
                hint="expected a rows.jsonl as written by srdeploy bench -o",
            )
        raise InputError(
            f"{source}: not a row of schema {SCHEMA}; its schema is {schema!r:.20}",
            hint="measure again with this version",
        )
    row = from_dict(BenchmarkRow, data, source=source, error=InputError)
    for image in row.images:
        for key, kind in _IMAGE_TYPES.items():
            value = image.get(key, ...)
            if not isinstance(value, kind) or (key == "lr_hw" and not _is_hw(value)):
                raise InputError(
                    f"{source}: '{key}' of an image is missing or has the wrong type",
                    hint="measure again",
                )
        if not isinstance(image.get("macs_g", 0), _NUMBER):
            raise InputError(f"{source}: 'macs_g' of an image is no number", hint="measure again")
    for key in ("latency_ms_median", "latency_ms_mean"):
        latency = getattr(row, key)
        if latency is not None and latency <= 0:
            raise InputError(
                f"{source}: key '{key}': expected more than 0, found {latency!r}",
                hint="measure again",
            )
    if row.int8 is not None:
        _check_int8(row.int8, source)
    if row.deployed and not isinstance(row.deployed.get("macs"), _NUMBER):
        raise InputError(f"{source}: key 'deployed' has no number 'macs'", hint="measure again")
    if row.baseline is not None:
        _check_baseline(row.baseline, source)
    for share in ("share", "timed_share") if row.executed else ():
        if not isinstance((row.executed or {}).get(share), _NUMBER):
            problem = f"{source}: key 'executed' has no number '{share}'"
            raise InputError(problem, hint="measure again")
    if not isinstance((row.executed or {}).get("macs_g", 0), _NUMBER):
        raise InputError(f"{source}: 'macs_g' of 'executed' is no number", hint="measure again")
    return row


def _check_int8(int8: Dict[str, Any], source: str) -> None:
    curve = int8.get("curve", [])
    points = curve if isinstance(curve, list) else [curve]
    numbers = [p.get(key) for p in points if isinstance(p, dict) for key in ("kept", "loss_db")]
    if len(numbers) < 2 * len(points) or not all(isinstance(n, _NUMBER) for n in numbers):
        problem = f"{source}: 'curve' of 'int8' has a point without 'kept' and 'loss_db'"
        raise InputError(problem, hint="measure again")


def _check_baseline(baseline: Dict[str, Any], source: str) -> None:
    if not isinstance(baseline.get("name"), str):
        raise InputError(f"{source}: key 'baseline' has no 'name'", hint="measure again")
    for key in ("ms", "macs_g", "params_m"):
        value = baseline.get(key)
        if not isinstance(value, _NUMBER) or isinstance(value, bool) or value <= 0:
            problem = f"{source}: key 'baseline' has no number '{key}' above 0"
            raise InputError(problem, hint="measure again")


def is_challenge_entry(entry: object) -> bool:
    """Return whether a value of a JSON object is an entry of a challenge's results.json."""
    return isinstance(entry, dict) and "valid_runtime" in entry


def _is_hw(value: List[Any]) -> bool:
    return len(value) == 2 and all(type(n) is int for n in value)


def _parse_json(line: str, source: str) -> Any:
    def refuse_constant(constant: str) -> None:
        raise ValueError(f"{constant} is not allowed; a missing value is null")

    try:
        data = json.loads(line, parse_constant=refuse_constant)
        if has_lone_surrogates(data):
            raise InputError(f"{source}: {LONE_SURROGATE}", hint="measure again")
        return data
    except RecursionError as e:
        raise InputError(f"{source}: not valid JSON: nested too deeply") from e
    except ValueError as e:  # of json, of refuse_constant, or of an integer with too many digits
        raise InputError(f"{source}: not valid JSON: {getattr(e, 'msg', e)}") from e


def filter_rows(rows: Sequence[BenchmarkRow], where: Sequence[str]) -> List[BenchmarkRow]:
    """Return the rows that meet all conditions `KEY=VALUE` or `KEY=A,B`; of a cell the last.

    `precision=int8` holds for all rows that compute in INT8, with or without layers in another.
    Raises InputError when a key is unknown or no row is left.
    """
    last = {row.cell: i for i, row in enumerate(rows) if row.cell}
    left = [row for i, row in enumerate(rows) if not row.cell or last[row.cell] == i]
    keys = [f.name for f in dataclasses.fields(BenchmarkRow)]
    for condition in where:
        key, equals, value = condition.partition("=")
        if not equals or key not in keys:
            raise InputError(
                f"'{condition}' is not a condition; expected KEY=VALUE with a key of rows.jsonl",
                hint=did_you_mean(key, keys) if key not in keys else f"add the value: {key}=...",
            )
        present = [text_of(getattr(row, key)) for row in left]
        accepted = {value, *value.split(",")}
        left = [
            row
            for row, text in zip(left, present)
            if accepted & {text, lowest_precision(text) if key == "precision" else text}
        ]
        if not left:
            values = ", ".join(map(repr, dict.fromkeys(present))) or "not set"
            raise InputError(f"no row has {condition}; in these rows {key} is {values}"[:500])
    return left


def scored_images(row: BenchmarkRow) -> Tuple[Tuple[object, ...], ...]:
    """Return split, name and LR size of a row's images, sorted.

    Two folders may have the same name, so rows of the same `set` need not be of the same images.
    """
    return tuple(sorted((i["split"], i["image"], *i["lr_hw"]) for i in row.images))


def text_of(value: object) -> str:
    """Return a row's value as users write it: `256x256` for a size, an empty text for None."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "" if value is None else str(value)
