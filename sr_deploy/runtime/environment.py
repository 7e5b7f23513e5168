"""This machine and its installation: hardware, libraries, what can use the GPU, and problems."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass
from typing import Dict, Iterator, List, Tuple

from sr_deploy.core.device import cpu_name, gpu_present, python_and_os
from sr_deploy.core.errors import CannotRunHereError, MissingPackageError, SrDeployError
from sr_deploy.core.providers import find_provider
from sr_deploy.core.version import __version__
from sr_deploy.runtime.boards.board import facts_here
from sr_deploy.runtime.cuda import cuda
from sr_deploy.runtime.ort_providers import installed_packages, packages_conflict, why_unusable

_PACKAGES = (
    "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "onnxruntime-directml",
    "openvino",
    "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13", "cuda-python", "cuda-bindings", "pycuda",
    "numpy", "opencv-python-headless", "scikit-image", "av", "safetensors",
)  # fmt: skip
LITTLE_MIB = 1024
"""Less free memory of a GPU than this is a problem."""


@dataclass(frozen=True)
class Problem:
    what: str
    hint: str


@dataclass(frozen=True)
class Environment:
    """What `srdeploy doctor` tells of a machine."""

    version: str
    python: str
    cpu: str
    board: Dict[str, object]
    """What the system reports of the board, its memory in MiB, CUDA, the first GPU and driver."""
    packages: Dict[str, str]
    uses_gpu: Dict[str, str]
    """By library: the GPU it can use, or why it can use none."""
    problems: Tuple[Problem, ...]


def environment() -> Environment:
    """Look at this machine. Imports libraries and may start CUDA."""
    board = {key: value for key, value in asdict(facts_here()).items() if value}
    libraries = {"torch": _torch, "onnxruntime": _onnxruntime, "CUDA binding": _binding}
    problems: List[Problem] = []
    conflict = packages_conflict()
    if conflict[0]:
        problems.append(Problem(*conflict))
    uses_gpu = {}
    for name, look in libraries.items():
        uses_gpu[name], problem = look()
        if problem and gpu_present():
            problems.append(Problem(f"{name} cannot use the GPU: {uses_gpu[name]}", problem))
    problems += _little_memory()
    return Environment(
        __version__,
        python_and_os(),
        cpu_name(),
        board,
        package_versions(),
        uses_gpu,
        tuple(problems),
    )


def package_versions() -> Dict[str, str]:
    """Return the versions of the installed packages that decide results."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _torch() -> Tuple[str, str]:
    """Return the GPU that torch can use or why it cannot, and a hint where that is a problem."""
    try:
        from sr_deploy.runtime.torch_device import torch_device, why_no_cuda

        reason = why_no_cuda(0)
    except ImportError:
        return "torch is not installed", ""
    if reason:
        return reason, "install a torch that fits the GPU and its driver (see pytorch.org)"
    return torch_device().name or "none is present", ""


def _onnxruntime() -> Tuple[str, str]:
    try:
        reason, hint = why_unusable(find_provider("onnxruntime-cuda"))
    except MissingPackageError:
        return "onnxruntime is not installed", ""
    if not reason:
        return "by its CUDA provider", ""
    # The CPU's package is a choice; one for GPUs that cannot use them is a problem.
    return reason, "" if installed_packages() == ["onnxruntime"] else hint


def _binding() -> Tuple[str, str]:
    try:
        gpu = cuda()
    except MissingPackageError as e:
        needed = {"tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13"} & set(package_versions())
        return "neither cuda-python nor pycuda is installed", e.hint if needed else ""
    except CannotRunHereError as e:
        return e.message, e.hint or "check the driver with nvidia-smi"
    sm = gpu.compute_capability()
    return f"{gpu.gpu_name()}, SM {sm / 10:.1f}, by {gpu.library}", ""


def _little_memory() -> Iterator[Problem]:
    try:
        free, total = cuda().free_memory()
    except SrDeployError:
        return
    if free < LITTLE_MIB * 2**20:
        yield Problem(
            f"only {free / 2**20:.0f} MiB of the GPU's {total / 2**20:.0f} MiB are free",
            "end other programs that use the GPU (nvidia-smi lists them)",
        )
