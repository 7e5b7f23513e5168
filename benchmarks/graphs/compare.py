"""Measure every graph of a network in every runtime, and torch, in turns. Started by run.py.

Per network and size: the graphs of torch's dynamo and TorchScript exporters (the latter if it
supports the operators), both also after onnxslim, and ours in onnxruntime; the dynamo exporter's
and ours in OpenVINO in FP32, bf16 and INT8, in onnxruntime in INT8, and in ncnn; torch eager and
torch.compile. Ours has the form of the target `cpu`, in OpenVINO that of `cpu-openvino`. INT8
graphs are placed as `export` does for these targets.

Times are medians with the smallest and largest of the rounds. Ratios are medians of each round's
ratio: to the faster literal export in onnxruntime FP32, to the dynamo exporter's graph in OpenVINO
at the same precision, and to ours in onnxruntime FP32. The PSNR is that of the output against the
literal graph's on a photograph. Memory is the peak rise of a separate process that opens a graph in
onnxruntime and runs it three times. MACs and bytes are those of the nodes that onnxruntime executed
in FP32, from its profile: zeros that pad a block are counted, fused operators move nothing; bytes
are fewer in the other precisions. The floor is the longer of MACs and bytes at the ceilings
measured first. If all maps fit the cache, bytes can be faster than that ceiling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from ceilings import BYTES, measure_ceilings, timed
from graph_files import OURS, PLAIN, executed, graphs, nodes
from memory import SESSIONS, memory_of, session_line, sessions
from runtimes import OPENVINO, openers, quantised

HERE = Path(__file__).resolve().parent
MODELS = [f"asrn_x4.d{n}" for n in range(1, 6)] + [
    f"imdeception_x4.{c}" for c in ("c4", "c4-nla", "c8", "c12", "c16-nla")
]
MODELS.append("srn-ntire_x4.b4")
SIZES = ["128x128", "256x512"]
PARTS = ("onnxruntime", OPENVINO, "ncnn", "torch", "sessions")
TARGETS = {"onnxruntime": "cpu", OPENVINO: "cpu-openvino"}
TIMES = (
    "| network | LR | graph | runtime | nodes | time [ms] | to literal | to OpenVINO's | to ours "
    "| PSNR [dB] | memory [MiB] | MACs [G] | bytes [GB] | over floor |\n" + "|---" * 14 + "|"
)
AS_TARGET = (
    "asrn_x4.d1",
    "asrn_x4.d5",
    "imdeception_x4.c4",
    "imdeception_x4.c16-nla",
    "srn-ntire_x4.b4",
)


class Key(NamedTuple):
    """One measured combination."""

    graph: str
    runtime: str
    precision: str


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--size", action="append", dest="sizes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; repeatable")
    parser.add_argument("-o", "--output", type=Path, default=HERE)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    parts, names = args.only or PARTS, args.models or MODELS
    gmacs, gbs = measure_ceilings()
    conditions = {**versions(), "rounds": args.rounds, "gmac_s": gmacs, "gb_s": gbs}
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / "rows.jsonl", "w") as rows, open(
        args.output / "table.md", "w"
    ) as table:

        def write(line: str) -> None:
            print(line, flush=True)
            table.write(line + "\n")
            table.flush()

        write(f"{heading(conditions)}\n\n{TIMES}")
        for name in names:
            for size in args.sizes or SIZES:
                for row in compare(name, size, args.rounds, parts, (gmacs, gbs)):
                    rows.write(json.dumps({**row, **conditions}) + "\n")
                    rows.flush()
                    write(line(row))
        if "sessions" in parts:
            write(f"\n{SESSIONS}")
            for row in sessions([name for name in names if name in AS_TARGET]):
                rows.write(json.dumps({**row, **conditions}) + "\n")
                write(session_line(row))


def versions() -> Dict[str, str]:
    """Return the processor and the versions of what is measured."""
    from importlib.metadata import version

    from sr_deploy.core.device import cpu_name

    packages = ("onnxruntime", "openvino", "ncnn", "torch", "onnxslim")
    return {"cpu": cpu_name(), **{name: version(name) for name in packages}}


def heading(conditions: Dict[str, Any]) -> str:
    names = ("onnxruntime", "openvino", "ncnn", "torch", "onnxslim")
    peaks = ", ".join(f"{value:.0f} in {key}" for key, value in conditions["gmac_s"].items())
    return (
        f"{conditions['cpu']}, all of them used; "
        + ", ".join(f"{name} {conditions[name]}" for name in names)
        + f"; medians of {conditions['rounds']} rounds in turns (smallest-largest). Ceilings: "
        f"{peaks} GMAC/s (3x3, 64 to 64 channels, 128x128), {conditions['gb_s']:.0f} GB/s (copy of "
        "256 MiB)."
    )


def line(row: Dict[str, Any]) -> str:
    def text(key: str, form: str) -> str:
        return "" if row.get(key) is None else format(row[key], form)

    time_ms = row.get("error") or (
        f"{row['ms_median']:.1f} ({row['ms_min']:.1f}-{row['ms_max']:.1f})"
    )
    cells = [
        row["network"],
        row["lr"],
        row["graph"],
        f"{row['runtime']} {row['precision']}",
        text("nodes", "d"),
        time_ms,
        *(text(key, ".2f") for key in ("ratio", "ratio_openvino", "ratio_ours")),
        text("psnr_db", ".1f"),
        text("memory_mib", ".0f"),
        *(text(key, ".2f") for key in ("macs_g", "bytes_gb", "over_floor")),
    ]
    return "| " + " | ".join(cells) + " |"


def compare(
    name: str,
    size: str,
    rounds: int,
    parts: Tuple[str, ...],
    ceilings: Tuple[Dict[str, float], float],
) -> List[Dict[str, Any]]:
    """Return a row for each graph of one network in each runtime, at one LR size."""
    import torch

    from sr_deploy.core.sizes import parse_hw
    from sr_deploy.core.timing import time_in_turns
    from sr_deploy.nets.checkpoint import load_checkpoint

    model, _, variant = name.partition(".")
    net = load_checkpoint(model).network(variant)
    x = photograph(*parse_hw(size))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        files = graphs(net, model.partition("_")[0], variant, size, Path(folder))
        runs, errors = opened(files, x, parts)
        if "torch" in parts:
            runs.update(torch_runs(net))
        exact = openers()["onnxruntime"](files["dynamo"], "fp32")[0]
        assert exact is not None
        quality = {key: psnr_db(run(x), exact(x)) for key, run in runs.items()}
        turns = {key: timed(lambda run=run: run(x)) for key, run in runs.items()}
        times = time_in_turns(turns, rounds)
        measured = {graph: measurement(path, x) for graph, path in files.items()}
    rows = []
    for key, taken in times.items():
        row = {"network": name, "lr": size, **key._asdict(), "ms_median": statistics.median(taken)}
        row.update(ms_min=min(taken), ms_max=max(taken), psnr_db=quality[key])
        row.update(ratios(key, times))
        if key.graph in files:
            row.update(measured[key.graph])
            row["over_floor"] = row["ms_median"] / floor_ms(row, ceilings)
        rows.append(row)
    failed = [
        {"network": name, "lr": size, **key._asdict(), "error": e} for key, e in errors.items()
    ]
    return rows + failed


def photograph(h: int, w: int) -> np.ndarray:
    """Return (1, 3, h, w) float32, 0..1: a photograph, mirrored where it is smaller."""
    from sr_deploy.core.images import nchw_from_rgb
    from sr_deploy.core.samples import sample_lr

    return nchw_from_rgb(sample_lr((h, w), count=1)[0])


def opened(
    files: Dict[str, Path], x: np.ndarray, parts: Tuple[str, ...]
) -> Tuple[Dict[Key, Callable[[np.ndarray], np.ndarray]], Dict[Key, str]]:
    """Return what runs each graph in the asked runtimes, and why some cannot."""
    import onnx

    keys = []
    if "onnxruntime" in parts:
        general = [graph for graph in files if graph == "ours" or graph not in OURS]
        keys += [Key(graph, "onnxruntime", "fp32") for graph in general]
        keys += [Key(graph, "onnxruntime", "int8") for graph in ("dynamo", "ours")]
    if OPENVINO in parts:
        for precision in BYTES:
            ours = "ours for OpenVINO INT8" if precision == "int8" else "ours for OpenVINO"
            keys += [Key(graph, OPENVINO, precision) for graph in ("dynamo", ours)]
    if "ncnn" in parts:
        keys += [Key(graph, "ncnn", p) for p in ("fp32", "bf16") for graph in ("dynamo", "ours")]
    runs: Dict[Key, Callable[[np.ndarray], np.ndarray]] = {}
    errors: Dict[Key, str] = {}
    for key in keys:
        graph: Any = files[key.graph]
        if key.precision == "int8":
            model = quantised(onnx.load(str(graph)), x, TARGETS[key.runtime])
            graph = model.SerializeToString()
        run, reason = openers()[key.runtime](graph, key.precision)
        if run is None:
            errors[key] = reason
        elif not np.isfinite(run(x)).all():  # the first run also compiles, and takes memory
            errors[key] = "its output is not finite"
        else:
            runs[key] = run
    return runs, errors


def torch_runs(net: Any) -> Dict[Key, Callable[[np.ndarray], np.ndarray]]:
    import torch

    compiled = torch.compile(net)
    return {
        Key("", "torch eager", "fp32"): lambda x: net(torch.from_numpy(x)).numpy(),
        Key("", "torch.compile", "fp32"): lambda x: compiled(torch.from_numpy(x)).numpy(),
    }


def ratios(key: Key, times: Dict[Key, List[float]]) -> Dict[str, Optional[float]]:
    """Return the three ratios of a row; None where what it is compared with was not measured."""
    literal = [Key(graph, "onnxruntime", "fp32") for graph in PLAIN]
    present = [k for k in literal if k in times]
    faster = min(present, key=lambda k: statistics.median(times[k]), default=None)
    others = {
        "ratio": faster,
        "ratio_openvino": Key("dynamo", OPENVINO, key.precision),
        "ratio_ours": Key("ours", "onnxruntime", "fp32"),
    }
    return {
        name: statistics.median(a / b for a, b in zip(times[key], times[other]))
        if other in times
        else None
        for name, other in others.items()
    }


def measurement(path: Path, x: np.ndarray) -> Dict[str, Any]:
    return {**executed(path, x), "memory_mib": memory_of(path), "nodes": nodes(path)}


def floor_ms(row: Dict[str, Any], ceilings: Tuple[Dict[str, float], float]) -> float:
    """Return the time of a row's MACs or bytes at the ceilings of its precision."""
    gmacs, gbs = ceilings
    moved = row["bytes_gb"] * BYTES[row["precision"]] / BYTES["fp32"]
    return 1000 * max(row["macs_g"] / gmacs[row["precision"]], moved / gbs)


def psnr_db(y: np.ndarray, exact: np.ndarray) -> float:
    from sr_deploy.core.metrics import psnr_unit

    return float(psnr_unit(y, exact))


if __name__ == "__main__":
    main()
