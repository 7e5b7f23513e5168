"""Measure the multiply-accumulates and the time that adaptive networks save.

Usage: python3 benchmarks/adaptive.py --crops DIR -o ROWS.jsonl [--rounds N] [MODEL...]

Needs `srdeploy[export]`. The picture is a mosaic of DIR's first 32 crops of 256x256, 2048x1024 HR
pixels; its LR image is made by MATLAB's bicubic. MODEL: routers and AdaEDSR checkpoints; default:
the shipped ones. Each is exported and run by ONNX Runtime as trained, with budgets or at several
depths, in turns (A B A B) with its baseline:

- for a router: its largest branch on the whole picture; beside it, that branch on all patches, cut
  and blended by the same code, no router
- for an AdaEDSR: the graph of its own backbone, with every block at every pixel

Shares of work and time are against that plain network on the whole picture. Time shares are medians
of the ratios within a round, with the quartiles. PSNR is on Y, border 4. `--table ROWS.jsonl`
prints the table of these rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CROPS_HW = (4, 8)
ROUNDS = 7
MODELS = ("cdnsr-fsrcnn_x4", "elastic-asrn_x4", "adaedsr_x4")
BUDGETS = ("110%", "90%", "70%")
DEPTHS = (4, 8, 12, 16)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--crops", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument(
        "--table",
        type=Path,
        metavar="ROWS.jsonl",
        help="only print the table of these rows",
    )
    args = parser.parse_args()
    if args.table is not None:
        lines = args.table.read_text(encoding="utf-8").splitlines()
        print(table([json.loads(line) for line in lines]))
        return
    if args.crops is None or args.output is None:
        parser.error("--crops and -o are needed to measure")
    from sr_deploy.core.degradation import degrade
    from sr_deploy.core.images import nchw_from_rgb
    from sr_deploy.core.routers import is_router
    from sr_deploy.export.plans import plans_from_model

    hr = mosaic(args.crops)
    x = nchw_from_rgb(degrade(hr, scale=4))
    rows: List[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:
            plans = plans_from_model(model, folder)
            measured = routed(model, plans[0], x) if is_router(model) else deep(model, plans, x)
            rows += compared(Path(model).name.split(".")[0], measured, x, hr, args.rounds)
    args.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(table(rows))


def mosaic(folder: Path) -> Any:
    """Return the first crops of a folder, by name, as one picture: (1024, 2048, 3) uint8."""
    import numpy as np

    from sr_deploy.core.images import image_files, read_rgb

    rows, columns = CROPS_HW
    crops = [read_rgb(path) for path in image_files(folder)[: rows * columns]]
    return np.concatenate(
        [np.concatenate(crops[r * columns : (r + 1) * columns], axis=1) for r in range(rows)]
    )


def whole(net: Any, x: Any) -> Callable[[Any], Any]:
    """Return the graph of a network on whole pictures of x's size, as an adaptive session runs."""
    import numpy as np

    from sr_deploy.core.session import ExecutedWork
    from sr_deploy.core.sizes import parse_sizes
    from sr_deploy.export.graph import graph_from_network
    from sr_deploy.nets.fuse import fuse_network
    from sr_deploy.runtime.adaptive.base import AdaptiveOutput
    from sr_deploy.runtime.ort import raw_session

    h, w = x.shape[2:]
    graph = graph_from_network(fuse_network(net)[0], parse_sizes(f"{h}x{w}"), opset=17)
    session = raw_session(graph.SerializeToString(), alone=False)
    ones = np.ones((h, w), np.float32)
    return lambda x: AdaptiveOutput(session.run(None, {"lr": x})[0], ones, ExecutedWork())


def routed(model: str, plan: Path, x: Any) -> Dict[str, Callable[[Any], Any]]:
    """Return the largest branch whole and on all patches, the router as trained and by budget."""
    import numpy as np

    from sr_deploy.core.session import BackendInfo
    from sr_deploy.nets.router import load_router
    from sr_deploy.runtime.adaptive.patches import RoutedSession
    from sr_deploy.runtime.opener import open_session

    session: Any = open_session(plan)
    last = len(session.plan.names) - 1
    info = BackendInfo(session.backend, session.backend_version, session.threads)
    everywhere = replace(session.plan, router_macs=0)
    largest = RoutedSession(
        everywhere,
        lambda patches: np.eye(last + 1)[[last] * len(patches)],
        session.branches,
        info,
    )
    ways = {
        f"{session.plan.names[-1]}, whole": whole(load_router(model).branch_networks()[-1], x),
        f"{session.plan.names[-1]} on all patches": largest.run_adaptive,
        "as trained": session.run_adaptive,
    }
    for budget in BUDGETS:
        bounded = RoutedSession(
            session.plan,
            session.router,
            session.branches,
            info,
            max_share=float(budget[:-1]) / 100,
        )
        ways[f"--max-flops {budget}"] = bounded.run_adaptive
    return ways


def deep(model: str, plans: List[Path], x: Any) -> Dict[str, Callable[[Any], Any]]:
    """Return the dense backbone, then both plans at several depths."""
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.runtime.adaptive.adadsr import AdaDSR

    net: Any = load_checkpoint(model).network()
    ways = {f"dense, all {len(net.blocks)} blocks": whole(net.backbone(), x)}
    for depth in DEPTHS:
        for plan in plans:
            way = AdaDSR.from_plan(plan, depth=depth)
            ways[f"--depth {depth}, by {way.plan.way}"] = way.run_adaptive
    return ways


def compared(
    model: str, ways: Dict[str, Callable[[Any], Any]], x: Any, hr: Any, rounds: int
) -> List[dict]:
    """Return a row per way; the first way is the baseline."""
    import onnxruntime

    from sr_deploy.core.device import cpu_name, usable_cores
    from sr_deploy.core.images import rgb_from_nchw
    from sr_deploy.core.metrics import psnr_db
    from sr_deploy.core.timing import time_in_turns

    def timed(way: str, run: Callable[[Any], Any]) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            results[way] = run(x)
            return (time.perf_counter() - start) * 1000

        return once

    results = {way: run(x) for way, run in ways.items()}
    psnr = {
        way: psnr_db(rgb_from_nchw(done.y_nchw), hr, metric="y", border=4)
        for way, done in results.items()
    }
    times = time_in_turns({way: timed(way, run) for way, run in ways.items()}, rounds)
    first = next(iter(ways))
    rows = []
    for way, times_ms in times.items():
        done = results[way]
        rows.append(
            {
                "model": model,
                "way": way,
                "lr": f"{x.shape[2]}x{x.shape[3]}",
                "psnr_db": round(psnr[way], 4),
                "lost_db": round(psnr[first] - psnr[way], 4),
                "macs_share": round(done.work.share, 4),
                "mean_decision": round(float(done.decisions.mean()), 4),
                "ms": [round(t, 2) for t in times_ms],
                "time_shares": [round(a / b, 4) for a, b in zip(times_ms, times[first])],
                "stages_ms": {stage: round(ms, 1) for stage, ms in done.work.ms.items()},
                "device": cpu_name(),
                "threads": usable_cores(),
                "onnxruntime": onnxruntime.__version__,
            }
        )
    return rows


def table(rows: List[dict]) -> str:
    """Return the rows as a Markdown table with their conditions."""
    from sr_deploy.results.render import markdown

    headings = ["network", "way", "PSNR [dB]", "lost [dB]", "work", "time [ms]", "time (quartiles)"]
    cells = []
    for row in rows:
        time = f"{statistics.median(row['ms']):.0f} ({min(row['ms']):.0f}-{max(row['ms']):.0f})"
        low, middle, high = statistics.quantiles(row["time_shares"], n=4, method="inclusive")
        share = f"{middle:.0%} ({low:.0%}-{high:.0%})"
        lost, macs = f"{row['lost_db']:.3f}", f"{row['macs_share']:.1%}"
        cells.append([row["model"], row["way"], f"{row['psnr_db']:.3f}", lost, macs, time, share])
    first, counts = rows[0], {len(row["ms"]) for row in rows}
    rounds = sorted({min(counts), max(counts)})
    conditions = (
        f"A mosaic of 2048x1024 of the validation crops, {first['lr']} LR pixels; "
        f"{first['device']}, onnxruntime {first['onnxruntime']}; "
        f"medians (smallest-largest) of {' to '.join(map(str, rounds))} rounds in turns, "
        "work and time against each network's first row, the plain network on the whole picture."
    )
    stages = [
        f"- {row['model']}, {row['way']}: "
        + ", ".join(f"{k} {ms:.0f}" for k, ms in row["stages_ms"].items())
        for row in rows
    ]
    notes = ["Stages of the last run, ms:", "", *(s for s in stages if s[-1] != " ")]
    return "\n".join([*markdown(headings, cells), "", conditions, "", *notes])


if __name__ == "__main__":
    main()
