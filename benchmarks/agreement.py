"""Do our latencies agree with a bare loop's, and with themselves? python benchmarks/agreement.py [MODEL.VARIANT...] [--size HxW...]

Measured in turns, each time in a process of its own: `srdeploy bench` on an exported graph, and a bare loop as onnxruntime's own
perf test runs it (one session, one input, back to back, as many threads, as many runs), which knows nothing of our code. Rows go
to `-o` (added; one line each); `--table ROWS.jsonl` prints what they say.
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

from sr_deploy.core.timing import statistics  # noqa: E402
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
feed = {session.get_inputs()[0].name: numpy.random.default_rng(0).random((1, 3, height, width), dtype=numpy.float32)}
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
        "--runs", type=int, help="timed ones of each process; default: as bench does"
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("agreement.jsonl"))
    parser.add_argument(
        "--table",
        type=Path,
        metavar="ROWS.jsonl",
        help="measure nothing, print the table of these rows",
    )
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("--rounds: two runs one after the other take at least 2")
    if given.table is not None:
        print(
            table(
                [json.loads(line) for line in given.table.read_text(encoding="utf-8").splitlines()]
            )
        )
        return
    with tempfile.TemporaryDirectory() as name:
        images = _one_image(Path(name))
        for network in given.networks:
            model, _, variant = network.rpartition(".")
            graph = _said(
                "srdeploy", "export", model, "--variants", variant, "--target", "cpu", "-o", name
            ).split("\n")[0]
            for size in given.size or SIZES:
                for number in range(given.rounds):
                    runs = ["--runs", str(given.runs)] if given.runs else []
                    (ours,) = json.loads(
                        _said(
                            "srdeploy",
                            "bench",
                            graph,
                            "--lr",
                            size,
                            "--data",
                            images,
                            *runs,
                            "--json",
                        )
                    )
                    if ours["error"]:
                        sys.exit(f"{network} at {size}: {ours['error']}")
                    count = [str(ours["threads"]), str(ours["runs"])]
                    bare = json.loads(_said("-c", BARE, graph, *size.split("x"), *count))
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
                    with open(given.output, "a", encoding="utf-8") as f:
                        f.writelines(json.dumps(row) + "\n" for row in rows)
                    print(
                        f"{network} {size}: "
                        + ", ".join(f"{r['by']} {_middle(r):.2f} ms" for r in rows),
                        file=sys.stderr,
                        flush=True,
                    )


_COMMON = ("device", "threads", "backend_version", "git_rev", "date_utc")


def table(rows: Sequence[Row]) -> str:
    """Return a Markdown table: a line for each network and size, and the conditions below."""
    found: Dict[Tuple[str, str], Dict[str, List[Row]]] = {}
    for row in rows:
        found.setdefault((row["network"], row["size"]), {}).setdefault(row["by"], []).append(row)
    cells = []
    for (network, size), by in found.items():
        ours, bare = by["bench"], by["bare"]
        ratios = sorted(_middle(a) / _middle(b) for a, b in zip(ours, bare))
        spreads = [
            f"{max(statistics(r['times_ms'])['latency_cv'] for r in who):.1%}"
            for who in (ours, bare)
        ]
        medians = [", ".join(f"{_middle(r):.2f}" for r in who) for who in (ours, bare)]
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
        "each number: the median of a process of its own, in turns; spread: standard deviation over mean, bench / bare, the largest",
        "last two columns: how many pairs of medians differ by no more than single runs vary: bench and the bare loop of a round, "
        "two bench runs one after the other",
        f"device: {'; '.join(devices)}; onnxruntime {'; '.join(dict.fromkeys(r['backend_version'] for r in rows))}; "
        f"{' to '.join(dict.fromkeys(map(str, (min(counts), max(counts)))))} runs each",
    ]
    return "\n".join(markdown(headings, cells) + ["", *(f"- {note}" for note in notes)])


def _agree(some: Sequence[Row], others: Sequence[Row]) -> str:
    pairs = list(zip(some, others))
    return f"{sum(_within(a, b) for a, b in pairs)} of {len(pairs)}"


def _within(a: Row, b: Row) -> bool:
    """Whether two medians differ by no more than the larger standard deviation of single runs."""
    spread = max(
        s["latency_cv"] * s["latency_ms_mean"] for s in (statistics(r["times_ms"]) for r in (a, b))
    )
    return abs(_middle(a) - _middle(b)) <= spread


def _middle(row: Row) -> float:
    return statistics(row["times_ms"])["latency_ms_median"]


def _one_image(folder: Path) -> str:
    import numpy as np

    from sr_deploy.core.images import write_png

    (folder / "HR").mkdir()
    write_png(
        folder / "HR" / "noise.png",
        np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8),
    )
    return str(folder / "HR")


def _said(*arguments: str) -> str:
    """Run a command of ours, or Python itself, and return what it prints."""
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
