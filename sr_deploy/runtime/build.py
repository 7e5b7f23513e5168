"""From a graph to an engine for a target, with its manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Union

from sr_deploy.core.errors import ArtifactError, BuildError, InputError
from sr_deploy.core.files import files_in, output_folder
from sr_deploy.core.manifest import Manifest, read_manifest, up_to_date, write_artifact
from sr_deploy.core.sizes import Sizes
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.runtime import BACKENDS

SUFFIX = ".engine"


def engine_from_onnx(
    graphs: Union[str, Path, Sequence[Union[str, Path]]],
    output: Union[str, Path],
    *,
    target: str,
    compute_capabilities: Optional[Sequence[int]] = None,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Build an engine for `target` from each graph (files, or folders of them) into `output`; return their paths.

    compute_capabilities: SM versions (75 for 7.5), for targets that build for several; None: the target's own.
    Engines that are up to date are left as they are. Raises an SrDeployError; engines finished before it stay.
    """
    profile = load_target(target)
    backend = BACKENDS[profile.runtime]()
    files = onnx_files([graphs] if isinstance(graphs, (str, Path)) else graphs)
    manifests = [_readable(path) for path in files]
    unsuited = next((why for file, graph in zip(files, manifests) for why in [_why_unsuited(file, graph, profile)] if why), "")
    again = f"export it again with --target {target}"
    reason = backend.why_unavailable(profile)
    if reason:
        hint = f"{unsuited}: {again}" if unsuited else backend.by_hand(files[0], manifests[0])
        raise BuildError(f"cannot build for '{target}' here: {reason}", hint=hint)
    if unsuited:
        raise BuildError(unsuited, hint=again)
    options = _options(profile, compute_capabilities)
    named = "".join(f".sm{c}" for c in sorted(set(compute_capabilities or ())))
    names = [f"{_stem(graph)}.{graph.precision_asked}{named}{SUFFIX}" for graph in manifests]
    for file, name in zip(files, names):
        if Path(name).name != name:
            raise ArtifactError(f"the manifest of {file} names a model that is no file name", hint="export it again")
        if names.count(name) > 1:
            raise InputError(f"several of the graphs would become {name}", hint="build them into different folders")
    folder = output_folder(Path(output))
    paths = []
    for number, (file, graph, name) in enumerate(zip(files, manifests, names), 1):
        path = folder / name
        wanted = _wanted(graph, profile, compute_capabilities, backend)
        fresh = up_to_date(path, wanted)
        line = f"{path.name}: up to date" if fresh else _build(backend, file, graph, profile, path, wanted, options)
        progress(f"[{number}/{len(files)}] {line}")
        paths.append(path)
    return paths


def onnx_files(given: Sequence[Union[str, Path]]) -> List[Path]:
    """Return the graphs named, those of a folder included. Raises InputError when a file or any graph is missing."""
    files: List[Path] = []
    if not given:
        raise InputError("no graph was given", hint="give .onnx files or folders of them")
    for item in given:
        path = Path(item)
        found = files_in(path, ".onnx") if path.is_dir() else [path]
        if not found:
            raise InputError(f"the folder {path} holds no .onnx file", hint="make some with: srdeploy export MODEL -o DIR")
        files.extend(found)
    for path in files:
        if not path.is_file():
            raise InputError(f"there is no file {path}", hint="make one with: srdeploy export MODEL -o DIR")
    return files


def _readable(path: Path) -> Manifest:
    """The manifest of a graph; a file that is no ONNX at all is told apart from one that merely lacks a manifest."""
    with open(path, "rb") as f:
        start = f.read(1)
    if path.suffix != ".onnx" or start != b"\x08":  # a ModelProto starts with its field 1, ir_version
        raise ArtifactError(f"{path} is not an ONNX graph", hint="make one with: srdeploy export MODEL -o DIR")
    manifest = read_manifest(path)
    if manifest.kind != "onnx":
        raise ArtifactError(f"{path} is an {manifest.kind}, not a graph")
    return manifest


def _why_unsuited(file: Path, graph: Manifest, profile: TargetProfile) -> str:
    """Say why the target's parser would misread the graph, or build another precision from it than asked; empty if not."""
    if graph.opset is not None and graph.opset > profile.opset:
        return f"{file.name} is written in opset {graph.opset}; target '{profile.name}' reads {profile.opset} at most"
    expected = profile.fp16_graph if graph.precision_asked == "fp16" else "fp32"
    if profile.runtime == "tensorrt" and graph.precision_obtained != expected:
        engine = f"for an {graph.precision_asked.upper()} engine target '{profile.name}' takes a graph of {expected}"
        return f"{file.name} has {graph.precision_obtained} tensors; {engine}"
    return ""


def _options(profile: TargetProfile, compute_capabilities: Optional[Sequence[int]]) -> Any:
    if profile.runtime == "tensorrt-rtx":
        from sr_deploy.runtime.tensorrt_rtx import RTXOptions

        return RTXOptions(tuple(compute_capabilities) if compute_capabilities else None)
    if compute_capabilities:
        raise InputError(f"--sm has no meaning for target '{profile.name}': its engines are built on the machine that runs them")
    return None


def _wanted(graph: Manifest, profile: TargetProfile, compute_capabilities: Optional[Sequence[int]], backend: Any) -> Manifest:
    sm = "".join(f" --sm {c}" for c in compute_capabilities or ())
    return replace(
        graph,
        kind="engine",
        target=profile.name,
        parent_sha256=graph.sha256,
        command=f"srdeploy build-engine {_stem(graph)}.{graph.precision_obtained}.onnx --target {profile.name}{sm}",
        versions={**backend.versions(), "profile": profile.digest},
        nodes=None,
        opset=None,
        sha256="",
    )


def _build(backend: Any, file: Path, graph: Manifest, profile: TargetProfile, path: Path, wanted: Manifest, options: Any) -> str:
    def write(temporary: Path) -> Manifest:
        built = backend.build(file, graph, profile, temporary, options)
        return replace(built, parent_sha256=wanted.parent_sha256, command=wanted.command, versions=wanted.versions, nodes=None, opset=None)

    manifest = write_artifact(path, write)
    seconds, size = manifest.build["seconds"], float(manifest.build["size_bytes"]) / 2**20  # type: ignore[arg-type]
    return f"{path.name}: {manifest.precision_obtained}, {size:.2f} MiB, built in {seconds} s"


def _stem(graph: Manifest) -> str:
    low, opt, high = ((hw[0], hw[1]) for hw in (graph.min_shape, graph.opt_shape, graph.max_shape))
    return f"{graph.model}.{graph.variant}.{Sizes(low, opt, high)}"
