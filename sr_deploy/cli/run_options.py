"""The options of commands that run networks: the device, and how torch drives it."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any, Callable

import click

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.core.run_options import RUN_PRECISIONS, RunOptions

DEVICE = click.option(
    "--device",
    metavar="cpu|cuda[:N]|directml|coreml|xpu",
    help="Device to run on.  [default: the GPU if the network's library can use one, else the CPU]",
)
_OPTIONS = (
    DEVICE,
    click.option(
        "--runtime",
        cls=AliasedOption,
        aliases=["--backend"],
        metavar="NAME",
        help="What runs the network: torch, onnxruntime, openvino, onnxruntime-cuda, ...  "
        "[default: of a model the fastest that is here, of a graph onnxruntime]",
    ),
    click.option(
        "--min-psnr-vs-fp32",
        type=float,
        metavar="DB",
        help="Models: run in the fastest precision (bf16, FP16, INT8) whose engine was measured to "
        "have this PSNR against FP32, such as 50.  [default: FP32 on CPUs, FP16 on GPUs]",
    ),
    click.option(
        "--precision",
        type=click.Choice(RUN_PRECISIONS),
        help="Checkpoints, code: the precision that torch computes in.  [default: fp32]",
    ),
    click.option(
        "--channels-last",
        is_flag=True,
        help="Checkpoints, code: torch stores feature maps as NHWC.",
    ),
    click.option("--compile", is_flag=True, help="Checkpoints, code: use torch.compile."),
    click.option(
        "--cuda-graph",
        is_flag=True,
        help="Checkpoints, code: replay a CUDA graph of the last size.",
    ),
)
_NAMES = [field.name for field in fields(RunOptions) if field.name != "harness"]


budgets_option = click.option(
    "--max-flops",
    multiple=True,
    metavar="PERCENT",
    help="cdnsr and elastic networks: a budget, such as 70% of the plain network on the whole "
    "image; repeatable, for a row each.  [default: as trained]",
)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `RunOptions`, and pass them to the command as `run`."""

    @functools.wraps(command)
    def with_run(*args: Any, **kwargs: Any) -> None:
        run = RunOptions(**{name: kwargs.pop(name) for name in _NAMES})
        command(*args, run=run, **kwargs)

    wrapped: Callable[..., None] = with_run
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
