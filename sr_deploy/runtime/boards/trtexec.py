"""Writes `job.txt` for `on_board/build.sh`; reads its `results.txt` and the output of trtexec."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, BuildError

WARM_UP_MS = 2000.0
"""The warm-up in build.sh. TensorRT 8 exports the runs of the warm-up, too."""

NO_KERNEL = "Could not find any implementation for node"
"""Of the message of a build that has no kernel for a layer, before the layer's name."""
KEEP_NODE = "export it again, and keep the convolution that this names in FP16 with --keep NODE"
"""The hint for such a build of an INT8 graph."""
_STOPPED = "trtexec may have been stopped while writing: run it again"
_MS = r"([-+\d.einfa]+) ms"
Shapes = Mapping[str, Tuple[int, ...]]
"""The shape of each input by its name."""


@dataclass(frozen=True)
class LoggedLatency:
    """The GPU compute time in trtexec's summary."""

    min_ms: float
    max_ms: float
    median_ms: float


@dataclass(frozen=True)
class LoggedDevice:
    """The GPU and the library named in a log of trtexec."""

    name: str
    compute_capability: int
    tensorrt: str


@dataclass(frozen=True)
class JobLine:
    """One engine of a job."""

    graph: str
    engine: str
    precision: str
    typing: str
    """`strong` or `weak`."""
    shapes: Shapes
    """The inputs of the timed runs."""
    sizes: Optional[Tuple[Shapes, Shapes, Shapes]] = None
    """The smallest, usual and largest inputs; None for a static graph."""
    checked: Optional[Shapes] = None
    """The inputs of the accuracy check; None: those of the timed runs."""
    rows: Tuple[Tuple[int, int], ...] = ()
    """Rows of the output, first and stop, that come back for the accuracy check; with none, all
    values of all outputs do."""


@dataclass(frozen=True)
class JobFile:
    """The content of job.txt: the engines, and the settings they share."""

    lines: Tuple[JobLine, ...]
    runtime: str = "tensorrt"
    versions: str = ""
    workspace_mib: int = 0
    sm: Tuple[int, ...] = ()
    """Compute capabilities the job is for; empty: any."""
    dla: Optional[int] = None
    fp32_layers: Tuple[str, ...] = ()
    """Layers that an FP16 engine computes in FP32."""
    fp16_layers: Tuple[str, ...] = ()
    """Layers that an INT8 engine for a DLA computes in FP16."""
    no_cublas_cudnn: bool = False
    measure_s: int = 10
    """Power is sampled once a second, and needs several samples."""


@dataclass(frozen=True)
class EngineResult:
    """The outcome for one engine. A field is None when build.sh did not reach that step."""

    engine: str
    status: str
    """ok; failed: no engine; unmeasured: timing it failed; unchecked: running one image failed."""
    exit_code: Optional[int] = None
    build_seconds: Optional[int] = None
    size_bytes: Optional[int] = None
    sha256: str = ""
    fp32_twin_bytes: Optional[int] = None
    """Size of the same engine in FP32, built only where nothing else tells the precision."""
    build_command: str = ""
    time_exit_code: Optional[int] = None
    time_command: str = ""
    output_exit_code: Optional[int] = None
    output_command: str = ""
    output_not_finite: Optional[int] = None
    """Of all its values, NaN and infinity."""
    errors: Tuple[str, ...] = ()
    """The last errors in the log."""


@dataclass(frozen=True)
class Results:
    """The content of results.txt."""

    trtexec: str
    version: str
    engines: Tuple[EngineResult, ...]


def job_text(job: JobFile) -> str:
    """Return the text of job.txt. Raises BuildError when it cannot hold a name."""
    for name in (name for line in job.lines for name in (line.graph, line.engine)):
        plain = re.fullmatch(r"[^./\\#\x00-\x1f-][^/\\\x00-\x1f]*", name)
        if not plain or name.endswith(".tmp"):
            expected = "expected no / \\ or tab, no . # - at the start, no .tmp at the end"
            raise BuildError(f"'{name}' cannot be the name of a file in a job: {expected}")
    engines = [line.engine for line in job.lines]
    if not engines or len(set(engines)) != len(engines):
        raise BuildError("a job needs at least one engine, and engines of different names")
    for layer in (*job.fp32_layers, *job.fp16_layers):
        if re.search(r"[;,:\x00-\x1f]", layer):
            kind = "FP32" if layer in job.fp32_layers else "FP16"
            problem = f"trtexec cannot keep the layer '{layer}' in {kind}: it splits at , and :"
            raise BuildError(problem, hint="rename the node")
    settings = {
        "runtime": job.runtime,
        "versions": job.versions,
        "workspace_mib": job.workspace_mib,
        "sm": ",".join(map(str, job.sm)),
        "dla": "-" if job.dla is None else job.dla,
        "fp32_layers": ";".join(job.fp32_layers),
        "fp16_layers": ";".join(job.fp16_layers),
        "tactics": "-CUBLAS,-CUBLAS_LT,-CUDNN" if job.no_cublas_cudnn else "",
        "measure_s": job.measure_s,
    }
    lines = [f"# {key} {value}" for key, value in settings.items()]
    for line in job.lines:
        inputs = ",".join(f"{_name(name)}:work/{i}.bin" for i, name in enumerate(line.shapes))
        columns = [line.graph, line.engine, line.precision, line.typing, inputs]
        columns += map(_text_of_shapes, (line.shapes, line.checked or line.shapes))
        columns += ["-"] * 3 if line.sizes is None else map(_text_of_shapes, line.sizes)
        columns.append(",".join(f"{first}-{stop}" for first, stop in line.rows) or "all")
        lines.append("\t".join(columns))
    return "\n".join(lines) + "\n"


def _text_of_shapes(shapes: Shapes) -> str:
    """Return shapes as trtexec reads them: `y:8x96x64x64,depth:1`."""
    return ",".join(f"{_name(name)}:{'x'.join(map(str, n))}" for name, n in shapes.items())


def _name(tensor: str) -> str:
    return f"'{tensor}'" if re.search("[:,]", tensor) else tensor


def results_from_text(text: str) -> Results:
    """Read `out/results.txt` of build.sh. Raises ArtifactError when the text is something else."""
    head: Dict[str, str] = {}
    engines: List[Dict[str, Any]] = []
    types = {f.name: str(f.type) for f in fields(EngineResult)}
    for number, line in enumerate(text.split("\n"), 1):
        key, tab, value = line.partition("\t")
        entry: Dict[str, Any] = engines[-1] if engines else head
        if not line:
            continue
        if key == "engine":
            engines.append({"engine": value, "errors": ()})
        elif key == "error" and engines:
            entry["errors"] += (value,)
        elif not tab or (engines and (key not in types or key in entry)):
            problem = f"results.txt, line {number}: unexpected '{line[:60]}'"
            raise ArtifactError(problem, hint="copy the result again")
        elif not engines or types[key] != "Optional[int]":
            entry[key] = value
        elif value != "none":
            if not value.isdecimal():
                problem = f"expected a whole number, found '{value}'"
                raise ArtifactError(f"results.txt, line {number}: {problem}")
            entry[key] = int(value)
    complete = "version" in head and all("status" in engine for engine in engines)
    if head.get("format") != "1" or not complete:
        expected = "expected format 1, a version, and a status of each engine"
        raise ArtifactError(f"results.txt is not from build.sh, or incomplete: {expected}")
    results = tuple(EngineResult(**engine) for engine in engines)
    return Results(head.get("trtexec", ""), head["version"], results)


def version_from_banner(text: str) -> str:
    """Return `8.5.2` for `[TensorRT v8502]`, `10.3.0` for v100300, `11.1.0` for v11.1.0.106.

    Raises BuildError.
    """
    match = re.search(r"\[TensorRT[^\]\d]*(\d[\d.]*)", text)
    if match is None:
        expected = "expected a line with [TensorRT v8502] or similar"
        raise BuildError(f"this is not the output of trtexec: {expected}")
    if "." in match[1]:
        return ".".join(match[1].split(".")[:3])
    number, step = int(match[1]), 10 if len(match[1]) <= 4 else 100
    return f"{number // (100 * step)}.{number // 100 % step}.{number % 100}"


def times_from_json(text: str, *, warm_up_ms: float = WARM_UP_MS) -> List[float]:
    """Return the GPU times [ms] of `--exportTimes` after the warm-up. Raises ArtifactError."""
    runs = _load_json(text, "the exported times")
    try:
        times = [float(r["computeMs"]) for r in runs if float(r["startComputeMs"]) >= warm_up_ms]
    except (KeyError, TypeError, ValueError) as e:
        expected = "expected a list with startComputeMs and computeMs"
        raise ArtifactError(f"the exported times are not in trtexec's format; {expected}") from e
    if not times or not np.isfinite(times).all():
        raise ArtifactError(
            f"the exported times have no run after the warm-up of {warm_up_ms:g} ms",
            hint="measure longer",
        )
    return times


def latency_from_log(text: str) -> LoggedLatency:
    """Return the `GPU Compute Time` of the log's last summary. Raises ArtifactError without one."""
    pattern = (
        rf"(?<!Total )\bGPU Compute Time: min = {_MS}, max = {_MS}, mean = {_MS}, median = {_MS}"
    )
    matches = re.findall(pattern, text)
    if not matches:
        hint = "trtexec prints none when it failed or was profiling"
        raise ArtifactError("the log has no line 'GPU Compute Time: min = ...'", hint=hint)
    low, high, _, median = map(float, matches[-1])
    return LoggedLatency(low, high, median)


def device_from_logs(*logs: str) -> Optional[LoggedDevice]:
    """Return the GPU and library named in the first log that names a GPU; None where none does.

    Builds for other GPUs name none.
    """
    for text in logs:
        name = re.search(r"\[I\] Selected Device: ([^\r\n]*)", text)
        capability = re.search(r"\[I\] Compute Capability: (\d+)\.(\d+)", text)
        if capability is not None:
            return LoggedDevice(
                name[1].strip() if name else "",
                int(capability[1] + capability[2]),
                version_from_banner(text),
            )
    return None


def layers_off_dla(log: str) -> List[str]:
    """Return the layers that run on the GPU in a build for the DLA, according to its log."""
    names = re.findall(r"\[GpuLayer\]\s*(?:[A-Z_]+: )?([^\r\n]+)", log)
    return list(dict.fromkeys(name.strip() for name in names))


def output_from_values(text: str, shape: Tuple[int, ...]) -> np.ndarray:
    """Return a part of the output as float32, from build.sh's text of a value per line.

    Values have six digits; NaN is `nan`. Raises ArtifactError unless they fill `shape`.
    """
    array = values_from_text(text)
    if array.size != int(np.prod(shape)):
        expected = "x".join(map(str, shape))
        problem = f"the output has {array.size} values; expected {expected}"
        raise ArtifactError(problem, hint=_STOPPED)
    return array.reshape(shape)


def values_from_text(text: str) -> np.ndarray:
    """Return the values in build.sh's text as float32. Raises ArtifactError."""
    try:
        return np.array(text.split(), np.float32)
    except ValueError as e:
        raise ArtifactError(f"the output has values that are not numbers: {e}") from e


def _load_json(text: str, title: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as e:
        raise ArtifactError(f"{title} cannot be read as JSON: {e}", hint=_STOPPED) from e
