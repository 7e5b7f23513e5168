"""What comes back of one engine: its files, and what they tell about it."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import ArtifactError, BuildError, InputError, SrDeployError
from sr_deploy.core.images import load_array
from sr_deploy.core.precisions import mixed_precision
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.boards import trtexec
from sr_deploy.runtime.boards.board import BoardFacts
from sr_deploy.runtime.boards.layer_types import (
    layers_from_json,
    layers_from_log,
    precision_of_layers,
)
from sr_deploy.runtime.dla_calibration import DLA_INT8

FAILURES = {
    "failed": "was not built",
    "unmeasured": "was built, but cannot be run",
    "unchecked": "was built, but gives no output",
}
DLA_RECEIPT = (
    "a build for the DLA, which computes in FP16 without an INT8 flag "
    "(this trtexec reports no layer types)"
)
BUILD_AGAIN = "build it again on the board"


@dataclass(frozen=True)
class Returned:
    """What came back of one engine."""

    folder: Path
    report: trtexec.EngineResult
    profile: TargetProfile
    asked: str
    """The precision that was asked for."""
    fp32_layers: int = 0
    """Layers that an FP16 engine was to keep in FP32."""
    on_dla: bool = False

    @property
    def name(self) -> str:
        return self.report.engine

    def text(self, kind: str) -> str:
        """Return the text of the engine's file of this kind (`build.log`); empty where missing."""
        return read_text(self.folder / "out" / f"{self.name}.{kind}")


@contextlib.contextmanager
def judged(engine: Returned) -> Iterator[None]:
    """Judge an engine by its files.

    Raises BuildError where it was not built or did not run. Within it, errors of other kinds become
    ArtifactError: the files come from another machine, and any parser may fail on them.
    """
    if engine.report.status != "ok":
        reason = "; ".join(engine.report.errors) or f"exit code {engine.report.exit_code}"
        problem = f"{engine.name} {FAILURES[engine.report.status]}: {reason}"
        lacks_kernel = engine.asked == "int8" and trtexec.NO_KERNEL in reason
        raise BuildError(problem, hint=trtexec.KEEP_NODE if lacks_kernel else "")
    try:
        yield
    except Exception as e:
        if isinstance(e, SrDeployError) and not isinstance(e, InputError):
            raise
        reason = e.message if isinstance(e, InputError) else f"{type(e).__name__}: {str(e)[:120]}"
        problem = f"the files returned for {engine.name} cannot be read: {reason}"
        raise ArtifactError(problem, hint=BUILD_AGAIN) from e


def gpu_of(engine: Returned, facts: BoardFacts) -> Tuple[str, Optional[int]]:
    """Return the GPU's name and compute capability, from the logs, else the board's facts.

    Empty and None are unknown. Raises BuildError for a GPU that the target is not for.
    """
    logged = trtexec.device_from_logs(engine.text("build.log"), engine.text("time.log"))
    name = (logged.name if logged else "") or facts.gpu or ""
    capability = logged.compute_capability if logged else facts.compute_capability
    profile = engine.profile
    expected = profile.compute_capabilities if profile.runtime == "tensorrt" else ()
    if expected and capability not in expected:
        built = "an unknown GPU" if capability is None else f"a GPU of SM {capability}"
        raise BuildError(
            f"{engine.name} was built on {built}, but the target is "
            f"SM {', '.join(map(str, expected))}"
        )
    return name, capability


@dataclass(frozen=True)
class Obtained:
    """What an engine computes in."""

    precision: str
    layers: Dict[str, int]
    """Its layers by type; empty where trtexec reports none."""
    receipt: str
    """How that is known: by layer types or size."""


def obtained_precision(engine: Returned) -> Obtained:
    """Return what an engine computes in. Raises BuildError if it is not what was asked for."""
    obtained = told_precision(engine)
    if engine.asked == "int8" and not engine.on_dla and "int8" not in obtained.layers:
        raise _not_int8(engine, obtained.precision)
    if engine.asked == "fp16" and obtained.precision == "fp32":
        raise BuildError(
            f"{engine.name}: FP16 was requested, but the engine computes in FP32: "
            f"{obtained.receipt}",
            hint="see the build log for the flags it used; a strongly typed TensorRT needs an FP16 "
            "graph",
        )
    return obtained


def told_precision(engine: Returned) -> Obtained:
    """Return what an engine computes in, be it what was asked for or not.

    Raises BuildError where nothing tells it.
    """
    report, asked, fp32_layers = engine.report, engine.asked, engine.fp32_layers
    text = engine.text("layers.json")
    layers = layers_from_json(text) if text else []
    if asked == "int8" and engine.on_dla:
        return Obtained("int8", {}, DLA_INT8)
    if asked == "int8" and not layers:
        layers = layers_from_log(engine.text("build.log"))  # of 8.0, which is verbose
    obtained, counts = precision_of_layers(layers)
    if asked == "int8" and "int8" not in counts:
        return Obtained(obtained, counts, f"layer information: layers by type: {counts}")
    if obtained != "unknown":
        receipt = f"layer information: layers by type: {counts}"
    elif engine.profile.fp16_graph == "fp16":
        obtained = "mixed" if fp32_layers else asked
        receipt = "strongly typed build: the graph's own tensor types"
    elif asked == "fp32":
        obtained, receipt = "fp32", "a weakly typed build, without a flag for a lower precision"
    elif engine.on_dla:
        obtained, receipt = "fp16", DLA_RECEIPT
    elif report.fp32_twin_bytes is None or report.size_bytes is None:
        raise BuildError(
            f"cannot tell the precision of {engine.name}: this trtexec reports no layer types, and "
            "no FP32 engine was built to compare sizes with"
        )
    else:
        # A weight takes half the bytes. Everything else has the same size in both.
        share = report.size_bytes / report.fp32_twin_bytes
        smaller = "mixed" if fp32_layers else "fp16"
        obtained = smaller if share < (0.98 if fp32_layers else 0.8) else "fp32"
        receipt = (
            f"size: {report.size_bytes} bytes; {report.fp32_twin_bytes} as an FP32 engine "
            "(this trtexec reports no layer types)"
        )
    if obtained == "mixed":
        obtained = mixed_precision(counts or {"fp32": fp32_layers})
    return Obtained(obtained, counts, receipt)


def _not_int8(engine: Returned, obtained: str) -> BuildError:
    """Return the error: no layer with weights is known to compute in INT8."""
    if obtained == "unknown":
        problem = "this trtexec reports no types of its layers"
        return BuildError(f"cannot tell the precision of {engine.name}: {problem}")
    computes = obtained.upper() if obtained in ("fp16", "fp32") else "FP16 and FP32"
    return BuildError(
        f"{engine.name}: INT8 was requested, but the engine computes in {computes}: none of its "
        "layers with weights is INT8",
        hint="see the build log for the flags it used, and for kernels that it lacks",
    )


def output_text(engine: Returned) -> str:
    """Return the values of the output that came back. Raises ArtifactError."""
    path = engine.folder / "out" / f"{engine.name}.output.txt.gz"
    if not path.is_file():
        raise ArtifactError(f"the output of {engine.name} is missing", hint=BUILD_AGAIN)
    try:
        return gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    except (OSError, EOFError, zlib.error) as e:
        raise ArtifactError(f"the output of {engine.name} is damaged", hint=BUILD_AGAIN) from e


def reference_array(path: Path, name: str) -> np.ndarray:
    """Return a reference that came back. Raises ArtifactError."""
    try:
        return load_array(path)
    except (OSError, ValueError, EOFError) as e:
        raise ArtifactError(f"the reference of {name} is damaged", hint=BUILD_AGAIN) from e


def times_of(engine: Returned) -> List[float]:
    """Return the GPU times [ms] after checking them against trtexec's own summary in the log."""
    if not engine.text("times.json"):
        raise ArtifactError(f"the times of {engine.name} are missing", hint=BUILD_AGAIN)
    times = trtexec.times_from_json(engine.text("times.json"))
    logged, median = trtexec.latency_from_log(engine.text("time.log")), float(np.median(times))
    if not logged.min_ms * 0.99 <= median <= logged.max_ms * 1.01:
        raise ArtifactError(
            f"the times of {engine.name} do not match its log: their median is {median:.4f} ms; "
            f"expected {logged.min_ms} to {logged.max_ms} ms"
        )
    return times


def latency_of(times: List[float]) -> Dict[str, object]:
    names = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
    percentiles = {key: round(float(np.percentile(times, p)), 4) for key, p in names.items()}
    return {**percentiles, "runs": len(times), "timer": "GPU compute time"}


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
