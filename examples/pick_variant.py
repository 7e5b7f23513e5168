"""Which variant of an elastic network keeps up with a frame rate on this machine?

    python examples/pick_variant.py asrn_x4 --size 90x160 --fps 24
    python examples/pick_variant.py asrn_x4 --size 540x960 --fps 60 --target rtx

Builds an engine of each variant, measures it, and takes the one of the highest PSNR that is fast
enough. `srdeploy deploy asrn_x4 --target cpu --fps 24` does it in one command.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import sr_deploy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a shipped name, a checkpoint's path or code")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--size", default="90x160", help="of the frames, height x width")
    parser.add_argument("--fps", type=float, default=24)
    parser.add_argument("--data", default="", help="HR images [default: scikit-image's]")
    parser.add_argument("--runs", type=int, help="timed runs of each [default: for 3 s]")
    parser.add_argument("-o", "--output", type=Path, default=Path("engines"))
    args = parser.parse_args()

    options = sr_deploy.ExportOptions(sizes=[args.size], target=args.target)
    graphs = sr_deploy.onnx_from_checkpoint(args.model, args.output / "graphs", options)
    engines = sr_deploy.engine_from_onnx(graphs, args.output, target=args.target)
    measure = sr_deploy.MeasureOptions(data=args.data, runs=args.runs)
    rows = list(sr_deploy.rows_from_artifacts(engines, measure, progress=print))
    try:
        choice = sr_deploy.select_network(
            rows, target=args.target, limits=sr_deploy.Limits(max_ms=1000 / args.fps)
        )
    except sr_deploy.SrDeployError as e:
        sys.exit(f"{e.message}\n{e.hint}")
    print(f"{choice.best}: {choice.why}")

    # Frames of a camera or a decoder, here three of noise, go through its engine:
    upscaler = sr_deploy.Upscaler(args.output / choice.row.artifact)
    height, width = map(int, args.size.split("x"))
    rng = np.random.default_rng(0)
    frames = (rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(3))
    for frame in upscaler.frames(frames):
        print(f"a frame of {frame.shape[1]}x{frame.shape[0]}")


if __name__ == "__main__":
    main()
