"""Resident memory: available, needed by a tile, and the peak of a run. Known on Linux only."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional

from sr_deploy.core.cache import read_cached, write_cached
from sr_deploy.core.device import track_peak_memory
from sr_deploy.core.errors import InputError
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW

_UNITS = {  # fmt: skip
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
MARGIN = 1.3
"""The factor on the probes' result. Tiles of 200x200 to 800x800 after the probes took 0.5 to 1.14
times the predicted memory, in ONNX Runtime and in torch. It is less for small tiles, which fit into
the memory that the probes leave, and above 1 for SRN only."""
PROBE_PX = 64
_KEPT = "memory"
"""The folder of the cache."""
_STATUS = Path("/proc/self/status")
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # (limit, use) of a container: version 2, version 1
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


@dataclass(frozen=True)
class MemorySharing:
    """What shares the bounds on memory with an image that is upscaled."""

    queued_results: int = 0
    """The images and results that the caller may hold meanwhile (see `Upscaler.must_run_alone`)."""
    reserved_results: int = 0
    """Memory that the caller needs in any case, in results (a video encoder's)."""
    processes: int = 1
    """Those that share the machine's memory,"""
    on_same_gpu: int = 1
    """and those of them that share the GPU's."""


@dataclass(frozen=True)
class MemoryNeed:
    """The memory of a session's run, per LR pixel fed, with the input and output arrays."""

    bytes_per_px: float

    def of(self, px: int) -> int:
        """Return the bytes that a run on `px` LR pixels may take, with the margin."""
        return int(self.bytes_per_px * px * MARGIN)

    def px_within(self, budget: int) -> int:
        """Return the number of LR pixels that may be fed at once within `budget` bytes."""
        return max(int(budget / (self.bytes_per_px * MARGIN)), 0)


def parse_bytes(text: str) -> int:
    """Parse `2GiB`, `512MiB` or `1.5GB`. Raises InputError on anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([a-z]*)", text.strip().lower())
    if match is None or match.group(2) not in _UNITS or not float(match.group(1)):
        raise InputError(f"'{text}' is not an amount of memory; expected for example 2GiB or 512MB")
    return int(float(match.group(1)) * _UNITS[match.group(2)])


def bytes_text(n: float) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


def available_bytes() -> Optional[int]:
    """Return the memory available on the machine or in its container. None if unknown."""
    available = [n for n in [_proc_bytes(_MEMINFO, "MemAvailable:")] if n is not None]
    for limit, use in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            available.append(max(int(limit.read_text()) - int(use.read_text()), 0))
    return min(available) if available else None


def resident_bytes() -> Optional[int]:
    """Return the resident memory of this process. None if unknown."""
    return _proc_bytes(_STATUS, "VmRSS:")


def peak_bytes() -> Optional[int]:
    """Return the peak memory of this process since its start or the last probe. None if unknown."""
    return _proc_bytes(_STATUS, "VmHWM:")


def kept_need(key: str) -> Optional[MemoryNeed]:
    """Return the need that was measured before, by the key of a network, its library and device."""
    kept = (read_cached(_KEPT, key) or {}).get("bytes_per_px")
    return MemoryNeed(float(kept)) if isinstance(kept, (int, float)) and kept > 0 else None


def keep_need(key: str, need: MemoryNeed) -> None:
    """Keep a measured need in the user's cache, so that it is measured once."""
    write_cached(_KEPT, key, {"bytes_per_px": need.bytes_per_px})


def measure_need(session: Session, run: Callable[[HW], object]) -> Optional[MemoryNeed]:
    """Measure the memory of `run((h, w))` on one or two small sizes. None if it is unknown.

    The second size runs in the memory that the first has left, as tiles do, so the rise of both
    counts.
    """
    sides = (PROBE_PX, 2 * PROBE_PX)
    sizes = list(dict.fromkeys(session.nearest_hw((side, side)) for side in sides))
    rises: List[Optional[float]] = []
    with track_peak_memory(rises):
        for hw in sizes:
            run(hw)
            run(hw)  # the second run of a size may take more than the first
    if rises[0] is None:
        return None
    h, w = sizes[-1]
    return MemoryNeed(max(rises[0], 1) * 2**20 / (h * w))


def _proc_bytes(path: Path, key: str) -> Optional[int]:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return None
