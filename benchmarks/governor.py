"""A governor's trace under a load step: python benchmarks/governor.py ENGINE... [--fps F] [--seconds S] [-o TRACE.jsonl]

The engines (or graphs) are of one model and one size, smallest first. For S seconds frames come F times a second, as from a camera;
in the middle third another process keeps one core busy. Written is a line for each frame (the governor's log, with the time it came
and whether the load was on), printed is which variants ran when and how many frames were late.
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
        help="default: what the largest holds here with a third to spare",
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("-o", "--output", type=Path, default=Path("governor-trace.jsonl"))
    given = parser.parse_args()
    import numpy as np
    import onnxruntime

    from sr_deploy.core.device import cpu_name
    from sr_deploy.upscale.governor import Governor
    from sr_deploy.runtime.opener import describe_one
    from sr_deploy.upscale.tiles import Upscaler

    found = [describe_one(engine) for engine in given.engines]
    upscalers = [Upscaler(r.open(), identity=r.identity) for r in found]
    hw = upscalers[-1].session.fixed_hw or (96, 160)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*hw, 3)).astype(np.uint8) for _ in range(8)]
    fps = given.fps or round(0.75 / seconds_of(upscalers[-1], pictures[0]), 2)
    log: List[Dict[str, Any]] = []
    governor = Governor(upscalers, fps=fps, names=[r.variant for r in found], log=log.append)
    print(
        f"{cpu_name()}, onnxruntime {onnxruntime.__version__}; {found[0].model} {hw[0]}x{hw[1]}, {governor.describe()}\n"
    )
    governor(pictures[0])
    log_of_start, log[:] = list(log), []
    start = time.perf_counter()
    frames = round(given.seconds * fps)
    busy = None
    try:
        for n in range(frames):
            wanted = n / fps
            loaded = frames / 3 <= n < frames * 2 / 3
            if loaded and busy is None:
                busy = subprocess.Popen([sys.executable, "-c", BUSY])
            elif not loaded and busy is not None:
                busy.kill()
                busy.wait()
                busy = None
            time.sleep(max(start + wanted - time.perf_counter(), 0))
            came = time.perf_counter() - start
            governor(pictures[n % len(pictures)])
            log[-1].update(
                at_s=round(came, 3), behind_ms=round((came - wanted) * 1000, 1), loaded=loaded
            )
    finally:
        if busy is not None:
            busy.kill()
    conditions = {
        "device": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "model": found[0].model,
        "input_hw": list(hw),
        "fps": fps,
    }
    given.output.write_text(
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
        switches = sum(e["next"] != e["variant"] for e in part)
        print(
            f"| {name} | {len(part)} | {sum(e['late'] for e in part)} | {max(e['behind_ms'] for e in part):.0f} | {used} | {switches} |"
        )
    print()
    for entry in log:
        if entry["next"] != entry["variant"]:
            print(f"{entry['at_s']:7.2f} s: {entry['variant']} -> {entry['next']}: {entry['why']}")
    print(f"\n{governor.summary()}")


def seconds_of(upscaler: Any, picture: Any) -> float:
    """Return what a frame takes here, as the median of some."""
    taken = []
    for _ in range(12):
        start = time.perf_counter()
        upscaler(picture)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[6]


if __name__ == "__main__":
    main()
