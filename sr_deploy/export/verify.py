"""Checks of an exported graph on photographs: FP32 against its source, FP16 against FP32."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

import numpy as np
import onnx

from sr_deploy.core.errors import ExportError, one_line
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import HW, Sizes, hw_text
from sr_deploy.export.emulation import check_half
from sr_deploy.export.half import HalfGraph
from sr_deploy.export.not_finite import not_finite_error
from sr_deploy.export.source import Source, SourceGraph
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.ort_device import OrtDevice

MAX_ABS_ERR = 1e-4
"""Allowed FP32 difference from torch, relative to the largest output where that is above 1."""
CHECK_IMAGES = 2
_NAMED = 3


def compare_with_source(
    session: Any, source: Source, graph: SourceGraph, sizes: Sequence[HW], name: str
) -> dict:
    """Compare the session of an FP32 graph with its source at `sizes`; return the differences.

    Raises ExportError when one is above MAX_ABS_ERR.
    """
    largest_error, psnr_db = 0.0, {}
    for hw in sizes:
        x = check_images(hw)[0]
        reference = graph.reference(x)
        if not np.isfinite(reference).all():
            raise not_finite_error(graph.model, x, name=name)
        try:
            y = session.run(None, {"lr": x})[0]
        except Exception as e:  # onnxruntime's errors share no base class
            raise ExportError(
                f"{name}: ONNX Runtime cannot run the graph at {hw_text(hw)}: {one_line(e)}",
                hint="a graph of one size may be possible: --size HxW",
            ) from e
        error = float(np.abs(y - reference).max()) / max(1.0, float(np.abs(reference).max()))
        if not error <= MAX_ABS_ERR:
            raise ExportError(
                f"{name}: ONNX Runtime differs from {source.reference_name} by {error:.2g} at "
                f"{hw_text(hw)}, "
                f"expected at most {MAX_ABS_ERR:g}"
            )
        largest_error = max(largest_error, error)
        mse = float(np.mean((y.astype(np.float64) - reference) ** 2))
        psnr_db[hw_text(hw)] = round(-10 * float(np.log10(max(mse, 1e-30))), 1)
    return {"max_abs_err": largest_error, "psnr_db": psnr_db}


def check_half_precision(half: HalfGraph, fp32_session: Any, sizes: Sizes, name: str) -> dict:
    """Run an FP16 graph in real half precision; return the results.

    Raises ExportError when a tensor overflows, or the output is dead or too far from FP32.
    """
    images = check_images(sizes.opt)
    references = [fp32_session.run(None, {"lr": x})[0] for x in images]
    report = check_half(half.model, images, references)
    problems = report.problems()
    activations = sorted(report.largest.items(), key=lambda item: -item[1])
    if problems:
        largest = ", ".join(f"{peak:.4g} in '{tensor}'" for tensor, peak in activations[:_NAMED])
        raise ExportError(
            f"{name} fails in half precision: {'; '.join(problems)}; "
            f"the largest activations are {largest}",
            hint="keep nodes in FP32 with --fallback auto, or export it with --precision fp32",
        )
    results = {
        "psnr_db_vs_fp32": round(report.psnr_db, 2),
        "overflows": 0,
        "dead_output": False,
        "images": CHECK_IMAGES,
        "at": hw_text(sizes.opt),
        "largest_activation": {tensor: round(peak, 4) for tensor, peak in activations},
        **half.notes,
    }
    if report.stashed:
        results["squares_beyond_fp16_inside"] = report.stashed
    return results


def compare_with_fp32(
    half: onnx.ModelProto,
    fp32_session: Any,
    sizes: Sequence[HW],
    name: str,
    device: OrtDevice,
    *,
    least_db: float = MIN_FP16_PSNR_DB,
) -> dict:
    """Compare an FP16 or INT8 graph on a device with the FP32 one: at `sizes`, by ONNX Runtime.

    The CPU computes it with FP16 weights in FP32; a GPU in the precision that is returned. Returns
    the PSNR at each size. Raises ExportError when one is too low.
    """
    session = raw_session(half.SerializeToString(), device=device, fp16=True)
    dtype = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    psnr_db: Dict[str, float] = {}
    for hw in sizes:
        x = check_images(hw)[0]
        y, reference = session.run(None, {"lr": x.astype(dtype)}), fp32_session.run(None, {"lr": x})
        psnr = psnr_unit(y[0], reference[0])
        if not psnr >= least_db:
            on = "" if device.is_cpu else f" on {device.name}"
            raise ExportError(
                f"{name}: {psnr:.1f} dB against the FP32 graph at {hw_text(hw)}{on}, "
                f"expected at least {least_db:.0f}"
            )
        psnr_db[hw_text(hw)] = round(psnr, 2)
    facts = {"psnr_db": psnr_db, "provider": device.provider.name, "device": device.name or "cpu"}
    if device.is_cpu:
        return {**facts, "precision": "fp32"}
    nodes = device.observe(session)
    elsewhere = nodes.elsewhere(device.provider.name)
    return {**facts, "precision": nodes.precision, "elsewhere": elsewhere}


def check_sizes(sizes: Sizes, multiple: int = 1) -> List[HW]:
    """Return the optimum, and for dynamic graphs an odd and a non-square size within the range.

    multiple: all are multiples of this, as the ends of the range are; odd ones are odd multiples.
    """
    if not sizes.dynamic:
        return [sizes.opt]
    (h0, w0), (h1, w1) = ([n // multiple for n in hw] for hw in (sizes.min, sizes.max))
    odd = (_nearest_odd(h0 + 21, h0, h1), _nearest_odd(w0 + 37, w0, w1))
    wide = (min(max(64 // multiple, h0), h1), min(max(112 // multiple, w0), w1))
    wide = wide if wide[0] != wide[1] else (h0, w1)
    others = [(h * multiple, w * multiple) for h, w in (odd, wide)]
    return list(dict.fromkeys([sizes.opt, *others]))


def _nearest_odd(size: int, low: int, high: int) -> int:
    """Return the nearest odd number in a range, or the range's end if it has none."""
    n = min(size, high)
    n -= n % 2 == 0
    return n if n >= low else min(low + (low % 2 == 0), high)


def check_images(hw: HW) -> List[np.ndarray]:
    """Return the photographs of the checks, (1, 3, h, w) float32, 0..1."""
    return [nchw_from_rgb(rgb) for rgb in sample_lr(hw, count=CHECK_IMAGES)]
