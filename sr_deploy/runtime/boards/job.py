"""Writes jobs: folders with which a board's own trtexec builds engines. See `result.py`, too.

`on_board/build.sh` runs in the folder: on this machine, on a board over SSH, or unpacked by hand
from a tar file. The folder's `desk/` comes back with the result: it holds the draft manifests and
some rows of the reference outputs.
"""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.core.files import atomic_path, sha256_of
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import Manifest
from sr_deploy.core.progress import as_progress
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import TargetProfile
from sr_deploy.runtime.boards.plan_job import plan_lines, plan_text, write_plan_files
from sr_deploy.runtime.boards.trtexec import JobFile, JobLine, job_text
from sr_deploy.runtime.dla_calibration import cache_lines, floats_and_scales
from sr_deploy.runtime.fallback import with_fp32_nodes
from sr_deploy.runtime.graph_outputs import graph_outputs

if TYPE_CHECKING:
    from sr_deploy.runtime.plan_build import PlanToBuild

SCRIPTS = Path(__file__).with_name("on_board")
MANIFESTS = "desk/manifests.json"
BAND = 16
FP32_REFERENCE = "fp32.npy"
"""Ends the name of the file with the output of a quantised graph without its Q/DQ pairs."""
Progress = Callable[[str], None]
"""Receives each line of a log."""
_README = """Builds and measures super-resolution engines with this machine's own trtexec.

For: {title}; TensorRT {versions}
Engines:
{engines}

Run:   sh build.sh
       TRTEXEC=/path/to/trtexec sh build.sh    with a trtexec that is not on PATH

It needs sh, coreutils, sed, grep, tar, gzip and trtexec; no network, no root, no Python. It writes
in this folder only. It may be stopped and started again: finished engines are kept. It prints a
table at the end: each engine with the precision asked of it, its median latency, or the reason why
it failed. What it really computes in, and its power, are told at the desk by adopt.

What comes back is result.tar: engines, logs, times, power, facts about this machine, and some rows
of each output. Copy it to the desk and run there:

       srdeploy adopt result.tar

That checks every file, the precision that each engine really has, and its output against FP32. To
report what works on this machine, send result.tar.
"""
_NUMPY = {"fp32": np.float32, "fp16": np.float16}


@dataclass(frozen=True)
class BuildPlan:
    """One engine to build."""

    onnx: Path
    graph: Manifest
    engine: Manifest
    """Its manifest without the facts that only the build can tell."""
    name: str
    options: BuildOptions


@dataclass(frozen=True)
class JobPlans:
    """What a job builds."""

    networks: Sequence[BuildPlan] = ()
    adaptive: Sequence[PlanToBuild] = ()

    @property
    def options(self) -> BuildOptions:
        return self.networks[0].options if self.networks else self.adaptive[0].options

    def names(self) -> List[str]:
        """Return the names of the engines, those of plans by their plan."""
        return [*(plan.name for plan in self.networks), *(plan.name for plan in self.adaptive)]

    def files(self) -> List[Path]:
        """Return the graphs. Those that plans share are listed once."""
        parts = [b.source.parent / p.file for b in self.adaptive for p in b.plan.parts.values()]
        return [*(plan.onnx for plan in self.networks), *dict.fromkeys(parts)]


@dataclass(frozen=True)
class BoardJob:
    """A job's folder. Jobs of the same content have the same identity (hex digits)."""

    folder: Path
    identity: str


def write_job(
    folder: Path,
    plans: JobPlans,
    profile: TargetProfile,
    *,
    timing_caches: Optional[Path] = None,
    progress: Progress = lambda line: None,
) -> BoardJob:
    """Write the job that builds `plans` into `folder`. timing_caches: a folder of them."""
    (folder / "desk").mkdir(parents=True)
    graphs = [path.name for path in plans.files()]
    duplicates = sorted({name for name in graphs if graphs.count(name) > 1})
    if duplicates:
        hint = "build them one after the other"
        raise InputError(f"two of the graphs are called {duplicates[0]}", hint=hint)
    strong = profile.fp16_graph == "fp16"
    steps = len(plans.networks) + len(plans.adaptive)
    with as_progress(progress).track("computing references", steps) as advance:
        for plan in plans.networks:
            layers = plan.options.fp32_layers
            if plan.options.dla is not None and plan.graph.precision_asked == "int8":
                scales = floats_and_scales(plan.onnx, plan.graph.opt_shape, folder / plan.onnx.name)
                path = folder / f"{plan.onnx.name}.scales"
                path.write_text(cache_lines(scales), encoding="utf-8")
            elif strong and not set(layers) <= set(plan.graph.fp32_nodes):
                with_fp32_nodes(plan.onnx, layers, folder / plan.onnx.name)
            else:
                shutil.copyfile(str(plan.onnx), str(folder / plan.onnx.name))
            _write_reference(folder, plan)
            advance(plan.onnx.name)
        for build in plans.adaptive:
            for part in build.plan.parts.values():
                shutil.copyfile(str(build.source.parent / part.file), str(folder / part.file))
            write_plan_files(folder, build)
            advance(build.name)
    for name, text in _texts(plans, profile).items():
        (folder / name).write_text(text, encoding="utf-8")
    for script in sorted(SCRIPTS.glob("*.sh")):
        shutil.copyfile(str(script), str(folder / script.name))
    if timing_caches is not None:  # the digit: one target's name may begin another's
        caches = sorted(timing_caches.glob(f".timing-{profile.name}-[0-9]*.cache"))
        if caches:
            shutil.copyfile(str(caches[-1]), str(folder / "timing.cache"))
    (folder / "README.txt").write_text(_readme(plans, profile), encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = "".join(f"{sha256_of(p)}  {p.relative_to(folder).as_posix()}\n" for p in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
    return BoardJob(folder, job_identity(folder))


def _texts(plans: JobPlans, profile: TargetProfile) -> Dict[str, str]:
    """Return what tells the job, by file name."""
    drafts = {plan.name: asdict(plan.engine) for plan in plans.networks}
    texts = {"job.txt": job_text(_job_file(plans, profile)), MANIFESTS: to_json(drafts)}
    texts.update({f"desk/{build.name}": plan_text(build) for build in plans.adaptive})
    return texts


def _readme(plans: JobPlans, profile: TargetProfile) -> str:
    engines = "\n".join(f"  {name}" for name in plans.names())
    return _README.format(title=profile.title, versions=profile.runtime_versions, engines=engines)


def job_identity(folder: Path) -> str:
    """Return the identity of the job in `folder`, or of the job a result in `folder` belongs to."""
    return sha256_of(folder / "SHA256SUMS")[:20]


def write_bundle(job: BoardJob, file: Path) -> None:
    """Write the job's folder as one tar file."""
    with atomic_path(file) as temporary:
        with tarfile.open(str(temporary), "w", format=tarfile.PAX_FORMAT) as archive:
            archive.add(str(job.folder), arcname=f"srdeploy-{job.identity[:8]}")


def is_bundle_of(file: Path, plans: JobPlans, profile: TargetProfile) -> bool:
    """Return whether `file` is a whole bundle that builds these engines, by these scripts."""
    expected = _texts(plans, profile)
    expected.update({p.name: p.read_text(encoding="utf-8") for p in SCRIPTS.glob("*.sh")})
    try:
        with tarfile.open(str(file), "r:") as archive:
            for name, text in expected.items():
                member = archive.extractfile(f"{bundle_folder(file)}/{name}")
                if member is None or member.read().decode("utf-8") != text:
                    return False
            return len(archive.getmembers()) > len(expected)
    except (OSError, KeyError, ValueError, tarfile.TarError):
        return False


def bundle_folder(file: Path) -> str:
    """Return the name of the folder that a bundle unpacks to. Raises tarfile.TarError, OSError."""
    with tarfile.open(str(file), "r:") as archive:
        first = archive.next()
        return "" if first is None else first.name.split("/")[0]


def _job_file(plans: JobPlans, profile: TargetProfile) -> JobFile:
    strong, options = profile.fp16_graph == "fp16", plans.options
    lines = []
    for plan in plans.networks:
        graph = plan.graph
        low, opt, high = (
            {graph.input_name: (1, 3, *hw)}
            for hw in (graph.min_shape, graph.opt_shape, graph.max_shape)
        )
        lines.append(
            JobLine(
                plan.onnx.name,
                plan.name,
                graph.precision_asked,
                "strong" if strong else "weak",
                opt,
                (low, opt, high) if graph.dynamic else None,
                rows=checked_rows(graph),
            )
        )
    for build in plans.adaptive:
        lines += plan_lines(build)
    # Strongly typed graphs were rewritten instead.
    networks = plans.networks
    layers = [layer for plan in networks if not strong for layer in plan.options.fp32_layers]
    in_fp16 = [layer for plan in networks for layer in plan.options.fp16_layers]
    return JobFile(
        tuple(lines),
        runtime=profile.runtime,
        versions=profile.runtime_versions,
        workspace_mib=profile.workspace_mib,
        sm=options.compute_capabilities or profile.compute_capabilities,
        dla=options.dla,
        fp32_layers=tuple(dict.fromkeys(layers)),
        fp16_layers=tuple(dict.fromkeys(in_fp16)),
        no_cublas_cudnn=options.no_cublas_cudnn,
    )


def checked_rows(graph: Manifest) -> Tuple[Tuple[int, int], ...]:
    """Return the rows of the output, (first, stop), that the accuracy check compares.

    A band at each border and one in the middle: a whole output is 50 MB of text.
    """
    height = graph.scale * graph.opt_shape[0]
    if height <= 3 * BAND:
        return ((0, height),)
    middle = (height - BAND) // 2
    return ((0, BAND), (middle, middle + BAND), (height - BAND, height))


def rows_of(y_nchw: np.ndarray, rows: Sequence[Tuple[int, int]]) -> np.ndarray:
    """Return some rows of an output, one band below the other."""
    return np.concatenate([y_nchw[:, :, first:stop] for first, stop in rows], axis=2)


def _write_reference(folder: Path, plan: BuildPlan) -> None:
    """Write an input image, and rows of the graph's output; of a quantised one those in FP32, too.

    Nothing where onnxruntime is missing.
    """
    try:
        x = nchw_from_rgb(sample_lr(plan.graph.opt_shape, count=1)[0])
        outputs = graph_outputs(plan.onnx, plan.graph, [x])
    except MissingPackageError:
        return
    x.astype(_NUMPY[plan.graph.input_dtype]).tofile(str(folder / f"{plan.onnx.name}.0.bin"))
    for suffix, results in (("npy", outputs.graph), (FP32_REFERENCE, outputs.fp32 or ())):
        for y in results:
            rows = rows_of(y, checked_rows(plan.graph)).astype(np.float16)
            np.save(str(folder / "desk" / f"{plan.name}.{suffix}"), rows)
