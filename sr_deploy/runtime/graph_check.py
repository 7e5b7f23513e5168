"""Checks a graph for a target: by the rules of its parser, and by the contract of sessions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import List, Optional, Tuple

from sr_deploy.core.errors import ArtifactError, MissingPackageError
from sr_deploy.core.interface import Interface
from sr_deploy.core.manifest import manifest_path, read_manifest
from sr_deploy.core.target import LOCAL_RUNTIMES, TargetProfile
from sr_deploy.runtime.graph_interface import ContractError, DeclaredEnd, interfaces
from sr_deploy.runtime.graph_probe import SERVED, bounded_memory, graph_ends, probe_graph
from sr_deploy.runtime.onnx_view import Graph, load_graph
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.parser_rules import EXPORT_AGAIN, Finding
from sr_deploy.runtime.preflight import preflight_model
from sr_deploy.runtime.standard_graph import standard_graph


def check_graph(
    path: Path, target: TargetProfile, *, precision: str = "fp16", dla: bool = False
) -> List[Finding]:
    """Return why sessions cannot serve the graph, and the findings of `preflight` for it.

    These are of the standard graph where its ends are others. A file that cannot be read is a
    finding too. Raises MissingPackageError without onnx.
    """
    try:
        model = load_graph(path)
        served, interface, scale = _contract(path, target)
        imported = interface is not None and manifest_path(path).is_file()
        if interface is not None and (imported or not interface.is_standard):
            model = standard_graph(model, interface, scale)
    except ArtifactError as e:
        return [_of_graph("error", e.message, e.hint)]
    findings = preflight_model(model, target, precision=precision, dla=dla)
    return served + (list(map(_as_of_import, findings)) if imported else findings)


def _as_of_import(finding: Finding) -> Finding:
    """Return a finding about an imported graph, which is exported before it is built."""
    if not finding.hint.startswith(EXPORT_AGAIN):
        return finding
    return replace(finding, severity="warning", hint="build-engine exports it for the target first")


def _contract(path: Path, target: TargetProfile) -> Tuple[List[Finding], Optional[Interface], int]:
    """Return at most one finding, why sessions cannot serve it, and its interface and scale."""
    manifest = read_manifest(path) if manifest_path(path).is_file() else None
    interface, scale = (manifest.interface, manifest.scale) if manifest else (None, 1)
    try:
        with bounded_memory(path):
            try:
                session = raw_session(str(path))
            except ArtifactError as e:
                # A parser of TensorRT may know operators and opsets that this onnxruntime lacks.
                by_it = target.runtime in LOCAL_RUNTIMES or "INVALID_GRAPH" in str(e.__cause__)
                severity = "error" if by_it else "warning"
                hint = e.hint or "repair or convert the graph"
                return [_of_graph(severity, e.message, hint)], interface, scale
            if manifest is None:
                contract = probe_graph(path, session)
                interface, scale = contract.interface, contract.scale
            elif interface is None:
                graph_ends(path, session)
    except MissingPackageError:  # of onnxruntime
        return _declared_findings(path), interface, scale
    except ArtifactError as e:
        return [_of_graph("error", e.message, e.hint)], interface, scale
    return [], interface, scale


def _declared_findings(path: Path) -> List[Finding]:
    graph = Graph(load_graph(path))
    inputs, outputs = (
        [
            DeclaredEnd(n, _ort_type(graph.types.get(n, "FLOAT")), graph.shapes.get(n, []))
            for n in names
        ]
        for names in (graph.inputs, graph.outputs)
    )
    try:
        interfaces(inputs, outputs)
    except ContractError as e:
        return [_of_graph("error", str(e), SERVED)]
    return []


def _ort_type(name: str) -> str:
    return f"tensor({ {'FLOAT': 'float', 'FLOAT16': 'float16'}.get(name, name.lower()) })"


def _of_graph(severity: str, what: str, hint: str) -> Finding:
    return Finding(severity, "", "", what, hint or "export it with srdeploy")
