"""Opens the parts of an adaptive network's plan by the backend that runs them."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np

from sr_deploy.core.parts import AdaptivePlan, OpenParts, Part, check_part_files
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.runtime import BACKENDS


class _InputRecorder:
    """Keeps what parts are fed, by role."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.fed: Dict[str, List[Dict[str, np.ndarray]]] = {}

    def recorded(self, role: str, part: Part) -> Part:
        """Return a part that also records its inputs."""
        runs = self.fed.setdefault(role, [])

        def run(**inputs: np.ndarray) -> List[Any]:
            if len(runs) < self.most:
                runs.append({name: np.array(x, np.float32) for name, x in inputs.items()})
            return part(**inputs)

        return run


_recorders: List[_InputRecorder] = []


@contextlib.contextmanager
def recorded_inputs(most: int) -> Iterator[Dict[str, List[Dict[str, np.ndarray]]]]:
    """Record the inputs of the first `most` runs of each part, by role, of sessions opened within.

    The parts must run on arrays.
    """
    recorder = _InputRecorder(most)
    _recorders.append(recorder)
    try:
        yield recorder.fed
    finally:
        _recorders.remove(recorder)


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
    opened = BACKENDS[name]().open_parts(path, plan, run)
    for recorder in _recorders:
        parts = {role: recorder.recorded(role, part) for role, part in opened.parts.items()}
        opened = replace(opened, parts=parts)
    return opened
