"""CPU, cores, load, clocks and temperature of this machine; peak memory of this process."""

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
_STATUS = Path("/proc/self/status")
_STAT = Path("/proc/stat")
_CPUINFO = Path("/proc/cpuinfo")
_ZONES = Path("/sys/class/thermal")
_GPU_FILES = tuple(map(Path, ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg")))
"""Of a driver on Linux, on a Jetson, and in WSL."""
_FEATURES = frozenset(
    "sse4_1 avx avx2 f16c fma avx_vnni avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni "
    "avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16 "
    "asimd asimdhp asimddp fphp i8mm bf16 sve sve2".split()
)


def cpu_name() -> str:
    """Return the CPU's model and the number of usable cores: `AMD EPYC, 2 cores`."""
    return f"{cpu_model()}, {usable_cores()} cores"


def cpu_model() -> str:
    """Return the CPU's model name."""
    return (_cpuinfo("model name") or [platform.processor() or platform.machine()])[0]


def cpu_features() -> List[str]:
    """Return the machine's name and the instruction sets that decide which kernels run."""
    flags = (_cpuinfo("flags", "features") or [""])[0]
    return [platform.machine(), *sorted(set(flags.split()) & _FEATURES)]


def products_saturate() -> bool:
    """Whether this CPU sums products of 8-bit integers in 16 bits, which may overflow: x86 CPUs
    without VNNI. False where it is not known."""
    features = cpu_features()[1:]
    return "avx2" in features and not {"avx_vnni", "avx512_vnni"} & set(features)


def bf16_is_emulated() -> bool:
    """Whether this CPU has no bf16 arithmetic, so that it takes longer than FP32. False where it is
    not known."""
    features = cpu_features()[1:]
    return bool(features) and not {"avx512_bf16", "amx_bf16", "bf16"} & set(features)


def _cpuinfo(*keys: str) -> List[str]:
    """Return the values of the lines of /proc/cpuinfo that have one of `keys`, in lower case."""
    with contextlib.suppress(OSError):
        pairs = (line.partition(":") for line in _CPUINFO.read_text().splitlines())
        return [value.strip() for key, _, value in pairs if key.strip().lower() in keys]
    return []


def usable_cores() -> int:
    """Return how many CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextlib.contextmanager
def limit_cores(threads: Optional[int]) -> Iterator[None]:
    """Restrict this process to the first `threads` of its cores; None: no restriction.

    Libraries that run networks start one thread per usable core. Raises InputError if the process
    has fewer cores, or the system does not support it.
    """
    if threads is None:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise InputError(
            "this system cannot restrict a process to some of its cores", hint="omit --threads"
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
    """CPU time used until a point in time, in seconds."""

    at_s: float
    all_s: float
    """By all processes on all cores, including time stolen by a hypervisor."""
    own_s: float


def cpu_usage() -> Optional[CpuUsage]:
    """Return the CPU time used so far; None if the system does not report it."""
    with contextlib.suppress(OSError, ValueError, AttributeError, IndexError):
        ticks = [int(v) for v in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
        # Without idle and iowait. Guest time is part of user time.
        busy = sum(ticks) - ticks[3] - ticks[4]
        return CpuUsage(time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time())
    return None


def cores_used_by_others(start: Optional[CpuUsage], stop: Optional[CpuUsage]) -> Optional[float]:
    """Return how many cores other processes kept busy between two measurements.

    None if either is missing or they are less than 0.2 s apart (a tick is 10 ms).
    """
    if start is None or stop is None or stop.at_s - start.at_s < 0.2:
        return None
    others = (stop.all_s - start.all_s) - (stop.own_s - start.own_s)
    return max(others / (stop.at_s - start.at_s), 0.0)


def load_1min() -> Optional[float]:
    """Return the load average of the last minute."""
    with contextlib.suppress(OSError, AttributeError):
        return os.getloadavg()[0]
    return None


def cpu_mhz() -> Optional[float]:
    """Return the mean clock of the cores; None if the system does not report it."""
    with contextlib.suppress(ValueError):
        clocks = [float(value) for value in _cpuinfo("cpu mhz")]
        return sum(clocks) / len(clocks) if clocks else None
    return None


def temperature_c() -> Optional[float]:
    """Return the highest plausible temperature of the thermal zones; None if there is none."""
    temperatures = []
    for path in _ZONES.glob("thermal_zone*/temp"):
        with contextlib.suppress(OSError, ValueError):
            temperatures.append(int(path.read_text()) / 1000)
    return max((c for c in temperatures if 0 < c < 150), default=None)


def gpu_present() -> bool:
    """Whether this machine has an NVIDIA GPU with a driver. Never asks CUDA, which would start."""
    if sys.platform == "win32":
        return (Path(os.environ.get("SystemRoot", "")) / "System32" / "nvcuda.dll").is_file()
    return any(path.exists() for path in _GPU_FILES)


def python_and_os() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


@contextlib.contextmanager
def track_peak_memory(rises_mib: List[Optional[float]]) -> Iterator[None]:
    """Append to `rises_mib` how far the process's resident memory rose above its level at entry.

    Linux only (resets and reads the kernel's high-water mark); elsewhere None is appended.
    """
    if not _reset_peak():
        yield
        rises_mib.append(None)
        return
    before = _status_kib("VmRSS:")
    yield
    peak = _status_kib("VmHWM:")
    rises_mib.append(None if before is None or peak is None else max(peak - before, 0) / 1024)


def _reset_peak() -> bool:
    if not sys.platform.startswith("linux"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        # Return freed memory to the system: reused, it would hide what is measured now.
        ctypes.CDLL(None).malloc_trim(0)
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
