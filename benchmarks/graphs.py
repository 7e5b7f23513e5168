"""What the exact rewrites save in onnxruntime: python benchmarks/graphs.py [MODEL.VARIANT...] [--size HxW...]

Runs where `srdeploy[export]` is installed. Per network and size: its graph as written by torch's dynamo exporter (literal), the
same by the TorchScript exporter where that one can, ours, and torch itself, in turns (A B A B); printed are medians with the
smallest and largest, and against the better literal one the median of the ratios of each round. Memory is the peak rise of a
process of its own over opening and running a graph three times.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

MODELS = ("asrn_x4.d1", "asrn_x4.d3", "asrn_x4.d5", "imdeception_x4.c4", "imdeception_x4.c12", "imdeception_x4.c16-nla", "srn-ntire_x4.b4")
SIZES = ("128x128", "256x512")
ROUNDS = 11
PAUSE_S = 0.1
"""The threads of the run before spin for a while: without a pause the same graph took 1.3 times as long after another's."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--size", action="append", dest="sizes")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        print(_memory_here(Path(given.memory_of)))
        return
    import onnxruntime
    import torch

    from sr_deploy.core.device import cpu_name

    print(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}; medians of {given.rounds} rounds\n")
    print("| network | LR | graph | nodes | time [ms] | against literal | memory [MiB] |")
    print("|---|---|---|---|---|---|---|")
    for name in given.models or MODELS:
        for size in given.sizes or SIZES:
            compare(name, size, given.rounds)


def compare(name: str, size: str, rounds: int) -> None:
    """Print the rows of one network at one LR size."""
    import numpy as np
    import torch

    from sr_deploy.core.sizes import parse_hw
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.runtime.ort import raw_session

    model, _, variant = name.partition(".")
    net = load_checkpoint(model).network(variant)
    x = np.random.default_rng(0).random((1, 3, *parse_hw(size)), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = graphs(net, size, Path(folder))
        sessions = {form: raw_session(str(path)) for form, path in files.items()}
        tensor = torch.from_numpy(x)

        def eager() -> None:
            with torch.inference_mode():
                net(tensor)

        runs: Dict[str, Callable[[], object]] = {form: lambda s=s: s.run(None, {"lr": x}) for form, s in sessions.items()}
        times = in_turns({**runs, "torch": eager}, rounds)
        literal = min((statistics.median(times[form]), form) for form in times if form.startswith("literal"))[1]
        for form, taken in times.items():
            ratio = statistics.median(a / b for a, b in zip(taken, times[literal]))
            nodes, memory = (_nodes(files[form]), f"{_memory(files[form]):.0f}") if form in files else ("", "")
            spread = f"{statistics.median(taken):.1f} ({min(taken):.1f}-{max(taken):.1f})"
            print(f"| {name} | {size} | {form} | {nodes} | {spread} | {ratio:.2f} | {memory} |", flush=True)


def graphs(net: Any, size: str, folder: Path) -> Dict[str, Path]:
    """Write the forms of a network's graph; the TorchScript exporter's only where it can write one."""
    import onnx
    import torch

    from sr_deploy.core.sizes import parse_hw, parse_sizes
    from sr_deploy.export.graph import graph_from_network
    from sr_deploy.export.opset import EXPORTED
    from sr_deploy.export.rewrite import rewritten

    models = {
        "literal, dynamo": graph_from_network(net, parse_sizes(size), opset=EXPORTED),
        "ours": graph_from_network(rewritten(net)[0], parse_sizes(size), opset=EXPORTED),
    }
    if not any(isinstance(module, torch.nn.ChannelShuffle) for module in net.modules()):  # it knows no such operator
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            buffer = io.BytesIO()
            x = torch.zeros(1, 3, *parse_hw(size))
            torch.onnx.export(net, (x,), buffer, input_names=["lr"], output_names=["sr"], opset_version=EXPORTED, dynamo=False)
            models["literal, TorchScript"] = onnx.load_model_from_string(buffer.getvalue())
    files = {}
    for form, model in models.items():
        files[form] = folder / f"{form.replace(', ', '-')}.onnx"
        onnx.save(model, str(files[form]))
    return files


def in_turns(measured: Dict[str, Callable[[], object]], rounds: int) -> Dict[str, List[float]]:
    """Call each in turn, after two rounds that do not count; return milliseconds."""
    found: Dict[str, List[float]] = {name: [] for name in measured}
    for n in range(rounds + 2):
        for name, run in measured.items():
            time.sleep(PAUSE_S)
            start = time.perf_counter()
            run()
            if n >= 2:
                found[name].append((time.perf_counter() - start) * 1000)
    return found


def _nodes(path: Path) -> str:
    import onnx

    return str(len(onnx.load(str(path)).graph.node))


def _memory(path: Path) -> float:
    done = subprocess.run([sys.executable, __file__, "--memory-of", str(path)], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def _memory_here(path: Path) -> float:
    import numpy as np

    from sr_deploy.core.device import peak_memory_mib
    from sr_deploy.runtime.ort import raw_session

    memory: list = []
    with peak_memory_mib(memory):
        session = raw_session(str(path))
        shape = [n if isinstance(n, int) else 1 for n in session.get_inputs()[0].shape]
        for _ in range(3):
            session.run(None, {"lr": np.zeros(shape, np.float32)})
    return memory[0] or float("nan")


if __name__ == "__main__":
    main()
