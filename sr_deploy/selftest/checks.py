"""`Check` and `CheckResult`; and the plan: which checks a machine gets, the most valuable first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from sr_deploy.core.errors import InputError, SrDeployError
from sr_deploy.core.jsonio import from_dict
from sr_deploy.core.registry import Registry

MODELS = ("srn-ntire_x4", "asrn_x4", "imdeception_x4")
"""The shipped families that are checked; cheapest first."""
ADAPTIVE = ("cdnsr-fsrcnn-gains_x4", "elastic-asrn_x4", "adaedsr_x4")
"""A network of each adaptive kind. On a GPU all of them are checked, on a CPU the first."""
TILED = "asrn_x4"
"""A family whose tiles give exactly what the whole image gives."""
STATES = ("pass", "fail", "skip", "not run")
KINDS = Registry(
    "kind of check",
    {
        "environment": "sr_deploy.selftest.ways:check_environment",
        "networks": "sr_deploy.selftest.networks:check_networks",
        "build": "sr_deploy.selftest.networks:check_build",
        "protocols": "sr_deploy.selftest.networks:check_protocols",
        "adaptive": "sr_deploy.selftest.networks:check_adaptive",
        "energy": "sr_deploy.selftest.networks:check_energy",
        "tiles": "sr_deploy.selftest.media:check_tiles",
        "video": "sr_deploy.selftest.media:check_video",
    },
)
"""Each is a function (Check, folder) -> numbers, of which `found` is a text. It raises SkippedError
or MissingPackageError if the check cannot be done here, and another SrDeployError if it fails."""


class SkippedError(SrDeployError):
    """The check cannot be done on this machine."""


@dataclass(frozen=True)
class Way:
    """One way to run networks on this machine, or the reason why it has none."""

    name: str
    """`torch cuda:0 fp16`, `tensorrt`."""
    run: Dict[str, Any] = field(default_factory=dict)
    """Fields of RunOptions."""
    target: str = ""
    """Of engines; empty: checkpoints by torch, or graphs by `run`."""
    device: bool = False
    """Whether it runs on a GPU."""
    why_not: str = ""
    """Why it does not exist here, and what to do."""
    why_builds_only: str = ""
    """Why this machine builds its engines but does not run them."""


@dataclass(frozen=True)
class Check:
    """One check: a line of the table."""

    name: str
    kind: str
    """A name in `KINDS`."""
    way: Dict[str, Any] = field(default_factory=dict)
    """The fields of a Way. Consecutive checks of one way share a process."""
    model: str = ""
    why_skipped: str = ""
    """Why it needs not be tried."""

    @property
    def on(self) -> Way:
        return from_dict(Way, self.way, source=self.name, error=InputError)


@dataclass(frozen=True)
class CheckResult:
    """What became of a check."""

    name: str
    state: str
    """One of `STATES`."""
    reason: str = ""
    """Why it failed or was skipped; of a passed one what was found."""
    seconds: float = 0.0
    numbers: Dict[str, Any] = field(default_factory=dict)


ENVIRONMENT = Check("environment", "environment")


def planned_checks(ways: Sequence[Way]) -> List[Check]:
    """Return the checks of a machine with these ways, the most valuable first.

    A way that does not run here is a skipped check, after builds if it builds.
    """
    usable = [way for way in ways if not way.why_not]
    running = [way for way in usable if not way.why_builds_only]
    checks: List[Check] = []
    for way in usable:
        content = _content(way, first=running[:1] == [way])
        checks += [_check(way, kind, model) for kind, model in content]
    reasons = [(way, way.why_not or way.why_builds_only) for way in ways]
    return checks + [
        Check(w.name, "networks", vars(w), why_skipped=why) for w, why in reasons if why
    ]


def _check(way: Way, kind: str, model: str) -> Check:
    name = ": ".join([way.name, kind if kind != "networks" else "", model])
    return Check(name.replace(": : ", ": ").rstrip(": "), kind, vars(way), model)


def _content(way: Way, *, first: bool) -> Iterator[Tuple[str, str]]:
    """Yield (kind, model) of a way's checks. first: it is the machine's best one."""
    by_torch = way.run.get("precision") is not None
    if way.why_builds_only:
        yield from (("build", model) for model in MODELS)
        return
    for model in MODELS:
        if not by_torch:
            yield "build", model
        yield "networks", model
        if first and by_torch and model == MODELS[0]:
            yield "protocols", ""
        if first and model == TILED:
            yield "tiles", model
    # torch runs them in FP32, whatever the way is.
    if first if by_torch else way.device:
        yield from (("adaptive", model) for model in ADAPTIVE[: None if way.device else 1])
    if first and by_torch:
        yield "video", MODELS[0]
    if first and way.device:
        yield "energy", MODELS[0]
