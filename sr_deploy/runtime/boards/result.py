"""Reads the `result.tar` of a job, checks every file in it, and writes engines with manifests."""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Optional, Tuple, Union

from sr_deploy.core.errors import ArtifactError, BuildError, InputError
from sr_deploy.core.files import atomic_path, make_output_folder, sha256_of, write_text
from sr_deploy.core.jsonio import from_dict, read_json
from sr_deploy.core.manifest import Manifest, check_manifest, target_of
from sr_deploy.core.parts import AdaptivePlan
from sr_deploy.core.target import LOCAL_RUNTIMES, TargetProfile
from sr_deploy.runtime.boards import trtexec
from sr_deploy.runtime.boards.job import MANIFESTS, BoardJob, Progress, job_identity
from sr_deploy.runtime.boards.returned import FAILURES, read_text
from sr_deploy.runtime.boards.returned_network import engine_manifest, summary_of, write_engine
from sr_deploy.runtime.boards.returned_plan import (
    plan_of_engines,
    summary_of_plan,
    write_plan_of_engines,
)
from sr_deploy.runtime.opener.folder import plans_in
from sr_deploy.runtime.opener.plan import load_plan


def target_of_result(result: Path) -> str:
    """Return the target of a result's engines. Raises ArtifactError."""
    with tempfile.TemporaryDirectory() as folder:
        _unpack(result, Path(folder))
        return _read_drafts(Path(folder)).target.name


def engines_from_result(
    result: Path,
    output: Path,
    *,
    job: Optional[BoardJob] = None,
    progress: Progress = lambda line: None,
) -> List[Path]:
    """Check a `result.tar` and write its engines with manifests to `output`; return their paths.

    Of an adaptive network it is the path of the engines' plan, which is written if all of them are
    good. job: the job it must be the result of, where known. Raises ArtifactError when the result
    is damaged or tampered with. Raises BuildError, after writing the good engines, when one failed
    to build, has another precision, was built by another version or GPU, or computes something
    else.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _unpack(Path(result), folder)
        if job is not None and job_identity(folder) != job.identity:
            hint = "run the same command again"
            raise ArtifactError(f"{result} is the result of another job", hint=hint)
        drafts = _read_drafts(folder)
        results = trtexec.results_from_text(read_text(folder / "out" / "results.txt"))
        _check_results(results, drafts, folder)
        outcomes = _judged(folder, results, drafts)
        make_output_folder(output)  # only after everything was read
        for log in sorted((folder / "out").glob("*.log")):
            if log.name.endswith((".build.log", ".time.log")):
                write_text(output / log.name, read_text(log))
        for name, outcome in outcomes.items():
            if isinstance(outcome, Manifest):
                write_engine(folder / "out" / name, output / name, outcome)
                progress(summary_of(name, outcome))
            elif isinstance(outcome, AdaptivePlan):
                write_plan_of_engines(folder, output, outcome)
                progress(summary_of_plan(outcome))
            else:
                progress(outcome.message)
        _keep_timing_cache(folder, output, f"{drafts.target.name}-{results.version}", outcomes)
    errors = [outcome for outcome in outcomes.values() if isinstance(outcome, BuildError)]
    if errors:
        more = f" (and {len(errors) - 1} more failed)" if len(errors) > 1 else ""
        hint = errors[0].hint or f"see the logs in {output}"
        raise BuildError(errors[0].message + more, hint=hint)
    return [output / name for name in outcomes]


@dataclass(frozen=True)
class _Drafts:
    """What a job was to build, without what only the builds can tell."""

    networks: Dict[str, Manifest]
    """By the engine's file name."""
    plans: Tuple[AdaptivePlan, ...]

    @property
    def target(self) -> TargetProfile:
        for draft in self.networks.values():
            return target_of(draft)
        engine = self.plans[0].engine
        assert engine is not None
        return target_of(engine)

    def engines(self) -> List[str]:
        """Return the file names of all engines."""
        return [*self.networks, *(p.file for plan in self.plans for p in plan.parts.values())]


_Outcomes = Dict[str, Union[Manifest, AdaptivePlan, BuildError]]


def _judged(folder: Path, results: trtexec.Results, drafts: _Drafts) -> _Outcomes:
    """Return the manifests and plans, or the errors, by the names of engines and plans."""
    outcomes: _Outcomes = {}
    for report in (r for r in results.engines if r.engine in drafts.networks):
        try:
            draft = drafts.networks[report.engine]
            outcomes[report.engine] = engine_manifest(folder, report, draft, results)
        except BuildError as e:
            outcomes[report.engine] = e
    for plan in drafts.plans:
        try:
            outcomes[plan.file_name] = plan_of_engines(folder, plan, results)
        except BuildError as e:
            outcomes[plan.file_name] = e
    return outcomes


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
    listed = {line[66:]: line[:64] for line in read_text(path).splitlines()}
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


def _read_drafts(folder: Path) -> _Drafts:
    """Return the drafts of the job's manifests and plans. Raises ArtifactError."""
    data = read_json(folder / MANIFESTS, ArtifactError)
    plans = tuple(_read_plan(path) for path in plans_in(folder / "desk"))
    if not (data or plans) or not all(isinstance(fields, dict) for fields in data.values()):
        raise ArtifactError(f"{MANIFESTS} was changed: expected an object of manifests")
    drafts = {
        name: from_dict(Manifest, fields, source=MANIFESTS, error=ArtifactError)
        for name, fields in data.items()
    }
    targets = [*(draft.target for draft in drafts.values()), *(plan.target for plan in plans)]
    one_target = len(set(targets)) == 1
    for name, draft in drafts.items():
        plain = PurePosixPath(name).name == name and name.endswith(".engine")
        if not (plain and one_target and draft.kind == "engine"):
            raise _not_used(f"{MANIFESTS} was not written for a job: '{name[:80]}'")
        check_manifest(draft, source=f"{MANIFESTS}, {name}")
    if not one_target:
        raise _not_used(f"the job is for the targets {', '.join(sorted(set(targets)))}")
    return _Drafts(drafts, plans)


def _read_plan(path: Path) -> AdaptivePlan:
    plan = load_plan(path)
    if plan.engine is None or plan.file_name != path.name or plan.target != plan.engine.target:
        raise _not_used(f"{path.name} was not written for a job")
    return plan


def _check_results(results: trtexec.Results, drafts: _Drafts, folder: Path) -> None:
    """Check the board's report against the job and files. Raises ArtifactError, BuildError."""
    profile = drafts.target
    if profile.runtime in LOCAL_RUNTIMES or not profile.supports_version(results.version):
        raise BuildError(
            f"the engines were built by TensorRT {results.version[:40]}, but target "
            f"'{profile.name}' is for {profile.runtime_versions}"
        )
    names = [engine.engine for engine in results.engines]
    if sorted(names) != sorted(drafts.engines()):
        raise ArtifactError(
            f"the result contains {', '.join(names) or 'no engine'}, but the job is for "
            f"{', '.join(sorted(drafts.engines()))}"
        )
    for engine in results.engines:
        file = folder / "out" / engine.engine
        if engine.status not in ("ok", *FAILURES):
            raise ArtifactError(
                f"the status of {engine.engine} is '{engine.status[:40]}'; "
                f"expected ok, {', '.join(FAILURES)}"
            )
        if engine.status != "failed":
            reported = (engine.sha256, engine.size_bytes, engine.exit_code)
            if not file.is_file() or reported != (sha256_of(file), file.stat().st_size, 0):
                raise _not_used(f"{engine.engine} does not match its entry in results.txt")


def _keep_timing_cache(folder: Path, output: Path, name: str, outcomes: _Outcomes) -> None:
    cache = folder / "out" / "timing.cache"
    builds: List[Dict[str, Any]] = []
    for outcome in outcomes.values():
        if isinstance(outcome, Manifest):
            builds.append(outcome.build)
        elif isinstance(outcome, AdaptivePlan) and outcome.engine is not None:
            builds += outcome.engine.receipts.values()
    devices = {build.get("compute_capability") for build in builds}
    if cache.is_file() and len(devices) == 1 and None not in devices:
        with contextlib.suppress(InputError):  # a cache only saves time
            with atomic_path(output / f".timing-{name}-sm{devices.pop()}.cache") as temporary:
                shutil.copyfile(str(cache), str(temporary))
