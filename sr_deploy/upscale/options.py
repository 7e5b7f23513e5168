"""The options of an upscaling run, checked when they are created."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, FrozenSet, Optional

from sr_deploy.core.errors import InputError
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.runtime.opener import NetworkDescription, check_run_options, describe_one
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions, describe_adaptive
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.upscaler import Upscaler


@dataclass(frozen=True)
class UpscaleOptions:
    """The network to upscale with, and how. Raises InputError on contradictions."""

    model: Optional[str] = None  # None: the shipped default of `adaptive`
    variant: Optional[str] = None  # None: the largest
    adaptive: Optional[str] = None  # cdnsr, elastic or adadsr
    max_flops: Optional[str] = None  # of cdnsr and elastic; None: as trained
    depth: Optional[float] = None  # of adadsr, in blocks; None: half of all
    decisions: Optional[Path] = None  # the PNG file for an adaptive network's decisions
    tile: Optional[int] = None  # the largest LR side fed; None: as memory allows
    max_memory: Optional[int] = None  # bytes, of all workers, and of each GPU; None: see `Upscaler`
    format: Optional[str] = None  # suffix of a folder's results; None: as the pictures
    workers: int = 1
    force: bool = False  # replace existing files, but for a folder's finished results
    codec: str = "libx264"
    crf: Optional[int] = None  # None: the codec's default
    drop: FrozenSet[int] = frozenset()  # the numbers of a video's streams to leave out
    governor: bool = False  # choose the variant frame by frame, to hold `fps`
    fps: Optional[float] = None
    max_watts: Optional[float] = None
    run: RunOptions = DEFAULT_RUN

    def __post_init__(self) -> None:
        if self.governor != (self.fps is not None) or (
            self.max_watts is not None and not self.governor
        ):
            raise InputError(
                "--governor needs --fps, and both --fps and --max-watts need --governor "
                "(they are for videos)",
                hint="for example --governor --fps 24",
            )
        if self.governor and self.variant is not None:
            raise InputError(
                "--governor chooses the variant, but --variant is given too", hint="remove one"
            )
        if self.adaptive is None:
            if self.max_flops is not None or self.depth is not None or self.decisions is not None:
                raise InputError(
                    "--max-flops, --depth and --decisions need an adaptive network",
                    hint="give --adaptive too",
                )
            if self.model is None:
                raise InputError(
                    "no network given",
                    hint="give one, such as -m asrn_x4, or --adaptive for a shipped default",
                )
        elif self.variant is not None or self.governor:
            raise InputError(
                "--adaptive chooses a branch for each part of an image, "
                "but --variant or --governor is given too",
                hint="remove them",
            )
        if self.decisions is not None and self.decisions.suffix.lower() != ".png":
            raise InputError(f"--decisions {self.decisions}: expected a .png file")

    def check_input(self, kind: str) -> None:
        """Raise InputError on options that do not apply to a `picture`, `folder` or `video`."""
        if kind != "video":
            if self.crf is not None or self.codec != "libx264" or self.drop:
                raise InputError("--codec, --crf and --drop are for videos", hint="remove them")
            if self.governor:
                raise InputError("--governor and --fps are for videos", hint="remove them")
        if kind != "folder" and (self.format is not None or self.workers != 1):
            raise InputError(
                "--format and --workers are for folders",
                hint="the suffix of the name after -o decides the format of a single file",
            )
        if kind != "picture" and self.decisions is not None:
            raise InputError("--decisions is for a single picture", hint="give one, or remove it")

    def network(self) -> NetworkDescription:
        """Return the description of the network. Raises an SrDeployError if there is none."""
        if self.adaptive is not None:
            budget = AdaptiveOptions(self.adaptive, self.max_flops, self.depth)
            network = describe_adaptive(budget, self.model)
        else:
            network = describe_one(str(self.model), self.variant)
        check_run_options([network], self.run)
        return network

    def upscaler(
        self,
        network: NetworkDescription,
        *,
        sharing: MemorySharing = MemorySharing(),  # noqa: B008 - frozen
        log: Callable[[str], None] = lambda line: None,
    ) -> Upscaler:
        """Open a network and return its Upscaler, within the bounds of these options."""
        return Upscaler(
            network.open(self.run),
            tile=self.tile,
            max_memory=self.max_memory,
            identity=network.identity,
            sharing=sharing,
            log=log,
        )


def parse_streams(text: str) -> FrozenSet[int]:
    """Return the numbers in a list such as `2,3`. Raises InputError."""
    numbers = text.split(",")
    if not all(n.isascii() and n.isdecimal() for n in numbers):
        raise InputError(
            f"--drop {text}: expected numbers of streams, such as 2 or 2,3",
            hint="the messages of a run name the streams with their numbers",
        )
    return frozenset(map(int, numbers))
