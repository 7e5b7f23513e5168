"""From a checkpoint to verified ONNX graphs with manifests, one per variant and size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import numpy as np
import onnx
import torch
from torch import nn

import sr_deploy
from sr_deploy.core.errors import BuildError, ExportError, InputError, MissingPackageError
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.manifest import Manifest, is_up_to_date, recorded_command, write_artifact
from sr_deploy.core.metrics import MIN_FP16_PSNR_DB, psnr_unit
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.sizes import HW, Sizes, hw_text, parse_sizes
from sr_deploy.core.spec import ModelSpec, Variant, check_min_hw
from sr_deploy.core.target import PRECISIONS, TargetProfile, load_target
from sr_deploy.export.forms import LITERAL, default_form, forms_of, in_form
from sr_deploy.export.graph import graph_from_network
from sr_deploy.export.half import check_half, fp16_graph, precision_of
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint
from sr_deploy.nets.complexity import COUNTERS, NTIRE_HW, count
from sr_deploy.runtime.ort import raw_session
from sr_deploy.runtime.preflight import preflight, refuse, summary

MAX_ABS_ERR = 1e-4
"""Between torch and onnxruntime, both FP32, relative to the output's largest magnitude where that is above 1."""
DEFAULT_SIZE = "256x512"
DEFAULT_OPSET = 17
CHECK_IMAGES = 2


@dataclass(frozen=True)
class _Request:
    """What decides every graph of one export."""

    precision: str
    """The engine's."""
    graph_dtype: str
    io_dtype: str
    opset: int
    target: Optional[TargetProfile]
    literal: bool
    """Export the network as its file writes it, without rewrites."""
    candidates: bool
    """Export every form of it."""

    def command(self, model: str, variant: str, sizes: Sizes) -> str:
        more = f" --target {self.target.name}" if self.target else ""
        more += (" --literal" if self.literal else "") + (
            " --candidates" if self.candidates else ""
        )
        return f"srdeploy export {model} --variants {variant} {sizes.option} --precision {self.precision}{more}"


def onnx_from_checkpoint(
    model: Union[str, Path, Checkpoint],
    output: Union[str, Path],
    *,
    variants: Union[str, Sequence[str], None] = None,
    sizes: Sequence[str] = (),
    precision: Optional[str] = None,
    target: Optional[str] = None,
    literal: bool = False,
    candidates: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> List[Path]:
    """Export variants of a checkpoint to `output`, one graph per variant and size, and return their paths.

    model: a path, a shipped name, or a loaded checkpoint. variants: "all" (or None: the paper's table) or "d1,d3".
    sizes: LR sizes `256x512`, or ranges `MIN:OPT:MAX` for dynamic graphs; the target's own where none is given.
    precision: the engine's, "fp32" or "fp16". literal: without the exact rewrites (see `export/rewrite.py`).
    candidates: every form of each network (see `export/forms.py`), among which `tuned_engine_from_onnx` finds the fastest.
    Graphs that are up to date are left as they are.
    Raises an SrDeployError; a graph that fails its check is not written, those finished before stay.
    """
    checkpoint = model if isinstance(model, Checkpoint) else load_checkpoint(model)
    request = _request(precision, target, literal, candidates)
    wanted = checkpoint.variants(variants)
    defaults = request.target.shapes if request.target else (DEFAULT_SIZE,)
    ranges = [parse_sizes(text) for text in sizes or defaults]
    for size in ranges:
        check_min_hw(size.min, checkpoint.spec.min_hw, what=checkpoint.name)
    folder = make_output_folder(Path(output))
    todo = [
        (variant, size, form)
        for variant in wanted
        for size in ranges
        for form in _forms(checkpoint, variant, request)
    ]
    paths = []
    for number, (variant, size, form) in enumerate(todo, 1):
        path = (
            folder
            / f"{checkpoint.name}.{variant}.{size}.{request.graph_dtype}{f'.{form}' if candidates else ''}.onnx"
        )
        progress(
            f"[{number}/{len(todo)}] {_export(checkpoint, variant, size, request, form, path)}"
        )
        paths.append(path)
    return paths


def _forms(checkpoint: Checkpoint, variant: Variant, request: _Request) -> List[str]:
    if request.literal:
        return [LITERAL]
    if request.candidates:
        return forms_of(checkpoint.network(str(variant)))
    return [default_form(request.target, checkpoint.architecture.name, str(variant))]


def _request(
    precision: Optional[str], target: Optional[str], literal: bool, candidates: bool
) -> _Request:
    if literal and candidates:
        raise InputError(
            "--literal and --candidates exclude each other",
            hint="the literal network is never the fastest",
        )
    if target is None:
        chosen = precision or "fp16"
        if chosen not in PRECISIONS:
            raise InputError(f"unknown precision '{chosen}'; expected {' or '.join(PRECISIONS)}")
        return _Request(chosen, chosen, "fp32", DEFAULT_OPSET, None, literal, candidates)
    profile = load_target(target)
    chosen = profile.check_precision(precision)
    graph_dtype = profile.fp16_graph if chosen == "fp16" else "fp32"
    io_dtype = profile.io_dtype if graph_dtype == "fp16" else "fp32"
    return _Request(chosen, graph_dtype, io_dtype, profile.opset, profile, literal, candidates)


def _export(
    checkpoint: Checkpoint, variant: Variant, sizes: Sizes, request: _Request, form: str, path: Path
) -> str:
    """Export one graph, or find it up to date; return the line that says so."""
    manifest = _manifest(checkpoint, variant, sizes, request, form)
    if is_up_to_date(path, manifest):
        return f"{path.name}: up to date"
    net = checkpoint.network(str(variant))
    faster, rewrites = in_form(net, form)
    full = graph_from_network(faster, sizes, opset=request.opset)
    runtime = raw_session(full.SerializeToString())
    checks = _check_fp32(
        runtime, net, sizes, path.name
    )  # against the network as its file writes it
    checks["rewrites"] = rewrites
    checks["onnxruntime_vs_torch"]["graph"] = (
        "this file" if request.graph_dtype == "fp32" else "the FP32 graph this file was made from"
    )
    checks["opset"] = f"every node is of opset {request.opset}"
    not_checked: Tuple[str, ...] = ("the engine's own output: see its manifest",)
    graph = full
    if request.precision == "fp16":
        half = fp16_graph(full, io_dtype=request.io_dtype)
        checks["fp16"] = _check_fp16(half, runtime, sizes, path.name)
        not_checked += ("FP16 accumulation: the check sums products in FP32",)
        if sizes.dynamic:
            not_checked += (f"half precision at other sizes than {hw_text(sizes.opt)}",)
        if request.graph_dtype == "fp16":
            graph = half
            checks["this_file_vs_fp32_graph"] = _check_file(half, runtime, sizes, path.name)
    obtained = precision_of(graph)
    if obtained != request.graph_dtype:
        raise ExportError(
            f"{path.name}: the graph's tensors are {obtained}, expected {request.graph_dtype}"
        )
    manifest = replace(
        manifest,
        precision_obtained=obtained,
        nodes=len(graph.graph.node),
        checks=checks,
        not_checked=not_checked,
        counts=_counts(net, faster),
    )
    _write_properties(graph, manifest)

    def write(temporary: Path) -> Manifest:
        onnx.save(graph, str(temporary))
        if request.target is None:
            return manifest
        findings = preflight(temporary, request.target, precision=request.precision)
        try:
            refuse(findings, path.name, request.target)
        except BuildError as e:
            raise ExportError(e.message, hint=e.hint) from e
        return replace(manifest, checks={**checks, "preflight": summary(findings, request.target)})

    before = recorded_command(path)
    replaced = (
        f"; replaces the one made by: {before}" if before and before != manifest.command else ""
    )
    return _line(path, write_artifact(path, write)) + replaced


def _manifest(
    checkpoint: Checkpoint, variant: Variant, sizes: Sizes, request: _Request, form: str
) -> Manifest:
    architecture = checkpoint.architecture
    return Manifest(
        kind="onnx",
        model=checkpoint.name,
        variant=str(variant),
        arch=architecture.name,
        scale=checkpoint.spec.scale,
        min_shape=sizes.min,
        opt_shape=sizes.opt,
        max_shape=sizes.max,
        input_dtype=request.io_dtype,
        output_dtype=request.io_dtype,
        precision_asked=request.precision,
        precision_obtained="",
        target=request.target.name if request.target else "",
        parent_sha256=checkpoint.spec.weights_sha256,
        command=request.command(checkpoint.name, str(variant), sizes),
        versions=_versions(request.target, checkpoint.spec),
        opset=request.opset,
        form=form if request.candidates else "",
        structure=architecture.structure(variant),
        halo_px=architecture.halo_px(variant),
        align_px=architecture.align_px(variant),
        min_px=checkpoint.spec.min_hw,
    )


def _counts(trained: nn.Module, deployed: nn.Module) -> dict:
    """What a manifest holds of both networks by both counters."""
    of_trained, of_deployed = (
        {c: asdict(count(net, NTIRE_HW, counter=c)) for c in COUNTERS}
        for net in (trained, deployed)
    )
    return {**of_trained["hooks"], "fvcore": of_trained["fvcore"], "deployed": of_deployed}


def _check_fp32(session: Any, net: nn.Module, sizes: Sizes, name: str) -> dict:
    """Compare onnxruntime with torch at the graph's sizes on a photograph each; return the numbers."""
    worst, results = 0.0, {}
    for hw in _check_sizes(sizes):
        x = _images(hw)[0]
        with torch.inference_mode():
            reference = net(torch.from_numpy(x)).numpy()
        y = session.run(None, {"lr": x})[0]
        error = float(np.abs(y - reference).max()) / max(1.0, float(np.abs(reference).max()))
        if not error <= MAX_ABS_ERR:
            raise ExportError(
                f"{name}: onnxruntime differs from torch by {error:.2g} at {hw_text(hw)}, expected at most {MAX_ABS_ERR:g}"
            )
        worst = max(worst, error)
        mse = float(np.mean((y.astype(np.float64) - reference) ** 2))
        results[hw_text(hw)] = round(-10 * float(np.log10(max(mse, 1e-30))), 1)
    return {"onnxruntime_vs_torch": {"max_abs_err": worst, "psnr_db": results}}


def _check_file(half: onnx.ModelProto, fp32_session: Any, sizes: Sizes, name: str) -> dict:
    """Run the FP16 graph as onnxruntime does (FP16 weights, FP32 arithmetic) against the FP32 one at the graph's sizes."""
    session = raw_session(half.SerializeToString())
    dtype = np.float16 if session.get_inputs()[0].type == "tensor(float16)" else np.float32
    results = {}
    for hw in _check_sizes(sizes):
        x = _images(hw)[0]
        psnr = psnr_unit(
            session.run(None, {"lr": x.astype(dtype)})[0], fp32_session.run(None, {"lr": x})[0]
        )
        if not psnr >= MIN_FP16_PSNR_DB:
            raise ExportError(
                f"{name}: {psnr:.1f} dB against the FP32 graph at {hw_text(hw)}, expected at least {MIN_FP16_PSNR_DB:.0f}"
            )
        results[hw_text(hw)] = round(psnr, 2)
    return {"psnr_db": results}


def _check_fp16(half: onnx.ModelProto, fp32_session: Any, sizes: Sizes, name: str) -> dict:
    images = _images(sizes.opt)
    report = check_half(half, images, [fp32_session.run(None, {"lr": x})[0] for x in images])
    problems = report.problems()
    top = sorted(report.largest.items(), key=lambda item: -item[1])
    if problems:
        raise ExportError(
            f"{name} does not survive half precision: {'; '.join(problems)}; the largest activation is {top[0][1]:.4g} in '{top[0][0]}'",
            hint="export it with --precision fp32",
        )
    return {
        "psnr_db_vs_fp32": round(report.psnr_db, 2),
        "overflows": 0,
        "dead_output": False,
        "images": CHECK_IMAGES,
        "at": hw_text(sizes.opt),
        "largest_activation": {tensor: round(peak, 4) for tensor, peak in top},
    }


def _check_sizes(sizes: Sizes) -> List[HW]:
    """The optimum; for a dynamic graph also an odd size and one that is not square, as far as its range has them."""
    if not sizes.dynamic:
        return [sizes.opt]
    (h0, w0), (h1, w1) = sizes.min, sizes.max
    odd = (_nearest_odd(h0 + 21, h0, h1), _nearest_odd(w0 + 37, w0, w1))
    wide = (min(max(64, h0), h1), min(max(112, w0), w1))
    return list(dict.fromkeys([sizes.opt, odd, wide if wide[0] != wide[1] else (h0, w1)]))


def _nearest_odd(wanted: int, low: int, high: int) -> int:
    """The odd number of a range nearest to `wanted`, or the range's end where it holds none."""
    n = min(wanted, high)
    n -= n % 2 == 0
    return n if n >= low else min(low + (low % 2 == 0), high)


def _images(hw: HW) -> List[np.ndarray]:
    return [nchw_from_rgb(rgb) for rgb in sample_lr(hw, count=CHECK_IMAGES)]


def _write_properties(graph: onnx.ModelProto, manifest: Manifest) -> None:
    facts = {
        "model": manifest.model,
        "variant": manifest.variant,
        "arch": manifest.arch,
        "scale": str(manifest.scale),
        "precision": manifest.precision_obtained,
        "value_range": "0..1 RGB",
        "weights_sha256": manifest.parent_sha256,
        "made_by": f"srdeploy {sr_deploy.__version__}",
    }
    for key, value in facts.items():
        graph.metadata_props.add(key=f"srdeploy.{key}", value=value)


def _versions(target: Optional[TargetProfile], spec: ModelSpec) -> dict:
    import importlib.metadata

    versions = {"srdeploy": sr_deploy.__version__, "card": spec.digest}
    if target is not None:
        versions["profile"] = target.digest
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as e:
            if package == "onnxruntime":  # its GPU build is another distribution of the same module
                import onnxruntime

                versions[package] = onnxruntime.__version__
            else:
                raise MissingPackageError(package, needed_for="export", extra="export") from e
    return versions


def _line(path: Path, manifest: Manifest) -> str:
    fp32 = manifest.checks["onnxruntime_vs_torch"]
    line = f"{path.name}: {manifest.nodes} nodes, opset {manifest.opset}, max error {fp32['max_abs_err']:.1e}"  # type: ignore[index]
    fp16 = manifest.checks.get("fp16")
    return line if fp16 is None else f"{line}, FP16 {fp16['psnr_db_vs_fp32']:.1f} dB against FP32"  # type: ignore[index]
