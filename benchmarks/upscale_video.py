"""What video costs beside the network: python benchmarks/upscale_video.py GRAPH|ENGINE|MODEL... [--size HxW] [-o ROWS.jsonl]

Runs where `srdeploy[upscale]` is installed. In turns (A B A B): the bare session on one frame again and again; the frames of an
H.264 video of FFmpeg's testsrc2 decoded, converted and upscaled, nothing encoded; and `srdeploy upscale` of the same video, from
opening it to the finished file, by each codec with its default preset and CRF. Printed are frames a second as medians of the
rounds, and the medians of each round's ratio to the bare session.
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
"""The threads of the run before spin for a while."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--size", default="180x320", help="of a dynamic graph's frames")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--codec", action="append", dest="codecs")
    parser.add_argument("-o", "--output", type=Path, help="append the rows to this JSONL file")
    given = parser.parse_args()
    import av
    import onnxruntime

    from sr_deploy.core.device import cpu_name

    libraries = f"onnxruntime {onnxruntime.__version__}, PyAV {av.__version__}"
    print(f"{cpu_name()}, {libraries}; {given.frames} frames, medians of {given.rounds} rounds\n")
    print("| network | LR | what | frames a second | of the bare session |")
    print("|---|---|---|---|---|")
    for network in given.networks:
        for row in compare(
            network,
            given.size,
            frames=given.frames,
            rounds=given.rounds,
            codecs=given.codecs or CODECS,
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
                f"| {row['network']} | {hw[0]}x{hw[1]} | {row['what']} | {spread} | {row['ratio']:.3f} |",
                flush=True,
            )
            if given.output:
                with open(given.output, "a", encoding="utf-8") as f:
                    f.write(json.dumps(whole) + "\n")


def compare(
    network: str, size: str, *, frames: int, rounds: int, codecs: List[str]
) -> List[Dict[str, Any]]:
    """Return the rows of one network."""
    import numpy as np

    from sr_deploy.core.sizes import parse_hw
    from sr_deploy.runtime.opener import describe_one
    from sr_deploy.upscale.overlap import ahead
    from sr_deploy.upscale.tiles import Upscaler
    from sr_deploy.upscale.video import upscale_video
    from sr_deploy.upscale.video_encode import encoding_for
    from sr_deploy.upscale.video_parts import FRAMES as GOP
    from sr_deploy.upscale.video_source import frames as frames_of
    from sr_deploy.upscale.video_source import video_facts

    opened = describe_one(network)
    session = opened.open()
    upscaler = Upscaler(session, identity=opened.identity)
    hw = session.fixed_hw or parse_hw(size)
    with tempfile.TemporaryDirectory() as folder:
        source = test_video(Path(folder) / "in.mp4", hw, frames)
        facts = video_facts(source)
        x = np.random.default_rng(0).random((1, 3, *hw), dtype=np.float32)

        def bare() -> None:
            for _ in range(frames):
                session.run(x)

        def decoded() -> None:
            for _, rgb in ahead(frames_of(source, facts)):
                upscaler(rgb)

        def encoded(codec: str) -> None:
            output = Path(folder) / "out.mkv"
            upscale_video(source, output, upscaler, codec=codec)
            output.unlink()

        upscaler(next(frames_of(source, facts))[1])
        ways: Dict[str, Callable[[], None]] = {
            "bare session": bare,
            "decoded and upscaled": decoded,
        }
        for codec in codecs:
            ways[
                f"encoded by {encoding_for(facts, session.scale, codec=codec, crf=None, gop=GOP)}"
            ] = lambda c=codec: encoded(c)
        found: Dict[str, List[float]] = {what: [] for what in ways}
        for _ in range(rounds):
            for what, run in ways.items():
                time.sleep(PAUSE_S)
                start = time.perf_counter()
                run()
                found[what].append(frames / (time.perf_counter() - start))
    rows = []
    for what, rates in found.items():
        ratios = [a / b for a, b in zip(rates, found["bare session"])]
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
