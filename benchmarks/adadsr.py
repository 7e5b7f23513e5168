"""What AdaEDSR's two ways of skipping save in onnxruntime: python benchmarks/adadsr.py [MODEL] --crops DIR [--backbone MODEL]

Runs where `srdeploy[export]` is installed. The picture is a mosaic of 2048x1024 HR pixels of DIR's first 32 crops of 256x256. Dense
is the backbone's graph as it is exported, every block everywhere; `rows` and `tiles` are the plans of `export/adadsr.py`. All run in
turns (A B A B); printed are medians with the smallest and largest, and the median of the ratios to dense of each round. PSNR is on
Y, border 4. `--profile` tells where the time of `rows` goes, by operator.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List

from graphs import in_turns

CROPS_HW = (4, 8)
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="adaedsr_x4")
    parser.add_argument("--crops", required=True)
    parser.add_argument("--backbone", help="the dense network's checkpoint; the model's own weights where none is given")
    parser.add_argument("--depths", default="4,8,12,16")
    parser.add_argument("--ways", default="rows,tiles")
    parser.add_argument("--tile", type=int, default=64)
    parser.add_argument("--dense-above", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--plans", help="folder of the plans: made there, or taken from an earlier call")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    import onnxruntime

    from sr_deploy.core.degradation import degraded
    from sr_deploy.core.device import cpu_name
    from sr_deploy.core.images import nchw_from_rgb
    from sr_deploy.nets.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(given.model)
    hr = mosaic(Path(given.crops))
    x = nchw_from_rgb(degraded(hr, scale=checkpoint.spec.scale))
    print(f"{cpu_name()}, onnxruntime {onnxruntime.__version__}; {checkpoint.name} on {x.shape[2]}x{x.shape[3]} LR pixels")
    print(f"dense: {given.backbone or 'the same weights, every block everywhere'}; medians of {given.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as folder:
        compare(checkpoint, given, x, hr, Path(given.plans or folder))


def mosaic(folder: Path) -> Any:
    """The first crops of a folder, by name, as one picture: (1024, 2048, 3) uint8."""
    import numpy as np

    from sr_deploy.core.images import image_files, read_rgb

    rows, columns = CROPS_HW
    crops = [read_rgb(path) for path in image_files(folder)[: rows * columns]]
    return np.concatenate([np.concatenate(crops[r * columns : (r + 1) * columns], axis=1) for r in range(rows)])


def compare(checkpoint: Any, given: Any, x: Any, hr: Any, folder: Path) -> None:
    """Print a row for dense, and one for each desired depth and way."""
    from sr_deploy.adaptive.adadsr import AdaDSR
    from sr_deploy.core.depths import plan_path
    from sr_deploy.export.adadsr import plan_from_checkpoint
    from sr_deploy.export.graph import graph_from_network
    from sr_deploy.export.rewrite import rewritten
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.runtime.ort import raw_session

    net = load_checkpoint(given.backbone).network() if given.backbone else checkpoint.network().backbone()
    dense = raw_session(graph_from_network(rewritten(net)[0], _sizes(x), opset=17).SerializeToString())
    runtimes = {}
    for way in given.ways.split(","):
        path = plan_path(folder, checkpoint.name, way)
        if not path.is_file():
            plan_from_checkpoint(checkpoint, folder, way=way, tile=given.tile, dense_above=given.dense_above)
        runtimes[way] = AdaDSR(path)
    found: Dict[str, Any] = {}
    runs: Dict[str, Callable[[], Any]] = {"dense": lambda: dense.run(None, {"lr": x})[0]}
    for depth in map(float, given.depths.split(",")):
        for way, runtime in runtimes.items():
            runs[f"{way}, depth {depth:g}"] = lambda r=runtime, d=depth: r.run(x, depth=d)
    found = {name: run() for name, run in runs.items()}
    times = in_turns(runs, given.rounds)
    psnr = {name: _psnr(y if name == "dense" else y.y_nchw, hr) for name, y in found.items()}
    print("| way | mean depth | PSNR [dB] | against dense [dB] | MACs share | time [ms] | time share |")
    print("|---|---|---|---|---|---|---|")
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["dense"]))
        mean, share = ("", 1.0) if name == "dense" else (f"{found[name].depth_map.mean():.2f}", found[name].share)
        spread = f"{statistics.median(taken):.0f} ({min(taken):.0f}-{max(taken):.0f})"
        print(
            f"| {name} | {mean} | {psnr[name]:.3f} | {psnr[name] - psnr['dense']:+.3f} | {share:.3f} | {spread} | {ratio:.3f} |", flush=True
        )
    for name, deep in found.items():
        if name.startswith("tiles"):
            print(f"\n{name}: " + ", ".join(f"{stage} {ms:.0f} ms" for stage, ms in deep.ms.items()))
    if given.profile:
        profile(folder / f"{checkpoint.name}.rows.onnx", x, [float(d) for d in given.depths.split(",")])


def profile(graph: Path, x: Any, depths: List[float]) -> None:
    """Print the share of each operator in a run by rows."""
    import numpy as np
    import onnxruntime

    for depth in depths:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix, options.log_severity_level = True, str(graph.parent / "profile"), 3
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        for _ in range(2):
            session.run(None, {"lr": x, "depth": np.array([depth], np.float32)})
        spent: Dict[str, float] = collections.Counter()
        for event in json.loads(Path(session.end_profiling()).read_text()):
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["args"]["op_name"] != "If":
                spent[event["args"]["op_name"]] += event["dur"]
        total = sum(spent.values())
        top = sorted(spent.items(), key=lambda item: -item[1])[:10]
        print(f"\nrows at depth {depth:g}: " + ", ".join(f"{op} {100 * us / total:.0f} %" for op, us in top))


def _sizes(x: Any) -> Any:
    from sr_deploy.core.sizes import parse_sizes

    return parse_sizes(f"{x.shape[2]}x{x.shape[3]}")


def _psnr(y: Any, hr: Any) -> float:
    from sr_deploy.core.images import rgb_from_nchw
    from sr_deploy.core.metrics import psnr_db

    return psnr_db(rgb_from_nchw(y), hr, metric="y", border=4)


if __name__ == "__main__":
    main()
