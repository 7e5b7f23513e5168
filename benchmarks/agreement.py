"""Compare the latencies of `srdeploy bench` with those of a bare loop, and with each other.

Usage: python benchmarks/agreement.py [MODEL.VARIANT...] [--size HxW...] [-o ROWS.jsonl]

Two measurements alternate, each in its own process: `srdeploy bench` on an exported graph, and a
bare loop like onnxruntime's own perf test (one session, one input, back to back, with the same
numbers of threads and runs) that uses none of our code. Rows are appended to the file given with
-o. `--table ROWS.jsonl` prints their table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sr_deploy.core.timing import latency_statistics  # noqa: E402
from sr_deploy.results.render import markdown  # noqa: E402

MODELS = ("asrn_x4.d3", "imdeception_x4.c16-nla", "srn-ntire_x4.b4")
SIZES = ("64x64", "128x128", "256x256")
Row = Dict[str, Any]

BARE = """
import json, sys, time
import numpy, onnxruntime
graph, height, width, threads, runs = sys.argv[1], *map(int, sys.argv[2:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
x = numpy.random.default_rng(0).random((1, 3, height, width), dtype=numpy.float32)
feed = {session.get_inputs()[0].name: x}
times = []
for _ in range(5 + runs):
    start = time.perf_counter()
    session.run(None, feed)
    times.append((time.perf_counter() - start) * 1000)
print(json.dumps(times[5:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", default=MODELS, metavar="MODEL.VARIANT")
    parser.add_argument(
        "--size", action="append", metavar="HxW", help=f"LR size; default: {', '.join(SIZES)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="at least 2; default: 3")
    parser.add_argument(
        "--runs", type=int, help="timed runs of each process; default: as bench does"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("agreement.jsonl"))
    parser.add_argument(
        "--table",
        type=Path,
        metavar="ROWS.jsonl",
        help="only print the table of these rows",
    )
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds: expected at least 2")
    if args.table is not None:
        lines = args.table.read_text(encoding="utf-8").splitlines()
        print(table([json.loads(line) for line in lines]))
        return
    with tempfile.TemporaryDirectory() as name:
        images = _one_image(Path(name))
        for network in args.networks:
            model, _, variant = network.rpartition(".")
            export = ("export", model, "--variants", variant, "--target", "cpu", "-o", name)
            graph = _output("srdeploy", *export).split("\n")[0]
            for size in args.size or SIZES:
                for number in range(args.rounds):
                    runs = ["--runs", str(args.runs)] if args.runs else []
                    bench = ("bench", graph, "--size", size, "--data", images, *runs, "--json")
                    (ours,) = json.loads(_output("srdeploy", *bench))
                    if ours["error"]:
                        sys.exit(f"{network} at {size}: {ours['error']}")
                    count = [str(ours["threads"]), str(ours["runs"])]
                    bare = json.loads(_output("-c", BARE, graph, *size.split("x"), *count))
                    common = {
                        "network": network,
                        "size": size,
                        "round": number,
                        **{k: ours[k] for k in _COMMON},
                    }
                    rows = [
                        {**common, "by": by, "times_ms": ms}
                        for by, ms in (("bench", ours["latencies_ms"]), ("bare", bare))
                    ]
                    with open(args.output, "a", encoding="utf-8") as f:
                        f.writelines(json.dumps(row) + "\n" for row in rows)
                    print(
                        f"{network} {size}: "
                        + ", ".join(f"{r['by']} {_median(r):.2f} ms" for r in rows),
                        file=sys.stderr,
                        flush=True,
                    )


_COMMON = ("device", "threads", "backend_version", "git_rev", "date_utc")


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table with a line per network and size, and the conditions below."""
    groups: Dict[Tuple[str, str], Dict[str, List[Row]]] = {}
    for row in rows:
        groups.setdefault((row["network"], row["size"]), {}).setdefault(row["by"], []).append(row)
    cells = []
    for (network, size), by in groups.items():
        ours, bare = by["bench"], by["bare"]
        ratios = sorted(_median(a) / _median(b) for a, b in zip(ours, bare))
        spreads = [
            f"{max(latency_statistics(r['times_ms'])['latency_cv'] for r in rows_by):.1%}"
            for rows_by in (ours, bare)
        ]
        medians = [", ".join(f"{_median(r):.2f}" for r in rows_by) for rows_by in (ours, bare)]
        ratio = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        cells.append(
            [
                network,
                size,
                *medians,
                ratio,
                " / ".join(spreads),
                _agree(ours, bare),
                _agree(ours, ours[1:]),
            ]
        )
    devices = dict.fromkeys(f"{r['device']}, {r['threads']} threads" for r in rows)
    versions = dict.fromkeys(r["backend_version"] for r in rows)
    counts = [len(r["times_ms"]) for r in rows]
    headings = [
        "Network",
        "LR",
        "bench [ms]",
        "bare loop [ms]",
        "bench / bare",
        "spread of single runs",
        "bench = bare",
        "bench = bench",
    ]
    notes = [
        "each number: the median of a process of its own, in turns; "
        "spread: standard deviation over mean, bench / bare, the largest",
        "last two columns: how many pairs of medians differ by no more than single runs vary: "
        "bench and the bare loop of a round, two bench runs one after the other",
        f"device: {'; '.join(devices)}; onnxruntime {'; '.join(versions)}; "
        f"{' to '.join(dict.fromkeys(map(str, (min(counts), max(counts)))))} runs each",
    ]
    return "\n".join(markdown(headings, cells) + ["", *(f"- {note}" for note in notes)])


def _agree(a_rows: Sequence[Row], b_rows: Sequence[Row]) -> str:
    pairs = list(zip(a_rows, b_rows))
    return f"{sum(_within(a, b) for a, b in pairs)} of {len(pairs)}"


def _within(a: Row, b: Row) -> bool:
    """Whether two medians differ by no more than the larger standard deviation of single runs."""
    spread = max(
        s["latency_cv"] * s["latency_ms_mean"]
        for s in (latency_statistics(r["times_ms"]) for r in (a, b))
    )
    return abs(_median(a) - _median(b)) <= spread


def _median(row: Row) -> float:
    return latency_statistics(row["times_ms"])["latency_ms_median"]


def _one_image(folder: Path) -> str:
    import numpy as np

    from sr_deploy.core.images import write_png

    (folder / "HR").mkdir()
    write_png(
        folder / "HR" / "noise.png",
        np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8),
    )
    return str(folder / "HR")


def _output(*arguments: str) -> str:
    """Return the output of a `srdeploy` command, or of Python with other arguments."""
    command = (
        ["-m", "sr_deploy.cli.main", *arguments[1:]]
        if arguments[0] == "srdeploy"
        else list(arguments)
    )
    done = subprocess.run(
        [sys.executable, *command], cwd=str(ROOT), capture_output=True, encoding="utf-8"
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments[:3])}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
