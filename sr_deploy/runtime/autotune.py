"""Find by measurement which form of a graph (`export --candidates`), in which layout, is fastest on the target."""

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

LEARNT = "autotune.json"
ROUNDS, FIRST_ROUNDS, HOPELESS = 9, 3, 1.3
"""Candidates slower than 1.3 times the fastest after three rounds are not timed further."""


def tuned_engine_from_onnx(
    graphs: Graphs,
    output: Union[str, Path],
    *,
    target: str,
    on: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Build every candidate for `target`, time them in turns, and write the fastest of each variant and size to `output`.

    graphs: what `onnx_from_checkpoint(..., candidates=True)` wrote. on: as of `engine_from_onnx`; engines that only a board can
    run are compared by its trtexec's times. The manifest records every candidate with its times; what was learnt is kept in
    `autotune.json` there, and variants of the same structure and size (ASRN's depths) are built as it says. Return the paths.
    Raises an SrDeployError; engines finished before it stay.
    """
    profile = load_target(target)
    by_trtexec = bool(on) or why_not_here(profile)[1]
    no_device = "" if by_trtexec else BACKENDS[profile.runtime]().why_no_device(profile)
    if no_device:
        raise BuildError(
            f"candidates for '{target}' cannot be timed here: {no_device}",
            hint="tune where the engine runs, or with --on",
        )
    way = _Way(profile, on, {} if by_trtexec else BACKENDS[profile.runtime]().versions(), progress)
    groups: Dict[str, List[Path]] = {}
    for file in onnx_files(graphs):
        groups.setdefault(engine_stem(read_manifest(file)), []).append(file)
    folder = make_output_folder(Path(output))
    paths = []
    for number, (stem, files) in enumerate(groups.items(), 1):
        path = folder / f"{stem}{SUFFIX}"
        progress(f"[{number}/{len(groups)}] {_tuned(path, files, way)}")
        paths.append(path)
    return paths


@dataclass(frozen=True)
class _Way:
    """How candidates are built."""

    profile: TargetProfile
    on: str
    versions: Dict[str, str]
    """Of the library that builds and times them here; empty where a trtexec does."""
    progress: Callable[[str], None]

    @property
    def layouts(self) -> Tuple[str, ...]:
        return ("", *BACKENDS[self.profile.runtime].layouts) if self.versions else ("",)


def _tuned(path: Path, files: Sequence[Path], way: _Way) -> str:
    graphs = {file: read_manifest(file) for file in files}
    digest = hashlib.sha256(
        "".join(sorted(g.sha256 for g in graphs.values())).encode()
    ).hexdigest()[:12]
    try:
        found = read_manifest(path)
    except ArtifactError:
        found = None
    if (
        found is not None
        and found.versions.get("candidates") == digest
        and is_up_to_date(path, _wanted(found, way))
    ):
        return f"{path.name}: up to date"
    learnt, key = _Learnt(path.parent / LEARNT), _key(next(iter(graphs.values())), way)
    known = learnt.get(key)
    with tempfile.TemporaryDirectory(dir=str(path.parent), prefix=".autotune-") as temporary:
        engines = _candidates(graphs, way, Path(temporary), known)
        if len(engines) > 1:
            measured = _times(engines, way.profile)
            best = measured[0]
            facts: Dict[str, Any] = {"candidates": measured, "learnt_from": path.name}
            learnt.put(
                key,
                {
                    "form": best["form"],
                    "layout": best["layout"],
                    "from": path.name,
                    "candidates": measured,
                },
            )
        else:
            assert known is not None
            best = {"form": known["form"], "layout": known["layout"]}
            facts = {"candidates": [], "learnt_from": known["from"]}
        engine, manifest = engines[best["form"], best["layout"]]
        made = replace(
            manifest,
            form="",
            command=f"srdeploy build-engine --autotune {path.stem} --target {way.profile.name}",
            versions={**manifest.versions, "candidates": digest},
            build={
                **manifest.build,
                "autotune": {"form": best["form"], "layout": best["layout"], **facts},
            },
        )

        def write(place: Path) -> Manifest:
            shutil.copyfile(str(engine), str(place))
            return made

        write_artifact(path, write)
    what = best["form"] + (f", layout {best['layout']}" if best["layout"] else "")
    if not facts["candidates"]:
        return f"{path.name}: {what}, as learnt from {facts['learnt_from']}"
    return f"{path.name}: {what}, {best['ms_median']:.2f} ms; {len(measured)} candidates, the slowest {measured[-1]['ms_median']:.2f} ms"


def _wanted(found: Manifest, way: _Way) -> Manifest:
    """What an up-to-date engine's manifest says; a trtexec's versions are not known here."""
    return replace(
        found, versions={**found.versions, **way.versions, "profile": way.profile.digest}
    )


def _key(graph: Manifest, way: _Way) -> str:
    """What a choice holds for: the target, its software, the kind of network, the size and the precision."""
    versions = way.versions or {"trtexec": way.on or "here"}
    sizes = f"{graph.min_shape}:{graph.opt_shape}:{graph.max_shape}"
    parts = [
        way.profile.name,
        *(f"{k} {v}" for k, v in sorted(versions.items())),
        graph.arch,
        graph.structure,
        f"x{graph.scale}",
        sizes,
    ]
    return "; ".join([*parts, graph.precision_asked])


Engines = Dict[Tuple[str, str], Tuple[Path, Manifest]]


def _candidates(
    graphs: Dict[Path, Manifest], way: _Way, folder: Path, known: Optional[Dict[str, Any]]
) -> Engines:
    """Build all candidates into `folder`, or the one that is known to be the fastest: {(form, layout): (engine, manifest)}."""
    files = {graph.form or "plain": file for file, graph in graphs.items()}
    if len(files) < len(graphs):
        raise BuildError(
            f"two of {', '.join(f.name for f in graphs)} are the same candidate",
            hint="give one folder of candidates",
        )
    layouts = way.layouts
    if known is not None and known["form"] in files and known["layout"] in layouts:
        files, layouts = {known["form"]: files[known["form"]]}, (known["layout"],)
    engines: Engines = {}
    for layout in layouts:
        built = engine_from_onnx(
            list(files.values()),
            folder / (layout or "own"),
            target=way.profile.name,
            on=way.on,
            layout=layout,
            progress=way.progress,
        )
        for form, engine in zip(files, built):
            engines[form, layout] = engine, read_manifest(engine)
    return engines


def _times(engines: Engines, profile: TargetProfile) -> List[Dict[str, Any]]:
    """Return each candidate with its times, fastest first: measured here in turns, or as the board's trtexec did."""
    facts = []
    if all("latency_ms" in manifest.build for _, manifest in engines.values()):
        for (form, layout), (_, manifest) in engines.items():
            latency: Any = manifest.build["latency_ms"]
            facts.append(
                {
                    "form": form,
                    "layout": layout,
                    "ms_median": latency["median"],
                    "rounds": latency["runs"],
                    "timer": latency["timer"],
                }
            )
        return sorted(facts, key=lambda f: f["ms_median"])
    backend = BACKENDS[profile.runtime]()
    sessions = {name: backend.open(*pair) for name, pair in engines.items()}
    x = np.random.default_rng(0).random(
        (1, 3, *next(iter(engines.values()))[1].opt_shape), dtype=np.float32
    )
    runs = {name: (lambda s=s: s.timed(x).ms) for name, s in sessions.items()}
    times = time_in_turns(runs, FIRST_ROUNDS)
    fastest = min(min(t) for t in times.values())
    left = {name: run for name, run in runs.items() if min(times[name]) <= HOPELESS * fastest}
    for name, more in time_in_turns(left, ROUNDS - FIRST_ROUNDS).items():
        times[name] += more
    for (form, layout), taken in times.items():
        low, median = (round(float(v), 4) for v in np.percentile(taken, [25, 50]))
        facts.append(
            {
                "form": form,
                "layout": layout,
                "ms_p25": low,
                "ms_median": median,
                "ms_min": min(taken),
                "ms_max": max(taken),
                "rounds": len(taken),
                "threads": sessions[form, layout].threads,
            }
        )
    return sorted(
        facts, key=lambda f: f["ms_p25"]
    )  # what else the machine did meanwhile makes a run longer, never shorter


class _Learnt:
    """What earlier tunings into this folder found; a damaged file is begun anew, as a cache may."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> Optional[Dict[str, Any]]:
        entry = self._read().get(key)
        return (
            entry if isinstance(entry, dict) and {"form", "layout", "from"} <= set(entry) else None
        )

    def put(self, key: str, entry: Dict[str, Any]) -> None:
        write_text(self.path, to_json({**self._read(), key: entry}))

    def _read(self) -> Dict[str, Any]:
        try:
            return read_json(self.path, ArtifactError)
        except ArtifactError:
            return {}
