"""Measure adaptive networks against the whole-image slices of the same family.

Usage: python3 benchmarks/adaptive.py --photographs DIR -o ROWS.jsonl [--rounds N] [FAMILY...]

Needs `srdeploy[export]` and the photographs of photographs.py, or any other large ones.
FAMILY: elastic, cdnsr, adadsr; default: all. Each photograph is cut to a multiple of 16, its LR
image is made by MATLAB's bicubic. On it run in turns (A B A B):

- the static slices on the whole image, in the form in which `upscale -m` runs them
- the adaptive network as it is, at other prices or depths, and with budgets

PSNR is on Y, border 4; a time is the least of the rounds. `--runtime` is that of all. Photographs
that are wider than `--halve` pixels are reduced by 2 first, as those of Test4K are. Rows that are
in ROWS.jsonl already are kept, so a run can be continued. `--table ROWS.jsonl` prints the tables of
these rows, and with `--picture PNG` draws them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ROUNDS = 3
BORDER = 4
BUDGETS = {"elastic": ("40%", "60%", "80%"), "cdnsr": ("70%", "85%")}
"""Of a family; width 16 takes over half of the time of width 56."""
PRICES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""Multiples of the network's own price of work."""
AS_IT_IS = "as it is"
DEPTHS = (1, 2, 4, 6, 8, 12, 16)
FAMILIES = {
    "elastic": ("elastic-asrn_x4", [f"asrn_x4.d{depth}" for depth in range(1, 6)]),
    "cdnsr": ("cdnsr-fsrcnn-gains_x4", [f"fsrcnn-w{width}_x4" for width in (16, 36, 56)]),
    "adadsr": ("adaedsr_x4", []),
}
"""The adaptive network, and its static slices, the smallest first."""


class Way(NamedTuple):
    """A network as it is run on each photograph."""

    name: str
    model: str
    session: Any
    settings: Dict[str, Any] = {}
    """Attributes that an adaptive session gets before a run."""
    in_curve: bool = False
    """Whether it is a point of the adaptive network's curve."""
    budget: str = ""
    """A bound on work as a share, `60%`, or on time, `420 ms`."""
    share: Optional[float] = None
    """Of a slice: its work against that of the largest."""

    @property
    def static(self) -> bool:
        return self.share is not None

    def run(self, x: Any) -> Any:
        """Upscale an LR image; return an AdaptiveOutput."""
        if self.static:
            return whole_output(self.session(x))
        for name, value in self.settings.items():
            setattr(self.session, name, value)
        self.session.reset_work()
        return self.session.run_adaptive(x)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=list(FAMILIES), metavar="FAMILY")
    parser.add_argument("--photographs", type=Path, metavar="DIR")
    parser.add_argument("--runtime")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--halve", type=int, metavar="PX")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--table", type=Path, metavar="ROWS.jsonl")
    parser.add_argument("--picture", type=Path, metavar="PNG")
    args = parser.parse_args()
    if args.picture is not None:
        draw(args.picture, read_rows(args.table))
    elif args.table is not None:
        print(tables(read_rows(args.table)))
    elif args.photographs is None or args.output is None:
        parser.error("--photographs and -o are needed to measure")
    else:
        measure(args)


def read_rows(path: Path) -> List[dict]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def measure(args: argparse.Namespace) -> None:
    """Add the rows of each photograph to the output file as soon as it is measured."""
    from importlib.metadata import version

    from sr_deploy.core.degradation import degrade
    from sr_deploy.core.device import cpu_name, usable_cores
    from sr_deploy.core.image_folders import image_files
    from sr_deploy.core.images import nchw_from_rgb, read_rgb

    facts = {
        "device": cpu_name(),
        "threads": usable_cores(),
        "runtime": f"{args.runtime or 'onnxruntime'} {version(args.runtime or 'onnxruntime')}",
    }
    done = {(row["family"], row["image"]) for row in read_rows(args.output)}
    for family in args.families:
        ways = opened(family, args.runtime)
        for path in image_files(args.photographs):
            if (family, path.stem) in done:
                continue
            hr = cut_to(16, halved(read_rgb(path), args.halve))
            x = nchw_from_rgb(degrade(hr, scale=4))
            rows = measured(ways, x, hr, args.rounds)
            (largest_ms,) = [row["ms_least"] for row in rows if row["static"]][-1:]
            in_time = [way for way in ways_in_time(family, ways, largest_ms) if is_possible(way, x)]
            rows += measured(in_time, x, hr, args.rounds)
            rows = [{**row, **facts} for row in rows]
            with args.output.open("a", encoding="utf-8") as file:
                for row in rows:
                    row = {"family": family, "image": path.stem, **row}
                    file.write(json.dumps(row) + "\n")
            print(f"{family} {path.stem}: " + ", ".join(brief(row) for row in rows), flush=True)


def opened(family: str, runtime: Optional[str]) -> List[Way]:
    """Open the networks of a family: its static slices, the smallest first, then the adaptive."""
    from sr_deploy.core.run_options import RunOptions

    run = RunOptions(device="cpu", runtime=runtime)
    model, slices = FAMILIES[family]
    ways = [static_way(name, run) for name in slices]
    if family == "adadsr":
        ways.append(dense_way(model))
    largest = max(macs_of(way.model) for way in ways)
    ways = [way._replace(share=macs_of(way.model) / largest) for way in ways]
    return ways + adaptive_ways(family, model, run)


def static_way(name: str, run: Any) -> Way:
    """Return a slice, run on the whole image as `upscale -m` runs it."""
    from sr_deploy.fast.opener import open_session

    return Way(name, name, open_session(name, run=run).run)


def dense_way(model: str) -> Way:
    """Return the backbone of an AdaEDSR, every block at every pixel, by ONNX Runtime."""
    from sr_deploy.core.sizes import parse_sizes
    from sr_deploy.export.graph import graph_from_network
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.nets.fuse import fuse_network
    from sr_deploy.runtime.ort import raw_session

    net: Any = load_checkpoint(model).network()
    sizes = parse_sizes("2x2:256x256:16384x16384")
    graph = graph_from_network(fuse_network(net.backbone())[0], sizes, opset=17)
    session = raw_session(graph.SerializeToString(), alone=False)
    return Way(f"all {len(net.blocks)} blocks", model, lambda x: session.run(None, {"lr": x})[0])


def whole_output(y: Any) -> Any:
    """Return the output of a slice in the form of an adaptive network's."""
    import numpy as np

    from sr_deploy.core.session import ExecutedWork
    from sr_deploy.runtime.adaptive.base import AdaptiveOutput

    return AdaptiveOutput(y, np.ones((1, 1), np.float32), ExecutedWork())


def macs_of(name: str) -> int:
    """Return the multiply-accumulates of a network as deployed, on a small image."""
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.nets.complexity import count
    from sr_deploy.nets.fuse import fuse_network

    model, _, variant = name.partition(".")
    net: Any = load_checkpoint(model).network(variant or None)
    return count(fuse_network(net)[0], (64, 64), counter="fvcore").macs


def adaptive_ways(family: str, model: str, run: Any) -> List[Way]:
    """Return an adaptive network as it is, at other prices or depths, and with budgets of work."""
    from sr_deploy.core.budgets import NO_BUDGET, Budget
    from sr_deploy.fast.plans import describe_adaptive
    from sr_deploy.runtime.opener.adaptive import AdaptiveOptions

    session: Any = describe_adaptive(AdaptiveOptions(family), run=run).open(run)
    if family == "adadsr":
        return [
            Way(f"--depth {depth}", model, session, {"depth": float(depth)}, in_curve=True)
            for depth in DEPTHS
        ]
    ways = []
    for times in PRICES:
        name = AS_IT_IS if times == 1 else f"price x{times:g}"
        plan = replace(session.plan, price=session.plan.price * times)
        ways.append(Way(name, model, session, {"plan": plan, "budget": NO_BUDGET}, in_curve=True))
    for text in BUDGETS[family]:
        settings = {"plan": session.plan, "budget": Budget(float(text[:-1]) / 100)}
        ways.append(Way(f"--max-flops {text}", model, session, settings, True, text))
    return ways


def ways_in_time(family: str, ways: Sequence[Way], largest_ms: float) -> List[Way]:
    """Return the adaptive network with budgets of time: shares of that of the largest slice."""
    from sr_deploy.core.budgets import Budget

    found = []
    for way in ways:
        if way.name == AS_IT_IS:
            for text in BUDGETS[family]:
                ms = largest_ms * float(text[:-1]) / 100
                name = f"--max-ms, {text} of the largest"
                settings = {**way.settings, "budget": Budget(max_ms=ms)}
                found.append(Way(name, way.model, way.session, settings, budget=f"{ms:.1f} ms"))
    return found


def is_possible(way: Way, x: Any) -> bool:
    """Return whether a budget of time suffices for the smallest branch; if not, print why not."""
    from sr_deploy.core.errors import InputError

    try:
        way.run(x)
    except InputError as e:
        print(f"left out: {way.name}: {e.message}", flush=True)
        return False
    return True


def measured(ways: Sequence[Way], x: Any, hr: Any, rounds: int) -> List[dict]:
    """Return a row per way of one photograph."""
    from sr_deploy.core.images import rgb_from_nchw
    from sr_deploy.core.metrics import psnr_db
    from sr_deploy.core.timing import time_in_turns

    results: Dict[str, Any] = {}

    def timed(way: Way) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            results[way.name] = way.run(x)
            return (time.perf_counter() - start) * 1000

        return once

    times = time_in_turns({way.name: timed(way) for way in ways}, rounds)
    rows = []
    for way in ways:
        done = results[way.name]
        db = psnr_db(rgb_from_nchw(done.y_nchw), hr, metric="y", border=BORDER)
        rows.append(
            {
                "way": way.name,
                "model": way.model,
                "static": way.static,
                "in_curve": way.in_curve,
                "budget": way.budget,
                "lr": f"{x.shape[2]}x{x.shape[3]}",
                "psnr_db": round(db, 4),
                "macs_share": round(done.work.share if way.share is None else way.share, 4),
                "mean_decision": round(float(done.decisions.mean()), 4),
                "ms": [round(t, 2) for t in times[way.name]],
                "ms_least": round(min(times[way.name]), 2),
                "stages_ms": {stage: round(ms, 1) for stage, ms in done.work.ms.items()},
            }
        )
    return rows


def brief(row: dict) -> str:
    return f"{row['way']} {row['psnr_db']:.3f} dB {row['ms_least']:.0f} ms"


def halved(rgb: Any, above: Optional[int]) -> Any:
    """Return a photograph wider than `above` pixels reduced by 2."""
    import cv2

    h, w = rgb.shape[:2]
    if above is None or max(h, w) <= above:
        return rgb
    return cv2.resize(rgb, (w // 2, h // 2), interpolation=cv2.INTER_AREA)


def cut_to(multiple: int, rgb: Any) -> Any:
    h, w = (n - n % multiple for n in rgb.shape[:2])
    return rgb[:h, :w]


def envelope(points: Iterable[Tuple[float, float]]) -> List[Tuple[float, float]]:
    """Return the points (ms, dB) that no other one beats in both, by rising time."""
    best: List[Tuple[float, float]] = []
    for ms, db in sorted(points):
        if not best or db > best[-1][1]:
            best.append((ms, db))
    return best


def ms_at(db: float, curve: Sequence[Tuple[float, float]]) -> Optional[float]:
    """Return the time in which a curve reaches a PSNR, between its points; None if it does not."""
    if curve[0][1] >= db:
        return curve[0][0]
    for (ms0, db0), (ms1, db1) in zip(curve, curve[1:]):
        if db1 >= db:
            return ms0 + (ms1 - ms0) * (db - db0) / (db1 - db0)
    return None


def db_at(ms: float, curve: Sequence[Tuple[float, float]]) -> Optional[float]:
    """Return the PSNR that a curve reaches in a time, between its points; None if it is longer."""
    if curve[0][0] > ms:
        return None
    for (ms0, db0), (ms1, db1) in zip(curve, curve[1:]):
        if ms1 >= ms:
            return db0 + (db1 - db0) * (ms - ms0) / (ms1 - ms0)
    return curve[-1][1]


class Compared(NamedTuple):
    """An adaptive curve beside a static slice."""

    slice: str
    psnr_db: float
    ms: float
    time_share: Optional[float]
    """Of the slice's time, at its PSNR; None where the curve does not reach it."""
    gained_db: Optional[float]
    """At the slice's time; None where all points of the curve take longer."""


def compared(rows: Sequence[dict]) -> List[Compared]:
    """Compare the rows of one family on one photograph, or their means over photographs."""
    points = {row["way"]: (row["ms_least"], row["psnr_db"]) for row in rows}
    slices = [row["way"] for row in rows if row["static"]]
    curve = envelope(points[row["way"]] for row in rows if row["in_curve"])
    found = []
    for name in slices:
        ms, db = points[name]
        time_there, there = ms_at(db, curve), db_at(ms, curve)
        share = None if time_there is None else time_there / ms
        found.append(Compared(name, db, ms, share, None if there is None else there - db))
    return found


def means(rows: Sequence[dict]) -> List[dict]:
    """Return one row per way: the mean PSNR, and the mean time as a share of the largest slice."""
    images = {row["image"] for row in rows}
    largest = {row["image"]: row["ms_least"] for row in rows if row["static"]}
    ways: Dict[str, List[dict]] = {}
    for row in rows:
        ways.setdefault(row["way"], []).append(row)
    return [
        {
            **of_way[0],
            "psnr_db": statistics.mean(row["psnr_db"] for row in of_way),
            "ms_least": statistics.mean(row["ms_least"] / largest[row["image"]] for row in of_way),
            "macs_share": statistics.mean(row["macs_share"] for row in of_way),
        }
        for of_way in ways.values()
        if len(of_way) == len(images)
    ]


def tables(rows: List[dict]) -> str:
    """Return Markdown: of each family all photographs together, then each of them."""
    from sr_deploy.results.render import markdown

    parts: List[str] = []
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        mean = means(own)
        images = list(dict.fromkeys(row["image"] for row in own))
        headings = ["network", "way", "PSNR [dB]", "work", "time"]
        parts += [
            *markdown(
                headings,
                [
                    [
                        row["model"],
                        row["way"],
                        f"{row['psnr_db']:.3f}",
                        f"{row['macs_share']:.0%}",
                        f"{row['ms_least']:.0%}",
                    ]
                    for row in mean
                ],
            ),
            "",
            _conditions(own, len(images)),
            "",
        ]
        slices = [row["way"] for row in mean if row["static"]]
        headings = ["photograph", "LR", *(f"{name.rpartition('.')[2]} [dB]" for name in slices)]
        headings += [f"time at {name.rpartition('.')[2]}'s PSNR" for name in slices[1:]]
        headings += [f"dB at {name.rpartition('.')[2]}'s time" for name in slices[1:]]
        cells = [_compared_cells("all, means", "", mean)]
        for image in images:
            of_image = [row for row in own if row["image"] == image]
            cells.append(_compared_cells(image, of_image[0]["lr"], of_image))
        parts += [*markdown(headings, cells), ""]
    return "\n".join(parts).rstrip()


def _compared_cells(name: str, lr: str, rows: Sequence[dict]) -> List[str]:
    found = compared(rows)
    shares = ["-" if c.time_share is None else f"{c.time_share:.0%}" for c in found[1:]]
    gains = ["-" if c.gained_db is None else f"{c.gained_db:+.3f}" for c in found[1:]]
    return [name, lr, *(f"{c.psnr_db:.3f}" for c in found), *shares, *gains]


def _conditions(rows: Sequence[dict], images: int) -> str:
    first, rounds = rows[0], {len(row["ms"]) for row in rows}
    return (
        f"Means over {images} photographs; {first['device']}, {first['threads']} threads, "
        f"{first['runtime']}; the least of {min(rounds)} rounds in turns; work and time are shares "
        f"of the largest slice on the whole picture. {_kept(rows)}"
    )


def _kept(rows: Sequence[dict]) -> str:
    """Return how near the work and the time came to budgets."""
    work, times = [], []
    for row in (row for row in rows if row["budget"]):
        number, unit = float(row["budget"].rstrip("% ms")), row["budget"][-1]
        if unit == "%":
            work.append(row["macs_share"] / number * 100)
        else:
            times += [ms / number for ms in row["ms"]]
    if not work:
        return ""
    kept = sum(share <= 1.03 for share in times)
    return (
        f"Work was {min(work):.1%} to {max(work):.1%} of `--max-flops`; of {len(times)} runs with "
        f"`--max-ms`, {kept} took at most 1.03 of the time, the longest {max(times):.2f} "
        f"(median {statistics.median(times):.3f})."
    )


def draw(path: Path, rows: List[dict]) -> None:
    """Draw the static slices and the adaptive curve of each family, as means over photographs."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(row["family"] for row in rows))
    figure = Figure(figsize=(4.6 * len(families), 3.8), layout="constrained")
    for axes, family in zip(figure.subplots(1, len(families), squeeze=False)[0], families):
        mean = means([row for row in rows if row["family"] == family])
        for static, label, style in ((True, "static slices", "s--"), (False, "adaptive", "o-")):
            points = sorted(
                (100 * row["ms_least"], row["psnr_db"])
                for row in mean
                if row["static" if static else "in_curve"]
            )
            axes.plot(*zip(*points), style, label=label, markersize=4)
        axes.set(title=mean[-1]["model"], xlabel="time [% of the largest slice]")
        axes.set_ylabel("mean PSNR on Y [dB]")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(str(path), dpi=150)


if __name__ == "__main__":
    main()
