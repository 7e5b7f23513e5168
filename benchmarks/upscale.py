"""Measure the overhead of `srdeploy upscale`, and compare tiles with whole images.

Usage: python benchmarks/upscale.py [--exact | --large | --speed] [-o ROWS.jsonl]

Needs `srdeploy[export,upscale]`. Without an option all three run. Graphs are exported to a
temporary folder.

--exact: every variant of every shipped checkpoint, from its smallest size to 1023x767, tiled
         against whole, in float32
--large: 2000x3000 LR pixels to 8000x12000 by `srdeploy upscale` in its own process, within 2 GiB
--speed: a folder of pictures against the bare session on the same arrays, in turns: without
         writing, written as PNG and as JPEG
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

BOUND = 1e-4
SIZES = ((1, 1), (2, 37), (15, 15), (97, 61), (256, 300), (511, 383), (1023, 767))
TILE = 256
SPEED_MODELS = ("asrn_x4.d1", "imdeception_x4.c4")
PICTURES, PICTURE_HW = 12, (240, 320)
ROUNDS = 7


@dataclass
class Rows:
    """Prints rows and appends them, with their conditions, to a file."""

    conditions: Dict[str, object]
    path: Optional[Path]

    def add(self, **row: object) -> None:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as f:
                f.write(json.dumps({**row, **self.conditions}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("exact", "large", "speed"):
        parser.add_argument("--" + name, action="store_true")
    parser.add_argument(
        "--models", nargs="*", help="of --exact, as asrn_x4 or asrn_x4.d3; default: all shipped"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    import cv2
    import onnxruntime

    from sr_deploy.core.device import cpu_name

    everything = not (args.exact or args.large or args.speed)
    rows = Rows(
        {
            "device": cpu_name(),
            "software": f"onnxruntime {onnxruntime.__version__}, OpenCV {cv2.__version__}",
            "date_utc": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
        args.output,
    )
    print(rows.conditions)
    with tempfile.TemporaryDirectory() as folder:
        if args.exact or everything:
            exact(rows, Path(folder), args.models)
        if args.large or everything:
            large(rows, Path(folder))
        if args.speed or everything:
            for name in SPEED_MODELS:
                speed(rows, Path(folder) / name, name, args.rounds)


def exact(rows: Rows, folder: Path, models: Optional[List[str]]) -> None:
    """Print the largest difference between tiled and whole, per variant."""
    import numpy as np

    from sr_deploy.core.shipped import shipped_checkpoints
    from sr_deploy.runtime.tiling import smallest_tile
    from sr_deploy.upscale.upscaler import Upscaler

    for name in models or [path.stem for path in shipped_checkpoints()]:
        model, _, chosen = name.partition(".")
        for session, variant in sessions(model, chosen or None, folder):
            tile = max(TILE, *(smallest_tile(session, axis) for axis in (0, 1)))
            worst, tiled, measured = 0.0, 0, 0.0
            for hw in SIZES:
                if hw[0] < session.min_hw[0] or hw[1] < session.min_hw[1]:
                    continue
                image = np.random.default_rng(0).random((*hw, 3), dtype=np.float32)
                whole, parts = Upscaler(session), Upscaler(session, tile=tile)
                worst = max(worst, float(np.abs(parts(image) - whole(image)).max()))
                assert whole.plan(hw, bytes_per_px=12).whole, f"{hw} did not fit the memory"
                tiled += not parts.plan(hw, bytes_per_px=12).whole
                measured = max(measured, parts.seam_difference)
            known = session.halo_px is not None
            verdict = (
                "not exact, and said so" if not known else "exact" if worst <= BOUND else "DIFFERS"
            )
            rows.add(
                what="tiled against whole",
                network=f"{model}.{variant}",
                halo_px=session.halo_px,
                align_px=session.align_px,
                tile=tile,
                sizes=len(SIZES),
                of_them_tiled=tiled,
                max_abs_difference=f"{worst:.2g}",
                beside_seams=f"{measured:.2g}",
                verdict=verdict,
            )


def sessions(model: str, chosen: Optional[str], folder: Path) -> Any:
    """Yield an ONNX Runtime session of each variant, or of the chosen one, with its name."""
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint
    from sr_deploy.nets.checkpoint import load_checkpoint
    from sr_deploy.runtime.opener import open_session

    checkpoint = load_checkpoint(model)
    low = "x".join(map(str, checkpoint.spec.min_hw))
    for variant in checkpoint.spec.variants if chosen is None else [chosen]:
        graph = onnx_from_checkpoint(
            checkpoint,
            folder,
            ExportOptions(variants=variant, sizes=[f"{low}:64x64:1023x1023"], target="cpu"),
        )[0]
        yield open_session(graph), variant


def large(rows: Rows, folder: Path) -> None:
    """Print the time of a large picture within 2 GiB."""
    import cv2
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (500, 750, 3), dtype=np.uint8)
    cv2.imwrite(
        str(folder / "large.png"), cv2.resize(noise, (3000, 2000), interpolation=cv2.INTER_CUBIC)
    )
    graph = export("imdeception_x4.c4", folder, "16x16:256x256:1024x1024")
    for result in ("large_x4.png", "large_x4.jpg"):
        tool = [sys.executable, "-m", "sr_deploy.cli.main", "upscale"]
        command = [
            *tool,
            folder / "large.png",
            "-m",
            graph,
            "--max-memory",
            "2GiB",
            "-o",
            folder / result,
        ]
        start = time.perf_counter()
        run = subprocess.run(list(map(str, command)), stderr=subprocess.PIPE, text=True, check=True)
        shape = cv2.imread(str(folder / result)).shape
        rows.add(
            what="a large picture",
            network="imdeception_x4.c4",
            lr="2000x3000",
            result=f"{shape[0]}x{shape[1]} {result[-3:]}",
            seconds=round(time.perf_counter() - start, 1),
            said=" | ".join(run.stderr.splitlines()[1:]).replace(str(folder), ""),
        )


def speed(rows: Rows, folder: Path, name: str, rounds: int) -> None:
    """Print the throughput of a folder compared with the bare session."""
    import cv2

    from sr_deploy.core.images import nchw_from_rgb
    from sr_deploy.core.pictures.formats import PNG
    from sr_deploy.core.samples import sample_lr
    from sr_deploy.core.timing import time_in_turns
    from sr_deploy.runtime.opener import open_session
    from sr_deploy.upscale.folder import QUEUED_RESULTS, upscale_folder
    from sr_deploy.upscale.memory import MemorySharing
    from sr_deploy.upscale.overlap import read_ahead
    from sr_deploy.upscale.pictures import read_picture, upscale_pixels
    from sr_deploy.upscale.reporter import Reporter
    from sr_deploy.upscale.tree import find_pictures
    from sr_deploy.upscale.upscaler import Upscaler

    pictures = folder / "in"
    pictures.mkdir(parents=True)
    images = list(sample_lr(PICTURE_HW, count=2)) * (PICTURES // 2)
    for i, rgb in enumerate(images):
        cv2.imwrite(str(pictures / f"{i:02}.png"), rgb[:, :, ::-1])
    session = open_session(export(name, folder, "16x16:256x256:1024x1024"))
    upscaler = Upscaler(session, sharing=MemorySharing(queued_results=QUEUED_RESULTS))
    arrays = [nchw_from_rgb(rgb) for rgb in images]

    def bare() -> None:
        for x in arrays:
            session.run(x)

    def read_and_run() -> None:
        for picture in read_ahead(
            (read_picture(path) for path in sorted(pictures.iterdir())), depth=1
        ):
            upscale_pixels(picture, upscaler, PNG)

    def written(suffix: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            tasks = find_pictures(pictures, Path(out), suffix=suffix).tasks
            summary = upscale_folder(tasks, Path(out), upscaler, Reporter())
            assert len(summary.done) == len(images)

    ways: Dict[str, Callable[[], None]] = {
        "bare session": bare,
        "folder, nothing written": read_and_run,
        "folder, written as PNG (OpenCV's compression 1)": lambda: written(".png"),
        "folder, written as JPEG (quality 95)": lambda: written(".jpg"),
    }
    times = time_in_turns({way: timed(run) for way, run in ways.items()}, rounds)
    for way, times_ms in times.items():
        share = statistics.median(a / b for a, b in zip(times["bare session"], times_ms))
        rows.add(
            what="throughput",
            network=name,
            lr=f"{PICTURE_HW[0]}x{PICTURE_HW[1]}",
            pictures=len(images),
            rounds=rounds,
            way=way,
            pictures_per_s=round(len(images) / statistics.median(times_ms) * 1000, 2),
            of_the_bare_session=f"{share:.1%}",
        )


def timed(run: Callable[[], None]) -> Callable[[], float]:
    def milliseconds() -> float:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1000

    return milliseconds


def export(name: str, folder: Path, sizes: str) -> Path:
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint

    model, variant = name.split(".")
    return onnx_from_checkpoint(
        model, folder, ExportOptions(variants=variant, sizes=[sizes], target="cpu")
    )[0]


if __name__ == "__main__":
    main()
