"""What every way of running a network looks like from outside: `Session`, and `Backend`, which makes sessions."""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Optional, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.core.spec import check_min_hw

if TYPE_CHECKING:
    from sr_deploy.core.manifest import Manifest
    from sr_deploy.core.target import TargetProfile


@dataclass(frozen=True)
class BackendInfo:
    """The library that runs a network on the CPU."""

    backend: str
    """Its name in the registry of backends, or torch."""
    version: str
    threads: int


@dataclass(frozen=True)
class TimedOutput:
    """An output with what it took."""

    y: np.ndarray
    ms: float
    copies_ms: Optional[float] = None
    """Between host and device, apart from `ms`; None where there are none."""
    timer: str = "wall clock"


@dataclass(frozen=True)
class ExecutedWork:
    """What a network that decides how much it computes did since `Session.reset_work`."""

    macs: int = 0
    """Multiply-accumulates executed, those of deciding and of overlaps included."""
    largest_macs: int = 0
    """Of the largest network in the same way of cutting."""
    ms: Dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    pixels: Dict[str, int] = field(default_factory=dict)
    """LR pixels, in overlaps more than once, that went each way: by class, or by depth."""

    @property
    def share(self) -> float:
        """The part executed of what the largest network takes; 1 of nothing."""
        return self.macs / self.largest_macs if self.largest_macs else 1.0

    def __add__(self, other: ExecutedWork) -> ExecutedWork:
        return ExecutedWork(
            self.macs + other.macs,
            self.largest_macs + other.largest_macs,
            {key: self.ms.get(key, 0) + other.ms.get(key, 0) for key in {**self.ms, **other.ms}},
            {
                key: self.pixels.get(key, 0) + other.pixels.get(key, 0)
                for key in {**self.pixels, **other.pixels}
            },
        )

    def __str__(self) -> str:
        total = sum(self.pixels.values()) or 1
        ways = ", ".join(f"{key} {px / total:.0%}" for key, px in self.pixels.items())
        stages = ", ".join(f"{key} {ms:.0f}" for key, ms in self.ms.items())
        return f"{self.share:.1%} of the largest's multiply-accumulates ({ways}; ms: {stages})"


@dataclass(frozen=True)
class SizeContract:
    """The LR sizes (h, w) that a network takes. See the fields of the same names in `Session`."""

    min_hw: Tuple[int, ...] = (1, 1)
    max_hw: Optional[Tuple[int, ...]] = None
    halo_px: Optional[int] = None
    align_px: int = 1
    multiple: int = 1
    """Height and width of the network's own input are multiples of this; sessions pad other sizes by mirroring."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build beyond its target."""

    compute_capabilities: Tuple[int, ...] = ()
    """SM versions (75 for 7.5), for builders that build for several; empty: the target's own."""
    dla: Optional[int] = None
    """The DLA core to run on, with fallback to the GPU; None: the GPU only."""
    fallback: str = ""
    """Nodes that an FP16 engine computes in FP32: `head-tail` or `NODE,NODE`."""
    fp32_layers: Tuple[str, ...] = ()
    """The node names that `fallback` selects in one graph; set by the build."""
    layout: str = ""
    """Memory layout of the feature maps, one of `Backend.layouts`; empty: the backend's default."""
    timing_cache: Optional[Path] = None
    """Folder of the timing caches; set by the build."""


class Session(abc.ABC):
    """A network ready to run. The checks of its input live here once; a backend implements `_run`.

    A context manager: `with open_session("asrn_x4") as session:` closes it in the end.
    """

    name: str = ""
    """The model with its variant, as the opener names it."""
    backend: str
    """The registry name of its backend: torch, onnxruntime, tensorrt-rtx."""
    backend_version: str
    device: str = ""
    """The GPU it runs on; empty: the CPU."""
    threads: Optional[int] = None
    """CPU threads it computes with, where it runs on the CPU."""
    precision: str
    """What it computes in."""
    settings: str = ""
    """How it drives its device: CUDA graph, waiting, copies. Two versions of a library compare only by the same ones."""
    scale: int
    min_hw: Tuple[int, ...] = (1, 1)
    max_hw: Optional[Tuple[int, ...]] = None
    """None: no limit. Equal to min_hw: the one size it takes."""
    halo_px: Optional[int] = None
    """How far from an edge of a tile, in LR pixels, its outputs are those of the whole image; None: unknown, or nowhere."""
    align_px: int = 1
    """That holds for tiles that start and end on multiples of this, or at the image's border."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        facts = (self.name, self.backend, self.precision, f"x{self.scale}", self.device)
        return f"<{type(self).__name__} {' '.join(filter(None, facts))}>"

    def close(self) -> None:  # noqa: B027 - most hold memory only
        """Release what the backend holds. A closed session cannot run; closing it again does nothing."""

    def reset_work(self) -> None:  # noqa: B027 - most have nothing to do
        """Say that what is run from here on is one image's, or one set's: a network that decides what it computes counts anew."""

    def run_all_paths(self, hw: Tuple[int, int]) -> None:  # noqa: B027 - most compute the same for every image
        """Compute all that any image of (h, w) LR pixels may ask for, so that the memory for it is taken."""

    def executed_work(self) -> Optional[ExecutedWork]:
        """Return what was executed since `reset_work`; None for a network that always computes all."""
        return None

    @property
    def fixed_hw(self) -> Optional[Tuple[int, int]]:
        """The one LR size (h, w) it takes, None when it takes others too."""
        if self.max_hw is not None and tuple(self.max_hw) == tuple(self.min_hw):
            return self.max_hw[0], self.max_hw[1]
        return None

    @property
    def fixed_sides(self) -> Tuple[Optional[int], Optional[int]]:
        """The LR height and width that it takes only, each None if it takes others too."""
        most = self.max_hw or (None, None)
        h, w = (n if n == self.min_hw[axis] else None for axis, n in enumerate(most))
        return h, w

    def nearest_hw(self, hw: Sequence[int]) -> Tuple[int, int]:
        """Return (h, w), each brought into what the session takes."""
        limit = self.max_hw or (hw[0], hw[1])
        h, w = (max(min(n, limit[i]), self.min_hw[i]) for i, n in enumerate(hw))
        return h, w

    def run(self, x_nchw: np.ndarray) -> np.ndarray:
        """Upscale (1, 3, H, W) float32, 0..1, RGB to (1, 3, scale*H, scale*W) float32, not clipped.

        Raises InputError when shape or type differ, or the size is outside what the session takes.
        """
        return self.run_timed(x_nchw).y

    def run_timed(self, x_nchw: np.ndarray) -> TimedOutput:
        """Do what `run` does, and tell what it took: the wall clock's time, or a device's own with its copies apart."""
        if x_nchw.ndim != 4 or x_nchw.shape[:2] != (1, 3) or x_nchw.dtype != np.float32:
            raise InputError(
                f"expected a (1, 3, H, W) float32 array, got {x_nchw.shape} {x_nchw.dtype}"
            )
        self.check_hw(x_nchw.shape[2:])
        done = self._run_timed(x_nchw)
        expected = (1, 3, self.scale * x_nchw.shape[2], self.scale * x_nchw.shape[3])
        if done.y.shape != expected:
            raise InputError(
                f"the network returned {done.y.shape} for an input of {x_nchw.shape}, expected {expected}"
            )
        return done

    def _run_timed(self, x_nchw: np.ndarray) -> TimedOutput:
        start = time.perf_counter()
        y = self._run(x_nchw)
        return TimedOutput(y, (time.perf_counter() - start) * 1000)

    def check_hw(self, hw: Sequence[int]) -> None:
        """Raise InputError when the session does not take an LR input of (h, w)."""
        if self.fixed_hw is not None and tuple(hw) != self.fixed_hw:
            raise InputError(
                f"this graph takes {_hw(self.fixed_hw)} only, not {_hw(hw)}",
                hint="export it for that size",
            )
        for side, n, fixed in zip(("height", "width"), hw, self.fixed_sides):
            if fixed is not None and n != fixed:
                raise InputError(
                    f"this graph takes a {side} of {fixed} only, not {n}",
                    hint="export it for that size",
                )
        check_min_hw(hw, self.min_hw, what="this network")
        if self.max_hw is not None and (hw[0] > self.max_hw[0] or hw[1] > self.max_hw[1]):
            raise InputError(
                f"this graph takes at most {_hw(self.max_hw)}, not {_hw(hw)}",
                hint="export it for larger sizes",
            )

    @abc.abstractmethod
    def _run(self, x_nchw: np.ndarray) -> np.ndarray:
        """Run on a checked input."""


class Backend(abc.ABC):
    """Build and open artifacts of one runtime. One module of `sr_deploy/runtime/` each."""

    name: str
    layouts: Tuple[str, ...] = ()
    """Layouts to choose from beside its own, tried by `build-engine --autotune`."""
    package: str
    """The key among `versions` of the library whose version a profile names."""

    def why_unavailable(self, target: TargetProfile) -> str:
        """Say what is missing to build for `target` on this machine; empty when nothing is."""
        try:
            version = self.versions()[self.package]
        except MissingPackageError as e:
            return f"{e.message}; {e.hint}"
        if not target.supports_version(version):
            return f"{self.package} {version} is installed, and the profile is for {target.runtime_versions}"
        return ""

    def why_no_device(self, target: TargetProfile) -> str:
        """Say why this machine's devices cannot run engines of `target`; empty when they can, or nothing is known of them."""
        return ""

    @abc.abstractmethod
    def versions(self) -> Dict[str, str]:
        """Return the versions of what an engine built here depends on. Raises MissingPackageError."""

    @abc.abstractmethod
    def build(
        self,
        onnx: Path,
        graph: Manifest,
        target: TargetProfile,
        temporary: Path,
        options: BuildOptions,
    ) -> Manifest:
        """Build an engine of the graph into `temporary` and return its manifest (without SHA-256). Raises BuildError."""

    @abc.abstractmethod
    def open(self, artifact: Path, manifest: Manifest) -> Session:
        """Open an engine whose manifest was verified. Raises CannotRunHereError when this machine cannot run it."""


def _hw(hw: Sequence[int]) -> str:
    return f"{hw[0]}x{hw[1]}"
