"""The errors a user can see. The command line prints `error: ...` and `hint: ...` and exits with 1.

SrDeployError
├── InputError           an argument, image, folder or shape is not usable
├── CheckpointError      a checkpoint or its card is unreadable or does not fit its architecture
├── VariantError         a variant is malformed, or the checkpoint does not contain it
├── TargetError          a target is unknown, or its profile is malformed
├── ArtifactError        an ONNX graph or engine does not match its manifest, or has none
│   └── CannotRunHereError  it is intact, but this machine lacks the device or version it needs
│       └── DeviceMemoryError  the GPU has too little free memory
├── ExportError          a graph could not be exported, or failed its check
├── BuildError           an engine could not be built here
└── MissingPackageError  an optional package is not installed
"""

from __future__ import annotations

import difflib
from typing import Iterable, Optional


class SrDeployError(Exception):
    """`message`: what was wrong and what was expected. `hint`: what to do."""

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
        self, package: str, *, needed_for: str, extra: str, cause: Optional[ImportError] = None
    ) -> None:
        reason = f" ({cause})" if cause is not None else ""
        super().__init__(
            f"{needed_for} needs the package '{package}', which cannot be imported here{reason}",
            hint=f"pip install 'srdeploy[{extra}]'",
        )


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `did you mean 'x'?` for the choice most similar to `name`, or an empty string."""
    match = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.4)
    return f"did you mean '{match[0]}'?" if match else ""
