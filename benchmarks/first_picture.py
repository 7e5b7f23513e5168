"""Time whole commands that upscale a picture, in turns: by default, by torch, and the first time.

python3 benchmarks/first_picture.py [--rounds 5] > table.md

The picture is scikit-image's coffee, 400x600. `first` starts with an empty cache. Each round runs
each command once, in a process of its own. Needs Linux.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sr_deploy.core.device import cpu_name  # noqa: E402

COMMANDS = {
    "default": ("upscale", "photo.png", "-o", "default.png"),
    "torch": ("upscale", "photo.png", "-o", "torch.png", "--runtime", "torch"),
    "first": ("upscale", "photo.png", "-o", "first.png"),
    "first, asrn_x4.d3": ("upscale", "photo.png", "-o", "d3.png", "-m", "asrn_x4.d3"),
}


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Print the median, smallest and largest time, and the largest peak of resident memory."""
    from skimage import data

    from sr_deploy.core.images import write_png

    seconds, peaks = ({name: [] for name in COMMANDS} for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        write_png(Path(folder) / "photo.png", data.coffee())
        _run(COMMANDS["default"], folder, Path(folder) / "cache")  # fills the cache
        for number in range(rounds):
            for name, command in COMMANDS.items():
                cache = Path(folder) / (f"cache{number}{name}" if "first" in name else "cache")
                took_s, peak_mib = _run(command, folder, cache)
                seconds[name].append(took_s)
                peaks[name].append(peak_mib)
                print(f"{name}: {took_s:.2f} s, {peak_mib:.0f} MiB", file=sys.stderr)
    print(f"Whole commands on a picture of 400x600, {rounds} alternating rounds, {cpu_name()}:\n")
    print("| command | median [s] | range [s] | peak memory [MiB] |\n|---|--:|--:|--:|")
    for name, times in seconds.items():
        median, span = statistics.median(times), f"{min(times):.2f} to {max(times):.2f}"
        print(f"| {name} | {median:.2f} | {span} | {max(peaks[name]):.0f} |")


def _run(command: tuple, folder: str, cache: Path) -> tuple:
    """Run a command; return its wall time and its own peak memory."""
    environment = {**os.environ, "SRDEPLOY_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "sr_deploy.cli.main", *command, "--force"]
    start = time.monotonic()
    child = subprocess.Popen(
        arguments, cwd=folder, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    took = time.monotonic() - start
    if status:
        sys.exit(f"srdeploy {' '.join(command)} failed")
    return took, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
