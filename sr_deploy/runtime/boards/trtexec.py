"""Read what a board's own `trtexec` leaves behind, and write the job it is given; `on_board/build.sh` is what runs it."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, BuildError

WARM_UP_MS = 2000.0
"""What build.sh warms up for: 8.x exports the runs of that time too."""

_MS = r"[-+\d.einfa]+"


@dataclass(frozen=True)
class Latency:
    """The GPU's compute time as trtexec sums it up; 8.0 to 8.4 print the last percentile only."""

    min_ms: float
    max_ms: float
    mean_ms: float
    median_ms: float
    percentiles_ms: Dict[int, float]


@dataclass(frozen=True)
class LoggedDevice:
    """The GPU and the library as a log of trtexec names them; None where it does not."""

    name: str
    compute_capability: int
    tensorrt: str
    memory_mib: Optional[int] = None
    sms: Optional[int] = None


@dataclass(frozen=True)
class JobLine:
    """One engine of a job. Shapes are NCHW; all None for a static graph."""

    graph: str
    engine: str
    precision: str
    typing: str
    input_name: str = "lr"
    min_shape: Optional[Tuple[int, ...]] = None
    opt_shape: Optional[Tuple[int, ...]] = None
    max_shape: Optional[Tuple[int, ...]] = None


@dataclass(frozen=True)
class Job:
    """What job.txt says: the engines, and what they have in common."""

    lines: Tuple[JobLine, ...]
    runtime: str = "tensorrt"
    versions: str = ""
    workspace_mib: int = 0
    sm: Tuple[int, ...] = ()
    """Compute capabilities the job is for; empty: any."""
    dla: Optional[int] = None
    fp32_layers: Tuple[str, ...] = ()
    """Layers that stay in FP32 in an FP16 engine."""
    measure_s: int = 3


@dataclass(frozen=True)
class EngineResult:
    """What became of one engine; None where it did not come to that."""

    engine: str
    status: str
    """ok; failed: no engine; unmeasured, unchecked: an engine whose timing, or whose check image, failed."""
    exit_code: Optional[int] = None
    build_seconds: Optional[int] = None
    size_bytes: Optional[int] = None
    sha256: str = ""
    fp32_twin_bytes: Optional[int] = None
    """Of the same engine built in FP32, where nothing else tells the precision."""
    build_command: str = ""
    time_exit_code: Optional[int] = None
    time_command: str = ""
    output_exit_code: Optional[int] = None
    output_command: str = ""
    errors: Tuple[str, ...] = ()
    """The last errors of the log."""


@dataclass(frozen=True)
class Results:
    trtexec: str
    version: str
    engines: Tuple[EngineResult, ...]


def version_from_banner(text: str) -> str:
    """Return `8.5.2` for `[TensorRT v8502]`, `10.3.0` for v100300, `11.1.0` for v11.1.0.106. Raises BuildError."""
    match = re.search(r"\[TensorRT[^\]\d]*(\d[\d.]*)", text)
    if match is None:
        raise BuildError(
            "this is no output of trtexec: expected a line with [TensorRT v8502] or alike",
            hint="give trtexec's own log",
        )
    if "." in match[1]:
        return ".".join(match[1].split(".")[:3])
    number, step = int(match[1]), 10 if len(match[1]) <= 4 else 100
    return f"{number // (100 * step)}.{number // 100 % step}.{number % 100}"


def times_from_json(text: str, *, warm_up_ms: float = WARM_UP_MS) -> List[float]:
    """Return the GPU's compute times [ms] of `--exportTimes`, without those of the warm-up. Raises ArtifactError."""
    rows = _json(text, "the exported times")
    try:
        runs = [
            float(row["computeMs"]) for row in rows if float(row["startComputeMs"]) >= warm_up_ms
        ]
    except (KeyError, TypeError, ValueError) as e:
        raise ArtifactError(
            f"the exported times are not trtexec's: {e!r}; expected a list with startComputeMs and computeMs"
        ) from e
    if not runs or not np.isfinite(runs).all():
        raise ArtifactError(
            f"the exported times hold no run after the warm-up of {warm_up_ms:g} ms",
            hint="measure for longer",
        )
    return runs


def latency_from_log(text: str) -> Latency:
    """Return the line `GPU Compute Time` of the log's last summary. Raises ArtifactError where there is none."""
    pattern = rf"(?<!Total )\bGPU Compute Time: min = ({_MS}) ms, max = ({_MS}) ms, mean = ({_MS}) ms, median = ({_MS}) ms([^\r\n]*)"
    matches = re.findall(pattern, text)
    if not matches:
        raise ArtifactError(
            "the log has no line 'GPU Compute Time: min = ...'",
            hint="trtexec prints none when it failed or was profiling",
        )
    *values, rest = matches[-1]
    percentiles = {
        int(float(p)): float(ms)
        for p, ms in re.findall(rf"percentile\(([\d.]+)%\) = ({_MS}) ms", rest)
    }
    return Latency(*(float(v) for v in values), percentiles_ms=percentiles)


def device_from_log(text: str) -> LoggedDevice:
    """Return which GPU and library a log names. Raises ArtifactError when it names no GPU."""

    def find(key: str, value: str) -> str:
        match = re.search(rf"\[I\] {key}: ({value})", text)
        return match[1].strip() if match else ""

    capability = find("Compute Capability", r"\d+\.\d+")
    if not capability:
        raise ArtifactError("the log names no GPU: expected trtexec's section 'Device Information'")
    memory, sms = find("Device Global Memory", r"\d+"), find("SMs", r"\d+")
    return LoggedDevice(
        name=find("Selected Device", r"[^\r\n]*"),
        compute_capability=int(capability.replace(".", "")),
        tensorrt=version_from_banner(text),
        memory_mib=int(memory) if memory else None,
        sms=int(sms) if sms else None,
    )


def layers_off_dla(log: str) -> List[str]:
    """Return the layers that a build's log lists as running on the GPU beside the DLA."""
    return list(
        dict.fromkeys(
            name.strip() for name in re.findall(r"\[GpuLayer\]\s*(?:[A-Z_]+: )?([^\r\n]+)", log)
        )
    )


# They move or convert data: their types say nothing about what the network is computed in.
_ASIDE = re.compile(
    r"reformat|noop|cast|constant|shuffle|slice|concat|gather|copy|identity|signal|wait|shape",
    re.IGNORECASE,
)
_ASIDE_NAME = re.compile(
    r"Reformatting CopyNode|__myl_(?:Cast|Move|Tran|Resh|Slic|Conc|Repl)+(?:_|$)"
)
_TYPES = (
    ("fp16", re.compile(r"\b(?:FP16|Half|Float16)\b", re.I)),
    ("fp32", re.compile(r"\b(?:FP32|Float|Float32)\b", re.I)),
)


def precision_from_layers(json_text: str) -> Tuple[str, Dict[str, int]]:
    """Return what an engine's layers compute in, and how many layers there are of each type.

    json_text: of `--exportLayerInfo`, or of the engine inspector in Python (8.2 to 11). The precision is `fp16`, `fp32`,
    `mixed`, or `unknown` where only names are there. A layer with tensors of both counts as `fp16+fp32`: at the ends of
    an FP16 engine with FP32 input and output there are such. Raises ArtifactError when it is no such text.
    """
    data = _json(json_text, "the layer information")
    layers = data.get("Layers") if isinstance(data, dict) else None
    if not isinstance(layers, list):
        raise ArtifactError(
            "the layer information has no list 'Layers': it is not the engine inspector's"
        )
    counts: Dict[str, int] = {}
    for layer in layers:
        if not isinstance(layer, dict):
            continue
        kind = str(layer.get("LayerType", "")) + " " + str(layer.get("ParameterType", ""))
        if _ASIDE.search(kind) or _ASIDE_NAME.match(str(layer.get("Name", ""))):
            continue
        found = "+".join(
            name
            for name, pattern in _TYPES
            if any(pattern.search(text) for text in _layer_types(layer))
        )
        if found:
            counts[found] = counts.get(found, 0) + 1
    pure = set(counts) - {"fp16+fp32"}
    if not counts:
        return "unknown", counts
    if pure == {"fp16"} or counts.keys() == {"fp32"}:
        return pure.pop(), counts
    return "mixed", counts


def _layer_types(layer: Dict[str, Any]) -> List[str]:
    """The weights' type where it is told (a dynamic engine's tensors have none without a context), else the tensors'."""
    weights = layer.get("Weights")
    if isinstance(weights, dict) and any(
        pattern.search(str(weights.get("Type", ""))) for _, pattern in _TYPES
    ):
        return [str(weights["Type"])]
    tensors = [
        t for key in ("Inputs", "Outputs") for t in layer.get(key) or [] if isinstance(t, dict)
    ]
    return [
        str(
            t.get("Format/Datatype")
            or t.get("DataType")
            or t.get("Datatype")
            or t.get("Format")
            or ""
        )
        for t in tensors
    ]


def output_from_json(text: str) -> np.ndarray:
    """Return the one tensor of `--exportOutput` as float32. Raises ArtifactError when there is another number of them.

    It is not quite JSON: NaN is written `nan`, and values have six digits.
    """
    tensors = re.findall(r'"dimensions"\s*:\s*"([\dx]*)"\s*,\s*"values"\s*:\s*\[([^\]]*)\]', text)
    if len(tensors) != 1:
        raise ArtifactError(
            f"the exported output holds {len(tensors)} tensors; expected one",
            hint="was trtexec stopped while writing?",
        )
    dims, values = tensors[0]
    values = values.strip(" \r\n,")
    shape = tuple(int(n) for n in dims.split("x") if n)
    try:
        if re.search(r",\s*,", values):  # NumPy takes that for a number
            raise ValueError("a value is missing")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "error", DeprecationWarning
            )  # older NumPy only warns of what it cannot read
            array = np.fromstring(
                values, sep=",", dtype=np.float32
            )  # a third of the time and memory of split
    except (ValueError, DeprecationWarning) as e:
        raise ArtifactError(f"the exported output holds something else than numbers: {e}") from e
    if array.size != int(np.prod(shape)):
        raise ArtifactError(f"the exported output holds {array.size} values; expected {dims}")
    return array.reshape(shape)


def results_from_text(text: str) -> Results:
    """Read `out/results.txt` of build.sh. Raises ArtifactError when it is no such file."""
    head: Dict[str, str] = {}
    engines: List[Dict[str, Any]] = []
    names = {f.name: str(f.type) for f in fields(EngineResult)}
    for number, line in enumerate(text.split("\n"), 1):
        key, tab, value = line.partition("\t")
        if not line:
            continue
        where = engines[-1] if engines else head
        if key == "engine":
            engines.append({"engine": value, "errors": ()})
        elif key == "error" and engines:
            where["errors"] += (value,)
        elif not tab or (engines and (key not in names or key in where)):
            raise ArtifactError(
                f"results.txt, line {number}: unexpected '{line[:60]}'",
                hint="fetch the result again",
            )
        elif engines and names[key] == "Optional[int]":
            if value != "none":
                where[key] = _int(value, f"results.txt, line {number}")
        else:
            where[key] = value
    if (
        head.get("format") != "1"
        or "version" not in head
        or not all("status" in e for e in engines)
    ):
        raise ArtifactError(
            "results.txt is not build.sh's, or not whole: expected format 1, version, and a status of each engine"
        )
    return Results(
        head.get("trtexec", ""), head["version"], tuple(EngineResult(**e) for e in engines)
    )


def job_text(job: Job) -> str:
    """Return the text of job.txt. Raises BuildError when a name cannot stand there."""
    for line in job.lines:
        for name in (line.graph, line.engine):
            if not re.fullmatch(r"[^./\\#\x00-\x1f-][^/\\\x00-\x1f]*", name) or name.endswith(
                ".tmp"
            ):
                raise BuildError(
                    f"'{name}' cannot be a file of a job: expected no / \\ or tab in it, and no . # - at its start"
                )
    names = [line.engine for line in job.lines]
    if not names or len(set(names)) != len(names):
        raise BuildError("a job needs one engine or more, each of its own name")
    for layer in job.fp32_layers:
        if re.search(r"[;,:\x00-\x1f]", layer):
            raise BuildError(
                f"trtexec cannot be told about the layer '{layer}': its option splits at , and :",
                hint="rename the node",
            )
    head = {
        "runtime": job.runtime,
        "versions": job.versions,
        "workspace_mib": job.workspace_mib,
        "sm": ",".join(map(str, job.sm)),
        "dla": "-" if job.dla is None else job.dla,
        "fp32_layers": ";".join(job.fp32_layers),
        "measure_s": job.measure_s,
    }
    rows = [f"# {key} {value}" for key, value in head.items()]
    for line in job.lines:
        shapes = [
            "-" if s is None else "x".join(map(str, s))
            for s in (line.min_shape, line.opt_shape, line.max_shape)
        ]
        rows.append(
            "\t".join(
                [line.graph, line.engine, line.precision, line.typing, line.input_name, *shapes]
            )
        )
    return "\n".join(rows) + "\n"


def job_from_text(text: str) -> Job:
    """Read job.txt back. Raises ArtifactError naming the line that is not its own."""
    head: Dict[str, str] = {}
    lines: List[JobLine] = []
    for number, row in enumerate(text.split("\n"), 1):
        where = f"job.txt, line {number}"
        if row.startswith("# "):
            key, _, value = row[2:].partition(" ")
            head[key] = value
        elif row:
            columns = row.split("\t")
            if len(columns) != 8 or not all(columns):
                raise ArtifactError(f"{where}: expected eight fields, found {len(columns)}")
            shapes = [
                None if c == "-" else tuple(_int(n, where) for n in c.split("x"))
                for c in columns[5:]
            ]
            lines.append(JobLine(*columns[:5], *shapes))  # type: ignore[arg-type]
    return Job(
        lines=tuple(lines),
        runtime=head.get("runtime", "tensorrt"),
        versions=head.get("versions", ""),
        workspace_mib=_int(head.get("workspace_mib") or "0", "job.txt, workspace_mib"),
        sm=tuple(_int(n, "job.txt, sm") for n in head.get("sm", "").split(",") if n),
        dla=None if head.get("dla", "-") == "-" else _int(head["dla"], "job.txt, dla"),
        fp32_layers=tuple(name for name in head.get("fp32_layers", "").split(";") if name),
        measure_s=_int(head.get("measure_s") or "3", "job.txt, measure_s"),
    )


def _int(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError as e:
        raise ArtifactError(f"{where}: expected a whole number, found '{text}'") from e


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as e:
        raise ArtifactError(
            f"{what} cannot be read as JSON: {e}", hint="was trtexec stopped while writing?"
        ) from e
