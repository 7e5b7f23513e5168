"""Measure every slice of three models in every precision of the CPU's targets, timed in turns.

Usage: python3 benchmarks/precision.py --calibrate HR_DIR --data HR_DIR [--only MODEL.VARIANT,...]
       python3 benchmarks/precision.py --table benchmarks/precision/rows.jsonl

Exports and builds the engines of the targets `cpu` and `cpu-openvino` into `out/precision`, which
takes long for INT8 and is done once: `--prepare` does only that. Then scores each engine on
`--data`, and times those of one slice in turns, so that disturbances of the machine affect all
precisions alike. Writes `benchmarks/precision/rows.jsonl` anew. `--table` prints the table of such
rows; `python3 benchmarks/pictures.py precision.png` draws them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sr_deploy.core.errors import SrDeployError  # noqa: E402
from sr_deploy.core.shipped import MAIN_MODELS  # noqa: E402
from sr_deploy.core.spec import network_name  # noqa: E402
from sr_deploy.results.columns import label, number  # noqa: E402
from sr_deploy.results.precisions import losses_db, precision_of  # noqa: E402
from sr_deploy.results.protocols import time_ms  # noqa: E402
from sr_deploy.results.report.groups import cost_axes, group_rows, pareto_front  # noqa: E402
from sr_deploy.results.rows import BenchmarkRow, append_rows, read_rows  # noqa: E402

TARGETS = ("cpu", "cpu-openvino")
WORK = Path("out/precision")
ROWS = Path("benchmarks/precision/rows.jsonl")
ROUNDS = 15


def prepared(name: str, calibrate: str) -> List[Path]:
    """Export and build a slice for every target in every precision; return its engines.

    What cannot be made is said, and left out. What is up to date is kept.
    """
    from sr_deploy.core.target import load_target
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint
    from sr_deploy.runtime.build import engine_from_onnx

    engines = []
    for target in TARGETS:
        for precision in load_target(target).precisions:
            pictures = calibrate if precision == "int8" else None
            options = ExportOptions(target=target, precision=precision, calibrate=pictures)
            graphs = WORK / "graphs" / target
            try:
                paths = onnx_from_checkpoint(name, graphs, options, progress=say)
                engines += engine_from_onnx(
                    paths, WORK / "engines" / target, target=target, progress=say
                )
            except SrDeployError as e:
                say(f"{name} in {precision} for {target}: not made: {e.message}")
    return engines


def measured(engines: Sequence[Path], data: str, size: str, rounds: int) -> List[BenchmarkRow]:
    """Return the rows of the engines of one slice: scored each, timed in turns."""
    from sr_deploy.bench.evaluate import image_set
    from sr_deploy.bench.measure import MeasureOptions, rows_from_artifacts, timing_input
    from sr_deploy.bench.monitor import ConditionMonitor, condition_warnings, conditions_before
    from sr_deploy.core.sizes import parse_hw
    from sr_deploy.core.timing import latency_statistics, time_in_turns
    from sr_deploy.runtime.opener import describe_one

    options = MeasureOptions(data=data, lr=size, runs=1)
    pairs = [
        (path, row) for path in engines for row in rows_from_artifacts(path, options, progress=say)
    ]
    failed = [row for _, row in pairs if row.error]
    timed = [(path, row) for path, row in pairs if not row.error]
    before = conditions_before()
    with contextlib.ExitStack() as opened, ConditionMonitor("") as monitor:
        sessions = [opened.enter_context(describe_one(path).open()) for path, _ in timed]
        x = timing_input(sessions[0], image_set(), parse_hw(size)) if sessions else None
        runs = {i: (lambda s=session: s.run_timed(x).ms) for i, session in enumerate(sessions)}
        times = time_in_turns(runs, rounds)
    how = f"{rounds} rounds in turns with the other engines of {label(pairs[0][1])}"
    conditions = {"before": before, "during": monitor.summary(), "timed": how}
    return failed + [
        replace(
            row,
            **latency_statistics(times[i]),
            latencies_ms=tuple(round(ms, 4) for ms in times[i]),
            runs=rounds,
            warmup=(row.warmup or 0) + 1,
            conditions=conditions,
            warnings=(
                *(w for w in row.warnings if "while it was timed" not in w),
                *condition_warnings(conditions),
            ),
        )
        for i, (_, row) in enumerate(timed)
    ]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def slices(models: str, only: str) -> Iterator[str]:
    """Yield the names of the slices of models, smallest first: all, or those of a list."""
    from sr_deploy.core.shipped import find_checkpoint, read_card

    for model in models.split(","):
        weights = find_checkpoint(model)
        if weights is None:
            sys.exit(f"error: there is no checkpoint {model}")
        for variant in read_card(weights).variants:
            if not only or network_name(model, variant) in only.split(","):
                yield network_name(model, variant)


def table(rows: Sequence[BenchmarkRow]) -> str:
    """Return a line for each slice: its FP32 time, then of each way the part of it, and the loss.

    Below are the Pareto front over slices and precisions, and the conditions.
    """
    rows = [row for row in rows if not row.error]
    (group,) = group_rows(rows)
    losses = {id(row): loss for row, loss in zip(rows, losses_db(rows))}
    of_slice: Dict[str, Dict[Tuple[str, str], BenchmarkRow]] = {}
    for row in rows:
        of_slice.setdefault(label(row), {})[row.backend, precision_of(row)] = row
    first = ("onnxruntime", "fp32")
    ways = [first, *sorted({way for found in of_slice.values() for way in found} - {first})]
    headings = ["", "PSNR [dB]", f"{' '.join(first)} [ms]", *(" ".join(way) for way in ways[1:])]
    lines = [f"| {' | '.join(headings)} |", f"|---|{'--:|' * (len(headings) - 1)}"]
    for name, found in of_slice.items():
        base = found.get(first)
        ms = None if base is None else time_ms(base)
        cells = [name, number(base and base.psnr_db, 3), number(ms, 2)]
        cells += [_cell(found.get(way), ms, losses) for way in ways[1:]]
        lines.append(f"| {' | '.join(cells)} |")
    axis = next(axis for axis in cost_axes(group) if axis.of is time_ms)
    front = [
        f"{p.entry.name} {p.entry.precision} by {p.entry.runtime} ({p.cost:.1f} ms, "
        f"{p.psnr_db:.2f} dB)"
        for p in pareto_front(group, axis)
    ]
    row = rows[0]
    versions = sorted({f"{r.backend} {r.backend_version}" for r in rows})
    size = "x".join(map(str, row.input_hw or ()))
    notes = [
        "Each cell is the part of FP32's time in onnxruntime, and in brackets the PSNR lost.",
        f"On the Pareto front, fastest first: {'; '.join(front)}.",
        f"PSNR: {row.set}, {row.metric.upper()}; bicubic has {number(row.bicubic_psnr_db, 2)} dB. "
        f"Times: median of {row.runs} rounds in turns at {size} on {row.device}, {row.threads} "
        f"threads, by {' and '.join(versions)}.",
    ]
    return "\n".join([*lines, "", "\n\n".join(notes)])


def _cell(
    row: Optional[BenchmarkRow], fp32_ms: Optional[float], losses: Dict[int, Optional[float]]
) -> str:
    ms = None if row is None else time_ms(row)
    if row is None or ms is None:
        return ""
    loss = losses[id(row)]
    share = f"{ms / fp32_ms:.2f}" if fp32_ms else f"{ms:.2f} ms"
    return share if loss is None else f"{share} ({round(loss, 3) + 0.0:.3f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, metavar="ROWS", help="print the table of such rows")
    parser.add_argument("--calibrate", metavar="HR_DIR", help="pictures that calibrate INT8")
    parser.add_argument("--data", metavar="HR_DIR", help="pictures to score on, such as Set5/HR")
    parser.add_argument("--size", default="256x256", help="LR size of the times")
    parser.add_argument("--models", default=",".join(MAIN_MODELS), help="checkpoints")
    parser.add_argument("--only", default="", metavar="MODEL.VARIANT,...", help="of the slices")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--prepare", action="store_true", help="export and build only")
    parser.add_argument("-o", "--output", type=Path, default=ROWS, metavar="ROWS")
    args = parser.parse_args()
    if args.table is not None:
        print(table(read_rows(args.table)))
        return 0
    if args.calibrate is None or (args.data is None and not args.prepare):
        parser.error("give --calibrate, and --data to measure")
    start = time.monotonic()
    engines = {name: prepared(name, args.calibrate) for name in slices(args.models, args.only)}
    say(f"prepared in {time.monotonic() - start:.0f} s")
    if args.prepare:
        return 0
    rows: List[BenchmarkRow] = []
    for paths in engines.values():
        rows += measured(paths, args.data, args.size, args.rounds) if paths else []
    with contextlib.suppress(FileNotFoundError):
        args.output.unlink()
    append_rows(args.output, rows)
    print(table(rows))
    say(f"{len(rows)} rows in {args.output}; {time.monotonic() - start:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
