"""Resident memory: what is there, what a session needs for a tile, and what a run really took. Linux only; elsewhere unknown."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional

from sr_deploy.core.device import track_peak_memory
from sr_deploy.core.errors import InputError
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
MARGIN = 1.3
"""On what the probes say: tiles of 200x200 to 800x800 after them took 0.5 to 1.14 times what they foretold, in ONNX Runtime and
in torch: less where tiles are small, for those lie in what the probes have left; more than 1 for SRN only."""
PROBE_PX = 64
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
class Need:
    """What a session's run takes, by two probes: bytes per LR pixel fed, arrays on both sides included."""

    bytes_per_px: float

    def of(self, px: int) -> int:
        """Return the bytes that feeding `px` LR pixels at once may take, the margin included."""
        return int(self.bytes_per_px * px * MARGIN)

    def px_within(self, budget: int) -> int:
        """Return how many LR pixels may be fed at once within `budget` bytes; 0 where there is no budget."""
        return max(int(budget / (self.bytes_per_px * MARGIN)), 0)


def parse_bytes(text: str) -> int:
    """Read `2GiB`, `512MiB` or `1.5GB`. Raises InputError on anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([a-z]*)", text.strip().lower())
    if match is None or match.group(2) not in _UNITS or not float(match.group(1)):
        raise InputError(
            f"'{text}' is not an amount of memory; expected such as 2GiB, 512MiB or 1.5GB"
        )
    return int(float(match.group(1)) * _UNITS[match.group(2)])


def bytes_text(n: float) -> str:
    return f"{n / 2**30:.2f} GiB" if n >= 2**30 else f"{n / 2**20:.0f} MiB"


def available_bytes() -> Optional[int]:
    """Return the memory that this process may still take: the machine's, or what its container leaves. None where unknown."""
    found = [n * 1024 for n in [_number(_MEMINFO, "MemAvailable:")] if n is not None]
    for limit, use in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max": none
            found.append(max(int(limit.read_text()) - int(use.read_text()), 0))
    return min(found) if found else None


def resident_bytes() -> Optional[int]:
    """Return the process's resident memory, None where unknown."""
    kib = _number(_STATUS, "VmRSS:")
    return None if kib is None else kib * 1024


def peak_bytes() -> Optional[int]:
    """Return the process's largest resident memory since it started, or since the last probe. None where unknown."""
    kib = _number(_STATUS, "VmHWM:")
    return None if kib is None else kib * 1024


def need_of(session: Session, run: Callable[[HW], object]) -> Optional[Need]:
    """Measure what `run((h, w))` takes with a session, by one or two small sizes; None where memory cannot be measured.

    The second size is run in what the first has left, as tiles are: the rise of both counts.
    """
    if session.fixed_hw is not None:
        sizes = [session.fixed_hw]
    else:
        sizes = list(
            dict.fromkeys(session.nearest_hw((side, side)) for side in (PROBE_PX, 2 * PROBE_PX))
        )
    rises: List[Optional[float]] = []
    with track_peak_memory(rises):
        for hw in sizes:
            run(hw)
            run(hw)  # a size that comes back may take more than it did at first
    if rises[0] is None:
        return None
    h, w = sizes[-1]
    return Need(max(rises[0], 1) * 2**20 / (h * w))


def _number(path: Path, key: str) -> Optional[int]:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1])
    return None
