"""Finds the fastest form of each graph (`export --candidates`) and memory layout by timing them."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from sr_deploy.core.errors import ArtifactError, BuildError
from sr_deploy.core.files import make_output_folder, write_text
from sr_deploy.core.jsonio import read_json, to_json
from sr_deploy.core.manifest import Manifest, is_up_to_date, read_manifest, write_artifact
from sr_deploy.core.progress import as_progress
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.core.timing import time_in_turns
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.build import (
    SUFFIX,
    Graphs,
    engine_from_onnx,
    engine_stem,
    onnx_files,
    why_not_here,
)

CHOICES = "autotune.json"
ROUNDS, FIRST_ROUNDS, MAX_RATIO = 9, 3, 1.3
"""Candidates slower than 1.3 times the fastest after three rounds are not timed further."""

Engines = Dict[Tuple[str, str], Tuple[Path, Manifest]]
"""{(form, layout): (engine, manifest)}"""


@dataclass(frozen=True)
class _Tuning:
    """How candidates are built and timed."""

    profile: TargetProfile
    on: str
    versions: Dict[str, str]
    """Of the library that builds and times here; empty where trtexec does both."""
    progress: Callable[[str], None]

    @property
    def layouts(self) -> Tuple[str, ...]:
        return ("", *BACKENDS[self.profile.runtime].layouts) if self.versions else ("",)

    def is_up_to_date(self, path: Path, digest: str) -> bool:
        """Check an engine against the digest of its candidates. trtexec's version is not known."""
        try:
            manifest = read_manifest(path)
        except ArtifactError:
            return False
        versions = {**manifest.versions, **self.versions, "profile": self.profile.digest}
        same_candidates = manifest.versions.get("candidates") == digest
        return same_candidates and is_up_to_date(path, replace(manifest, versions=versions))

    def key(self, graph: Manifest) -> str:
        """Return what a choice is valid for: target, software, kind of network, size, precision."""
        versions = self.versions or {"trtexec": self.on or "here"}
        software = [f"{name} {version}" for name, version in sorted(versions.items())]
        sizes = f"{graph.min_shape}:{graph.opt_shape}:{graph.max_shape}"
        network = [graph.arch, graph.structure, f"x{graph.scale}", sizes, graph.precision_asked]
        return "; ".join([self.profile.name, *software, *network])


def tuned_engine_from_onnx(
    graphs: Graphs,
    output: Union[str, Path],
    *,
    target: str,
    on: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Build and time every candidate, and write the fastest of each variant and size to `output`.

    >>> options = sr_deploy.ExportOptions(sizes=["64x64"], target="cpu", candidates=True)
    >>> graphs = sr_deploy.onnx_from_checkpoint("fsrcnn-w16_x4", "candidates", options)
    >>> [path.name for path in sr_deploy.tuned_engine_from_onnx(graphs, "tuned", target="cpu")]
    ['fsrcnn-w16_x4.w16.64x64.fp32.engine']

    graphs: written with `ExportOptions(candidates=True)`. on: as in `engine_from_onnx`.
    Engines that only a board can run are compared by its trtexec's times. Each manifest records all
    candidates with their times. Choices are stored in `autotune.json` in `output` and reused for
    variants of the same structure and size (ASRN's depths). Returns the paths. Raises an
    SrDeployError; engines finished before it stay.
    """
    profile = load_target(target)
    backend = BACKENDS[profile.runtime]()
    by_trtexec = bool(on) or why_not_here(profile)[1]
    no_device = "" if by_trtexec else backend.why_no_device(profile)
    if no_device:
        raise BuildError(
            f"candidates for '{target}' cannot be timed here: {no_device}",
            hint="tune where the engine runs, or with --on",
        )
    tuning = _Tuning(profile, on, {} if by_trtexec else backend.versions(), progress)
    groups: Dict[str, List[Path]] = {}
    for file in onnx_files(graphs):
        groups.setdefault(engine_stem(read_manifest(file)), []).append(file)
    folder = make_output_folder(Path(output))
    paths = [folder / f"{stem}{SUFFIX}" for stem in groups]
    with as_progress(progress).track("tuning", len(groups)) as advance:
        for number, (path, files) in enumerate(zip(paths, groups.values()), 1):
            advance(path.name, steps=0)
            progress(f"[{number}/{len(groups)}] {path.name}: {_tune(path, files, tuning)}")
            advance()
    return paths


def _tune(path: Path, files: Sequence[Path], tuning: _Tuning) -> str:
    """Write the fastest candidate to `path` and return one line about it."""
    graphs = {file: read_manifest(file) for file in files}
    checksums = "".join(sorted(graph.sha256 for graph in graphs.values()))
    digest = hashlib.sha256(checksums.encode()).hexdigest()[:12]
    if tuning.is_up_to_date(path, digest):
        return "up to date"
    choices, key = _Choices(path.parent / CHOICES), tuning.key(next(iter(graphs.values())))
    known = choices.get(key)
    with tempfile.TemporaryDirectory(dir=str(path.parent), prefix=".autotune-") as temporary:
        engines = _build_candidates(graphs, tuning, Path(temporary), known)
        timed: List[Dict[str, Any]] = []
        if known is None or len(engines) > 1:
            timed = _time_candidates(engines, tuning.profile)
            choice = {"form": timed[0]["form"], "layout": timed[0]["layout"], "from": path.name}
            choices.put(key, {**choice, "candidates": timed})
        else:
            choice = known
        form, layout = choice["form"], choice["layout"]
        engine, manifest = engines[form, layout]
        facts = {"candidates": timed, "learnt_from": choice["from"]}

        def write(target: Path) -> Manifest:
            shutil.copyfile(str(engine), str(target))
            return replace(
                manifest,
                form="",
                command=f"srdeploy build-engine --autotune {path.stem} --target {manifest.target}",
                versions={**manifest.versions, "candidates": digest},
                build={
                    **manifest.build,
                    "autotune": {"form": form, "layout": layout, **facts},
                },
            )

        write_artifact(path, write)
    fastest = form + (f", layout {layout}" if layout else "")
    if not timed:
        return f"{fastest}, as timed for {choice['from']}"
    ms, slowest_ms = timed[0]["ms_median"], timed[-1]["ms_median"]
    return f"{fastest}, {ms:.2f} ms ({len(timed)} candidates, slowest {slowest_ms:.2f} ms)"


def _build_candidates(
    graphs: Dict[Path, Manifest], tuning: _Tuning, folder: Path, known: Optional[Dict[str, Any]]
) -> Engines:
    """Build all candidates into `folder`, or only the one already known to be the fastest."""
    files = {graph.form or "plain": file for file, graph in graphs.items()}
    if len(files) < len(graphs):
        raise BuildError(
            f"two of {', '.join(f.name for f in graphs)} are the same candidate",
            hint="give one folder of candidates",
        )
    layouts = tuning.layouts
    if known is not None and known["form"] in files and known["layout"] in layouts:
        files, layouts = {known["form"]: files[known["form"]]}, (known["layout"],)
    quantised = {graph.precision_asked for graph in graphs.values()} == {"int8"}
    engines: Engines = {}
    for layout in layouts:
        try:
            built = _build_all(files, tuning, folder, layout)
        except BuildError:
            if not quantised or len(files) == 1:
                raise
            built = _build_those_that_can(files, tuning, folder, layout)
        engines.update({(form, layout): (p, read_manifest(p)) for form, p in built.items()})
    return engines


def _build_all(
    files: Dict[str, Path], tuning: _Tuning, folder: Path, layout: str
) -> Dict[str, Path]:
    """Build the candidates, given by their forms, in a layout. Raises BuildError."""
    paths = engine_from_onnx(
        list(files.values()),
        folder / (layout or "own"),
        target=tuning.profile.name,
        options=BuildOptions(layout=layout),
        on=tuning.on,
        progress=tuning.progress,
    )
    return dict(zip(files, paths))


def _build_those_that_can(
    files: Dict[str, Path], tuning: _Tuning, folder: Path, layout: str
) -> Dict[str, Path]:
    """Build the INT8 candidates that a builder has kernels for, and tell of the others.

    Raises BuildError if there is none.
    """
    built: Dict[str, Path] = {}
    errors = []
    for form, file in files.items():
        try:
            built.update(_build_all({form: file}, tuning, folder, layout))
        except BuildError as e:
            errors.append(e)
            tuning.progress(f"{form} is left out, it cannot be built: {e.message}")
    if not built:
        raise errors[0]
    return built


def _time_candidates(engines: Engines, profile: TargetProfile) -> List[Dict[str, Any]]:
    """Return each candidate with its times, fastest first: timed here, or by a board's trtexec."""
    timed: List[Dict[str, Any]] = []
    if all("latency_ms" in manifest.build for _, manifest in engines.values()):
        for (form, layout), (_, manifest) in engines.items():
            latency: Any = manifest.build["latency_ms"]
            times = {"ms_median": latency["median"], "rounds": latency["runs"]}
            timed.append({"form": form, "layout": layout, **times, "timer": latency["timer"]})
        return sorted(timed, key=lambda candidate: candidate["ms_median"])
    backend = BACKENDS[profile.runtime]()
    sessions = {name: backend.open(*engine) for name, engine in engines.items()}
    h, w = next(iter(engines.values()))[1].opt_shape
    x = np.random.default_rng(0).random((1, 3, h, w), dtype=np.float32)
    runs = {name: (lambda s=s: s.run_timed(x).ms) for name, s in sessions.items()}
    times_ms = time_in_turns(runs, FIRST_ROUNDS)
    limit = MAX_RATIO * min(map(min, times_ms.values()))
    fast = {name: run for name, run in runs.items() if min(times_ms[name]) <= limit}
    for name, more in time_in_turns(fast, ROUNDS - FIRST_ROUNDS).items():
        times_ms[name] += more
    for (form, layout), ms in times_ms.items():
        p25, median = (round(float(v), 4) for v in np.percentile(ms, [25, 50]))
        times = {"ms_p25": p25, "ms_median": median, "ms_min": min(ms), "ms_max": max(ms)}
        counts = {"rounds": len(ms), "threads": sessions[form, layout].threads}
        timed.append({"form": form, "layout": layout, **times, **counts})
    # Other load on the machine makes a run longer, never shorter: hence a low percentile.
    return sorted(timed, key=lambda candidate: candidate["ms_p25"])


class _Choices:
    """The choices of earlier tunings into this folder: a cache, so a damaged file is replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> Optional[Dict[str, Any]]:
        choice = self._read().get(key)
        valid = isinstance(choice, dict) and {"form", "layout", "from"} <= set(choice)
        return choice if valid else None

    def put(self, key: str, choice: Dict[str, Any]) -> None:
        write_text(self.path, to_json({**self._read(), key: choice}))

    def _read(self) -> Dict[str, Any]:
        try:
            return read_json(self.path, ArtifactError)
        except ArtifactError:
            return {}
