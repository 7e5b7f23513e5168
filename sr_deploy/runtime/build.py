"""From a graph to an engine for a target, with its manifest: by a library here, by trtexec here, on a board, or by hand."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from sr_deploy.core.errors import ArtifactError, BuildError, InputError, MissingPackageError
from sr_deploy.core.files import files_with_suffix, make_output_folder
from sr_deploy.core.manifest import Manifest, is_up_to_date, read_manifest, write_artifact
from sr_deploy.core.session import Backend, BuildOptions
from sr_deploy.core.sizes import Sizes
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.boards.job import Job, Plan, engines_from_result, write_bundle, write_job
from sr_deploy.runtime.boards.local import result_from_trtexec, why_no_trtexec
from sr_deploy.runtime.boards.ssh import parse_board, result_from_board
from sr_deploy.runtime.fallback import fp32_nodes
from sr_deploy.runtime.preflight import preflight, refuse, summary

SUFFIX = ".engine"
_NOT_BY_TRTEXEC = "engines of '{}' are not built by trtexec"
Graphs = Union[str, Path, Sequence[Union[str, Path]]]


def engine_from_onnx(
    graphs: Graphs,
    output: Union[str, Path],
    *,
    target: str,
    compute_capabilities: Sequence[int] = (),
    dla: Optional[int] = None,
    fallback: str = "",
    on: str = "",
    layout: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Build an engine for `target` from each graph (files, or folders of them) into `output`; return their paths.

    compute_capabilities: SM versions (75 for 7.5), for targets that build for several; none: the target's own. dla: the DLA
    core to run on. fallback: `head-tail` or `NODE,NODE`, computed in FP32 by an FP16 engine. on: `ssh://user@host:port` of a
    board whose own trtexec builds. layout: one of the backend's (`Backend.layouts`). Engines that are up to date are left as they are.
    Raises an SrDeployError; engines finished before it stay.
    """
    profile = load_target(target)
    board = parse_board(on) if on else None
    backend = BACKENDS[profile.runtime]()
    if board is not None and profile.runtime == "onnxruntime":
        raise BuildError(
            _NOT_BY_TRTEXEC.format(target),
            hint="leave --on out, and build on the machine that runs them",
        )
    if layout and layout not in backend.layouts:
        raise InputError(
            f"'{layout}' is no layout of {profile.runtime}; it has {', '.join(backend.layouts) or 'its own only'}"
        )
    reason, by_trtexec = why_not_here(profile) if board is None else ("", True)
    no_way = f"cannot build for '{target}' here: {reason}" if reason else ""
    plans = _plans(graphs, profile, compute_capabilities, dla, fallback, layout, no_way=no_way)
    folder = make_output_folder(Path(output))
    if not by_trtexec:
        return _built_here(backend, profile, plans, folder, progress)
    job_plans = [p for p in plans if not _fresh(folder / p.name, p)]
    for plan in plans:
        if plan not in job_plans:
            progress(f"{plan.name}: up to date")
    if job_plans:
        with tempfile.TemporaryDirectory() as temporary:
            job = _job(Path(temporary), job_plans, profile, timing_from=folder)
            result = Path(temporary) / "result.tar"
            if board is not None:
                result_from_board(board, job.folder, job.identity, result, say=progress)
            else:
                result_from_trtexec(job.folder, result, say=progress)
            engines_from_result(result, folder, of=job, progress=progress)
    return [folder / p.name for p in plans]


def bundle_from_onnx(
    graphs: Graphs,
    file: Union[str, Path],
    *,
    target: str,
    dla: Optional[int] = None,
    fallback: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a tar file that builds the engines on a machine with nothing but sh and trtexec; `engines_from_result` takes its
    outcome. Arguments as of `engine_from_onnx`. Raises an SrDeployError.
    """
    profile = load_target(target)
    if Path(file).suffix != ".tar":
        raise InputError(f"the bundle '{file}' is a tar file: give it a name that ends in .tar")
    if profile.runtime == "onnxruntime":
        raise BuildError(
            _NOT_BY_TRTEXEC.format(target),
            hint="leave --bundle out, and build on the machine that runs them",
        )
    plans = _plans(graphs, profile, (), dla, fallback, "")
    with tempfile.TemporaryDirectory() as temporary:
        job = _job(Path(temporary), plans, profile)
        write_bundle(job, Path(file))
    progress(
        f"{file}: unpack it on the board, run 'sh build.sh' there, bring result.tar back and give it to: srdeploy adopt result.tar"
    )
    return Path(file)


def _job(
    temporary: Path,
    plans: Sequence[Plan],
    profile: TargetProfile,
    *,
    timing_from: Optional[Path] = None,
) -> Job:
    try:
        return write_job(temporary / "job", plans, profile, timing_from=timing_from)
    except OSError as e:
        raise BuildError(
            f"cannot write the job to {temporary}: {e.strerror or e}",
            hint="free some space, or set TMPDIR",
        ) from e


def why_not_here(profile: TargetProfile) -> Tuple[str, bool]:
    """Return why no engine for `profile` can be built on this machine, empty when one can, and whether trtexec is the way."""
    reason = BACKENDS[profile.runtime]().why_unavailable(profile)
    if not reason or profile.runtime == "onnxruntime":
        return reason, False
    no_trtexec = why_no_trtexec(profile)
    library = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}[profile.runtime]
    return (
        (f"it takes {library} {profile.runtime_versions}: {reason}; {no_trtexec}", False)
        if no_trtexec
        else ("", True)
    )


def onnx_files(given: Graphs) -> List[Path]:
    """Return the graphs named, those of a folder included. Raises InputError when a file or any graph is missing."""
    files: List[Path] = []
    items = [given] if isinstance(given, (str, Path)) else given
    if not items:
        raise InputError("no graph was given", hint="give .onnx files or folders of them")
    for item in items:
        path = Path(item)
        found = files_with_suffix(path, ".onnx") if path.is_dir() else [path]
        if not found:
            raise InputError(
                f"the folder {path} holds no .onnx file",
                hint="make some with: srdeploy export MODEL -o DIR",
            )
        files.extend(found)
    for path in files:
        if not path.is_file():
            raise InputError(
                f"there is no file {path}", hint="make one with: srdeploy export MODEL -o DIR"
            )
    return files


def _plans(
    graphs: Graphs,
    profile: TargetProfile,
    compute_capabilities: Sequence[int],
    dla: Optional[int],
    fallback: str,
    layout: str,
    *,
    no_way: str = "",
) -> List[Plan]:
    """Check everything that can be checked before anything is built or written. `no_way`: why nothing can be built at all."""
    files = onnx_files(graphs)
    manifests = [_readable(path) for path in files]
    unsuited = next(
        (
            why
            for file, graph in zip(files, manifests)
            for why in [_why_unsuited(file, graph, profile)]
            if why
        ),
        "",
    )
    again = f"export it again with --target {profile.name}"
    if no_way:
        raise BuildError(no_way, hint=f"{unsuited}: {again}" if unsuited else _three_ways(profile))
    if unsuited:
        raise BuildError(unsuited, hint=again)
    if compute_capabilities and profile.runtime != "tensorrt-rtx":
        raise InputError(
            f"--sm has no meaning for target '{profile.name}': its engines are built on the machine that runs them"
        )
    if dla is not None and dla not in range(profile.dla_cores):
        cores = (
            f"its DLA cores are {', '.join(map(str, range(profile.dla_cores)))}"
            if profile.dla_cores
            else "it has no DLA"
        )
        raise InputError(
            f"target '{profile.name}' has no DLA core {dla}: {cores}", hint="leave --dla out"
        )
    plans = []
    for file, graph in zip(files, manifests):
        kept = fp32_nodes(file, fallback) if graph.precision_asked == "fp16" else ()
        options = BuildOptions(tuple(sorted(set(compute_capabilities))), dla, kept, layout)
        words = "".join(f".sm{c}" for c in options.compute_capabilities) + (
            f".dla{dla}" if dla is not None else ""
        )
        words += ".fallback" if options.fp32_layers else ""
        words += f".{layout}" if layout else ""
        name = f"{engine_stem(graph)}{_form(graph)}{words}{SUFFIX}"
        if Path(name).name != name:
            raise ArtifactError(
                f"the manifest of {file} names a model that is no file name", hint="export it again"
            )
        if name in [p.name for p in plans]:
            raise InputError(
                f"several of the graphs would become {name}",
                hint="build them into different folders",
            )
        engine = _engine_manifest(graph, profile, options, fallback)
        found = _preflight(file, graph, profile, dla)
        engine = (
            replace(engine, not_checked=(found,))
            if isinstance(found, str)
            else replace(engine, checks={"preflight": found})
        )
        plans.append(Plan(file, graph, engine, name, options))
    return plans


def _preflight(file: Path, graph: Manifest, profile: TargetProfile, dla: Optional[int]) -> object:
    """What the target's parser will do, where onnx is installed; else what the export recorded. Raises BuildError."""
    try:
        findings = preflight(file, profile, precision=graph.precision_asked, dla=dla is not None)
    except MissingPackageError:
        recorded = graph.checks.get("preflight")
        known = (
            isinstance(recorded, dict) and recorded.get("target") == profile.name and dla is None
        )
        return (
            recorded
            if known
            else "what the parser would misread: onnx is not installed here, and the export recorded nothing"
        )
    refuse(findings, file.name, profile)
    return summary(findings, profile)


def _built_here(
    backend: Backend,
    profile: TargetProfile,
    plans: List[Plan],
    folder: Path,
    progress: Callable[[str], None],
) -> List[Path]:
    for number, plan in enumerate(plans, 1):
        path = folder / plan.name
        wanted = replace(plan.engine, versions={**backend.versions(), **plan.engine.versions})
        if is_up_to_date(path, wanted):
            progress(f"[{number}/{len(plans)}] {path.name}: up to date")
            continue

        def write(temporary: Path, plan: Plan = plan, wanted: Manifest = wanted) -> Manifest:
            options = replace(plan.options, timing_cache=folder)
            built = backend.build(plan.onnx, plan.graph, profile, temporary, options)
            checks, not_checked = (
                {**wanted.checks, **built.checks},
                (*wanted.not_checked, *built.not_checked),
            )
            obtained, facts = built.precision_obtained, built.build
            return replace(
                wanted,
                precision_obtained=obtained,
                build=facts,
                checks=checks,
                not_checked=not_checked,
            )

        manifest = write_artifact(path, write)
        seconds, size = manifest.build["seconds"], float(manifest.build["size_bytes"]) / 2**20  # type: ignore[arg-type]
        progress(
            f"[{number}/{len(plans)}] {path.name}: {manifest.precision_obtained}, {size:.2f} MiB, built in {seconds} s"
        )
    return [folder / p.name for p in plans]


def _fresh(path: Path, plan: Plan) -> bool:
    """Whether an engine that a board built is of this graph and these options; the board's versions are not known here."""
    try:
        found = read_manifest(path)
    except ArtifactError:
        return False
    same_profile = found.versions.get("profile") == plan.engine.versions["profile"]
    return same_profile and is_up_to_date(path, replace(plan.engine, versions=found.versions))


def _three_ways(profile: TargetProfile) -> str:
    if profile.runtime == "onnxruntime":
        return ""
    return (
        f"three ways lead to an engine: install TensorRT {profile.runtime_versions} on the machine that runs it (its Python package or its "
        "trtexec) and build there; --on ssh://user@board, to have a board's own trtexec build it from here; or --bundle FILE.tar, to "
        "carry it over by hand"
    )


def _readable(path: Path) -> Manifest:
    """The manifest of a graph; a file that is no ONNX at all is told apart from one that merely lacks a manifest."""
    with open(path, "rb") as f:
        start = f.read(1)
    if (
        path.suffix != ".onnx" or start != b"\x08"
    ):  # a ModelProto starts with its field 1, ir_version
        raise ArtifactError(
            f"{path} is not an ONNX graph", hint="make one with: srdeploy export MODEL -o DIR"
        )
    manifest = read_manifest(path)
    if manifest.kind != "onnx":
        raise ArtifactError(f"{path} is an {manifest.kind}, not a graph")
    return manifest


def _why_unsuited(file: Path, graph: Manifest, profile: TargetProfile) -> str:
    """Say why the target's parser would misread the graph, or build another precision from it than asked; empty if not."""
    if graph.opset is not None and graph.opset > profile.opset:
        return f"{file.name} is written in opset {graph.opset}; target '{profile.name}' reads {profile.opset} at most"
    if graph.precision_asked not in profile.precisions:
        builds = f"target '{profile.name}' builds {' and '.join(profile.precisions)} engines"
        return f"{file.name} was exported for an {graph.precision_asked.upper()} engine ({graph.precision_obtained} tensors); {builds}"
    expected = profile.fp16_graph if graph.precision_asked == "fp16" else "fp32"
    if graph.precision_obtained != expected:
        engine = f"for an {graph.precision_asked.upper()} engine target '{profile.name}' takes a graph of {expected}"
        return f"{file.name} has {graph.precision_obtained} tensors; {engine}"
    return ""


def _engine_manifest(
    graph: Manifest, profile: TargetProfile, options: BuildOptions, fallback: str
) -> Manifest:
    words = "".join(f" --sm {c}" for c in options.compute_capabilities)
    words += f" --dla {options.dla}" if options.dla is not None else ""
    words += f" --fallback {fallback}" if options.fp32_layers else ""
    words += f", layout {options.layout}" if options.layout else ""
    build: Dict[str, object] = (
        {"fp32_layers": list(options.fp32_layers)} if options.fp32_layers else {}
    )
    if options.dla is not None:
        build["dla"] = {"core": options.dla}
    return replace(
        graph,
        kind="engine",
        target=profile.name,
        parent_sha256=graph.sha256,
        versions={"profile": profile.digest},
        nodes=None,
        opset=None,
        sha256="",
        command=f"srdeploy build-engine {_stem(graph)}.{graph.precision_obtained}{_form(graph)}.onnx --target {profile.name}{words}",
        precision_obtained="",
        checks={},
        not_checked=(),
        build=build,
    )


def engine_stem(graph: Manifest) -> str:
    """Return what the name of an engine of this graph starts with: `asrn_x4.d3.256x512.fp16`."""
    return f"{_stem(graph)}.{graph.precision_asked}"


def _form(graph: Manifest) -> str:
    return f".{graph.form}" if graph.form else ""


def _stem(graph: Manifest) -> str:
    low, opt, high = ((hw[0], hw[1]) for hw in (graph.min_shape, graph.opt_shape, graph.max_shape))
    return f"{graph.model}.{graph.variant}.{Sizes(low, opt, high)}"
