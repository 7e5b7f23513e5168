"""Memory of graphs, and the first and later runs of sessions: each in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
from ceilings import timed

LARGE = "16x16:256x256:1080x1920"
SESSIONS = (
    "| our dynamic graph | LR | session | first run [ms] | then [ms] | memory [MiB] |\n"
    + "|---" * 6
    + "|"
)


def memory_of(path: Path) -> float:
    """Return the peak rise of a process, in MiB, that opens a graph and runs it three times."""
    return float(_output("--memory-of", str(path)))


def _output(*arguments: str) -> str:
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def memory_here(path: Path) -> float:
    from sr_deploy.core.device import track_peak_memory
    from sr_deploy.runtime.ort import raw_session

    memory: list = []
    with track_peak_memory(memory):
        session = raw_session(str(path))
        shape = [n if isinstance(n, int) else 1 for n in session.get_inputs()[0].shape]
        for _ in range(3):
            session.run(None, {"lr": np.zeros(shape, np.float32)})
    return memory[0] or float("nan")


def sessions(names: List[str]) -> List[Dict[str, Any]]:
    """Return rows of our dynamic graphs, each measured in its own process.

    With our session's settings on one and on all threads, and with onnxruntime's defaults.
    """
    import onnx

    from sr_deploy.core.device import usable_cores
    from sr_deploy.core.sizes import parse_sizes
    from sr_deploy.core.target import load_target
    from sr_deploy.export.forms import apply_form, default_form
    from sr_deploy.export.graph import graph_from_network
    from sr_deploy.export.opset import EXPORTED
    from sr_deploy.nets.checkpoint import load_checkpoint

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model, _, variant = name.partition(".")
            net = apply_form(
                load_checkpoint(model).network(variant),
                default_form(load_target("cpu"), model.partition("_")[0], variant, "fp32"),
            )[0]
            path = Path(folder) / f"{name}.onnx"
            onnx.save(graph_from_network(net, parse_sizes(LARGE), opset=EXPORTED), str(path))
            for size in ("256x512", "1080x1920"):
                for kind in (
                    "ours, 1 thread",
                    f"ours, {usable_cores()} threads",
                    "onnxruntime's defaults",
                ):
                    found = json.loads(_output("--session", str(path), size, kind))
                    rows.append({"network": name, "lr": size, "session": kind, **found})
    return rows


def session_here(path: str, size: str, kind: str) -> None:
    import os

    import onnxruntime as ort

    from sr_deploy.core.device import track_peak_memory
    from sr_deploy.core.run_options import CPU_RUN
    from sr_deploy.core.sizes import parse_hw
    from sr_deploy.runtime.ort import OnnxRuntimeSession

    if kind == "ours, 1 thread":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    x = np.random.default_rng(0).random((1, 3, *parse_hw(size)), dtype=np.float32)
    memory: list = []
    with track_peak_memory(memory):
        if kind.startswith("ours"):
            session: Any = OnnxRuntimeSession(Path(path), run=CPU_RUN)
            run = timed(lambda: session.run(x))
        else:
            session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
            run = timed(lambda: session.run(None, {"lr": x}))
        first, *others = (run() for _ in range(4))
    print(
        json.dumps(
            {"first_ms": first, "ms_median": statistics.median(others), "memory_mib": memory[0]}
        )
    )


def session_line(row: Dict[str, Any]) -> str:
    numbers = (
        f"{row['first_ms']:.0f} | {row['ms_median']:.0f} | {row['memory_mib'] or float('nan'):.0f}"
    )
    return f"| {row['network']} | {row['lr']} | {row['session']} | {numbers} |"


if __name__ == "__main__":
    if sys.argv[1] == "--memory-of":
        print(memory_here(Path(sys.argv[2])))
    else:
        session_here(*sys.argv[2:])
