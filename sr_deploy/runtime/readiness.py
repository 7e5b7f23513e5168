"""What this machine has and what it is ready for: libraries, folders, and targets."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from sr_deploy.core.cache import cache_folder
from sr_deploy.core.device import gpu_present
from sr_deploy.core.errors import (
    EXPORT_PACKAGES,
    CannotRunHereError,
    MissingPackageError,
    SrDeployError,
    how_to_install,
    one_line,
)
from sr_deploy.core.providers import OPENVINO, find_provider
from sr_deploy.core.target import TargetProfile, load_target, target_names
from sr_deploy.runtime import BACKENDS
from sr_deploy.runtime.boards.local import trtexec_paths
from sr_deploy.runtime.build import why_not_here
from sr_deploy.runtime.cuda import cuda
from sr_deploy.runtime.openvino_session import CPU as OPENVINO_CPU
from sr_deploy.runtime.openvino_session import OpenVinoDevice, openvino_core
from sr_deploy.runtime.ort_providers import installed_packages, packages_conflict, why_unusable

READY = "ready"
BUILDS = "builds only"
BY_BUNDLE = "by bundle"
NOT_READY = "not ready"
LITTLE_DISK_GIB = 2
"""Less free space than this is said to be little."""


@dataclass(frozen=True)
class Library:
    """A library, or several distributions that bring one."""

    name: str
    version: str
    """Empty: it is not installed."""
    state: str
    """What it can be used for here, or why it cannot be used."""
    hint: str = ""
    """How to get what is missing; empty where nothing is."""


@dataclass(frozen=True)
class Place:
    """A folder that commands write to, and the space of its disk."""

    name: str
    path: str
    free_gib: float
    used_mib: Optional[float] = None
    """What lies in it; None where it is not counted."""


@dataclass(frozen=True)
class TargetState:
    """Whether this machine can deploy for a target."""

    name: str
    title: str
    state: str
    """`ready`: its engines are built and run here. `builds only`: they run elsewhere. `by bundle`:
    they are built elsewhere, from a bundle that is written here. `not ready`: something lacks."""
    why: str
    """Why it is not ready; empty if it is."""
    command: str
    """What to type: to deploy, or to get what is missing. Empty where only other hardware helps."""


def libraries() -> Iterator[Library]:
    """Yield the libraries that commands use, each as soon as it was tried.

    Imports them, which may start CUDA.
    """
    yield _torch()
    yield _onnxruntime()
    yield _openvino()
    yield _tensorrt("TensorRT", "tensorrt")
    yield _tensorrt("TensorRT for RTX", "tensorrt_rtx")
    yield _cuda_binding()
    yield _module("OpenCV", "cv2", "pictures", "reading and writing pictures")
    yield _pyav()
    yield _module("scikit-image", "skimage", "photographs to measure with", "photographs")
    yield _module("Matplotlib", "matplotlib", "charts of reports", "reports")
    yield _module("Jinja2", "jinja2", "pages of reports", "reports")


def _torch() -> Library:
    version = _version_of("torch")
    if not version:
        return Library(
            "torch", "", "not installed: no export, no checkpoints", how_to_install("torch")
        )
    try:
        from sr_deploy.runtime.torch_device import torch_device, why_no_cuda

        reason = why_no_cuda(0)
    except (ImportError, OSError) as e:  # a damaged installation
        return Library(
            "torch", version, f"cannot be imported: {one_line(e)}", how_to_install("torch")
        )
    if not reason:
        return Library("torch", version, f"runs on {torch_device().name}")
    hint = "install a torch that fits the GPU and its driver (see pytorch.org)"
    return Library("torch", version, f"runs on the CPU ({reason})", hint if gpu_present() else "")


def _onnxruntime() -> Library:
    packages = installed_packages()
    version = ", ".join(_version_of(package) for package in packages)
    conflict, remedy = packages_conflict()
    if conflict:
        return Library("ONNX Runtime", version, conflict, remedy)
    try:
        reason, hint = why_unusable(find_provider("onnxruntime-cuda"))
    except MissingPackageError as e:
        if packages:
            return Library("ONNX Runtime", version, e.message, e.hint)
        return Library("ONNX Runtime", "", "not installed: no graphs, no export", e.hint)
    if not reason:
        return Library("ONNX Runtime", version, "runs on the GPU by CUDA, and on the CPU")
    if packages == ["onnxruntime"] and not gpu_present():
        return Library("ONNX Runtime", version, "runs on the CPU")
    return Library("ONNX Runtime", version, f"runs on the CPU ({reason})", hint)


def _openvino() -> Library:
    version = _version_of("openvino")
    try:
        devices = openvino_core().available_devices
    except MissingPackageError as e:
        if not version:
            return Library("OpenVINO", "", "not installed: no engines for cpu-openvino", e.hint)
        return Library("OpenVINO", version, e.message, e.hint)
    gpus = [OpenVinoDevice(name).full_name for name in devices if name.startswith("GPU")]
    where = f"on {' and '.join(gpus)}, and on the CPU" if gpus else "on the CPU"
    lacking = [p for p in ("bf16", "int8") if OPENVINO_CPU.why_no_precision(p)]
    lost = f", not in {' or '.join(lacking)}" if lacking else ", also in bf16 and int8"
    return Library("OpenVINO", version, f"runs {where}{lost}")


def _tensorrt(name: str, module: str) -> Library:
    try:
        library = importlib.import_module(module)
    except ImportError as e:
        if importlib.util.find_spec(module) is not None:
            return Library(name, "?", f"cannot be imported: {one_line(e)}", how_to_install(module))
        if module == "tensorrt":
            return Library(name, "", _trtexec_here() or "not installed; it needs an NVIDIA GPU")
        return Library(name, "", "not installed: no engines for rtx", how_to_install(module))
    except OSError as e:
        return Library(name, "?", f"cannot be loaded: {one_line(e)}", how_to_install(module))
    gpu = "builds and runs engines" if gpu_present() else "no GPU here"
    if not gpu_present() and module == "tensorrt_rtx":
        gpu = "builds engines; no GPU here to run them"
    return Library(name, library.__version__, gpu)


def _trtexec_here() -> str:
    """Return that the board's own trtexec is there; empty if it is not."""
    paths = trtexec_paths()
    return f"no Python package; {paths[0]} builds engines" if paths else ""


def _cuda_binding() -> Library:
    name = "CUDA for Python"
    try:
        gpu = cuda()
    except MissingPackageError as e:
        need = ": engines of TensorRT cannot run" if gpu_present() else "; it needs an NVIDIA GPU"
        return Library(name, "", f"not installed{need}", e.hint if gpu_present() else "")
    except CannotRunHereError as e:
        hint = (e.hint or "check the driver with nvidia-smi") if gpu_present() else ""
        return Library(name, _binding_version(), e.message, hint)
    sm = gpu.compute_capability() / 10
    return Library(name, _binding_version(), f"{gpu.gpu_name()}, SM {sm:.1f}")


def _binding_version() -> str:
    versions = map(_version_of, ("cuda-bindings", "cuda-python", "pycuda"))
    return next(filter(None, versions), "?")


def _module(name: str, module: str, use: str, missing: str) -> Library:
    try:
        found = importlib.import_module(module)
    except ImportError as e:
        if importlib.util.find_spec(module) is None:
            return Library(name, "", f"not installed: no {missing}", how_to_install(module))
        return Library(name, "?", f"cannot be imported: {one_line(e)}", how_to_install(module))
    return Library(name, getattr(found, "__version__", "") or _version_of(module) or "?", use)


def _pyav() -> Library:
    library = _module("PyAV", "av", "video", "video")
    if not library.version or library.hint:
        return library
    av = sys.modules["av"]
    ffmpeg = getattr(av, "ffmpeg_version_info", "")  # since PyAV 14
    return Library("PyAV", library.version, f"video, by FFmpeg {ffmpeg or 'inside it'}")


def _version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def places() -> List[Place]:
    """Return the current folder and the cache, with the free space of their disks."""
    cache = cache_folder()
    used = sum(_size(path) for path in cache.rglob("*")) if cache.is_dir() else 0
    return [
        Place("current folder", str(Path.cwd()), _free_gib(Path.cwd())),
        Place("cache", str(cache), _free_gib(cache), round(used / 2**20, 1)),
    ]


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size if path.is_file() else 0
    return 0


def _free_gib(path: Path) -> float:
    existing = next(p for p in (path, *path.parents) if p.is_dir())
    return round(shutil.disk_usage(str(existing)).free / 2**30, 1)


def target_states() -> Iterator[TargetState]:
    """Yield what this machine can do for each shipped target."""
    for name in target_names():
        profile = load_target(name)
        state, why, command = _readiness(profile)
        yield TargetState(name, profile.title, state, why, command)


def _readiness(profile: TargetProfile) -> Tuple[str, str, str]:
    """Return the state of a target, why it is not ready, and what to type."""
    deploy = f"srdeploy deploy --target {profile.name}"
    no_build, no_export = why_not_here(profile)[0], missing_export_packages()
    if not no_build:
        state, why = READY, why_not_run(profile)
        if why:
            state, why = BUILDS, why if gpu_present() else "no NVIDIA GPU to run it"
        if no_export:
            deploy = f"srdeploy build-engine GRAPHS --target {profile.name}"
        return state, why or ("graphs are exported elsewhere" if no_export else ""), deploy
    of_board = profile.runtime == "tensorrt" and bool(profile.compute_capabilities)
    if profile.runtime == "tensorrt" and (of_board or not gpu_present()):
        if no_export:
            if sys.version_info < (3, 10):
                return NOT_READY, "exporting needs Python 3.10 or newer", ""
            return NOT_READY, "export is not installed", _EXPORT
        return BY_BUNDLE, f"built {'on the board' if of_board else 'where the GPU is'}", deploy
    if profile.runtime == "onnxruntime-cuda" and not gpu_present():
        return NOT_READY, "there is no NVIDIA GPU here", ""
    if profile.runtime == "openvino-gpu" and not _short_reason(profile):
        return NOT_READY, no_build, ""
    return NOT_READY, _short_reason(profile) or no_build, _remedy(profile)


_EXPORT = "pip install '.[export]'"
"""In a checkout."""


def missing_export_packages() -> List[str]:
    """Return the modules that exporting needs and that are not installed."""
    return [name for name in EXPORT_PACKAGES if importlib.util.find_spec(name) is None]


def _short_reason(profile: TargetProfile) -> str:
    """Return that the library of a target is missing; empty for other reasons."""
    try:
        BACKENDS[profile.runtime]().versions()
    except MissingPackageError:
        return f"{_TITLES.get(profile.runtime, 'ONNX Runtime')} is not installed"
    return ""


_TITLES = {
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT for RTX",
    "openvino": "OpenVINO",
    "openvino-gpu": "OpenVINO",
}


def why_not_run(profile: TargetProfile) -> str:
    """Return why this machine cannot run engines of a target; empty if it may."""
    try:
        return BACKENDS[profile.runtime]().why_no_device(profile)
    except SrDeployError as e:
        return e.message


def _remedy(profile: TargetProfile) -> str:
    """Return the command that installs what builds for a target on this machine."""
    if profile.runtime == "tensorrt-rtx":
        return how_to_install("tensorrt_rtx")
    if profile.runtime in OPENVINO:
        return how_to_install("openvino")
    if profile.runtime == "tensorrt":
        return f"pip install 'tensorrt{profile.runtime_versions}'"
    package = find_provider(profile.runtime).package
    install = f"pip install '{package}[cuda,cudnn]'"
    if package == "onnxruntime":
        install = how_to_install(package)
    others = [other for other in installed_packages() if other != package]
    return f"pip uninstall -y {' '.join(others)} && {install}" if others else install
