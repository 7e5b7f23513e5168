"""Deploy super-resolution networks: import, slice, export, build, measure and upscale.

The stable Python API. Each name is imported on first use, so the package can be imported without
torch:

    upscale("photo.jpg")                   upscale a file, an array, a PIL image or a list of them
    Upscaler("asrn_x4")                    the same as an object; `.frames(images)` is an iterator
    checkpoint_from_images(recipe, options)                 train a checkpoint
    TrainOptions([...], folder)            choose images and output of a training run
    load_checkpoint(model)                 open a checkpoint by path or shipped name
    onnx_from_checkpoint(model, folder)    export verified ONNX graphs of its variants
    onnx_from_module(net, folder, scale=4) export a torch module of your own
    graph_from_file(file, folder)          import an ONNX graph of any origin
    ImportOptions(value_range="255")       what is known of that graph
    ExportOptions(variants="d1,d3")        choose variants, sizes, precision and target of an export
    engine_from_onnx(graphs, folder, target="rtx")          build engines
    BuildOptions(dla=0)                    options of a build, for `engine_from_onnx(..., options=)`
    tuned_engine_from_onnx(graphs, folder, target="cpu")    build the fastest form of each network
    rows_from_artifacts([...])             measure quality and latency (an iterator)
    MeasureOptions(data=..., runs=20)      choose images, protocols, sizes and number of runs
    ntire_table(rows)                      format rows as the NTIRE challenge does
    quality_from_artifacts([...])          measure PSNR and SSIM on data sets (an iterator)
    quality_table(rows)                    format those rows as the papers do
    select_network(rows, target="cpu", limits=Limits(max_ms=33))    the best that is fast enough
    deployment_from_model(model, folder, DeployOptions("xavier", fps=30))   all of it, in one folder
    Limits(max_ms=33, min_psnr_db=28)      what a selected network must meet
    session_of(model, variant)             open a checkpoint, graph, engine, router or plan
    RunOptions(runtime="openvino")         the device, the runtime, and how much may be lost
    upscale_image(image, session)          upscale an (H, W, 3) array; floats are not clipped

Models are named by text: a shipped name (`asrn_x4`, `asrn_x4.d3`), the path of a checkpoint, graph,
engine or folder, or a network's code (`mynet.py:Net`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

from sr_deploy.core.version import __version__

_API = {
    "upscale": "sr_deploy.upscale",  # a module that can be called
    "Upscaler": "sr_deploy.upscale.upscaler",
    "checkpoint_from_images": "sr_deploy.train.trainer",
    "TrainOptions": "sr_deploy.train.options",
    "load_checkpoint": "sr_deploy.nets.checkpoint",
    "ExportOptions": "sr_deploy.export.pipeline",
    "onnx_from_checkpoint": "sr_deploy.export.pipeline",
    "onnx_from_module": "sr_deploy.export.code_source",
    "graph_from_file": "sr_deploy.runtime.import_onnx",
    "ImportOptions": "sr_deploy.runtime.import_onnx",
    "engine_from_onnx": "sr_deploy.runtime.build",
    "tuned_engine_from_onnx": "sr_deploy.runtime.autotune",
    "BuildOptions": "sr_deploy.core.session",
    "rows_from_artifacts": "sr_deploy.bench.measure",
    "MeasureOptions": "sr_deploy.bench.measure",
    "ntire_table": "sr_deploy.results.tables",
    "quality_from_artifacts": "sr_deploy.bench.quality",
    "quality_table": "sr_deploy.results.tables",
    "select_network": "sr_deploy.results.selection",
    "deployment_from_model": "sr_deploy.deploy.deployment",
    "DeployOptions": "sr_deploy.deploy.options",
    "Limits": "sr_deploy.results.selection",
    "session_of": "sr_deploy.fast.opener:open_session",
    "RunOptions": "sr_deploy.core.run_options",
    "upscale_image": "sr_deploy.upscale.upscaler",
    "SrDeployError": "sr_deploy.core.errors",
}
__all__ = [*_API, "__version__"]

if TYPE_CHECKING:  # editors and type checkers see the API; at run time it is lazy
    from sr_deploy.bench.measure import MeasureOptions as MeasureOptions
    from sr_deploy.bench.measure import rows_from_artifacts as rows_from_artifacts
    from sr_deploy.bench.quality import quality_from_artifacts as quality_from_artifacts
    from sr_deploy.core.errors import SrDeployError as SrDeployError
    from sr_deploy.core.run_options import RunOptions as RunOptions
    from sr_deploy.core.session import BuildOptions as BuildOptions
    from sr_deploy.deploy.deployment import deployment_from_model as deployment_from_model
    from sr_deploy.deploy.options import DeployOptions as DeployOptions
    from sr_deploy.export.code_source import onnx_from_module as onnx_from_module
    from sr_deploy.export.pipeline import ExportOptions as ExportOptions
    from sr_deploy.export.pipeline import onnx_from_checkpoint as onnx_from_checkpoint
    from sr_deploy.fast.opener import open_session
    from sr_deploy.nets.checkpoint import load_checkpoint as load_checkpoint
    from sr_deploy.results.selection import Limits as Limits
    from sr_deploy.results.selection import select_network as select_network
    from sr_deploy.results.tables import ntire_table as ntire_table
    from sr_deploy.results.tables import quality_table as quality_table
    from sr_deploy.runtime.autotune import tuned_engine_from_onnx as tuned_engine_from_onnx
    from sr_deploy.runtime.build import engine_from_onnx as engine_from_onnx
    from sr_deploy.runtime.import_onnx import ImportOptions as ImportOptions
    from sr_deploy.runtime.import_onnx import graph_from_file as graph_from_file
    from sr_deploy.train.options import TrainOptions as TrainOptions
    from sr_deploy.train.trainer import checkpoint_from_images as checkpoint_from_images
    from sr_deploy.upscale.call import upscale as upscale
    from sr_deploy.upscale.upscaler import Upscaler as Upscaler
    from sr_deploy.upscale.upscaler import upscale_image as upscale_image

    session_of = open_session
else:

    def __getattr__(name: str) -> Any:
        if name not in _API:
            raise AttributeError(f"module 'sr_deploy' has no attribute '{name}'")
        path, _, attribute = _API[name].partition(":")
        module = importlib.import_module(path)
        return module if path == f"sr_deploy.{name}" else getattr(module, attribute or name)


def __dir__() -> List[str]:
    return sorted(__all__)
