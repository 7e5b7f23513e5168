"""OpenCV, imported where it is needed."""

from __future__ import annotations

from typing import Any

from sr_deploy.core.errors import MissingPackageError


def opencv() -> Any:
    """Return OpenCV with its own messages switched off. Raises MissingPackageError."""
    try:
        import cv2
    except ImportError as e:
        raise MissingPackageError(
            "opencv-python-headless", needed_for="upscaling pictures", cause=e
        ) from e
    if hasattr(cv2, "utils") and hasattr(cv2.utils, "logging"):  # not in every version
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
