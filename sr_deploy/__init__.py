"""Put one trained, elastic super-resolution network on every GPU its user owns, at the size that fits each.

The stable Python API; each name is imported on first use, so that a board without torch can import the package:

    checkpoint_from_images(recipe, [...], folder)
    load_checkpoint(model)                 a checkpoint: a path, or a shipped name (`.network("d3")` is a plain module)
    onnx_from_checkpoint(model, folder)    verified ONNX graphs of its variants
    engine_from_onnx(graphs, folder, target="rtx")
    tuned_engine_from_onnx(graphs, folder, target="cpu")   the fastest of each network's forms, measured
    rows_from_artifacts([...])             PSNR, SSIM, latency, memory and counts with their conditions
    ntire_table(rows)                      those rows as the challenge prints them
    quality_from_artifacts([...])          PSNR and SSIM only, on several sets
    quality_table(rows)                    those as the papers print them
    session_of(model, variant)             anything that can be run, opened: a checkpoint, graph, engine, router or plan
    upscale_image(image, session)          an (H, W, 3) image through it, in tiles where memory asks for it
    Upscaler(session)                      the same for many images, `.frames(images)` for an iterator
"""

from __future__ import annotations

import importlib
from typing import Any, List

__version__ = "0.1.0"

_API = {
    "checkpoint_from_images": "sr_deploy.train.trainer",
    "load_checkpoint": "sr_deploy.nets.checkpoint",
    "onnx_from_checkpoint": "sr_deploy.export.pipeline",
    "engine_from_onnx": "sr_deploy.runtime.build",
    "tuned_engine_from_onnx": "sr_deploy.runtime.autotune",
    "rows_from_artifacts": "sr_deploy.bench.measure",
    "ntire_table": "sr_deploy.results.tables",
    "quality_from_artifacts": "sr_deploy.bench.quality",
    "quality_table": "sr_deploy.results.tables",
    "session_of": "sr_deploy.runtime.opener:open_session",
    "upscale_image": "sr_deploy.upscale.tiles",
    "Upscaler": "sr_deploy.upscale.tiles",
    "SrDeployError": "sr_deploy.core.errors",
}
__all__ = [*_API, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'sr_deploy' has no attribute '{name}'")
    module, _, attribute = _API[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> List[str]:
    return sorted(__all__)
