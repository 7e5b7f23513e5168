"""What the machine in front of us is, and the memory a piece of work needed at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from typing import Iterator, List, Optional

_CLEAR_REFS = Path("/proc/self/clear_refs")
_FEATURES = frozenset(
    "sse4_1 avx avx2 f16c fma avx_vnni avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni avx512_bf16 avx512_fp16 amx_tile amx_int8 "
    "amx_bf16 asimd asimdhp asimddp fphp i8mm bf16 sve sve2".split()
)
_STATUS = Path("/proc/self/status")


def cpu_name() -> str:
    """Return the CPU's model and the cores this process may use: `AMD EPYC, 2 cores`."""
    return f"{cpu_model()}, {cores()} cores"


def cpu_model() -> str:
    """Return the CPU's model name."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return name


def cpu_features() -> List[str]:
    """Return the instruction sets that decide which kernels run; the machine's name alone where the system tells none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return [platform.machine()] + sorted(set(value.split()) & _FEATURES)
    return [platform.machine()]


def cores() -> int:
    """Return how many CPU cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def python_and_os() -> str:
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"


@contextlib.contextmanager
def peak_memory_mib(result: List[Optional[float]]) -> Iterator[None]:
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
        ctypes.CDLL(None).malloc_trim(0)  # memory an earlier measurement freed must not hide this one's
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
