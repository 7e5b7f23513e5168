"""Builds engines from graphs: with a library or trtexec here, on a board over SSH, or by hand."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    InputError,
    MissingPackageError,
    how_to_install,
)
from sr_deploy.core.files import files_with_suffix, make_output_folder, write_hint
from sr_deploy.core.manifest import (
    UP_TO_DATE,
    Manifest,
    is_up_to_date,
    read_manifest,
    up_to_date_lines,
    write_artifact,
)
from sr_deploy.core.onnx_file import weight_files
from sr_deploy.core.precisions import is_quantised, precisions_text
from sr_deploy.core.progress import as_progress
from sr_deploy.core.session import Backend, BuildOptions
from sr_deploy.core.sizes import Sizes
from sr_deploy.core.spec import network_name
from sr_deploy.core.target import LOCAL_RUNTIMES, TargetProfile, load_target, target_names
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.boards.board import facts_here
from sr_deploy.runtime.boards.job import (
    BoardJob,
    BuildPlan,
    JobPlans,
    Progress,
    is_bundle_of,
    write_bundle,
    write_job,
)
from sr_deploy.runtime.boards.local import result_from_trtexec, why_no_trtexec
from sr_deploy.runtime.boards.result import engines_from_result
from sr_deploy.runtime.boards.ssh import parse_board, result_from_board
from sr_deploy.runtime.dla_calibration import unquantised_convolutions
from sr_deploy.runtime.fallback import fp32_nodes
from sr_deploy.runtime.opener.folder import plans_in
from sr_deploy.runtime.opener.plan import PlanKind, load_plan
from sr_deploy.runtime.plan_build import (
    PlanToBuild,
    build_plan,
    plan_is_up_to_date,
    plan_to_build,
    refuse_replacing_graphs,
)
from sr_deploy.runtime.preflight import preflight, refuse, summary

SUFFIX = ".engine"
_EXPORT = "make one with: srdeploy export MODEL -o DIR"
Graphs = Union[str, Path, Sequence[Union[str, Path]]]


def engine_from_onnx(
    graphs: Graphs,
    output: Union[str, Path],
    *,
    target: str,
    options: Optional[BuildOptions] = None,
    on: str = "",
    progress: Progress = lambda line: None,
) -> List[Path]:
    """Build an engine for `target` from each graph (files or folders of them); return the paths.

    Plans of adaptive networks become plans of engines, one of each part.

    >>> options = sr_deploy.ExportOptions(sizes=["64x64"], target="cpu")
    >>> graphs = sr_deploy.onnx_from_checkpoint("fsrcnn-w16_x4", "graphs", options)
    >>> [path.name for path in sr_deploy.engine_from_onnx(graphs, "engines", target="cpu")]
    ['fsrcnn-w16_x4.w16.64x64.fp32.engine']

    on: `ssh://user@host:port` of a board that builds with its own trtexec. Engines in `output` that
    are up to date are not rebuilt. Raises an SrDeployError; engines finished before it stay.
    """
    profile, options = load_target(target), options or BuildOptions()
    backend = BACKENDS[profile.runtime]()
    files, plan_files = build_inputs(graphs)
    board = parse_board(on) if on else None
    if board is not None:
        _check_trtexec_builds(profile, "--on")
    if options.layout and options.layout not in backend.layouts:
        layouts = ", ".join(backend.layouts)
        expected = f"expected {layouts}" if layouts else "it has only its default one"
        raise InputError(f"{profile.runtime} has no layout '{options.layout}'; {expected}")
    reason, by_trtexec = ("", True) if board is not None else why_not_here(profile)
    plans = _plan_builds(files, profile, options, reason)
    adaptive = _adaptive_builds(plan_files, profile, options)
    folder = make_output_folder(Path(output))
    if by_trtexec:
        run = functools.partial(result_from_board, board) if board else result_from_trtexec
        _build_with_trtexec(run, profile, JobPlans(plans, adaptive), folder, progress)
    else:
        _build_with_library(backend, profile, plans, folder, progress)
        _build_adaptive(backend, adaptive, folder, progress)
    names = [*(plan.name for plan in plans), *(plan.name for plan in adaptive)]
    return [folder / name for name in names]


def bundle_from_onnx(
    graphs: Graphs,
    file: Union[str, Path],
    *,
    target: str,
    options: Optional[BuildOptions] = None,
    progress: Progress = lambda line: None,
) -> Path:
    """Write a tar file that builds the engines on a machine with only sh and trtexec; return it.

    Arguments as in `engine_from_onnx`. Raises an SrDeployError.
    """
    profile = load_target(target)
    if Path(file).suffix != ".tar":
        raise InputError(f"the bundle '{file}' is a tar file: give it a name that ends in .tar")
    _check_trtexec_builds(profile, "--bundle")
    files, plan_files = build_inputs(graphs)
    options, file = options or BuildOptions(), Path(file)
    networks = _plan_builds(files, profile, options, "")
    plans = JobPlans(networks, _adaptive_builds(plan_files, profile, options))
    if is_bundle_of(file, plans, profile):
        progress(f"{file.name}: up to date")
        return file
    with tempfile.TemporaryDirectory() as temporary:
        job = _write_job(Path(temporary), plans, profile, progress=progress)
        write_bundle(job, file)
    engines = len(networks) + sum(len(build.plan.parts) for build in plans.adaptive)
    progress(f"{file}: {engines} engines to build, {file.stat().st_size / 2**20:.1f} MiB")
    return file


def why_not_here(profile: TargetProfile) -> Tuple[str, bool]:
    """Return why this machine cannot build for `profile` (empty if it can), and if trtexec builds.

    trtexec is used only when the backend's library is not available.
    """
    reason = BACKENDS[profile.runtime]().why_unavailable(profile)
    if not reason or profile.runtime in LOCAL_RUNTIMES:
        return reason, False
    no_trtexec = why_no_trtexec(profile)
    if not no_trtexec:
        return "", True
    return f"it needs {_library(profile)}: {reason}; {no_trtexec}", False


def targets_here() -> List[TargetProfile]:
    """Return the targets that engines can be built for here, without those of other boards.

    One TensorRT fits several boards: of those, the one that this machine calls itself, else the
    targets for any GPU.
    """
    profiles = [p for p in map(load_target, target_names()) if not why_not_here(p)[0]]
    boards = [p for p in profiles if p.runtime == "tensorrt"]
    if not boards:
        return profiles
    board = facts_here().board or ""
    own = [p for p in boards if p.title.split(",")[0] in board]
    own = own or [p for p in boards if not p.compute_capabilities]
    return [p for p in profiles if p not in boards or p in own]


def target_names_here() -> List[str]:
    """Return the names of `targets_here`. Raises InputError if there is none."""
    names = [profile.name for profile in targets_here()]
    if not names:
        raise InputError(
            "this machine can build for no target",
            hint="srdeploy targets says why; --target exports for another machine, and writes a "
            "bundle that it builds",
        )
    return names


@dataclass(frozen=True)
class PlannedEngine:
    """An engine that a build makes or keeps."""

    graph: Path
    path: Path
    state: str
    """`up to date`, `out of date` (there is another file of that name) or `missing`."""


def planned_engines(
    graphs: Graphs,
    output: Union[str, Path],
    *,
    target: str,
    options: Optional[BuildOptions] = None,
) -> List[PlannedEngine]:
    """Return what `engine_from_onnx` would make of the graphs here. Writes nothing.

    Raises the SrDeployErrors of graphs and options; a target that cannot be built here is none.
    """
    profile, folder = load_target(target), Path(output)
    reason, by_trtexec = why_not_here(profile)
    backend, planned = BACKENDS[profile.runtime](), []
    files, plan_files = build_inputs(graphs)
    elsewhere = reason or by_trtexec
    for adaptive in _adaptive_builds(plan_files, profile, options or BuildOptions()):
        versions = None if elsewhere else backend.versions()
        current = plan_is_up_to_date(folder, adaptive, versions)
        path = folder / adaptive.name
        planned.append(PlannedEngine(adaptive.source, path, _state(current, path)))
    for plan in _plan_builds(files, profile, options or BuildOptions(), ""):
        path = folder / plan.name
        if elsewhere:
            current = _is_up_to_date(path, plan)
        else:
            current = is_up_to_date(path, _library_draft(backend, plan))
        planned.append(PlannedEngine(plan.onnx, path, _state(current, path)))
    return planned


def _state(current: bool, path: Path) -> str:
    return UP_TO_DATE if current else "out of date" if path.exists() else "missing"


def why_not_built_from(graph: Path, profile: TargetProfile) -> str:
    """Return why no engine of the target is built from a graph; empty if one can be."""
    try:
        return _why_mismatched(graph, _read_graph_manifest(graph), profile)
    except ArtifactError as e:
        return e.message


def _library(profile: TargetProfile) -> str:
    title = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}[profile.runtime]
    return f"{title} {profile.runtime_versions}"


def check_builds_here(profile: TargetProfile) -> None:
    """Raise BuildError if this machine cannot build for `profile`."""
    reason, _ = why_not_here(profile)
    if reason:
        raise _cannot_build(profile, reason)


def _cannot_build(profile: TargetProfile, reason: str, hint: str = "") -> BuildError:
    problem = f"cannot build for '{profile.name}' here: {reason}"
    return BuildError(problem, hint=hint or _where_to_build(profile))


def build_inputs(graphs: Graphs) -> Tuple[List[Path], List[Path]]:
    """Return the paths of all graphs, and of all plans of adaptive networks, those in folders too.

    The parts of a plan are no graphs of their own. Raises InputError if a file is missing.
    """
    plans: List[Path] = []
    others: List[Union[str, Path]] = []
    for path in map(Path, [graphs] if isinstance(graphs, (str, Path)) else graphs):
        in_folder = plans_in(path) if path.is_dir() else []
        if PlanKind().matches(str(path)):
            plans.append(path)
        elif in_folder:
            plans += in_folder
            others += files_with_suffix(path, ".onnx")
        else:
            others.append(path)
    files = onnx_files(others) if others or not plans else []
    parts = {plan.parent / part.file for plan in plans for part in load_plan(plan).parts.values()}
    return [file for file in files if file not in parts], plans


def onnx_files(graphs: Graphs) -> List[Path]:
    """Return the paths of all graphs, those in folders too. Raises InputError if any is missing."""
    items = [graphs] if isinstance(graphs, (str, Path)) else graphs
    if not items:
        raise InputError("no graph was given", hint="give .onnx files or folders of them")
    files: List[Path] = []
    for path in map(Path, items):
        if path.is_dir():
            in_folder = files_with_suffix(path, ".onnx")
            if not in_folder:
                raise InputError(f"the folder {path} contains no .onnx file", hint=_EXPORT)
            files += in_folder
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"there is no file {path}", hint=_EXPORT)
    return files


def engine_stem(graph: Manifest) -> str:
    """Return the start of the names of this graph's engines: `asrn_x4.d3.256x512.fp16`."""
    return f"{_stem(graph)}.{graph.precision_asked}"


def bundles(profile: TargetProfile) -> bool:
    """Return whether trtexec builds the target's engines, so that a bundle can."""
    return profile.runtime not in LOCAL_RUNTIMES


def _check_trtexec_builds(profile: TargetProfile, option: str) -> None:
    if not bundles(profile):
        hint = f"omit {option}, and build on the machine that runs them"
        raise BuildError(f"engines of '{profile.name}' are not built by trtexec", hint=hint)


def _plan_builds(
    graphs: Sequence[Path], profile: TargetProfile, options: BuildOptions, not_here: str
) -> List[BuildPlan]:
    """Check the graphs and options; plan one engine per graph. not_here: why none can be built."""
    manifests = [(file, _read_graph_manifest(file)) for file in graphs]
    mismatches = (_why_mismatched(file, graph, profile) for file, graph in manifests)
    mismatch = next(filter(None, mismatches), "")
    export = f"export it again with --target {profile.option}"
    if not_here:
        raise _cannot_build(profile, not_here, f"{mismatch}: {export}" if mismatch else "")
    if mismatch:
        raise BuildError(mismatch, hint=export)
    _check_options(profile, options)
    plans: List[BuildPlan] = []
    for file, graph in manifests:
        plan = _plan_build(file, graph, profile, options)
        if plan.name in [p.name for p in plans]:
            hint = "build them into different folders"
            raise InputError(f"several of the graphs would become {plan.name}", hint=hint)
        plans.append(plan)
    return plans


def _adaptive_builds(
    plans: Sequence[Path], profile: TargetProfile, options: BuildOptions
) -> List[PlanToBuild]:
    """Check the plans of adaptive networks; return what to build of each."""
    builds: List[PlanToBuild] = []
    for path in plans:
        build = plan_to_build(path, profile, options)
        if build.name in [b.name for b in builds]:
            hint = "build them into different folders"
            raise InputError(f"several of the plans would become {build.name}", hint=hint)
        builds.append(build)
    return builds


def _read_graph_manifest(path: Path) -> Manifest:
    with open(path, "rb") as f:
        is_onnx = path.suffix == ".onnx" and f.read(1) == b"\x08"  # ModelProto.ir_version
    if not is_onnx:
        raise ArtifactError(f"{path} is not an ONNX graph", hint=_EXPORT)
    manifest = read_manifest(path)
    if manifest.kind != "onnx":
        raise ArtifactError(f"{path} is an {manifest.kind}, not a graph")
    if manifest.interface is not None:
        raise ArtifactError(
            f"{path} was imported, for no target",
            hint=f"export it first: srdeploy export {path.name} --target TARGET -o DIR",
        )
    files = weight_files(path)
    if files:
        raise ArtifactError(
            f"{path} has weights in other files ({', '.join(files)}); expected one file",
            hint="save it with its weights inside",
        )
    return manifest


def _why_mismatched(file: Path, graph: Manifest, profile: TargetProfile) -> str:
    """Return why the target would misread the graph or change its precision; empty if it fits."""
    name, asked = f"target '{profile.name}'", graph.precision_asked
    if graph.opset is not None and graph.opset > profile.opset:
        return f"{file.name} has opset {graph.opset}, but {name} reads at most {profile.opset}"
    if asked not in profile.precisions:
        return (
            f"{file.name} was exported for an {asked.upper()} engine ({graph.precision_obtained} "
            f"tensors), but {name} builds {precisions_text(profile.precisions)} engines"
        )
    if (
        is_quantised(graph.precision_obtained)
        and asked != "int8"
        and profile.runtime not in LOCAL_RUNTIMES
    ):
        engines = precisions_text(profile.precisions)
        return f"{file.name} is quantised, but {name} builds {engines} engines"
    expected = profile.graph_dtype(asked)
    if graph.graph_dtype != expected:
        return (
            f"{file.name} has {graph.precision_obtained} tensors, but {name} builds an "
            f"{asked.upper()} engine from a graph of {expected}"
        )
    return ""


def _where_to_build(profile: TargetProfile) -> str:
    if profile.runtime == "onnxruntime-cuda":
        return "build where the engine runs, with onnxruntime-gpu instead of onnxruntime"
    if profile.runtime in LOCAL_RUNTIMES:
        return ""
    if profile.runtime == "tensorrt-rtx":
        return (
            f"install {_library(profile)} here (no GPU is needed): "
            f"{how_to_install('tensorrt_rtx')}; or carry the job to another machine with "
            "--bundle FILE.tar"
        )
    return (
        f"install {_library(profile)} (its Python package or its trtexec) on the "
        "machine that runs the engine and build there, or build on a board from here with --on "
        "ssh://user@board, or carry the job there with --bundle FILE.tar"
    )


def _check_options(profile: TargetProfile, options: BuildOptions) -> None:
    name, dla = f"target '{profile.name}'", options.dla
    if options.compute_capabilities and profile.runtime != "tensorrt-rtx":
        reason = "its engines are built on the machine that runs them"
        raise InputError(f"--sm does not apply to {name}: {reason}")
    if dla is not None and dla not in range(profile.dla_cores):
        cores = ", ".join(map(str, range(profile.dla_cores)))
        expected = f"expected one of {cores}" if cores else "it has no DLA"
        raise InputError(f"{name} has no DLA core {dla}: {expected}", hint="omit --dla")
    for option, given in (
        ("--no-cublas-cudnn", options.no_cublas_cudnn),
        ("--fallback", options.fallback),
    ):
        if given and profile.runtime in LOCAL_RUNTIMES:
            raise InputError(
                f"{option} is for engines of TensorRT, and {name} has none", hint=f"omit {option}"
            )


def _plan_build(
    file: Path, graph: Manifest, profile: TargetProfile, options: BuildOptions
) -> BuildPlan:
    fp16 = graph.precision_asked == "fp16"
    if options.dla is not None:
        _check_dla(file, graph, profile)
    if options.fallback and graph.precision_asked == "int8":
        raise InputError(
            f"--fallback keeps nodes of FP16 engines in FP32; {file.name} is for an INT8 engine",
            hint="omit it; --keep of export says what is not quantised",
        )
    capabilities = tuple(sorted(set(options.compute_capabilities)))
    layers = (*graph.fp32_nodes, *fp32_nodes(file, options.fallback)) if fp16 else ()
    layers = tuple(dict.fromkeys(layers))
    options = replace(options, compute_capabilities=capabilities, fp32_layers=layers)
    if options.dla is not None and graph.precision_asked == "int8":
        options = replace(options, fp16_layers=unquantised_convolutions(file))
    suffixes = [f"sm{c}" for c in capabilities]
    suffixes += [f"dla{options.dla}"] if options.dla is not None else []
    suffixes += ["fallback"] if layers else []
    suffixes += [options.layout] if options.layout else []
    name = ".".join([engine_stem(graph) + _form_suffix(graph), *suffixes]) + SUFFIX
    if Path(name).name != name:
        problem = f"the model name in the manifest of {file} cannot be part of a file name"
        raise ArtifactError(problem, hint="export it again")
    checks, not_checked = _check_graph(file, graph, profile, options)
    checks = {**{key: graph.checks[key] for key in ("int8",) if key in graph.checks}, **checks}
    engine = replace(_draft_manifest(graph, profile, options), checks=checks)
    return BuildPlan(file, graph, replace(engine, not_checked=not_checked), name, options)


def _check_dla(file: Path, graph: Manifest, profile: TargetProfile) -> None:
    if graph.precision_asked not in ("fp16", "int8"):
        raise InputError(
            f"{file.name} was exported for an {graph.precision_asked.upper()} engine, "
            "but a DLA core computes in FP16 and INT8",
            hint="export it with --precision fp16, or omit --dla",
        )
    if graph.precision_asked == "int8" and profile.graph_dtype("int8") == "fp16":
        raise InputError(
            f"{file.name} cannot be built for a DLA core: it reads no Q/DQ pairs, and a strongly "
            "typed TensorRT takes no calibration cache",
            hint="export it with --precision fp16, or omit --dla",
        )


def _check_graph(
    file: Path, graph: Manifest, profile: TargetProfile, options: BuildOptions
) -> Tuple[Dict[str, object], Tuple[str, ...]]:
    """Run the preflight, or take the export's where onnx is missing: (checks, not_checked)."""
    with_dla = options.dla is not None
    try:
        findings = preflight(file, profile, precision=graph.precision_asked, dla=with_dla)
    except MissingPackageError:
        recorded = graph.checks.get("preflight")
        if isinstance(recorded, dict) and recorded.get("target") == profile.name and not with_dla:
            return {"preflight": recorded}, ()
        return {}, ("preflight: onnx is not installed here, and the export recorded none",)
    refuse(findings, file.name, profile)
    return {"preflight": summary(findings, profile)}, ()


def _draft_manifest(graph: Manifest, profile: TargetProfile, options: BuildOptions) -> Manifest:
    """Return the engine's manifest without the facts that only the build can tell."""
    layers = options.fp32_layers
    fallback = ".fallback" if " --fallback " in graph.command else ""
    graph_file = f"{_stem(graph)}.{graph.precision_asked}{_form_suffix(graph)}{fallback}.onnx"
    command = f"srdeploy build-engine {graph_file} --target {profile.option}"
    command += "".join(f" --sm {c}" for c in options.compute_capabilities)
    command += f" --dla {options.dla}" if options.dla is not None else ""
    command += f" --fallback {options.fallback}" if options.fallback and layers else ""
    command += " --no-cublas-cudnn" if options.no_cublas_cudnn else ""
    build: Dict[str, object] = {}
    if layers:
        build["fp32_layers"] = list(layers)
    if options.dla is not None:
        build["dla"] = {"core": options.dla}
    if options.no_cublas_cudnn:
        build["no_cublas_cudnn"] = True
    command += f", layout {options.layout}" if options.layout else ""
    return replace(
        graph,
        kind="engine",
        target=profile.name,
        profile=profile.recorded,
        parent_sha256=graph.sha256,
        versions={"profile": profile.digest},
        nodes=None,
        opset=None,
        sha256="",
        command=command,
        precision_obtained="",
        build=build,
    )


def _form_suffix(graph: Manifest) -> str:
    return f".{graph.form}" if graph.form else ""


def _stem(graph: Manifest) -> str:
    low, opt, high = ((hw[0], hw[1]) for hw in (graph.min_shape, graph.opt_shape, graph.max_shape))
    return f"{network_name(graph.model, graph.variant)}.{Sizes(low, opt, high)}"


def _build_with_library(
    backend: Backend,
    profile: TargetProfile,
    plans: Sequence[BuildPlan],
    folder: Path,
    progress: Progress,
) -> None:
    drafts = {folder / plan.name: _library_draft(backend, plan) for plan in plans}
    by_path = {folder / plan.name: plan for plan in plans}
    todo = [path for path, draft in drafts.items() if not is_up_to_date(path, draft)]
    report, done = as_progress(progress), len(plans) - len(todo)
    for line in up_to_date_lines([path for path in drafts if path not in todo]):
        report(line)
    with report.track("building", len(plans), done=done) as advance:
        for number, path in enumerate(todo, done + 1):
            advance(path.name, steps=0)
            line = _build_one(backend, profile, by_path[path], drafts[path], path)
            report(f"[{number}/{len(plans)}] {line}")
            advance()


def _build_adaptive(
    backend: Backend, builds: Sequence[PlanToBuild], folder: Path, progress: Progress
) -> None:
    """Build the engines of adaptive networks that are not up to date."""
    for build in builds:
        if plan_is_up_to_date(folder, build, backend.versions()):
            progress(f"{build.name}: up to date")
        else:
            progress(build_plan(build, backend, folder, progress))


def _library_draft(backend: Backend, plan: BuildPlan) -> Manifest:
    return replace(plan.engine, versions={**backend.versions(), **plan.engine.versions})


def _build_one(
    backend: Backend, profile: TargetProfile, plan: BuildPlan, draft: Manifest, path: Path
) -> str:
    """Build an engine with the backend's library; return a line about it."""

    def write(temporary: Path) -> Manifest:
        options = replace(plan.options, timing_cache=path.parent)
        built = backend.build(plan.onnx, plan.graph, profile, temporary, options)
        return replace(
            draft,
            precision_obtained=built.precision_obtained,
            build=built.build,
            checks={**draft.checks, **built.checks},
            not_checked=(*draft.not_checked, *built.not_checked),
        )

    manifest = write_artifact(path, write)
    mib, seconds = path.stat().st_size / 2**20, manifest.build["seconds"]
    lacking: Any = manifest.build.get("no_int8_kernel")
    note = f" (no INT8 kernel for {', '.join(lacking)})" if lacking else ""
    return f"{path.name}: {manifest.precision_obtained}{note}, {mib:.2f} MiB, built in {seconds} s"


def _build_with_trtexec(
    run: Callable[[BoardJob, Path, Progress], None],
    profile: TargetProfile,
    plans: JobPlans,
    folder: Path,
    progress: Progress,
) -> None:
    """Build what is not up to date. run(job, result, progress): run a job, write its result.tar."""
    for build in plans.adaptive:
        refuse_replacing_graphs(folder / build.name)
    outdated = JobPlans(
        [plan for plan in plans.networks if not _is_up_to_date(folder / plan.name, plan)],
        [build for build in plans.adaptive if not plan_is_up_to_date(folder, build, None)],
    )
    current = [folder / name for name in plans.names() if name not in outdated.names()]
    for line in up_to_date_lines(current):
        progress(line)
    if outdated.names():
        with tempfile.TemporaryDirectory() as temporary:
            job = _write_job(Path(temporary), outdated, profile, folder)
            result = Path(temporary) / "result.tar"
            run(job, result, progress)
            engines_from_result(result, folder, job=job, progress=progress)


def _is_up_to_date(path: Path, plan: BuildPlan) -> bool:
    """Check an engine that trtexec built; the versions of a board are not known here."""
    try:
        versions = read_manifest(path).versions
    except ArtifactError:
        return False
    same_profile = versions.get("profile") == plan.engine.versions["profile"]
    return same_profile and is_up_to_date(path, replace(plan.engine, versions=versions))


def _write_job(
    temporary: Path,
    plans: JobPlans,
    profile: TargetProfile,
    timing_caches: Optional[Path] = None,
    progress: Progress = lambda line: None,
) -> BoardJob:
    try:
        return write_job(
            temporary / "job", plans, profile, timing_caches=timing_caches, progress=progress
        )
    except OSError as e:
        problem = f"cannot write the job to {temporary}: {e.strerror or e}"
        raise BuildError(problem, hint=f"{write_hint(e)} by TMPDIR") from e
