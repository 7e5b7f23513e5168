"""The memory of a network, measured in a process of its own.

In a process that has run other networks, the figure would depend on them: the first network pays
for libraries, thread pools and buffers of kernels, and the allocator reuses what it kept.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from typing import Any, Dict, List, Optional

import numpy as np

from sr_deploy.bench.budgets import budgeted
from sr_deploy.bench.evaluate import Planner, upscale_fitting
from sr_deploy.bench.memory_bound import planner_within
from sr_deploy.core.device import track_peak_memory
from sr_deploy.core.errors import ArtifactError, SrDeployError
from sr_deploy.core.lifeline import child_with_lifeline, end_with_parent, signal_name
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import Session
from sr_deploy.runtime.opener import NetworkDescription, describe

MEM_DEFINITION = (
    "peak rise of the resident memory of a process of its own over opening it and two runs; "
    "weights included, the runtime's libraries not"
)
MEM_OF_IMAGES = (
    "peak rise of the resident memory of a process of its own over opening it and two runs of the "
    "largest valid image; weights and the image included, the runtime's libraries not"
)
WARM_HW = (32, 32)
RUNS = 2
# With its own thresholds, glibc keeps blocks or returns them by chance: 113 to 139 MiB for one
# network. Fixed ones return large blocks at once. They cost time, so nothing is timed there.
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
_CHILD = (
    "import json, sys; request = json.loads(sys.argv[1]); sys.path[:] = request.pop('path'); "
    "from sr_deploy.bench.own_memory import main; main(request)"
)


class MemoryProcessError(Exception):
    """The process ended without a result; the text tells how."""


def peak_mib(
    network: NetworkDescription,
    run: RunOptions,
    x: np.ndarray,
    max_memory: Optional[int] = None,
) -> Optional[float]:
    """Return the peak memory of a network on the CPU in MiB; None where the system does not tell.

    x: (1, 3, h, w) float32 of a size that it accepts, or an image (h, w, 3) uint8 of any size,
    which is run in tiles within `max_memory` bytes, if given. Raises MemoryProcessError.
    """
    with tempfile.TemporaryDirectory(prefix="srdeploy-") as folder:
        np.save(os.path.join(folder, "x.npy"), x)
        request = {
            **request_of(network),
            "run": dataclasses.asdict(run),
            "x": os.path.join(folder, "x.npy"),
            "max_memory": max_memory,
            "path": sys.path,
        }
        command = [sys.executable, "-c", _CHILD, json.dumps(request)]
        with child_with_lifeline(command, stderr=None, env={**os.environ, **_ALLOCATOR}) as child:
            out, _ = child.communicate()
    if child.returncode < 0:
        name = signal_name(-child.returncode)
        reason = "the memory ran out, or it was killed" if name == "SIGKILL" else "it crashed"
        raise MemoryProcessError(f"its process was ended by {name}: {reason}")
    try:
        answer: Dict[str, Any] = json.loads(out)
    except ValueError:
        raise MemoryProcessError(f"its process exited with {child.returncode}") from None
    if "error" in answer:
        raise MemoryProcessError(answer["error"])
    peak: Optional[float] = answer["peak_mib"]
    return peak


def main(request: Dict[str, Any]) -> None:
    """Measure what a request names, and write the result or the error to stdout as JSON."""
    end_with_parent()
    result = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    try:
        answer: Dict[str, Any] = {"peak_mib": measure_here(request)}
    except SrDeployError as e:
        answer = {"error": e.message}
    except KeyboardInterrupt:  # the parent got it too
        sys.exit(130)
    with result:
        json.dump(answer, result)


def measure_here(request: Dict[str, Any]) -> Optional[float]:
    """Measure in this process. Raises ArtifactError if it is not the same network any more."""
    network, run = requested_network(request), RunOptions(**request["run"])
    x = np.load(request["x"])
    with network.open(run) as session:  # loads the libraries and starts their threads
        h, w = session.nearest_hw(WARM_HW)
        fixed_h, fixed_w = session.fixed_sides
        session.run(np.zeros((1, 3, fixed_h or h, fixed_w or w), np.float32))
    rises_mib: List[Optional[float]] = []
    with track_peak_memory(rises_mib), network.open(run) as session:
        plan, bound = None, request.get("max_memory")
        if bound is not None:
            plan = planner_within(session, bound, identity=network.identity)
        for _ in range(RUNS):
            _run(session, x, plan)
    return rises_mib[0]


def _run(session: Session, x: np.ndarray, plan: Optional[Planner]) -> None:
    if x.ndim == 4:
        session.run(x)
    else:
        upscale_fitting(session, x, plan)


def request_of(network: NetworkDescription) -> Dict[str, Any]:
    """Return what names a network to a child process."""
    keys = ("source", "variant", "identity")
    return {key: getattr(network, key) for key in keys}


def requested_network(request: Dict[str, Any]) -> NetworkDescription:
    """Return the network that a request names. Raises ArtifactError if it is another one now."""
    source = request["source"]
    if request["variant"].endswith("%"):
        network = budgeted(source, request["variant"])
        if network.identity == request["identity"]:
            return network
        raise ArtifactError(f"{source} changed while it was measured", hint="measure it again")
    for variants in (None, [request["variant"]]):
        for network in describe(source, variants, trust=True, untrained=True):
            if network.identity == request["identity"]:
                return network
    raise ArtifactError(f"{source} changed while it was measured", hint="measure it again")
