"""Reads the `result.tar` of a job, checks every file in it, and writes engines with manifests."""

from __future__ import annotations

import contextlib
import gzip
import re
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Tuple, Union

import numpy as np

from sr_deploy.core.errors import ArtifactError, BuildError, InputError, SrDeployError
from sr_deploy.core.files import atomic_path, make_output_folder, sha256_of, write_text
from sr_deploy.core.images import load_array
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.manifest import Manifest, check_manifest, target_of, write_artifact
from sr_deploy.core.precisions import mixed_precision
from sr_deploy.core.target import LOCAL_RUNTIMES, TargetProfile
from sr_deploy.runtime.boards import trtexec
from sr_deploy.runtime.boards.board import (
    BoardFacts,
    energy,
    facts_from_text,
    samples_from_text,
    within,
)
from sr_deploy.runtime.boards.job import (
    FP32_REFERENCE,
    MANIFESTS,
    BoardJob,
    Progress,
    checked_rows,
    job_identity,
)
from sr_deploy.runtime.boards.layer_types import (
    layers_from_json,
    layers_from_log,
    precision_of_layers,
)
from sr_deploy.runtime.dla_calibration import DLA_INT8, DLA_LAYERS
from sr_deploy.runtime.graph_outputs import GraphOutputs, checked_accuracy

_FAILURES = {
    "failed": "was not built",
    "unmeasured": "was built, but cannot be run",
    "unchecked": "was built, but gives no output",
}
_DLA_RECEIPT = (
    "a build for the DLA, which computes in FP16 without an INT8 flag "
    "(this trtexec reports no layer types)"
)
_BUILD_AGAIN = "build it again on the board"


def target_of_result(result: Path) -> str:
    """Return the target of a result's engines. Raises ArtifactError."""
    with tempfile.TemporaryDirectory() as folder:
        _unpack(result, Path(folder))
        return next(iter(_read_drafts(Path(folder)).values())).target


def engines_from_result(
    result: Path,
    output: Path,
    *,
    job: Optional[BoardJob] = None,
    progress: Progress = lambda line: None,
) -> List[Path]:
    """Check a `result.tar` and write its engines with manifests to `output`; return their paths.

    job: the job it must be the result of, where known. Raises ArtifactError when the result is
    damaged or tampered with. Raises BuildError, after writing the good engines, when one failed to
    build, has another precision, was built by another version or GPU, or computes something else.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _unpack(Path(result), folder)
        if job is not None and job_identity(folder) != job.identity:
            hint = "run the same command again"
            raise ArtifactError(f"{result} is the result of another job", hint=hint)
        drafts = _read_drafts(folder)
        results = trtexec.results_from_text(_read_text(folder / "out" / "results.txt"))
        profile = target_of(next(iter(drafts.values())))
        _check_results(results, drafts, profile, folder)
        outcomes: Dict[str, Union[Manifest, BuildError]] = {}
        for engine in results.engines:
            returned = _Returned(folder, engine, drafts[engine.engine], profile)
            try:
                outcomes[engine.engine] = _checked_manifest(returned, results)
            except BuildError as e:
                outcomes[engine.engine] = e
        make_output_folder(output)  # only after everything was read
        for name, outcome in outcomes.items():
            for log in (f"{name}.build.log", f"{name}.time.log"):
                if (folder / "out" / log).is_file():
                    write_text(output / log, _read_text(folder / "out" / log))
            if isinstance(outcome, Manifest):
                _write_engine(folder / "out" / name, output / name, outcome)
                progress(_summary(name, outcome))
            else:
                progress(outcome.message)
        _keep_timing_cache(folder, output, f"{profile.name}-{results.version}", outcomes)
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, BuildError)]
    if errors:
        more = f" (and {len(errors) - 1} more failed)" if len(errors) > 1 else ""
        hint = errors[0].hint or f"see the logs in {output}"
        raise BuildError(errors[0].message + more, hint=hint)
    return [output / name for name in outcomes]


def _not_used(problem: str) -> ArtifactError:
    hint = "run build.sh again on the board, and copy the complete result.tar back"
    return ArtifactError(f"{problem}: the result is not used", hint=hint)


def _unpack(result: Path, folder: Path) -> None:
    """Unpack a result. Every file must be regular, at a place of results' files, and unchanged."""
    try:
        with tarfile.open(str(result), "r:") as archive:
            members = [m for m in archive.getmembers() if not m.isdir()]
            total = sum(m.size for m in members)
            if total > Path(result).stat().st_size or any(m.issparse() for m in members):
                raise _not_used(f"{result} declares more bytes than it holds")
            for member in members:
                if not member.isreg() or not _is_result_file(member.name):
                    raise _not_used(f"{result} holds '{member.name}', not a file of a result")
            for member in members:
                source = archive.extractfile(member)
                assert source is not None
                target = folder.joinpath(*PurePosixPath(member.name).parts)
                target.parent.mkdir(exist_ok=True)
                with open(target, "wb") as f:
                    shutil.copyfileobj(source, f)
    except (OSError, tarfile.TarError, EOFError, ValueError) as e:
        if isinstance(e, FileNotFoundError) and not result.is_file():
            raise InputError(f"there is no file {result}") from e
        raise _not_used(f"{result} is not a complete result.tar ({e})") from e
    _verify_checksums(folder / "out", "", result)
    _verify_checksums(folder, "desk", result)


def _is_result_file(name: str) -> bool:
    return bool(re.fullmatch(r"(\./)?(job\.txt|SHA256SUMS|(out|desk)/(?!\.\.?$)[^/\\]+)", name))


def _verify_checksums(folder: Path, below: str, result: Path) -> None:
    """Check that exactly the files listed in SHA256SUMS are there, unchanged.

    below: the subfolder that comes back of a job's own files, along with job.txt.
    """
    path = folder / "SHA256SUMS"
    listed = {line[66:]: line[:64] for line in _read_text(path).splitlines()}
    if not listed:
        raise _not_used(f"{result} has no checksums (SHA256SUMS)")
    expected = {n for n in listed if not below or n == "job.txt" or n.startswith(below + "/")}
    files = [file for place in {folder, folder / below} for file in place.glob("*")]
    present = {f.relative_to(folder).as_posix() for f in files if f.is_file() and f != path}
    for name in sorted(expected - present):
        raise _not_used(f"{result} is incomplete, {name} is missing")
    for name in sorted(present):
        if listed.get(name) != sha256_of(folder / name):
            raise _not_used(f"{result}: {name} was changed after it was packed (other SHA-256)")


def _read_drafts(folder: Path) -> Dict[str, Manifest]:
    """Return the draft manifests of the job's engines by file name. Raises ArtifactError."""
    data = read_json(folder / MANIFESTS, ArtifactError)
    if not data or not all(isinstance(fields, dict) for fields in data.values()):
        raise ArtifactError(f"{MANIFESTS} was changed: expected an object of manifests")
    drafts = {
        name: from_dict(Manifest, fields, source=MANIFESTS, error=ArtifactError)
        for name, fields in data.items()
    }
    one_target = len({draft.target for draft in drafts.values()}) == 1
    for name, draft in drafts.items():
        plain = PurePosixPath(name).name == name and name.endswith(".engine")
        if not (plain and one_target and draft.kind == "engine"):
            raise _not_used(f"{MANIFESTS} was not written for a job: '{name[:80]}'")
        check_manifest(draft, source=f"{MANIFESTS}, {name}")
    return drafts


def _check_results(
    results: trtexec.Results, drafts: Dict[str, Manifest], profile: TargetProfile, folder: Path
) -> None:
    """Check the board's report against the job and files. Raises ArtifactError, BuildError."""
    if profile.runtime in LOCAL_RUNTIMES or not profile.supports_version(results.version):
        raise BuildError(
            f"the engines were built by TensorRT {results.version[:40]}, but target "
            f"'{profile.name}' is for {profile.runtime_versions}"
        )
    names = [engine.engine for engine in results.engines]
    if sorted(names) != sorted(drafts):
        raise ArtifactError(
            f"the result contains {', '.join(names) or 'no engine'}, but the job is for "
            f"{', '.join(sorted(drafts))}"
        )
    for engine in results.engines:
        file = folder / "out" / engine.engine
        if engine.status not in ("ok", *_FAILURES):
            raise ArtifactError(
                f"the status of {engine.engine} is '{engine.status[:40]}'; "
                f"expected ok, {', '.join(_FAILURES)}"
            )
        if engine.status != "failed":
            reported = (engine.sha256, engine.size_bytes, engine.exit_code)
            if not file.is_file() or reported != (sha256_of(file), file.stat().st_size, 0):
                raise _not_used(f"{engine.engine} does not match its entry in results.txt")


@dataclass(frozen=True)
class _Returned:
    """What came back of one engine."""

    folder: Path
    report: trtexec.EngineResult
    draft: Manifest
    profile: TargetProfile

    @property
    def name(self) -> str:
        return self.report.engine

    def text(self, kind: str) -> str:
        """Return the text of the engine's file of this kind (`build.log`); empty where missing."""
        return _read_text(self.folder / "out" / f"{self.name}.{kind}")


def _checked_manifest(engine: _Returned, results: trtexec.Results) -> Manifest:
    """Return the engine's manifest. Raises BuildError or ArtifactError when it is not as asked."""
    if engine.report.status != "ok":
        reason = "; ".join(engine.report.errors) or f"exit code {engine.report.exit_code}"
        problem = f"{engine.name} {_FAILURES[engine.report.status]}: {reason}"
        lacks_kernel = engine.draft.precision_asked == "int8" and trtexec.NO_KERNEL in reason
        raise BuildError(problem, hint=trtexec.KEEP_NODE if lacks_kernel else "")
    try:
        return _manifest(engine, results)
    except Exception as e:  # the files come from another machine: any parser may fail on them
        if isinstance(e, SrDeployError) and not isinstance(e, InputError):
            raise
        reason = e.message if isinstance(e, InputError) else f"{type(e).__name__}: {str(e)[:120]}"
        problem = f"the files returned for {engine.name} cannot be read: {reason}"
        raise ArtifactError(problem, hint=_BUILD_AGAIN) from e


def _manifest(engine: _Returned, results: trtexec.Results) -> Manifest:
    draft, profile, report = engine.draft, engine.profile, engine.report
    log = engine.text("build.log")
    facts = facts_from_text(_read_text(engine.folder / "out" / "board.txt"))
    gpu, capability = _gpu(engine, facts)
    precision, receipt = _precision(engine)
    unseen = {_DLA_RECEIPT: "the precision of its layers on the GPU", DLA_INT8: DLA_LAYERS}
    if receipt in unseen:
        draft = replace(draft, not_checked=(*draft.not_checked, unseen[receipt]))
    evidence = f"{report.size_bytes} bytes; flags: {report.build_command}"
    checks = {**draft.checks, "precision_receipt": receipt, "precision_evidence": evidence}
    not_checked = list(draft.not_checked)
    build: Dict[str, object] = {
        **draft.build,
        "seconds": report.build_seconds,
        "size_bytes": report.size_bytes,
        "by": results.trtexec,
        "command": report.build_command,
        "gpu": gpu,
    }
    if capability is not None:
        build["compute_capability"] = capability
    if not gpu:
        not_checked.append("the GPU that it was timed on: no log names it")
    dla = draft.build.get("dla")
    if isinstance(dla, dict):
        build["dla"] = {**dla, "layers_on_gpu": trtexec.layers_off_dla(log)}
    times = _times(engine)
    build["latency_ms"] = _latency(times)
    used = _energy(engine, times)
    if used:
        build["energy"] = used
    else:
        not_checked.append("power and throttling: the board reported too few samples")
    known = {key: value for key, value in asdict(facts).items() if value not in (None, "")}
    if known:
        build["board"] = known
    accuracy = _accuracy(engine)
    if accuracy:
        checks["accuracy"] = accuracy
    else:
        not_checked.append(
            "its output: the job has no reference, as it was made without onnxruntime"
        )
    return replace(
        draft,
        precision_obtained=precision,
        versions={**draft.versions, profile.runtime.replace("-", "_"): results.version},
        checks=checks,
        not_checked=tuple(not_checked),
        build=build,
    )


def _gpu(engine: _Returned, facts: BoardFacts) -> Tuple[str, Optional[int]]:
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


def _precision(engine: _Returned) -> Tuple[str, str]:
    """Return the precision and its receipt (layer types or size). Raises BuildError."""
    report, asked = engine.report, engine.draft.precision_asked
    fp32_layers = len(engine.draft.build.get("fp32_layers", ()))  # type: ignore[arg-type]
    text = engine.text("layers.json")
    layers = layers_from_json(text) if text else []
    if asked == "int8" and "dla" in engine.draft.build:
        return "int8", DLA_INT8
    if asked == "int8" and not layers:
        layers = layers_from_log(engine.text("build.log"))  # of 8.0, which is verbose
    obtained, counts = precision_of_layers(layers)
    if asked == "int8" and "int8" not in counts:
        return _not_int8(engine, obtained)
    if obtained != "unknown":
        receipt = f"layer information: layers by type: {counts}"
    elif engine.profile.fp16_graph == "fp16":
        obtained = "mixed" if fp32_layers else asked
        receipt = "strongly typed build: the graph's own tensor types"
    elif asked == "fp32":
        obtained, receipt = "fp32", "a weakly typed build, without a flag for a lower precision"
    elif "dla" in engine.draft.build:
        obtained, receipt = "fp16", _DLA_RECEIPT
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
    if asked == "fp16" and obtained == "fp32":
        raise BuildError(
            f"{engine.name}: FP16 was requested, but the engine computes in FP32: {receipt}",
            hint="see the build log for the flags it used; a strongly typed TensorRT needs an FP16 "
            "graph",
        )
    if obtained == "mixed":
        obtained = mixed_precision(counts or {"fp32": fp32_layers})
    return obtained, receipt


def _not_int8(engine: _Returned, obtained: str) -> Tuple[str, str]:
    """Raise BuildError: no layer with weights is known to compute in INT8."""
    if obtained == "unknown":
        problem = "this trtexec reports no types of its layers"
        raise BuildError(f"cannot tell the precision of {engine.name}: {problem}")
    computes = obtained.upper() if obtained in ("fp16", "fp32") else "FP16 and FP32"
    raise BuildError(
        f"{engine.name}: INT8 was requested, but the engine computes in {computes}: none of its "
        "layers with weights is INT8",
        hint="see the build log for the flags it used, and for kernels that it lacks",
    )


def _times(engine: _Returned) -> List[float]:
    """Return the GPU times [ms] after checking them against trtexec's own summary in the log."""
    if not engine.text("times.json"):
        raise ArtifactError(f"the times of {engine.name} are missing", hint=_BUILD_AGAIN)
    times = trtexec.times_from_json(engine.text("times.json"))
    logged, median = trtexec.latency_from_log(engine.text("time.log")), float(np.median(times))
    if not logged.min_ms * 0.99 <= median <= logged.max_ms * 1.01:
        raise ArtifactError(
            f"the times of {engine.name} do not match its log: their median is {median:.4f} ms; "
            f"expected {logged.min_ms} to {logged.max_ms} ms"
        )
    return times


def _latency(times: List[float]) -> Dict[str, object]:
    names = {"median": 50, "p90": 90, "p95": 95, "p99": 99}
    percentiles = {key: round(float(np.percentile(times, p)), 4) for key, p in names.items()}
    return {**percentiles, "runs": len(times), "timer": "GPU compute time"}


def _energy(engine: _Returned, times: List[float]) -> Dict[str, object]:
    """Return the energy of the timed runs, which were the last ones; empty where it is unknown."""
    seconds = sum(times) / 1000
    samples = samples_from_text(engine.text("power.txt"))
    end = max((s.time_s for s in samples if s.time_s is not None), default=0.0)
    h, w = engine.draft.opt_shape
    used = energy(
        within(samples, end - seconds, end),
        output_px=h * w * engine.draft.scale**2,
        runs=len(times),
        seconds=seconds,
    )
    return {k: v for k, v in asdict(used).items() if v is not None} if used else {}


def _accuracy(engine: _Returned) -> Dict[str, object]:
    """Compare rows of the output for one image with FP32; empty without a reference.

    Raises BuildError.
    """
    output = engine.folder / "out" / f"{engine.name}.output.txt.gz"
    reference = engine.folder / "desk" / f"{engine.name}.npy"
    if not reference.is_file():
        return {}
    if not output.is_file():
        raise ArtifactError(f"the output of {engine.name} is missing", hint=_BUILD_AGAIN)
    try:
        text = gzip.decompress(output.read_bytes()).decode("utf-8", errors="replace")
        expected = load_array(reference)
        in_fp32 = reference.with_name(f"{engine.name}.{FP32_REFERENCE}")
        fp32 = load_array(in_fp32) if in_fp32.is_file() else None
    except (OSError, ValueError, EOFError, zlib.error) as e:
        raise ArtifactError(f"the output of {engine.name} is damaged", hint=_BUILD_AGAIN) from e
    accuracy = checked_accuracy(
        [trtexec.output_from_values(text, expected.shape)],
        GraphOutputs([expected], None if fp32 is None else [fp32]),
        engine.name,
        not_finite=engine.report.output_not_finite or 0,
    )
    rows = ", ".join(f"{first} to {stop - 1}" for first, stop in checked_rows(engine.draft))
    against = f"{accuracy['against']}, stored in half precision"
    return {**accuracy, "against": against, "rows": rows}


def _write_engine(source: Path, path: Path, manifest: Manifest) -> None:
    def write(temporary: Path) -> Manifest:
        shutil.copyfile(str(source), str(temporary))
        return manifest

    write_artifact(path, write)


def _keep_timing_cache(
    folder: Path, output: Path, name: str, outcomes: Dict[str, Union[Manifest, BuildError]]
) -> None:
    cache = folder / "out" / "timing.cache"
    engines = [m for m in outcomes.values() if isinstance(m, Manifest)]
    devices = {m.build.get("compute_capability") for m in engines}
    if cache.is_file() and len(devices) == 1 and None not in devices:
        with contextlib.suppress(InputError):  # a cache only saves time
            with atomic_path(output / f".timing-{name}-sm{devices.pop()}.cache") as temporary:
                shutil.copyfile(str(cache), str(temporary))


def _summary(name: str, manifest: Manifest) -> str:
    latency: Any = manifest.build["latency_ms"]
    accuracy: Any = manifest.checks.get("accuracy")
    quality = f"{accuracy['psnr_db_vs_fp32']:.1f} dB against FP32" if accuracy else "not checked"
    speed = f"{latency['median']:.3f} ms on {manifest.build['gpu'] or 'an unknown GPU'}"
    used: Any = manifest.build.get("energy")
    power = f", {used['watts_mean']:.1f} W ({used['covers']})" if used else ""
    return f"{name}: {manifest.precision_obtained}, output: {quality}, {speed}{power}"


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
