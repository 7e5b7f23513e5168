"""What an adaptive network may spend on an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from sr_deploy.core.errors import InputError

LARGE_HW = (1080, 1920)
"""An image for which smallest budgets are given. Those of other sizes differ by few percent."""


@dataclass(frozen=True)
class Budget:
    """A bound on the work or on the time of each image; by default there is none.

    Raises InputError for both at once, and for a time that is not above 0.
    """

    max_share: Optional[float] = None
    """The work, decisions and margins included, as a share of the plain network's on the whole
    image."""
    max_ms: Optional[float] = None
    """The time from the image to the result, in ms."""

    def __post_init__(self) -> None:
        if self.max_share is not None and self.max_ms is not None:
            raise InputError(
                "--max-flops bounds the work and --max-ms the time", hint="give one of them"
            )
        if self.max_ms is not None and not 0 < self.max_ms < float("inf"):
            raise InputError(f"--max-ms {self.max_ms:g}: expected a time above 0 ms, such as 500")

    def __str__(self) -> str:
        """The budget as a part of a network's identity."""
        if self.max_ms is not None:
            return f"{self.max_ms:g} ms"
        return "no budget" if self.max_share is None else f"{self.max_share} of the whole image"


NO_BUDGET = Budget()
