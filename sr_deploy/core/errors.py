"""The errors a user can see. The command line prints `error: ...` and `hint: ...` and exits with 1.

SrDeployError
├── InputError           an argument, image, folder or shape is not usable
├── CheckpointError      a checkpoint or its card is unreadable or does not fit its architecture
├── VariantError         a variant is malformed, or the checkpoint does not contain it
├── TargetError          a target is unknown, or its profile is malformed
├── ArtifactError        an ONNX graph or engine does not match its manifest, or has none
│   └── CannotRunHereError  it is intact, but this machine lacks the device or version it needs
│       └── DeviceMemoryError  the device has too little free memory
├── ExportError          a graph could not be exported, or failed its check
├── BuildError           an engine could not be built here
└── MissingPackageError  an optional package is not installed
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import sys
from typing import Iterable, Optional

_REQUIREMENTS = {
    "av": "av>=12",
    "cuda-python": "cuda-python>=12,<13",
    "cv2": "opencv-python-headless>=4.5",
    "fvcore": "fvcore",
    "jinja2": "jinja2",
    "lightning": "lightning>=2.5",
    "matplotlib": "matplotlib>=3.7",
    "onnx": "onnx>=1.19",
    "onnxruntime": "onnxruntime>=1.22",
    "onnxscript": "onnxscript>=0.5",
    "onnxslim": "onnxslim>=0.1.50",
    "openmodeldb": "openmodeldb>=1.3",
    "openvino": "openvino>=2025.2",
    "opencv-python-headless": "opencv-python-headless>=4.5",
    "safetensors": "safetensors>=0.4",
    "spandrel": "spandrel>=0.4",
    "skimage": "scikit-image>=0.22",
    "tensorboard": "tensorboard",
    "tensorrt": "tensorrt<12",
    "tensorrt_rtx": "tensorrt-rtx-cu13>=1.5,<2",
    "torch": "torch>=2.9",
    "tqdm": "tqdm",
}
"""What pip installs for a module, as in setup.cfg; a test compares them."""
EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "cv2", "skimage")
"""The modules of the extra `export`."""

_TOGETHER = (("torch", "onnx", "onnxscript", "safetensors"), ("matplotlib", "jinja2"))
"""Modules of no use without each other: for networks and their export, for reports."""


def how_to_install(package: str) -> str:
    """Return how to install a package or module here: a command, or where it comes from."""
    command = f"pip install {_requirement(package)}"
    if package == "tensorrt":
        return f"on a Jetson, use the TensorRT of JetPack; elsewhere, {command}"
    if package == "torch" and sys.version_info < (3, 10):
        return "run an exported graph instead: torch needs Python 3.10 or newer"
    return command


def _requirement(package: str) -> str:
    """Return what pip installs for a module, in quotes where a shell needs them."""
    requirement = _REQUIREMENTS.get(package, package)
    if package == "cuda-python" and sys.version_info < (3, 10):
        requirement = "cuda-python==11.8.0"
    return requirement if re.fullmatch(r"[\w.-]+", requirement) else f"'{requirement}'"


def _how_to_install_all(package: str) -> str:
    """Return `how_to_install`, with what else is missing of the packages used together with it."""
    group = next((group for group in _TOGETHER if package in group), ())
    if "torch" in group and sys.version_info < (3, 10):
        return how_to_install(package)
    others = [name for name in group if name != package and not _is_here(name)]
    return " ".join([how_to_install(package), *map(_requirement, others)])


def _is_here(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # what finds modules forbids it
        return False


class SrDeployError(Exception):
    """`message`: what was wrong and what was expected. `hint`: what to do.

    >>> try:
    ...     sr_deploy.session_of("asrn_x4", "d9")
    ... except sr_deploy.SrDeployError as e:
    ...     print(e.message)
    asrn_x4 contains no variant 'd9'; it contains d1, d2, d3, d4, d5
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(SrDeployError):
    pass


class CheckpointError(SrDeployError):
    pass


class VariantError(SrDeployError):
    pass


class TargetError(SrDeployError):
    pass


class ArtifactError(SrDeployError):
    pass


class CannotRunHereError(ArtifactError):
    pass


class DeviceMemoryError(CannotRunHereError):
    pass


class ExportError(SrDeployError):
    pass


class BuildError(SrDeployError):
    pass


class MissingPackageError(SrDeployError):
    def __init__(
        self, package: str, *, needed_for: str, cause: Optional[ImportError] = None
    ) -> None:
        reason = f" ({cause})" if cause is not None else ""
        super().__init__(
            f"{needed_for} needs the package '{package}', which cannot be imported here{reason}",
            hint=_how_to_install_all(package),
        )


def first_line(e: BaseException) -> str:
    """Return the first line of a foreign exception's text, cut; the name of its class without."""
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:300]


def one_line(e: BaseException) -> str:
    """Return the text of a foreign exception in one line, cut; the name of its class without."""
    return " ".join(str(e).split())[:300] or type(e).__name__


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the choice most similar to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return f"did you mean '{match[0]}'?" if match else ""
