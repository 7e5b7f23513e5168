"""Trace a governor under a load step.

Usage: python benchmarks/governor.py ENGINE... [--fps F] [--seconds S] [-o TRACE.jsonl]

The engines (or graphs) belong to one model and one size, from the lowest quality to the highest.
For S seconds, frames arrive F times a second, as from a camera. In the middle third another process
keeps one core busy. Writes a line per frame: the governor's log, the time of arrival and whether
the load was on. Prints which variants ran and how many frames were late.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

BUSY = "while True: pass"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engines", nargs="+")
    parser.add_argument(
        "--fps",
        type=float,
        default=0.0,
        help="default: 75 %% of the rate the largest engine reaches here",
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("-o", "--output", type=Path, default=Path("governor-trace.jsonl"))
    args = parser.parse_args()
    import numpy as np
    import onnxruntime

    from sr_deploy.core.device import cpu_name
    from sr_deploy.runtime.opener import describe_one
    from sr_deploy.upscale.governor import Governor
    from sr_deploy.upscale.run import rung_names
    from sr_deploy.upscale.upscaler import Upscaler

    networks = [describe_one(engine) for engine in args.engines]
    upscalers = [Upscaler(r.open(), identity=r.identity) for r in networks]
    hw = upscalers[-1].session.fixed_hw or (96, 160)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*hw, 3)).astype(np.uint8) for _ in range(8)]
    fps = args.fps or round(0.75 / seconds_of(upscalers[-1], pictures[0]), 2)
    log: List[Dict[str, Any]] = []
    governor = Governor(upscalers, fps=fps, names=rung_names(networks), log=log.append)
    print(
        f"{cpu_name()}, onnxruntime {onnxruntime.__version__}; "
        f"{networks[0].model} {hw[0]}x{hw[1]}, "
        f"{governor.describe()}\n"
    )
    governor(pictures[0])
    log_of_start, log[:] = list(log), []
    start = time.perf_counter()
    frames = round(args.seconds * fps)
    busy = None
    try:
        for n in range(frames):
            due = n / fps
            loaded = frames / 3 <= n < frames * 2 / 3
            if loaded and busy is None:
                busy = subprocess.Popen([sys.executable, "-c", BUSY])
            elif not loaded and busy is not None:
                busy.kill()
                busy.wait()
                busy = None
            time.sleep(max(start + due - time.perf_counter(), 0))
            arrived = time.perf_counter() - start
            governor(pictures[n % len(pictures)])
            log[-1].update(
                at_s=round(arrived, 3),
                behind_ms=round((arrived - due) * 1000, 1),
                loaded=loaded,
            )
    finally:
        if busy is not None:
            busy.kill()
    conditions = {
        "device": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "model": networks[0].model,
        "input_hw": list(hw),
        "fps": fps,
    }
    args.output.write_text(
        "".join(json.dumps(line) + "\n" for line in [conditions, *log_of_start[:1], *log]),
        encoding="utf-8",
    )
    print("| | frames | late | worst behind [ms] | variants | switches |")
    print("|---|---|---|---|---|---|")
    for name, part in (
        ("before", log[: frames // 3]),
        ("a core taken", [e for e in log if e["loaded"]]),
        ("after", log[-(frames // 3) :]),
    ):
        used = ", ".join(f"{v} {n}" for v, n in sorted(Counter(e["variant"] for e in part).items()))
        late = sum(e["late"] for e in part)
        behind = max(e["behind_ms"] for e in part)
        switches = sum(e["next"] != e["variant"] for e in part)
        print(f"| {name} | {len(part)} | {late} | {behind:.0f} | {used} | {switches} |")
    print()
    for entry in log:
        if entry["next"] != entry["variant"]:
            print(f"{entry['at_s']:7.2f} s: {entry['variant']} -> {entry['next']}: {entry['why']}")
    print(f"\n{governor.summary()}")


def seconds_of(upscaler: Any, picture: Any) -> float:
    """Return the median time of a frame."""
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        upscaler(picture)
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[6]


if __name__ == "__main__":
    main()
