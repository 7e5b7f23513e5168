"""A job: what a board needs to build engines with its own trtexec, and what comes back of it.

One folder serves three ways: `on_board/build.sh` runs in it here, on a board over SSH, or by hand out of a tar file. Its `desk/`
travels both ways: the manifests, and what the engines' outputs are compared with.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.errors import ArtifactError, BuildError, InputError, MissingPackageError
from sr_deploy.core.files import atomic_path, make_output_folder, sha256_of, write_text
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import from_dict, read_json, to_json
from sr_deploy.core.manifest import Manifest, check_manifest, mixed_precision, write_artifact
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.runtime.accuracy import compared, refuse_inaccurate
from sr_deploy.runtime.boards import trtexec
from sr_deploy.runtime.boards.board import energy, facts_from_text, samples_from_text, within
from sr_deploy.runtime.fallback import with_fp32_nodes

SCRIPTS = Path(__file__).with_name("on_board")
_NUMPY = {"fp32": np.float32, "fp16": np.float16}
_MANIFESTS = "desk/manifests.json"


@dataclass(frozen=True)
class Plan:
    """One engine to be."""

    onnx: Path
    graph: Manifest
    engine: Manifest
    """What its manifest will say, but for what only the build can tell."""
    name: str
    options: BuildOptions


@dataclass(frozen=True)
class Job:
    folder: Path
    identity: str
    """Of all that is in it: the same job has the same one."""


def write_job(
    folder: Path,
    plans: Sequence[Plan],
    profile: TargetProfile,
    *,
    timing_from: Optional[Path] = None,
) -> Job:
    """Write the job that builds `plans` into `folder`. timing_from: where an earlier job's timing cache may lie."""
    folder.mkdir(parents=True)
    (folder / "desk").mkdir()
    names = [p.onnx.name for p in plans]
    lines, strong = [], profile.fp16_graph == "fp16"
    for plan in plans:
        graph = plan.graph
        if names.count(plan.onnx.name) > 1:
            raise InputError(
                f"two of the graphs are called {plan.onnx.name}",
                hint="build them one after the other",
            )
        if strong and plan.options.fp32_layers:
            with_fp32_nodes(plan.onnx, plan.options.fp32_layers, folder / plan.onnx.name)
        else:
            shutil.copyfile(str(plan.onnx), str(folder / plan.onnx.name))
        _write_reference(folder, plan)
        shapes = [
            (1, 3, hw[0], hw[1]) if graph.dynamic else None
            for hw in (graph.min_shape, graph.opt_shape, graph.max_shape)
        ]
        typing = "strong" if strong else "weak"
        lines.append(
            trtexec.JobLine(
                plan.onnx.name, plan.name, graph.precision_asked, typing, graph.input_name, *shapes
            )
        )
    head = trtexec.Job(
        tuple(lines),
        runtime=profile.runtime,
        versions=profile.runtime_versions,
        workspace_mib=profile.workspace_mib,
        sm=plans[0].options.compute_capabilities or profile.compute_capabilities,
        dla=plans[0].options.dla,
        # Where typing is strong they are in the graphs already.
        fp32_layers=()
        if strong
        else tuple(dict.fromkeys(layer for p in plans for layer in p.options.fp32_layers)),
    )
    (folder / "job.txt").write_text(trtexec.job_text(head), encoding="utf-8")
    (folder / _MANIFESTS).write_text(
        to_json({p.name: asdict(p.engine) for p in plans}), encoding="utf-8"
    )
    for script in sorted(SCRIPTS.glob("*.sh")):
        shutil.copyfile(str(script), str(folder / script.name))
    # Of this very target: a name may begin another's.
    caches = (
        sorted(timing_from.glob(f".timing-{profile.name}-[0-9]*.cache"))
        if timing_from is not None
        else []
    )
    if caches:
        shutil.copyfile(str(caches[-1]), str(folder / "timing.cache"))
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    sums = "".join(f"{sha256_of(p)}  {p.relative_to(folder).as_posix()}\n" for p in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return Job(folder, _identity(folder))


def write_bundle(job: Job, file: Path) -> None:
    """Write the job's folder as one tar file."""
    with atomic_path(file) as temporary:
        with tarfile.open(str(temporary), "w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(str(job.folder), arcname=f"srdeploy-{job.identity[:8]}")


def target_of_result(result: Path) -> str:
    """Return the target that a result's engines are for. Raises ArtifactError."""
    with tempfile.TemporaryDirectory() as folder:
        manifests = _manifests(_unpacked(result, Path(folder)))
    return next(iter(manifests.values())).target


def engines_from_result(
    result: Path,
    output: Path,
    *,
    of: Optional[Job] = None,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Check the `result.tar` of a job and write its engines with manifests to `output`; return their paths.

    of: the job that was sent, where it is known; a result of another one is refused.
    Raises ArtifactError when the result is damaged or tampered with; BuildError, after writing the engines that are good, when
    one failed to build, is not of the precision asked for, was built by another version or GPU, or computes something else.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = _unpacked(Path(result), Path(temporary))
        if of is not None and _identity(folder) != of.identity:
            raise ArtifactError(
                f"{result} is the result of another job", hint="run the same command again"
            )
        manifests = _manifests(folder)
        results = trtexec.results_from_text(
            (folder / "out/results.txt").read_text(encoding="utf-8", errors="replace")
        )
        profile = load_target(next(iter(manifests.values())).target)
        _check_results(results, manifests, profile, folder)
        outcomes: List[Tuple[str, Union[Manifest, BuildError]]] = []
        for found in results.engines:
            try:
                outcomes.append(
                    (
                        found.engine,
                        _Outcome(
                            folder, found, results, profile, manifests[found.engine]
                        ).manifest(),
                    )
                )
            except BuildError as e:
                outcomes.append((found.engine, e))
        make_output_folder(output)  # nothing was written before all was read
        paths = []
        for name, outcome in outcomes:
            for log in ("build", "time"):
                text = folder / "out" / f"{name}.{log}.log"
                if text.is_file():
                    write_text(
                        output / f"{name}.{log}.log",
                        text.read_text(encoding="utf-8", errors="replace"),
                    )
            if isinstance(outcome, BuildError):
                progress(outcome.message)
                continue

            def write(
                temporary: Path, source: Path = folder / "out" / name, manifest: Manifest = outcome
            ) -> Manifest:
                shutil.copyfile(str(source), str(temporary))
                return manifest

            write_artifact(output / name, write)
            paths.append(output / name)
            progress(_line(output / name, outcome))
        _keep_timing_cache(folder, output, f"{profile.name}-{results.version}", outcomes)
    problems = [outcome for _, outcome in outcomes if isinstance(outcome, BuildError)]
    if problems:
        more = f" (and {len(problems) - 1} more failed)" if len(problems) > 1 else ""
        raise BuildError(
            problems[0].message + more, hint=problems[0].hint or f"the logs lie in {output}"
        )
    return paths


def _check_results(
    results: trtexec.Results, manifests: Dict[str, Manifest], profile: TargetProfile, folder: Path
) -> None:
    """Hold what the board says against the job, and against the files. Raises ArtifactError or BuildError."""
    if profile.runtime == "onnxruntime" or not profile.supports_version(results.version):
        raise BuildError(
            f"the engines were built by TensorRT {results.version[:40]}; target '{profile.name}' is for {profile.runtime_versions}"
        )
    names = [found.engine for found in results.engines]
    if sorted(names) != sorted(manifests):
        raise ArtifactError(
            f"the result is of {', '.join(names) or 'nothing'}; the job asked for {', '.join(sorted(manifests))}"
        )
    for found in results.engines:
        engine = folder / "out" / found.engine
        if found.status not in ("ok", "failed", "unmeasured", "unchecked"):
            raise ArtifactError(
                f"the result says '{found.status[:40]}' of {found.engine}; expected ok, failed, unmeasured or unchecked"
            )
        if found.status != "failed" and (
            not engine.is_file()
            or (found.sha256, found.size_bytes, found.exit_code)
            != (sha256_of(engine), engine.stat().st_size, 0)
        ):
            raise ArtifactError(
                f"{found.engine} is not the file that the result describes: nothing of it is used"
            )


class _Outcome:
    """What came back of one engine, and what may be said of it."""

    def __init__(
        self,
        folder: Path,
        found: trtexec.EngineResult,
        results: trtexec.Results,
        profile: TargetProfile,
        wanted: Manifest,
    ) -> None:
        self._out, self._folder, self._found, self._results, self._profile, self._wanted = (
            folder / "out",
            folder,
            found,
            results,
            profile,
            wanted,
        )
        self._checks: Dict[str, object] = dict(wanted.checks)
        self._not_checked: List[str] = list(wanted.not_checked)

    def manifest(self) -> Manifest:
        """Return the engine's manifest. Raises BuildError when it is none, or not what was asked for."""
        found = self._found
        if found.status != "ok":
            what = {
                "failed": "was not built",
                "unmeasured": "was built, and cannot be run",
                "unchecked": "was built, and gives no output",
            }
            raise BuildError(
                f"{found.engine} {what[found.status]}: {'; '.join(found.errors) or f'exit code {found.exit_code}'}"
            )
        try:
            return self._examined()
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            EOFError,
            OSError,
            zlib.error,
        ) as e:
            raise ArtifactError(
                f"what came back of {found.engine} cannot be read: {type(e).__name__}: {str(e)[:120]}",
                hint="build it again on the board",
            ) from e
        except InputError as e:
            raise ArtifactError(
                f"what came back of {found.engine} cannot be read: {e.message}",
                hint="build it again on the board",
            ) from e

    def _examined(self) -> Manifest:
        found = self._found
        device = trtexec.device_from_log(self._text("build.log"))
        wanted = self._profile.compute_capabilities
        if (
            wanted
            and device.compute_capability not in wanted
            and self._profile.runtime == "tensorrt"
        ):
            on = f"{found.engine} was built on a GPU of SM {device.compute_capability}"
            raise BuildError(f"{on}; the target's is {', '.join(map(str, wanted))}")
        precision = self._precision()
        build: Dict[str, object] = {
            "seconds": found.build_seconds,
            "size_bytes": found.size_bytes,
            "by": self._results.trtexec,
            "command": found.build_command,
            "gpu": device.name,
            "compute_capability": device.compute_capability,
        }
        if "dla" in self._wanted.build:
            build["dla"] = {
                **self._wanted.build["dla"],
                "layers_on_gpu": trtexec.layers_off_dla(self._text("build.log")),
            }  # type: ignore[dict-item]
        self._measured(build)
        self._accuracy()
        versions = {
            **self._wanted.versions,
            self._profile.runtime.replace("-", "_"): self._results.version,
        }
        return replace(
            self._wanted,
            precision_obtained=precision,
            versions=versions,
            checks=self._checks,
            not_checked=tuple(self._not_checked),
            build={**self._wanted.build, **build},
        )

    def _precision(self) -> str:
        """The receipt: the layers' types; where there are none, the size beside that of the weights."""
        asked, found = self._wanted.precision_asked, self._found
        obtained, counts = (
            ("unknown", {})
            if not self._text("layers.json")
            else trtexec.precision_from_layers(self._text("layers.json"))
        )
        evidence = f"{found.size_bytes} bytes; flags: {found.build_command}"
        if obtained != "unknown":
            receipt = f"layer information: layers by what they compute in: {counts}"
        elif self._profile.fp16_graph == "fp16":
            obtained, receipt = asked, "strongly typed build: the graph's own tensor types"
        else:
            twin = found.fp32_twin_bytes
            if twin is None or found.size_bytes is None:
                raise BuildError(
                    f"{found.engine}: nothing tells what precision it has: this trtexec names no layers' types, and no FP32 twin was built"
                )
            # Half the bytes a weight; what is not weights is the same in both.
            obtained = "fp16" if found.size_bytes < 0.8 * twin else "fp32"
            receipt = f"size: {found.size_bytes} bytes against {twin} of its FP32 twin (this trtexec names no layers' types)"
        self._checks["precision_receipt"] = receipt
        self._checks["precision_evidence"] = evidence
        if asked == "fp16" and obtained == "fp32":
            raise BuildError(
                f"{found.engine}: FP16 was asked for, and the engine computes in FP32: {receipt}",
                hint="see the build's log for the flags it took; on a strongly typed TensorRT the graph must be FP16",
            )
        return mixed_precision(counts) if obtained == "mixed" else obtained

    def _measured(self, build: Dict[str, object]) -> None:
        """Times, power and the board's facts into `build`."""
        if self._text("times.json"):
            times = trtexec.times_from_json(self._text("times.json"))
            median, p90, p95, p99 = (
                round(float(v), 4) for v in np.percentile(times, [50, 90, 95, 99])
            )
            said = trtexec.latency_from_log(
                self._text("time.log")
            )  # trtexec's own summary of the same run
            if not said.min_ms * 0.99 <= median <= said.max_ms * 1.01:
                raise ArtifactError(
                    f"the times of {self._found.engine} are not those of its log: {median} ms is not in its range"
                )
            build["latency_ms"] = {
                "median": median,
                "p90": p90,
                "p95": p95,
                "p99": p99,
                "runs": len(times),
                "timer": "GPU compute time",
            }
            seconds = sum(times) / 1000
            samples = samples_from_text(self._text("power.txt"))
            last = max((s.time_s for s in samples if s.time_s is not None), default=0.0)
            h, w = self._wanted.opt_shape
            output_px = h * w * self._wanted.scale**2
            used = energy(
                within(samples, last - seconds, last),
                output_px=output_px,
                runs=len(times),
                seconds=seconds,
            )
            if used is not None:
                build["energy"] = {k: v for k, v in asdict(used).items() if v is not None}
            else:
                self._not_checked.append("power and throttling: the board reported too few samples")
        else:
            raise ArtifactError(
                f"no times of {self._found.engine} came back", hint="build it again on the board"
            )
        facts = {
            k: v
            for k, v in asdict(facts_from_text(self._text_of("board.txt"))).items()
            if v not in (None, "")
        }
        if facts:
            build["board"] = facts

    def _accuracy(self) -> None:
        """The gate: its output on a photograph against FP32. Raises BuildError."""
        output = self._out / f"{self._found.engine}.output.json.gz"
        reference = self._folder / "desk" / f"{self._found.engine}.npy"
        if not reference.is_file():
            self._not_checked.append(
                "its output: its job carried no reference, as onnxruntime was missing at the desk"
            )
            return
        if not output.is_file():
            raise ArtifactError(
                f"no output of {self._found.engine} came back, and one was asked for",
                hint="build it again on the board",
            )
        y = trtexec.output_from_json(
            gzip.decompress(output.read_bytes()).decode("utf-8", errors="replace")
        )
        found = compared([y], [np.load(str(reference), allow_pickle=False)])
        refuse_inaccurate(found, self._found.engine)
        self._checks["accuracy"] = {
            **found,
            "against": "onnxruntime, FP32, stored in half precision",
        }

    def _text(self, kind: str) -> str:
        return self._text_of(f"{self._found.engine}.{kind}")

    def _text_of(self, name: str) -> str:
        path = self._out / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _write_reference(folder: Path, plan: Plan) -> None:
    """A photograph as the engine will be given it, and what FP32 makes of it; nothing where onnxruntime is missing."""
    from sr_deploy.runtime.ort import OnnxRuntimeSession

    try:
        x = nchw_from_rgb(sample_lr(plan.graph.opt_shape, count=1)[0])
        y = OnnxRuntimeSession(plan.onnx, plan.graph).run(x)
    except MissingPackageError:
        return
    x.astype(_NUMPY[plan.graph.input_dtype]).tofile(str(folder / f"{plan.onnx.name}.lr.bin"))
    np.save(str(folder / "desk" / f"{plan.name}.npy"), y.astype(np.float16))


def _manifests(folder: Path) -> Dict[str, Manifest]:
    data = read_json(folder / _MANIFESTS, ArtifactError)
    if not all(isinstance(fields, dict) for fields in data.values()):
        raise ArtifactError(
            f"{_MANIFESTS} is not what the desk sent: expected an object of manifests"
        )
    found = {
        name: from_dict(Manifest, fields, source=_MANIFESTS, error=ArtifactError)
        for name, fields in data.items()
    }
    targets = {m.target for m in found.values()}
    for name, manifest in found.items():
        if (
            PurePosixPath(name).name != name
            or not name.endswith(".engine")
            or len(targets) > 1
            or manifest.kind != "engine"
        ):
            raise ArtifactError(
                f"the result's manifests are not a job's: '{name[:80]}'",
                hint="nothing of it is used",
            )
        check_manifest(manifest, source=f"{_MANIFESTS}, {name}")
    if not found:
        raise ArtifactError("the result names no engine")
    return found


def _unpacked(result: Path, folder: Path) -> Path:
    """Unpack a result whose every file is a plain one, lies where results' files lie, and has the checksum listed for it."""
    again = "run build.sh again on the board, and bring its result.tar back whole"
    try:
        with tarfile.open(str(result), "r:") as archive:
            members = [m for m in archive.getmembers() if not m.isdir()]
            if sum(m.size for m in members) > Path(result).stat().st_size or any(
                m.issparse() for m in members
            ):
                raise ArtifactError(
                    f"{result} says it holds more than it has: nothing of it is used", hint=again
                )
            for member in members:
                parts = PurePosixPath(member.name).parts
                if (
                    not member.isreg()
                    or len(parts) > 2
                    or ".." in parts
                    or "\\" in member.name
                    or not _belongs(parts)
                ):
                    raise ArtifactError(
                        f"{result} holds '{member.name}', which no result holds: nothing of it is used"
                    )
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
        raise ArtifactError(f"{result} is not a result.tar, or not whole: {e}", hint=again) from e
    _verify(folder / "out", "", result, again)
    _verify(folder, "desk", result, again)
    return folder


def _belongs(parts: Tuple[str, ...]) -> bool:
    return parts in (("job.txt",), ("SHA256SUMS",)) or (
        len(parts) == 2 and parts[0] in ("out", "desk")
    )


def _verify(folder: Path, below: str, result: Path, again: str) -> None:
    """What is listed must have come back, and what came back must be listed, each as it was; of the job's own files its
    job.txt and those `below` come back."""
    listed: Dict[str, str] = {}
    path = folder / "SHA256SUMS"
    for line in (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    ):
        listed[line[66:]] = line[:64]
    if not listed:
        raise ArtifactError(
            f"{result} has no checksums (SHA256SUMS): nothing of it is used", hint=again
        )
    expected = {
        name for name in listed if not below or name == "job.txt" or name.startswith(below + "/")
    }
    places = [folder] + ([folder / below] if below else [])
    present = {
        file.relative_to(folder).as_posix()
        for place in places
        for file in place.glob("*")
        if file.is_file() and file != path
    }
    for name in sorted(expected - present):
        raise ArtifactError(
            f"{result} is not whole: {name} is missing; nothing of it is used", hint=again
        )
    for name in sorted(present):
        if listed.get(name) != sha256_of(folder / name):
            raise ArtifactError(
                f"{result}: {name} is not the file that was packed (another SHA-256): nothing of it is used",
                hint=again,
            )


def _identity(folder: Path) -> str:
    return sha256_of(folder / "SHA256SUMS")[:20]


def _keep_timing_cache(
    folder: Path,
    output: Path,
    name: str,
    outcomes: Sequence[Tuple[str, Union[Manifest, BuildError]]],
) -> None:
    cache = folder / "out" / "timing.cache"
    built_on = {m.build["compute_capability"] for _, m in outcomes if isinstance(m, Manifest)}
    if cache.is_file() and len(built_on) == 1:
        with contextlib.suppress(InputError):  # what only saves time must not cost an engine
            with atomic_path(output / f".timing-{name}-sm{built_on.pop()}.cache") as temporary:
                shutil.copyfile(str(cache), str(temporary))


def _line(path: Path, manifest: Manifest) -> str:
    latency: Any = manifest.build.get("latency_ms")
    speed = (
        f", {latency['median']:.3f} ms on {manifest.build['gpu']}" if latency else ", not measured"
    )
    accuracy: Any = manifest.checks.get("accuracy")
    quality = (
        f", {accuracy['psnr_db_vs_fp32']:.1f} dB against FP32"
        if accuracy
        else ", output not checked"
    )
    return f"{path.name}: {manifest.precision_obtained}{quality}{speed}"
