"""`--max-memory`: images are scored in tiles, as `upscale` runs them, so that a bound is kept."""

from __future__ import annotations

from typing import Callable, Optional, Union

from sr_deploy.bench.evaluate import Planner
from sr_deploy.core.errors import CannotRunHereError, InputError
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.runtime.tiling import TilePlan
from sr_deploy.upscale.memory import available_bytes, bytes_text, parse_bytes, resident_bytes
from sr_deploy.upscale.upscaler import Upscaler

RGB_BYTES = 3
"""Bytes per pixel of the result that is scored. HR is in memory before."""


def memory_bytes(amount: Union[str, int, None]) -> Optional[int]:
    """Return an amount of memory, `2GiB` or bytes, in bytes. Raises InputError."""
    return parse_bytes(amount) if isinstance(amount, str) else amount


def planner_within(
    session: Session,
    max_memory: Optional[int],
    *,
    identity: str = "",
    log: Callable[[str], None] = lambda line: None,
) -> Planner:
    """Return what plans the tiles of images so that the process keeps within `max_memory` bytes.

    None: within the memory that `upscale` takes by default. identity: of the network's weights, by
    which its need of memory is kept. The plans raise CannotRunHereError for a bound that the result
    and the smallest tile exceed. Raises InputError where memory cannot be measured.
    """
    upscaler = Upscaler(session, max_memory=max_memory, identity=identity, log=log)

    def plan(hw: HW) -> TilePlan:
        try:
            return upscaler.plan(hw, bytes_per_px=RGB_BYTES)
        except InputError as e:
            raise CannotRunHereError(e.message, hint=e.hint) from e

    return plan


def why_not_timed(session: Session, hw: HW, max_memory: Optional[int], identity: str) -> str:
    """Return why a size cannot be timed: whole, it does not fit into `max_memory` bytes.

    Empty if it fits. None: what is available on this machine.
    """
    bound, resident = max_memory, resident_bytes()
    if bound is None:
        available = available_bytes()
        if resident is None or available is None:
            return ""
        bound = resident + available
    try:
        fits = planner_within(session, bound, identity=identity)(hw).whole
    except CannotRunHereError:
        fits = False
    if fits:
        return ""
    return f"{hw_text(hw)} is not timed: whole, it does not fit into {bytes_text(bound)} of memory"
