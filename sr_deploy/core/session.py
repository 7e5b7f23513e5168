"""`Session`, a network ready to run, and `Backend`, which builds engines and opens sessions."""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Tuple, TypeVar, Union

import numpy as np

from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    CannotRunHereError,
    InputError,
    MissingPackageError,
)
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.spec import check_min_hw

if TYPE_CHECKING:
    from sr_deploy.core.manifest import Manifest
    from sr_deploy.core.parts import AdaptivePlan, OpenParts, PartReceipt, PlanEngine, PlanPart
    from sr_deploy.core.target import TargetProfile


N = TypeVar("N", int, float)


@dataclass(frozen=True)
class BackendInfo:
    """The library that runs the parts of a network."""

    backend: str
    """Its name in the registry of backends, or torch."""
    version: str
    threads: Optional[int]
    """CPU threads."""
    device: Any = None
    """The runtime's object for the device, with its `name`, `place`, `why_cpu` and `settings`."""
    settings: Tuple[str, ...] = ()
    """How the parts are driven, beside the settings of the device."""
    precision: str = "fp32"
    """The lowest that a part computes in, as far as is known."""
    arrays: Any = None
    """Where what the parts take and give lives: `runtime.adaptive.tiles.HostArrays`, or arrays on a
    device; None: on the host."""
    workers: int = 1
    """The threads that may call the plan's `concurrent` parts at once."""


@dataclass(frozen=True)
class TimedOutput:
    """An output and its time."""

    y: np.ndarray
    ms: float
    copies_ms: Optional[float] = None
    """Copies between host and device, not part of `ms`; None without a device."""
    timer: str = "wall clock"


@dataclass(frozen=True)
class ExecutedWork:
    """The work of an adaptive network since `Session.reset_work`."""

    macs: int = 0
    """Multiply-accumulates executed, including those for decisions and overlaps."""
    plain_macs: float = 0
    """Multiply-accumulates of the plain network, which computes everything, on the whole images:
    no patches, no tiles, every pixel once."""
    ms: Dict[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    pixels: Dict[str, int] = field(default_factory=dict)
    """LR pixels by class or depth; pixels in overlaps count more than once."""

    @property
    def share(self) -> float:
        """Executed work relative to the plain network on whole images; 1 if nothing ran.

        It is above 1 where overlaps and decisions cost more than the network saves.
        """
        return self.macs / self.plain_macs if self.plain_macs else 1.0

    def __add__(self, other: ExecutedWork) -> ExecutedWork:
        return ExecutedWork(
            self.macs + other.macs,
            self.plain_macs + other.plain_macs,
            _sum_by_key(self.ms, other.ms),
            _sum_by_key(self.pixels, other.pixels),
        )

    def __str__(self) -> str:
        total = sum(self.pixels.values()) or 1
        ways = ", ".join(f"{key} {px / total:.0%}" for key, px in self.pixels.items())
        stages = ", ".join(f"{key} {ms:.0f}" for key, ms in self.ms.items())
        of_plain = f"{self.share:.1%} of the plain network's multiply-accumulates"
        return f"{of_plain} ({ways}; ms: {stages})"


@dataclass(frozen=True)
class PeakMemory:
    """The peak memory of a device since `Session.reset_peak_memory`."""

    mib: float
    definition: str
    """How it was counted, as rows record it."""
    in_use_mib: Optional[float] = None
    """The driver's count of the memory in use now, by all processes."""
    free_mib: Optional[float] = None
    """What the driver and the library's own cache have free now."""


@dataclass(frozen=True)
class SizeContract:
    """The LR sizes (h, w) that a network takes; fields as in `Session`."""

    min_hw: Tuple[int, ...] = (1, 1)
    max_hw: Optional[Tuple[int, ...]] = None
    halo_px: Optional[int] = None
    align_px: int = 1
    multiple: int = 1
    """The network takes multiples of this; sessions mirror other sizes up to the next multiple."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build beyond its target.

    >>> options = sr_deploy.BuildOptions(dla=0)  # for `engine_from_onnx(..., options=options)`
    """

    compute_capabilities: Tuple[int, ...] = ()
    """SM versions (75 for 7.5), for builders that build for several; empty: the target's own."""
    dla: Optional[int] = None
    """The DLA core to run on, with fallback to the GPU; None: the GPU only."""
    fallback: str = ""
    """Nodes that an FP16 engine computes in FP32 besides those of the graph's manifest:
    `head-tail` or `NODE,NODE`."""
    fp32_layers: Tuple[str, ...] = ()
    """The nodes that `fallback` selects in one graph, and the `fp32_nodes` of its manifest; set by
    the build."""
    fp16_layers: Tuple[str, ...] = ()
    """The convolutions that an INT8 engine for a DLA computes in FP16; set by the build."""
    no_cublas_cudnn: bool = False
    """Build without kernels of cuBLAS and cuDNN, for machines that lack these libraries."""
    layout: str = ""
    """Memory layout of the feature maps, one of `Backend.layouts`; empty: the backend's default."""
    timing_cache: Optional[Path] = None
    """Folder of the timing caches; set by the build."""


class Session(abc.ABC):
    """A network ready to run. Checks the input; backends implement `_run`.

    A context manager: `with open_session("asrn_x4") as session: ...` closes it at the end.
    """

    name: str = ""
    """MODEL.VARIANT, set by the opener."""
    backend: str
    """Name in the registry of backends, or torch."""
    backend_version: str
    device: str = ""
    """Name of the GPU; empty: the CPU."""
    place: str = "cpu"
    """The device as `RunOptions` names it: `cpu`, `cuda:0`."""
    takes_tensors: bool = False
    """Whether `run_tensor` can be used: a GPU, and a torch that can use it."""
    why_cpu: str = ""
    """Why a machine with a GPU runs it on the CPU although no device was requested."""
    threads: Optional[int] = None
    """CPU threads, on the CPU."""
    precision: str
    """Precision of the computation: fp32, fp16, bf16, int8, fp8, or mixed with its parts."""
    psnr_db_vs_fp32: Optional[float] = None
    """PSNR of its output against FP32 in dB, as its manifest has it; None: it has none."""
    settings: str = ""
    """How the device is driven: CUDA graph, waiting, copies. Compare times of equal settings."""
    scale: int
    min_hw: Tuple[int, ...] = (1, 1)
    max_hw: Optional[Tuple[int, ...]] = None
    """None: no limit. Equal to min_hw: the only size."""
    halo_px: Optional[int] = None
    """Distance from the edge of a tile, in LR pixels, from which outputs equal those of the whole
    image; None: unknown, or the network depends on the whole image."""
    align_px: int = 1
    """`halo_px` holds for tiles that start and end on multiples of this, or at the image border."""
    multiple: int = 1
    """The network takes multiples of this; other sizes are mirrored up to the next one, and the
    output is cropped."""
    _closed = False

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        facts = (self.name, self.backend, self.precision, f"x{self.scale}", self.device)
        return f"<{type(self).__name__} {' '.join(filter(None, facts))}>"

    def close(self) -> None:
        """Release the memory of the backend. A closed session cannot run."""
        if not self._closed:
            self._closed = True
            self._release()

    def _release(self) -> None:  # noqa: B027 - optional
        """Release what the backend holds; called once."""

    def run_tensor(self, x: Any) -> Any:
        """Run on a torch tensor that is on the session's GPU, without waiting for it.

        x: (1, 3, H, W) float32, 0..1, ready on torch's current stream. Returns a (1, 3, scale*H,
        scale*W) float32 tensor on the GPU, valid until the next run. Raises DeviceMemoryError.
        """
        raise NotImplementedError

    def reset_peak_memory(self) -> None:  # noqa: B027 - optional
        """Start to record the device's peak memory anew."""

    def peak_memory(self) -> Optional[PeakMemory]:
        """Return the device's peak memory; None on the CPU, or where it is unknown."""
        return None

    def reset_work(  # noqa: B027 - optional
        self, *, own: float = 1.0, budget: bool = True, fed_px: Optional[int] = None
    ) -> None:
        """Start counting executed work anew, for an image or a set. For adaptive networks.

        own: the pixels of the image per pixel that will be fed, below 1 where tiles overlap.
        budget: whether a budget applies; probes of small sizes have none. fed_px: the LR pixels of
        all runs that share an image's budget of time; None: each run has all of it.
        """

    def take_fixed_memory(self) -> None:  # noqa: B027 - optional
        """Run what takes memory that does not grow with the image, before needs are measured."""

    def run_all_paths(self, hw: Tuple[int, int]) -> None:  # noqa: B027 - optional
        """Run all that an image of (h, w) LR pixels may need, so that its memory is taken."""

    def executed_work(self) -> Optional[ExecutedWork]:
        """Return the work since `reset_work`; None for networks that are not adaptive."""
        return None

    @property
    def where(self) -> str:
        """The backend, and the GPU where it runs on one."""
        return f"{self.backend}, {self.device}" if self.device else self.backend

    @property
    def fixed_hw(self) -> Optional[Tuple[int, int]]:
        """The only LR size (h, w); None if it takes several."""
        if self.max_hw is not None and tuple(self.max_hw) == tuple(self.min_hw):
            return self.max_hw[0], self.max_hw[1]
        return None

    @property
    def fixed_sides(self) -> Tuple[Optional[int], Optional[int]]:
        """The only LR height and the only LR width, each None if it takes several."""
        most = self.max_hw or (None, None)
        h, w = (n if n == self.min_hw[axis] else None for axis, n in enumerate(most))
        return h, w

    def nearest_hw(self, hw: Sequence[int]) -> Tuple[int, int]:
        """Return (h, w), each clipped to the sizes that the session takes."""
        limit = self.max_hw or (hw[0], hw[1])
        h, w = (max(min(n, limit[i]), self.min_hw[i]) for i, n in enumerate(hw))
        return h, w

    def run(self, x_nchw: np.ndarray) -> np.ndarray:
        """Upscale (1, 3, H, W) float32, 0..1, RGB to (1, 3, scale*H, scale*W) float32, not clipped.

        Raises InputError for another shape or type, or a size that the session does not take, and
        ArtifactError for an output of another size.
        """
        return self.run_timed(x_nchw).y

    def run_timed(self, x_nchw: np.ndarray) -> TimedOutput:
        """Run and time it: by the wall clock, or by the device with its copies apart."""
        if self._closed:
            raise InputError("this session is closed", hint="open it again")
        if x_nchw.ndim != 4 or x_nchw.shape[:2] != (1, 3) or x_nchw.dtype != np.float32:
            raise InputError(
                f"expected a (1, 3, H, W) float32 array, got {x_nchw.shape} {x_nchw.dtype}"
            )
        self.check_hw(x_nchw.shape[2:])
        x = self._mirrored_up(x_nchw)
        output = self._run_timed(x)
        expected = (1, 3, self.scale * x.shape[2], self.scale * x.shape[3])
        if output.y.shape != expected:
            raise ArtifactError(
                f"the network returned {output.y.shape} for an input of {x.shape}, "
                f"expected {expected}"
            )
        h, w = (self.scale * n for n in x_nchw.shape[2:])
        return output if x is x_nchw else replace(output, y=output.y[:, :, :h, :w])

    def _mirrored_up(self, x_nchw: np.ndarray) -> np.ndarray:
        """Return the input, mirrored below and to the right up to the network's multiple."""
        below, right = (
            -n % self.multiple if fixed is None else 0
            for n, fixed in zip(x_nchw.shape[2:], self.fixed_sides)
        )
        if not below and not right:
            return x_nchw
        return np.pad(x_nchw, ((0, 0), (0, 0), (0, below), (0, right)), mode="symmetric")

    def _run_timed(self, x_nchw: np.ndarray) -> TimedOutput:
        start = time.perf_counter()
        y = self._run(x_nchw)
        return TimedOutput(y, (time.perf_counter() - start) * 1000)

    def check_hw(self, hw: Sequence[int]) -> None:
        """Raise InputError unless the session takes an LR input of (h, w)."""
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
    """Builds and opens the artifacts of one runtime. Each is a module of `sr_deploy/runtime/`."""

    name: str
    layouts: Tuple[str, ...] = ()
    """Memory layouts besides the default, tried by `build-engine --autotune`."""
    package: str
    """The key in `versions` of the library whose version a target profile names."""
    title: str
    """The library's name in texts."""

    def why_unavailable(self, target: TargetProfile) -> str:
        """Return why this machine cannot build for `target`; empty if it can."""
        try:
            version = self.versions()[self.package]
        except MissingPackageError as e:
            return "; ".join(filter(None, (e.message, self.remedy(e))))
        if not target.supports_version(version):
            return (
                f"{self.package} {version} is installed; "
                f"the profile expects {target.runtime_versions}"
            )
        return ""

    def remedy(self, missing: MissingPackageError) -> str:
        """Return what to do about the missing library; empty if that depends on the target."""
        return missing.hint

    def why_no_device(self, target: TargetProfile, index: int = 0) -> str:
        """Return why device number `index` cannot run engines of `target`; empty if it may."""
        return ""

    def why_no_precision(self, precision: str) -> str:
        """Return why this machine cannot compute in a precision; empty if it may."""
        return ""

    def refuse_other_versions(self, artifact: Path, made: Union[Manifest, PlanEngine]) -> None:
        """Raise CannotRunHereError unless an engine was built by the `versions` that are here."""
        here = self.versions()
        built = {key: made.versions.get(key, "unknown") for key in here}
        if built != here:
            raise CannotRunHereError(
                f"{artifact} was built by {self._versions_text(built)}; "
                f"this machine has {self._versions_text(here)}",
                hint="build it again here: "
                f"srdeploy build-engine GRAPH.onnx --target {made.target} -o DIR",
            )

    def _versions_text(self, versions: Mapping[str, str]) -> str:
        """Return `OpenVINO 2026.4.1 for CPUs with avx2 fma`."""
        text = f"{self.title} {versions[self.package]}"
        if "cpu_features" in versions:
            text += f" for CPUs with {versions['cpu_features']}"
        return f"{text} for {versions['gpu']}" if "gpu" in versions else text

    @abc.abstractmethod
    def versions(self) -> Dict[str, str]:
        """Return the versions that an engine built here depends on. Raises MissingPackageError."""

    @abc.abstractmethod
    def build(
        self,
        onnx: Path,
        graph: Manifest,
        target: TargetProfile,
        temporary: Path,
        options: BuildOptions,
    ) -> Manifest:
        """Build into `temporary`; return the manifest without SHA-256. Raises BuildError."""

    @abc.abstractmethod
    def open(self, artifact: Path, manifest: Manifest, run: RunOptions = DEFAULT_RUN) -> Session:
        """Open a verified artifact. Raises CannotRunHereError if this machine cannot run it."""

    def build_part(
        self,
        onnx: Path,
        part: PlanPart,
        target: TargetProfile,
        precision: str,
        temporary: Path,
        options: BuildOptions,
    ) -> PartReceipt:
        """Build the graph of one part of an adaptive network into `temporary`.

        part: its tensors; the engine takes all sizes in `part.sizes`. precision: what is asked of
        it. Raises BuildError.
        """
        raise BuildError(f"{self.title} builds no engines of adaptive networks")

    def open_parts(self, path: Path, plan: AdaptivePlan, run: RunOptions) -> OpenParts:
        """Open the graphs or engines of the verified plan at `path`.

        Raises CannotRunHereError if this machine cannot run them, ArtifactError for a part that is
        not what the plan says.
        """
        raise CannotRunHereError(
            f"{self.title} runs no adaptive networks",
            hint="omit --runtime, or give a plan of another target",
        )


def _hw(hw: Sequence[int]) -> str:
    return f"{hw[0]}x{hw[1]}"


def _sum_by_key(a: Mapping[str, N], b: Mapping[str, N]) -> Dict[str, N]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in {**a, **b}}
