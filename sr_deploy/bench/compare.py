"""Two networks against each other, in turns: what the machine does meanwhile meets both alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from sr_deploy.bench.evaluate import image_set
from sr_deploy.bench.measure import typical_input
from sr_deploy.core.device import cpu_name, limit_cores
from sr_deploy.core.errors import InputError
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, parse_hw
from sr_deploy.core.timing import time_in_turns
from sr_deploy.runtime.opener import NetworkDescription, describe

ROUNDS = 21


@dataclass(frozen=True)
class Comparison:
    """Times in ms round by round, and what they say of B against A."""

    names: Tuple[str, str]
    hw: HW
    device: str
    timer: str
    times_a_ms: Tuple[float, ...]
    times_b_ms: Tuple[float, ...]
    ratio_median: float
    """Of B's time to A's in the same round; below 1, B is faster."""
    ratio_p25: float
    ratio_p75: float
    ratio_min: float
    ratio_max: float

    @property
    def verdict(self) -> str:
        """Which is faster, where three quarters of the rounds agree."""
        a, b = self.names
        if self.ratio_p75 < 1:
            return f"{b} is faster"
        return (
            f"{a} is faster" if self.ratio_p25 > 1 else "no difference that these rounds can tell"
        )


def compared(
    a: str, b: str, *, lr: Optional[str] = None, rounds: int = ROUNDS, threads: Optional[int] = None
) -> Comparison:
    """Time two checkpoints' variants (`asrn_x4.d3`), graphs or engines in turns at one LR size.

    lr: the size; None: the one that a static artifact takes, else 256x256. Raises an SrDeployError when one cannot run here.
    """
    if rounds < 3:
        raise InputError(f"{rounds} rounds; expected at least 3")
    with limit_cores(threads):
        networks = [_describe_single(text) for text in (a, b)]
        sessions = [network.open() for network in networks]
        hw = _common_hw(sessions[0], sessions[1], None if lr is None else parse_hw(lr))
        if any(session.spent() is not None for session in sessions):
            x = typical_input(image_set(), sessions[0].scale, hw)
        else:
            x = np.random.default_rng(0).random((1, 3, *hw), dtype=np.float32)
        timers = {session.timed(x).timer for session in sessions}
        if len(timers) > 1:
            raise InputError(
                f"their times do not compare: one is taken by {', the other by '.join(sorted(timers))}"
            )
        runs = {i: (lambda s=session: s.timed(x).ms) for i, session in enumerate(sessions)}
        times = time_in_turns(runs, rounds)
    ratios = np.array(times[1]) / np.array(times[0])
    p25, median, p75 = (float(v) for v in np.percentile(ratios, [25, 50, 75]))
    names = [_called(network, session) for network, session in zip(networks, sessions)]
    return Comparison(
        (names[0], names[1]),
        hw,
        sessions[0].device or cpu_name(),
        timers.pop(),
        tuple(times[0]),
        tuple(times[1]),
        median,
        p25,
        p75,
        float(ratios.min()),
        float(ratios.max()),
    )


def _describe_single(text: str) -> NetworkDescription:
    networks = describe(text, "all")
    if len(networks) > 1:
        raise InputError(
            f"{text} is {len(networks)} networks; expected one",
            hint=f"name one of them, such as {networks[-1].artifact or networks[-1].name}",
        )
    return networks[0]


def _common_hw(a: Session, b: Session, wanted: Optional[HW]) -> HW:
    hw = wanted or a.fixed_hw or b.fixed_hw or a.nearest_hw(b.nearest_hw((256, 256)))
    for session in (a, b):
        session.check_hw(hw)
    if a.scale != b.scale:
        raise InputError(
            f"one upscales by {a.scale}, the other by {b.scale}: their times do not compare"
        )
    return hw


def _called(network: NetworkDescription, session: Session) -> str:
    return f"{network.artifact or network.name} ({session.backend}, {session.precision})"
