"""Measure every graph of a network, and torch, in turns. Started by run.py.

Per network and size: the graphs of torch's dynamo and TorchScript exporters (the latter if it
supports the operators), both also after onnxslim, ours for the target cpu, torch eager and
torch.compile. Times are medians with the smallest and largest of the rounds. The ratio is the
median of each round's ratio to the faster literal export. Memory is the peak rise of a separate
process that opens a graph and runs it three times. MACs and bytes are those of the nodes that
onnxruntime executed, from its profile: zeros that pad a block are counted, fused operators move
nothing. The floor is the longer of MACs and bytes at the ceilings measured first. If all maps fit
the cache, bytes can be faster than that ceiling.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np

HERE = Path(__file__).resolve().parent
MODELS = [f"asrn_x4.d{n}" for n in range(1, 6)] + [
    f"imdeception_x4.{c}" for c in ("c4", "c4-nla", "c8", "c12", "c16-nla")
]
MODELS.append("srn-ntire_x4.b4")
SIZES = ["128x128", "256x512"]
TIMES = (
    "| network | LR | graph | nodes | time [ms] | to literal | memory [MiB] | MACs [G] "
    "| bytes [GB] | over floor |\n" + "|---" * 10 + "|"
)
AS_TARGET = (
    "asrn_x4.d1",
    "asrn_x4.d5",
    "imdeception_x4.c4",
    "imdeception_x4.c16-nla",
    "srn-ntire_x4.b4",
)
LARGE = "16x16:256x256:1080x1920"
SESSIONS = (
    "| our dynamic graph | LR | session | first run [ms] | then [ms] | memory [MiB] |\n"
    + "|---" * 6
    + "|"
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--size", action="append", dest="sizes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--session", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.memory_of:
        print(memory_here(args.memory_of))
        return
    if args.session:
        session_here(*args.session)
        return
    import onnxruntime
    import onnxslim
    import torch

    from sr_deploy.core.device import cpu_name

    ceilings = {"gmac_s": mac_ceiling(), "gb_s": byte_ceiling()}
    conditions = {
        "cpu": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "onnxslim": onnxslim.__version__,
        "rounds": args.rounds,
        **ceilings,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    heading = (
        f"{conditions['cpu']}, all of them used; onnxruntime {onnxruntime.__version__}, "
        f"torch {torch.__version__}, onnxslim {onnxslim.__version__}; medians of {args.rounds} "
        f"rounds in turns (smallest-largest). Ceilings: {ceilings['gmac_s']:.0f} GMAC/s "
        f"(3x3, 64 to 64 channels, 128x128), {ceilings['gb_s']:.0f} GB/s (copy of 256 MiB)."
    )
    print(f"{heading}\n\n{TIMES}", flush=True)
    with open(args.output / "rows.jsonl", "w") as rows, open(
        args.output / "table.md", "w"
    ) as table:
        table.write(f"{heading}\n\n{TIMES}\n")
        for name in args.models or MODELS:
            for size in args.sizes or SIZES:
                for row in compare(name, size, args.rounds, ceilings):
                    rows.write(json.dumps({**row, **conditions}) + "\n")
                    table.write(line(row) + "\n")
                    print(line(row), flush=True)
                    rows.flush(), table.flush()
        print(f"\n{SESSIONS}", flush=True)
        table.write(f"\n{SESSIONS}\n")
        for row in sessions([name for name in args.models or MODELS if name in AS_TARGET]):
            rows.write(json.dumps({**row, **conditions}) + "\n")
            table.write(session_line(row) + "\n")
            print(session_line(row), flush=True)


def line(row: Dict[str, Any]) -> str:
    def text(key: str, form: str) -> str:
        return "" if row.get(key) is None else format(row[key], form)

    spread = f"{row['ms_median']:.1f} ({row['ms_min']:.1f}-{row['ms_max']:.1f})"
    cells = [
        row["network"],
        row["lr"],
        row["graph"],
        text("nodes", "d"),
        spread,
        text("ratio", ".2f"),
        text("memory_mib", ".0f"),
    ]
    return (
        "| "
        + " | ".join(
            [*cells, text("macs_g", ".2f"), text("bytes_gb", ".2f"), text("over_floor", ".2f")]
        )
        + " |"
    )


def compare(name: str, size: str, rounds: int, ceilings: Dict[str, float]) -> List[Dict[str, Any]]:
    """Return a row for each graph of one network at one LR size."""
    import torch

    from sr_deploy.core.sizes import parse_hw
    from sr_deploy.core.timing import time_in_turns
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.runtime.ort import raw_session

    model, _, variant = name.partition(".")
    net = load_checkpoint(model).network(variant)
    x = np.random.default_rng(0).random((1, 3, *parse_hw(size)), dtype=np.float32)
    tensor = torch.from_numpy(x)
    compiled = torch.compile(net)
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        files = graphs(net, model.partition("_")[0], variant, size, Path(folder))
        sessions = {form: raw_session(str(path)) for form, path in files.items()}
        runs: Dict[str, Callable[[], object]] = {
            form: lambda s=s: s.run(None, {"lr": x}) for form, s in sessions.items()
        }
        runs.update({"torch eager": lambda: net(tensor), "torch.compile": lambda: compiled(tensor)})
        for run in runs.values():  # compile, and take memory
            run()
        times = time_in_turns({form: timed(run) for form, run in runs.items()}, rounds)
        literal = min(
            ("dynamo", "TorchScript"),
            key=lambda form: statistics.median(times.get(form, [float("inf")])),
        )
        for form, taken in times.items():
            ratio = statistics.median(a / b for a, b in zip(taken, times[literal]))
            row: Dict[str, Any] = {
                "network": name,
                "lr": size,
                "graph": form,
                "ms_median": statistics.median(taken),
                "ms_min": min(taken),
            }
            row.update(ms_max=max(taken), ratio=ratio)
            if form in files:
                row.update(
                    executed(files[form], x),
                    memory_mib=memory_of(files[form]),
                    nodes=nodes(files[form]),
                )
                floor = (
                    max(row["macs_g"] / ceilings["gmac_s"], row["bytes_gb"] / ceilings["gb_s"])
                    * 1000
                )
                row["over_floor"] = row["ms_median"] / floor
            rows.append(row)
    return rows


def timed(run: Callable[[], object]) -> Callable[[], float]:
    def measured() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1000

    return measured


def graphs(net: Any, arch: str, variant: str, size: str, folder: Path) -> Dict[str, Path]:
    """Write the graphs of a network; TorchScript's only if it supports the operators."""
    import onnx
    import onnxslim
    import torch

    from sr_deploy.core.sizes import parse_hw, parse_sizes
    from sr_deploy.core.target import load_target
    from sr_deploy.export.forms import apply_form, default_form
    from sr_deploy.export.graph import graph_from_network
    from sr_deploy.export.opset import EXPORTED

    ours = apply_form(net, default_form(load_target("cpu"), arch, variant))[0]
    models = {"dynamo": graph_from_network(net, parse_sizes(size), opset=EXPORTED)}
    # The TorchScript exporter does not support ChannelShuffle.
    if not any(isinstance(module, torch.nn.ChannelShuffle) for module in net.modules()):
        buffer = io.BytesIO()
        x = torch.zeros(1, 3, *parse_hw(size))
        torch.onnx.export(
            net,
            (x,),
            buffer,
            input_names=["lr"],
            output_names=["sr"],
            opset_version=EXPORTED,
            dynamo=False,
        )
        models["TorchScript"] = onnx.load_model_from_string(buffer.getvalue())
    models.update(
        {f"{form}, onnxslim": onnxslim.slim(model) for form, model in list(models.items())}
    )
    models["ours"] = graph_from_network(ours, parse_sizes(size), opset=EXPORTED)
    files = {}
    for form, model in models.items():
        files[form] = folder / f"{form.replace(', ', '-')}.onnx"
        onnx.save(model, str(files[form]))
    return files


def nodes(path: Path) -> int:
    import onnx

    return len(onnx.load(str(path)).graph.node)


def executed(path: Path, x: np.ndarray) -> Dict[str, float]:
    """Return MACs and bytes of the nodes onnxruntime executed, from its profile."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix, options.log_severity_level = (
        True,
        str(path),
        3,
    )
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    session.run(None, {"lr": x})
    macs = size = 0
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        node = event["args"]
        size += sum(int(node[key]) for key in ("activation_size", "parameter_size", "output_size"))
        first, *others = (list(shape.values())[0] for shape in node["input_type_shape"])
        result = list(node["output_type_shape"][0].values())[0]
        if node["op_name"] in ("Conv", "FusedConv"):
            macs += int(np.prod(result)) * int(np.prod(others[0][1:]))
        elif node["op_name"] == "ConvTranspose":
            macs += int(np.prod(first)) * int(np.prod(others[0][1:]))
        elif node["op_name"] in ("MatMul", "FusedMatMul", "Gemm"):
            macs += int(np.prod(result)) * int(np.prod(first)) // max(int(np.prod(result[:-1])), 1)
    return {"macs_g": macs / 1e9, "bytes_gb": size / 1e9}


def memory_of(path: Path) -> float:
    done = subprocess.run(
        [sys.executable, __file__, "--memory-of", str(path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


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
                default_form(load_target("cpu"), model.partition("_")[0], variant),
            )[0]
            path = Path(folder) / f"{name}.onnx"
            onnx.save(graph_from_network(net, parse_sizes(LARGE), opset=EXPORTED), str(path))
            for size in ("256x512", "1080x1920"):
                for kind in (
                    "ours, 1 thread",
                    f"ours, {usable_cores()} threads",
                    "onnxruntime's defaults",
                ):
                    command = [sys.executable, __file__, "--session", str(path), size, kind]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    rows.append(
                        {"network": name, "lr": size, "session": kind, **json.loads(done.stdout)}
                    )
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


def mac_ceiling() -> float:
    """Return GMAC/s of eight 3x3 convolutions, 64 to 64 channels at 128x128, best of twenty."""
    from onnx import helper, numpy_helper

    from sr_deploy.runtime.ort import raw_session

    layers, side = 8, 128
    weights = [np.zeros((64, 3 if i == 0 else 64, 3, 3), np.float32) for i in range(layers + 1)]
    names = ["lr", *(f"y{i}" for i in range(layers)), "sr"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1, 1, 1, 1])
            for i in range(layers + 1)
        ],
        "ceiling",
        [helper.make_tensor_value_info("lr", 1, [1, 3, side, side])],
        [helper.make_tensor_value_info("sr", 1, [1, 64, side, side])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = raw_session(model.SerializeToString())
    run = timed(lambda: session.run(None, {"lr": np.zeros((1, 3, side, side), np.float32)}))
    return sum(w[0].size * 64 for w in weights) * side * side / min(run() for _ in range(20)) / 1e6


def byte_ceiling() -> float:
    """Return GB/s read and written by torch's copy of 256 MiB with all threads, best of ten."""
    import torch

    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    run = timed(lambda: target.copy_(source))
    run()
    return 2 * source.numel() * 4 / min(run() for _ in range(10)) / 1e6


if __name__ == "__main__":
    main()
