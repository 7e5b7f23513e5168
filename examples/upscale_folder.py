"""Upscale the pictures of a folder in a program of one's own.

    python examples/upscale_folder.py photos photos_x4
    python examples/upscale_folder.py photos photos_x4 --model asrn_x4.d3

`srdeploy upscale photos -o photos_x4` does the same in one command, in several processes if asked.
A program can do more with each result, which is an array.
"""

import argparse
import time
from pathlib import Path

from skimage import io

import sr_deploy

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".webp")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="asrn_x4", help="a name, graph, engine or code")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for path in sorted(p for p in args.source.iterdir() if p.suffix.lower() in SUFFIXES):
        result = args.output / f"{path.stem}.png"
        if result.exists():
            continue
        started = time.perf_counter()
        try:
            image = sr_deploy.upscale(path, args.model)  # the model is opened once
        except sr_deploy.SrDeployError as e:
            print(f"{path}: {e.message}")
            continue
        io.imsave(result, image, check_contrast=False)  # (H, W), (H, W, 3) or (H, W, 4)
        print(f"{result}: {image.shape[1]}x{image.shape[0]}, {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
