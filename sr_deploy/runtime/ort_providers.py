"""Which providers of ONNX Runtime can be used here, and why not.

ONNX Runtime falls back to the CPU without an error, so a provider is tried before it is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import io
import re
import sys
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import numpy as np

from sr_deploy.core.errors import MissingPackageError, first_line
from sr_deploy.core.providers import PROVIDERS, Provider


def why_unusable(provider: Provider, index: int = 0) -> Tuple[str, str]:
    """Return why a provider cannot be used here and what to do; empty if it can."""
    ort = onnxruntime_module()
    if provider.name not in ort.get_available_providers():
        if len(installed_packages()) > 1:
            return packages_conflict()
        installed = " and ".join(installed_packages()) or "onnxruntime"
        hint = f"pip uninstall {installed}, then install {provider.package} instead"
        return (
            f"{installed} {ort.__version__} has no {provider.name}",
            "this system has none" if installed == provider.package else hint,
        )
    if not provider.library:
        return "", ""
    _preload(ort)
    why_no_memory = _why_no_memory(ort, index)
    # Only now: a provider's library crashes the process if it is loaded before onnxruntime has
    # introduced itself to it, which it does where it first needs one.
    reason = _why_not_loaded(Path(ort.__file__).parent / "capi", provider)
    if reason:
        return reason, _missing_library_hint(ort, provider, reason)
    if why_no_memory:
        hint = "check the driver with nvidia-smi, or give --device cpu"
        return f"onnxruntime cannot use GPU {index}: {why_no_memory}", hint
    return "", ""


def _why_no_memory(ort: Any, index: int) -> str:
    """Return why the CUDA provider cannot allocate on a GPU; empty if it can."""
    with _quiet_log(ort):
        try:
            ort.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", index)
        except Exception as e:  # onnxruntime's errors share no base class
            return short_reason(e)
    return ""


def installed_packages() -> List[str]:
    """Return the installed distributions that bring the module onnxruntime."""
    known = {provider.package for provider in PROVIDERS.values()}
    names = {dist.metadata["Name"] for dist in importlib.metadata.distributions()}
    return sorted(known & names)


def packages_conflict() -> Tuple[str, str]:
    """Return what is wrong and what to do if several distributions bring onnxruntime; else empty.

    Needs none of them.
    """
    packages = installed_packages()
    if len(packages) < 2:
        return "", ""
    return (
        f"{' and '.join(packages)} are installed in one environment: they overwrite each other",
        f"pip uninstall {' '.join(packages)}, then pip install {packages[-1]}",
    )


def onnxruntime_module() -> Any:
    """Import and return onnxruntime. Raises MissingPackageError."""
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingPackageError("onnxruntime", needed_for="running ONNX graphs", cause=e) from e
    return onnxruntime


@functools.lru_cache(maxsize=None)
def _preload(ort: Any) -> None:
    """Load CUDA and cuDNN from the packages of torch or NVIDIA; the loader reports what lacks."""
    if hasattr(ort, "preload_dlls"):  # 1.21 and newer; it prints
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _why_not_loaded(folder: Path, provider: Provider) -> str:
    """Return what the provider's library lacks, in the words of the system's loader."""
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    for name in dict.fromkeys(("cuda", provider.library)):
        file = folder / f"{prefix}onnxruntime_providers_{name}{suffix}"
        if not file.is_file():
            continue  # it is part of another library
        try:
            ctypes.CDLL(str(file), winmode=8)  # LOAD_WITH_ALTERED_SEARCH_PATH, as onnxruntime does
        except OSError as e:
            return first_line(e)
    return ""


def _missing_library_hint(ort: Any, provider: Provider, reason: str) -> str:
    if "libcuda.so" in reason or "nvcuda" in reason:
        return "install NVIDIA's driver, or give --device cpu"
    if "nvinfer" in reason:
        return "install TensorRT so that the loader finds it, or give --runtime onnxruntime-cuda"
    cuda_major = (getattr(ort, "cuda_version", "") or "12").split(".")[0]
    return (
        f"{provider.package} {ort.__version__} needs CUDA {cuda_major} and cuDNN 9: "
        f"pip install '{provider.package}[cuda,cudnn]=={ort.__version__}', or give --device cpu"
    )


_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : (?:(?!INVALID_GRAPH)\w+ : )?|Load model from .*? failed:\s*|"
    r"Non-zero status code returned while |\S+\.(?:cc|cpp|h):\d+ .*?\) (?=\w)"
)
"""What ONNX Runtime puts before a reason: its kind, the file's name, and lines of its source."""


def short_reason(cause: Exception) -> str:
    """Return what failed, without the lines of onnxruntime's source."""
    failure = re.search(r"\w+ failure -?\d+: [^;]*[^; ]", str(cause))
    line = first_line(cause)
    return failure[0][:300] if failure else _NOISE.sub("", line) or line


@contextlib.contextmanager
def _quiet_log(ort: Any) -> Iterator[None]:
    """Silence what ONNX Runtime logs about a provider that it cannot use: the error says it."""
    ort.set_default_logger_severity(4)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)
