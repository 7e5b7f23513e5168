"""What to deploy, and the limits that choose among a model's variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.core.sizes import HW, parse_hw, parse_sizes
from sr_deploy.core.target import TargetProfile, load_target
from sr_deploy.results.selection import Limits


@dataclass(frozen=True)
class DeployOptions:
    """Options of a deployment. Raises InputError or TargetError for values that cannot be used.

    >>> options = sr_deploy.DeployOptions("xavier", fps=30)
    >>> round(options.time_limit_ms, 2)
    33.33
    """

    target: str
    """The name or the file of a target profile."""
    fps: Optional[float] = None
    """Frames per second that the chosen variant holds, in place of `max_ms`."""
    max_ms: Optional[float] = None
    """Most milliseconds of a frame, copies included."""
    min_psnr: Optional[float] = None
    """Least PSNR in dB on the images. As the only limit it chooses the fastest variant."""
    precision: str = ""
    """Precisions of the engines, such as `fp32,int8`: each variant is built in each, and the choice
    is among all. Empty: the target's own."""
    calibrate: str = ""
    """Folder of HR images that INT8 graphs are calibrated with; empty for a model that was trained
    for INT8."""
    size: Optional[str] = None
    """LR size HxW of a frame: engines are timed at it, and built for it where the target's own
    sizes do not hold it; None: the target's own."""
    data: str = ""
    """Folder of HR images for the PSNR; empty: scikit-image's photographs."""
    on: str = ""
    """`ssh://USER@HOST`: build and time the engines on this board."""

    def __post_init__(self) -> None:
        load_target(self.target)
        if self.fps is not None and self.max_ms is not None:
            raise InputError("--fps and --max-ms are the same limit", hint="give one of them")
        if self.fps is not None and not 0 < self.fps < 1e6:
            raise InputError(f"--fps {self.fps:g}: expected a number above 0")
        precisions = self.precisions
        if self.calibrate and "int8" not in precisions:
            raise InputError(
                "--calibrate is for INT8 graphs, and int8 is no precision of this deployment",
                hint="add it to --precision, or omit --calibrate",
            )
        if self.size is not None:
            parse_hw(self.size)
        _ = self.limits

    @property
    def profile(self) -> TargetProfile:
        return load_target(self.target)

    @property
    def precisions(self) -> Tuple[str, ...]:
        """The precisions, each once. Raises TargetError for one that the target does not build."""
        names: List[Optional[str]] = [*self.precision.split(",")] if self.precision else [None]
        return tuple(dict.fromkeys(self.profile.check_precision(name) for name in names))

    @property
    def time_limit_ms(self) -> Optional[float]:
        """The most milliseconds of a frame, from either option."""
        return self.max_ms if self.fps is None else 1000 / self.fps

    @property
    def limits(self) -> Optional[Limits]:
        """The limits to choose by; None without any."""
        if self.time_limit_ms is None and self.min_psnr is None:
            return None
        return Limits(max_ms=self.time_limit_ms, min_psnr_db=self.min_psnr)

    @property
    def limits_text(self) -> str:
        """The limits as on the command line; empty without any."""
        given = {"--fps": self.fps, "--max-ms": self.max_ms, "--min-psnr": self.min_psnr}
        return " ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)

    @property
    def graph_sizes(self) -> str:
        """The LR sizes to export; empty: those that the target and the source have."""
        if self.size is None:
            return self.profile.shapes[0] if len(self.profile.shapes) > 1 else ""
        for text in self.profile.shapes:
            own, hw = parse_sizes(text), parse_hw(self.size)
            if own.dynamic and _holds(own.min, hw) and _holds(hw, own.max):
                return ""
        return self.size


def _holds(low: HW, high: HW) -> bool:
    return low[0] <= high[0] and low[1] <= high[1]
