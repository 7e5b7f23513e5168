"""Speed of patch loading, and of training through the collapsed head and upsampler.

Usage: python benchmarks/training.py HR_DIR...

Needs `srdeploy[train]`. Alternatives run in turns (A B A B) for five rounds on one thread. Prints
medians with the smallest and largest value.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Callable, List

ROUNDS = 5
BATCHES = 40
STEPS = 3


def main() -> None:
    import torch

    from sr_deploy.core.device import cpu_name

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        print(
            f"{cpu_name()}, torch {torch.__version__}, one thread; "
            f"medians of {ROUNDS} rounds (smallest to largest)\n"
        )
        patches(sys.argv[1:], Path(cache))
    steps()


def cell(values: List[float], digits: int = 0) -> str:
    low, median, high = min(values), statistics.median(values), max(values)
    return f"{median:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def patches(folders: List[str], cache: Path) -> None:
    """Print samples per second of HR patches from decoded images, by size and number of workers."""
    from torch.utils.data import DataLoader

    from sr_deploy.core.timing import time_in_turns
    from sr_deploy.train.data import Patches, image_pairs

    began = time.perf_counter()
    pairs = image_pairs([Path(f) for f in folders], cache, scale=4, min_hr=256)
    print(f"{len(pairs)} images decoded in {time.perf_counter() - began:.1f} s\n")
    print("| HR patch, batch | 0 workers [samples/s] | 1 worker | 2 workers |\n|---|--:|--:|--:|")
    for patch, batch in ((128, 16), (192, 16), (256, 32)):
        data = Patches(pairs, scale=4, patch_hr=patch, batch_size=batch, seed=0)
        loaders = {}
        for workers in (0, 1, 2):
            loader = DataLoader(
                data, batch_size=None, sampler=range(BATCHES * (ROUNDS + 1)), num_workers=workers
            )
            loaders[str(workers)] = rate(iter(loader), batch)
        rates = time_in_turns(loaders, ROUNDS)
        print(
            f"| {patch}x{patch}, {batch} | " + " | ".join(cell(v) for v in rates.values()) + " |",
            flush=True,
        )


def rate(batches: object, size: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter()
        for _ in range(BATCHES):
            next(batches)  # type: ignore[call-overload]
        return BATCHES * size / (time.perf_counter() - began)

    return measure


def steps() -> None:
    """Print seconds per step of ASRN x4 on 16 patches of 32x32: literal, collapsed, bf16."""
    import numpy as np
    import torch

    from sr_deploy.core.timing import time_in_turns
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.architecture import ElasticNetwork
    from sr_deploy.train.losses import LossInputs, deep_supervision, pixel_loss, supervised
    from sr_deploy.train.recipe import RECIPES

    print(
        "\n| ASRN x4, 16 x 32x32 | layer by layer [s] | collapsed [s] | collapsed, bf16 [s] |\n"
        "|---|--:|--:|--:|"
    )
    architecture = ARCHITECTURES["asrn"]
    elastic = ElasticNetwork(architecture, 4, architecture.parse(None)).to(
        memory_format=torch.channels_last
    )
    elastic.net.train()
    lr, hr = (
        torch.rand(16, 3, 32, 32).to(memory_format=torch.channels_last),
        torch.rand(16, 3, 128, 128),
    )
    recipe = replace(RECIPES["asrn-dsl-x4"], loss="l1")
    given = LossInputs(lr, hr, recipe, np.random.default_rng(0))
    optimiser = torch.optim.Adam(elastic.net.parameters())

    def literal(depths: int) -> torch.Tensor:
        x, loss = elastic.net.head(lr), lr.new_zeros(())
        for n, block in enumerate(elastic.net.body, 1):
            x = block(x)
            if depths > 1 or n == 5:
                loss = loss + pixel_loss("l1", elastic.net.upsampler(x), hr)
        return loss

    def timed(loss: Callable[[], torch.Tensor], bf16: bool = False) -> Callable[[], float]:
        def measure() -> float:
            began = time.perf_counter()
            for _ in range(STEPS):
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    value = loss()
                optimiser.zero_grad()
                value.backward()
                optimiser.step()
            return (time.perf_counter() - began) / STEPS

        return measure

    for name, method, depths in (("SS", supervised, 1), ("DSL", deep_supervision, 5)):

        def collapsed(method: Callable = method) -> torch.Tensor:
            return sum(method(elastic, given).values(), lr.new_zeros(()))

        def by_layer(depths: int = depths) -> torch.Tensor:
            return literal(depths)

        runs = {
            "literal": timed(by_layer),
            "collapsed": timed(collapsed),
            "bf16": timed(collapsed, bf16=True),
        }
        seconds = time_in_turns(runs, ROUNDS)
        print(f"| {name} | " + " | ".join(cell(v, 2) for v in seconds.values()) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benchmarks/training.py HR_DIR...")
    main()
