"""The reports of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from sr_deploy.core.progress import Progress, as_progress


def _ignore(value: object) -> None:
    pass


@dataclass(frozen=True)
class Reporter:
    """Functions that receive the reports of a run. By default they are discarded."""

    log: Callable[[str], None] = _ignore  # a line of text about the work; a `Progress` gets steps
    written: Callable[[Path], None] = _ignore  # the path of a finished result

    @property
    def progress(self) -> Progress:
        return as_progress(self.log)
