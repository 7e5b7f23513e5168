"""Time two networks in turns, so that disturbances of the machine affect both alike."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import numpy as np

from sr_deploy.bench.evaluate import image_set
from sr_deploy.bench.measure import DEFAULT_HW, timing_input
from sr_deploy.core.device import cpu_name, limit_cores
from sr_deploy.core.errors import InputError
from sr_deploy.core.images import nchw_from_rgb
from sr_deploy.core.metrics import psnr_unit
from sr_deploy.core.run_options import DEFAULT_RUN, RunOptions
from sr_deploy.core.samples import sample_lr
from sr_deploy.core.session import Session
from sr_deploy.core.sizes import HW, parse_hw
from sr_deploy.core.timing import time_in_turns
from sr_deploy.fast.opener import describe
from sr_deploy.runtime.opener import NetworkDescription, check_run_options

ROUNDS = 21


@dataclass(frozen=True)
class Comparison:
    """Times in ms of each round, and the ratios of B to A in the same round."""

    names: Tuple[str, str]
    hw: HW
    device: str
    timer: str
    times_a_ms: Tuple[float, ...]
    times_b_ms: Tuple[float, ...]
    ratio_median: float
    """Below 1, B is faster."""
    ratio_p25: float
    ratio_p75: float
    ratio_min: float
    ratio_max: float
    settings: Tuple[str, str] = ("", "")
    """How the device was driven, as in `Session`."""
    warnings: Tuple[str, ...] = ()
    psnr_db_between: Optional[float] = None
    """How near their outputs are on a photograph of that size, of one network in two precisions;
    None for other pairs."""

    @property
    def verdict(self) -> str:
        """Which one is faster, if three quarters of the rounds agree."""
        a, b = self.names
        if a == b:
            a, b = f"A, {a},", f"B, {b},"
        if self.ratio_p75 < 1:
            return f"{b} is faster"
        if self.ratio_p25 > 1:
            return f"{a} is faster"
        return "no difference found in these rounds"


def compare_networks(
    a: str,
    b: str,
    *,
    lr: Optional[str] = None,
    rounds: int = ROUNDS,
    threads: Optional[int] = None,
    run: RunOptions = DEFAULT_RUN,
) -> Comparison:
    """Time two networks (`asrn_x4.d3`, graphs, engines, ...) in turns at one LR size.

    An architecture at a scale, such as `span_x4`, has random weights, which take the same time.
    lr: the size; None: that of a static artifact, else 256x256. Raises an SrDeployError if one
    cannot run here.
    """
    if rounds < 3:
        raise InputError(f"{rounds} rounds; expected at least 3")
    with limit_cores(threads), contextlib.ExitStack() as opened:
        networks = [_describe_single(text, run) for text in (a, b)]
        note = check_run_options(networks, run)
        sessions = [opened.enter_context(network.open(run)) for network in networks]
        device = _device_of(sessions[0], sessions[1])
        hw = _common_hw(sessions[0], sessions[1], None if lr is None else parse_hw(lr))
        adaptive = [session for session in sessions if session.executed_work() is not None]
        x = timing_input((adaptive or sessions)[0], image_set(), hw)
        timers = {session.run_timed(x).timer for session in sessions}
        if len(timers) > 1:
            first, second = sorted(timers)
            raise InputError(
                f"the times are not comparable: one is measured by {first}, the other by {second}"
            )
        settings = sessions[0].settings, sessions[1].settings  # they may change with the first run
        runs = {i: (lambda s=session: s.run_timed(x).ms) for i, session in enumerate(sessions)}
        times = time_in_turns(runs, rounds)
        same = networks[0].name == networks[1].name
        in_one_precision = sessions[0].precision == sessions[1].precision
        between = _psnr_between(sessions, hw) if same and not in_one_precision else None
    ratios = np.array(times[1]) / np.array(times[0])
    low, p25, median, p75, high = (float(v) for v in np.percentile(ratios, [0, 25, 50, 75, 100]))
    name_a, name_b = (
        f"{(same and network.artifact) or network.name} ({session.backend}, {session.precision})"
        for network, session in zip(networks, sessions)
    )
    return Comparison(
        names=(name_a, name_b),
        hw=hw,
        device=device,
        timer=timers.pop(),
        settings=settings,
        warnings=tuple(dict.fromkeys(filter(None, (note, *(s.why_cpu for s in sessions))))),
        times_a_ms=tuple(times[0]),
        times_b_ms=tuple(times[1]),
        ratio_median=median,
        ratio_p25=p25,
        ratio_p75=p75,
        ratio_min=low,
        ratio_max=high,
        psnr_db_between=between,
    )


def _psnr_between(sessions: Sequence[Session], hw: HW) -> float:
    """Return the PSNR in dB of one output against the other, for a part of a photograph."""
    x = nchw_from_rgb(sample_lr(hw, count=1)[0])
    a, b = (session.run(x) for session in sessions)
    return round(psnr_unit(a, b), 2)


def _device_of(a: Session, b: Session) -> str:
    """Return the device of both. Raises InputError if there are two."""
    if a.place != b.place:
        raise InputError(
            f"the times are not comparable: one runs on {a.place}, the other on {b.place}",
            hint="give --device",
        )
    return a.device or cpu_name()


def _describe_single(text: str, run: RunOptions) -> NetworkDescription:
    networks = describe(text, "all", run, untrained=True)
    if len(networks) > 1:
        raise InputError(
            f"{text} names {len(networks)} networks; expected one",
            hint=f"name one of them, for example {networks[-1].artifact or networks[-1].name}",
        )
    return networks[0]


def _common_hw(a: Session, b: Session, requested: Optional[HW]) -> HW:
    hw = requested or a.fixed_hw or b.fixed_hw or a.nearest_hw(b.nearest_hw(DEFAULT_HW))
    for session in (a, b):
        session.check_hw(hw)
    if a.scale != b.scale:
        raise InputError(
            f"the times are not comparable: one upscales by {a.scale}, the other by {b.scale}"
        )
    return hw
