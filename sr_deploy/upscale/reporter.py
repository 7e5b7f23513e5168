"""What a run reports while it works."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Callable, Iterator


class Reporter:
    """Receives the reports of a run. This base class discards them."""

    def log(self, line: str) -> None:
        """Take a line of text about the work."""

    def written(self, path: Path) -> None:
        """Take the path of a finished result."""

    @contextlib.contextmanager
    def frames(self, done: int, total: int) -> Iterator[Callable[[], None]]:
        """Yield a function to call after each frame of a video.

        done: the frames finished by earlier runs. total: the frames of the video, or 0 if unknown.
        """
        yield lambda: None
