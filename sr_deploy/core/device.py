"""What the machine in front of us is, how busy and warm it is, and the memory a piece of work needed at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional

from sr_deploy.core.errors import InputError

_CLEAR_REFS = Path("/proc/self/clear_refs")
_FEATURES = frozenset(
    "sse4_1 avx avx2 f16c fma avx_vnni avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 "
    "amx_bf16 asimd asimdhp asimddp fphp i8mm bf16 sve sve2".split()
)
_STATUS = Path("/proc/self/status")
_STAT = Path("/proc/stat")
_CPUINFO = Path("/proc/cpuinfo")
_ZONES = Path("/sys/class/thermal")


def cpu_name() -> str:
    """Return the CPU's model and the cores this process may use: `AMD EPYC, 2 cores`."""
    return f"{cpu_model()}, {usable_cores()} cores"


def cpu_model() -> str:
    """Return the CPU's model name."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            if line.lower().startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return name


def cpu_features() -> List[str]:
    """Return the instruction sets that decide which kernels run; the machine's name alone where the system tells none."""
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return [platform.machine()] + sorted(set(value.split()) & _FEATURES)
    return [platform.machine()]


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextlib.contextmanager
def limit_cores(threads: Optional[int]) -> Iterator[None]:
    """Let this process use the first `threads` of its cores only; the libraries that run networks take one thread a core.

    None: all of them. Raises InputError when it has fewer, or the system cannot.
    """
    if threads is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(
            "this system cannot limit a process to some of its cores", hint="leave --threads out"
        )
    before = os.sched_getaffinity(0)
    if not 1 <= threads <= len(before):
        raise InputError(f"{threads} threads; this process may use 1 to {len(before)} cores")
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class CpuUsage:
    """CPU time spent until one moment, in seconds."""

    at_s: float
    all_s: float
    """By every process, and by a hypervisor for other machines, on all cores."""
    own_s: float


def cpu_usage() -> Optional[CpuUsage]:
    """Return the CPU time spent so far; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError, IndexError):
        ticks = [int(v) for v in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
        busy = (
            sum(ticks) - ticks[3] - ticks[4]
        )  # idle and waiting for a disk; guests are in user time already
        return CpuUsage(time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time())
    return None


def cores_used_by_others(start: Optional[CpuUsage], stop: Optional[CpuUsage]) -> Optional[float]:
    """Return how many cores others than this process kept busy between two moments; None for less than 0.2 s (a tick is 10 ms)."""
    if start is None or stop is None or stop.at_s - start.at_s < 0.2:
        return None
    others = (stop.all_s - start.all_s) - (stop.own_s - start.own_s)
    return max(others / (stop.at_s - start.at_s), 0.0)


def load_1min() -> Optional[float]:
    """Return how many processes ran or waited to, on average over the last minute."""
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def cpu_mhz() -> Optional[float]:
    """Return the mean clock of the cores; None where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        lines = [
            line.partition(":")[2]
            for line in _CPUINFO.read_text().splitlines()
            if line.lower().startswith("cpu mhz")
        ]
        return sum(map(float, lines)) / len(lines) if lines else None
    return None


def temperature_c() -> Optional[float]:
    """Return the temperature of the hottest zone that has a plausible one; None where there is none."""
    found = []
    for path in _ZONES.glob("thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text()) / 1000)
    return max((c for c in found if 0 < c < 150), default=None)


def python_and_os() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


@contextlib.contextmanager
def track_peak_memory(result: List[Optional[float]]) -> Iterator[None]:
    """Append to `result` by how many MiB the process's resident memory rose above its level at entry, at its peak.

    Linux only (the kernel's own high-water mark, reset at entry); elsewhere None is appended.
    """
    if not _reset_peak():
        yield
        result.append(None)
        return
    before = _status_kib("VmRSS:")
    yield
    peak = _status_kib("VmHWM:")
    result.append(None if before is None or peak is None else max(peak - before, 0) / 1024)


def _reset_peak() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(
            0
        )  # memory an earlier measurement freed must not hide this one's
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _status_kib(key: str) -> Optional[int]:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1])
    return None
