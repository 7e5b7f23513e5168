"""Measure the cost of video around the network.

Usage: python benchmarks/upscale_video.py GRAPH|ENGINE|MODEL... [--size HxW] [-o ROWS.jsonl]

Needs `srdeploy[upscale]`. In turns (A B A B): the bare session on one frame repeatedly; the frames
of an H.264 video of FFmpeg's testsrc2 decoded, converted and upscaled, without encoding; and
`srdeploy upscale` of the same video, from opening it to the finished file, with each codec's
default preset and CRF. Prints medians of frames per second and of each round's ratio to the bare
session.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

CODECS = ("libx264", "libx265", "libsvtav1")
FRAMES = 60
ROUNDS = 5
PAUSE_S = 0.5
"""The threads of the previous run spin for a while."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--size", default="180x320", help="of a dynamic graph's frames")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--codec", action="append", dest="codecs")
    parser.add_argument("-o", "--output", type=Path, help="append the rows to this JSONL file")
    args = parser.parse_args()
    import av
    import onnxruntime

    from sr_deploy.core.device import cpu_name

    libraries = f"onnxruntime {onnxruntime.__version__}, PyAV {av.__version__}"
    print(f"{cpu_name()}, {libraries}; {args.frames} frames, medians of {args.rounds} rounds\n")
    print("| network | LR | what | frames a second | of the bare session |")
    print("|---|---|---|---|---|")
    for network in args.networks:
        for row in compare(
            network,
            args.size,
            frames=args.frames,
            rounds=args.rounds,
            codecs=args.codecs or CODECS,
        ):
            whole = {
                **row,
                "device": cpu_name(),
                "libraries": libraries,
                "date_utc": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%MZ}",
            }
            spread = f"{row['fps']:.2f} ({min(row['fps_rounds']):.2f}-{max(row['fps_rounds']):.2f})"
            hw = row["input_hw"]
            print(
                f"| {row['network']} | {hw[0]}x{hw[1]} | {row['what']} | {spread} "
                f"| {row['ratio']:.3f} |",
                flush=True,
            )
            if args.output:
                with open(args.output, "a", encoding="utf-8") as f:
                    f.write(json.dumps(whole) + "\n")


def compare(
    network: str, size: str, *, frames: int, rounds: int, codecs: List[str]
) -> List[Dict[str, Any]]:
    """Return the rows of one network."""
    import numpy as np

    from sr_deploy.core.sizes import parse_hw
    from sr_deploy.runtime.opener import describe_one
    from sr_deploy.upscale.overlap import read_ahead
    from sr_deploy.upscale.upscaler import Upscaler
    from sr_deploy.upscale.video import upscale_video
    from sr_deploy.upscale.video_encode import choose_encoding
    from sr_deploy.upscale.video_parts import PART_FRAMES
    from sr_deploy.upscale.video_source import probe_video, read_frames

    opened = describe_one(network)
    session = opened.open()
    upscaler = Upscaler(session, identity=opened.identity)
    hw = session.fixed_hw or parse_hw(size)
    with tempfile.TemporaryDirectory() as folder:
        source = test_video(Path(folder) / "in.mp4", hw, frames)
        facts = probe_video(source)
        x = np.random.default_rng(0).random((1, 3, *hw), dtype=np.float32)

        def bare() -> None:
            for _ in range(frames):
                session.run(x)

        def decoded() -> None:
            for _, rgb in read_ahead(read_frames(source, facts)):
                upscaler(rgb)

        def encoded(codec: str) -> None:
            output = Path(folder) / "out.mkv"
            upscale_video(source, output, upscaler, codec=codec)
            output.unlink()

        upscaler(next(read_frames(source, facts))[1])
        ways: Dict[str, Callable[[], None]] = {
            "bare session": bare,
            "decoded and upscaled": decoded,
        }
        for codec in codecs:
            encoding = choose_encoding(facts, session.scale, codec=codec, crf=None, gop=PART_FRAMES)
            ways[f"encoded by {encoding}"] = lambda c=codec: encoded(c)
        fps: Dict[str, List[float]] = {what: [] for what in ways}
        for _ in range(rounds):
            for what, run in ways.items():
                time.sleep(PAUSE_S)
                start = time.perf_counter()
                run()
                fps[what].append(frames / (time.perf_counter() - start))
    rows = []
    for what, rates in fps.items():
        ratios = [a / b for a, b in zip(rates, fps["bare session"])]
        rows.append(
            {
                "network": opened.name,
                "artifact": Path(network).name,
                "backend": session.backend,
                "threads": session.threads,
                "input_hw": list(hw),
                "what": what,
                "fps": statistics.median(rates),
                "fps_rounds": [round(r, 4) for r in rates],
                "ratio": statistics.median(ratios),
                "frames": frames,
                "rounds": rounds,
            }
        )
    return rows


def test_video(path: Path, hw: Tuple[int, int], frames: int) -> Path:
    """Write a video of FFmpeg's testsrc2."""
    import av

    with av.open(f"testsrc2=size={hw[1]}x{hw[0]}:rate=25", format="lavfi") as source, av.open(
        str(path), "w"
    ) as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *hw, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for n, frame in enumerate(source.decode(video=0)):
            if n == frames:
                break
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


if __name__ == "__main__":
    main()
