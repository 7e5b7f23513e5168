"""Checks a graph for a target: by the rules of its parser, and by the contract of sessions."""

from __future__ import annotations

from pathlib import Path
from typing import List

from sr_deploy.core.errors import ArtifactError, MissingPackageError
from sr_deploy.core.manifest import manifest_path, read_manifest
from sr_deploy.core.target import ONNX_RUNTIMES, TargetProfile
from sr_deploy.runtime.graph_probe import bounded_memory, ends_problem, graph_ends, probe_graph
from sr_deploy.runtime.onnx_view import Graph, load_graph
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.preflight import Finding, preflight

_SERVED = "convert it to one input (1, 3, H, W) and one output (1, 3, s*H, s*W), float RGB in 0..1"


def check_graph(
    path: Path, target: TargetProfile, *, precision: str = "fp16", dla: bool = False
) -> List[Finding]:
    """Return the findings of `preflight`, and why sessions cannot serve the graph.

    A file that cannot be read is a finding too. Raises MissingPackageError without onnx.
    """
    try:
        findings = preflight(path, target, precision=precision, dla=dla)
    except ArtifactError as e:
        return [_of_graph("error", e.message, e.hint)]
    try:
        return _contract_findings(path, target) + findings
    except ArtifactError as e:
        return [_of_graph("error", e.message, e.hint), *findings]


def _contract_findings(path: Path, target: TargetProfile) -> List[Finding]:
    """Return at most one finding. Raises ArtifactError for a graph that sessions cannot serve."""
    has_manifest = manifest_path(path).is_file()
    if has_manifest:
        read_manifest(path)
    try:
        with bounded_memory(path):
            try:
                session = raw_session(str(path))
            except ArtifactError as e:
                # A parser of TensorRT may know operators and opsets that this onnxruntime lacks.
                by_it = target.runtime in ONNX_RUNTIMES or "INVALID_GRAPH" in e.message
                severity = "error" if by_it else "warning"
                return [_of_graph(severity, e.message, e.hint or "repair or convert the graph")]
            (graph_ends if has_manifest else probe_graph)(path, session)
    except MissingPackageError:  # of onnxruntime
        graph = Graph(load_graph(path))
        inputs, outputs = (
            [(_ort_type(graph.types.get(n, "FLOAT")), graph.shapes.get(n, [])) for n in names]
            for names in (graph.inputs, graph.outputs)
        )
        problem = ends_problem(inputs, outputs)
        return [_of_graph("error", problem, _SERVED)] if problem else []
    return []


def _ort_type(name: str) -> str:
    return f"tensor({ {'FLOAT': 'float', 'FLOAT16': 'float16'}.get(name, name.lower()) })"


def _of_graph(severity: str, what: str, hint: str) -> Finding:
    return Finding(severity, "", "", what, hint or "export it with srdeploy")
