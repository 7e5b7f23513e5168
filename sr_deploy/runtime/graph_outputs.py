"""What an engine must compute: the outputs of its graph, and those of a quantised graph in FP32."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from sr_deploy.core.manifest import Manifest
from sr_deploy.core.precisions import is_quantised
from sr_deploy.core.run_options import CPU_RUN
from sr_deploy.runtime.accuracy import compare_outputs, refuse_inaccurate
from sr_deploy.runtime.fallback import load_onnx
from sr_deploy.runtime.ort import OnnxRuntimeSession
from sr_deploy.runtime.quantised_graph import without_quantisation

MIN_INT8_PSNR_DB = 40.0
"""Minimum `psnr_unit` of the output of an INT8 engine against that of its graph: values that lie
between two steps may be rounded to either."""
_KEEP = (
    "export it again and keep more layers in higher precision, with a lower --max-loss-db or "
    "--keep NODE,NODE, or export it with --precision fp16"
)


@dataclass(frozen=True)
class GraphOutputs:
    """Outputs for some images, (1, 3, H, W) float32 each, by ONNX Runtime on the CPU."""

    graph: Sequence[np.ndarray]
    fp32: Optional[Sequence[np.ndarray]] = None
    """Of a quantised graph without its Q/DQ pairs; None for other graphs."""
    exported_psnr_db: Optional[float] = None
    """Of a quantised graph: its output against FP32, as its export measured it."""


def graph_outputs(onnx: Path, graph: Manifest, images: Sequence[np.ndarray]) -> GraphOutputs:
    """Run a graph, and a quantised one without its Q/DQ pairs, too.

    images: (1, 3, h, w) float32 each. Raises MissingPackageError.
    """
    outputs = _run(onnx, graph, images)
    if not is_quantised(graph.precision_obtained):
        return GraphOutputs(outputs)
    model, library = load_onnx(onnx)
    with tempfile.TemporaryDirectory() as folder:
        floats = Path(folder) / "floats.onnx"
        library.save(without_quantisation(model), str(floats))
        manifest = replace(graph, precision_obtained=graph.graph_dtype)
        exported: Any = graph.checks.get("int8", {})
        psnr_db = exported.get("psnr_db_vs_fp32")
        return GraphOutputs(outputs, _run(floats, manifest, images), psnr_db)


def checked_accuracy(
    outputs: Sequence[np.ndarray], references: GraphOutputs, name: str, *, not_finite: int = 0
) -> Dict[str, Any]:
    """Compare an engine's outputs with its graph's; return the record for its manifest.

    `psnr_db_vs_fp32` is against FP32; of an INT8 engine, `psnr_db_vs_graph` is what decides.
    name: the engine, for the error. not_finite: values known to be NaN or infinity, of a whole
    output of which this is a part. Raises BuildError.
    """
    accuracy = compare_outputs(outputs, references.graph)
    accuracy["not_finite"] = max(accuracy["not_finite"], not_finite)
    if references.fp32 is None:
        refuse_inaccurate(accuracy, name)
        return {**accuracy, "against": "onnxruntime, FP32"}
    refuse_inaccurate(accuracy, name, MIN_INT8_PSNR_DB, _KEEP, "the INT8 graph")
    in_fp32 = compare_outputs(outputs, references.fp32)["psnr_db_vs_fp32"]
    if references.exported_psnr_db is not None:  # of the weights before they were rounded
        in_fp32 = min(in_fp32, references.exported_psnr_db)
    return {
        **accuracy,
        "psnr_db_vs_graph": accuracy["psnr_db_vs_fp32"],
        "psnr_db_vs_fp32": in_fp32,
        "against": "onnxruntime: the graph, and the graph without its Q/DQ pairs, or the export's "
        "FP32 if that is less",
    }


def _run(onnx: Path, graph: Manifest, images: Sequence[np.ndarray]) -> List[np.ndarray]:
    session = OnnxRuntimeSession(onnx, graph, CPU_RUN)
    return [session.run(x) for x in images]
