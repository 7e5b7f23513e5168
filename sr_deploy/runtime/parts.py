"""Opens the parts of an adaptive network's plan by the backend that runs them."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.core.parts import AdaptivePlan, OpenParts, check_part_files
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.runtime import BACKENDS


def open_parts(path: Path, plan: AdaptivePlan, run: RunOptions = DEFAULT_RUN) -> OpenParts:
    """Open the parts of the plan at `path`: engines by their runtime, graphs by that of `run`.

    Graphs are run by ONNX Runtime unless another one is asked for. Raises ArtifactError if a part
    is missing, was changed or is not what the plan says, CannotRunHereError where the device or
    the runtime cannot be used.
    """
    check_part_files(path, plan)
    name = plan.runtime
    if plan.engine is None:
        name = run.requested_openvino or name
    return BACKENDS[name]().open_parts(path, plan, run)
