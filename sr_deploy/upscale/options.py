"""The options of an upscaling run, checked when they are created."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, FrozenSet, Optional, Sequence

from sr_deploy.core.errors import InputError
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.shipped import DEFAULT_MODELS
from sr_deploy.fast.opener import describe_one
from sr_deploy.fast.plans import describe_adaptive
from sr_deploy.runtime.opener import NetworkDescription, check_run_options
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions
from sr_deploy.upscale.folder import ResultOptions
from sr_deploy.upscale.memory import MemorySharing
from sr_deploy.upscale.output_size import NETWORK_SIZE, OutputSize
from sr_deploy.upscale.upscaler import Upscaler


@dataclass(frozen=True)
class UpscaleOptions:
    """The network to upscale with, and how. Raises InputError on contradictions."""

    model: Optional[str] = None  # None: a shipped one (see `with_model`)
    variant: Optional[str] = None  # None: the largest
    adaptive: Optional[str] = None  # cdnsr, elastic or adadsr
    max_flops: Optional[str] = None  # of cdnsr and elastic; None: as trained
    max_ms: Optional[float] = None  # of cdnsr and elastic, each picture or frame; None: no bound
    depth: Optional[float] = None  # of adadsr, in blocks; None: half of all
    decisions: Optional[Path] = None  # the PNG file for an adaptive network's decisions
    tile: Optional[int] = None  # the largest LR side fed; None: as memory allows
    max_memory: Optional[int] = None  # bytes, of all workers, and of each GPU; None: see `Upscaler`
    format: Optional[str] = None  # suffix of pictures' results; None: see `inputs`
    workers: int = 1
    size: OutputSize = NETWORK_SIZE  # of the results
    compare: bool = False  # write a page beside each picture's result that shows both
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
                "--governor chooses the variant, but --variants is given too", hint="remove one"
            )
        if self.adaptive is None:
            given = (self.max_flops, self.max_ms, self.depth, self.decisions)
            if any(value is not None for value in given):
                raise InputError(
                    "--max-flops, --max-ms, --depth and --decisions need an adaptive network",
                    hint="give --adaptive too",
                )
        elif self.variant is not None or self.governor:
            raise InputError(
                "--adaptive chooses a branch for each part of an image, "
                "but --variants or --governor is given too",
                hint="remove them",
            )
        if self.decisions is not None and self.decisions.suffix.lower() != ".png":
            raise InputError(f"--decisions {self.decisions}: expected a .png file")

    @property
    def result(self) -> ResultOptions:
        return ResultOptions(self.size, self.compare, self.force)

    def with_model(self, factor: Optional[float]) -> UpscaleOptions:
        """Return the options with a model: if none is given, the shipped default.

        factor: by which the sides are to become larger; the model's scale is the next one. None: 4.
        """
        if self.model is not None or self.adaptive is not None:
            return self
        scales = sorted(DEFAULT_MODELS)
        wanted = 4.0 if factor is None else factor
        scale = next((s for s in scales if s >= wanted - 1e-6), scales[-1])
        return replace(self, model=DEFAULT_MODELS[scale])

    def check_inputs(self, kinds: Sequence[str], *, named: bool) -> None:
        """Raise InputError on options that do not apply to the inputs.

        kinds: of each input, `picture` for a single one, `pictures` for several in a job, `video`.
        named: whether the output is the name of a single file.
        """
        if "video" not in kinds:
            if self.crf is not None or self.codec != "libx264" or self.drop:
                raise InputError("--codec, --crf and --drop are for videos", hint="remove them")
            if self.governor:
                raise InputError("--governor and --fps are for videos", hint="remove them")
        if self.governor and set(kinds) != {"video"}:
            raise InputError(
                "--governor and --fps are for videos, but there are pictures too",
                hint="give the videos alone",
            )
        if "pictures" not in kinds and self.workers != 1:
            raise InputError(
                "--workers is for several pictures, such as those of a folder", hint="remove it"
            )
        if named and self.format is not None:
            raise InputError(
                "--format is given, and the name after -o has an ending too", hint="remove one"
            )
        if set(kinds) == {"video"} and (self.format is not None or self.compare):
            raise InputError("--format and --compare are for pictures", hint="remove them")
        if list(kinds) != ["picture"] and self.decisions is not None:
            raise InputError("--decisions is for a single picture", hint="give one, or remove it")

    def network(self, log: Callable[[str], None] = lambda line: None) -> NetworkDescription:
        """Return the description of the network, a model's in its fastest form on this machine.

        log: receives what is made for it. Raises an SrDeployError if there is none."""
        if self.adaptive is not None:
            budget = AdaptiveOptions(self.adaptive, self.max_flops, self.depth, self.max_ms)
            network = describe_adaptive(budget, self.model, self.run, progress=log)
        else:
            network = describe_one(str(self.model), self.variant, self.run, progress=log)
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
