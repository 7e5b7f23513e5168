"""The ways to measure: each year's NTIRE harness, as data, and two protocols of our own.

The NTIRE harnesses were read off the public repositories (`test_demo.py`, README): NTIRE2022_ESR
and NTIRE2023_ESR of ofsoundof, NTIRE2024_ESR, NTIRE2025_ESR (README only) and NTIRE2026_ESR of
Amazingren. All time each image once, with batch 1, by events on the device around the call, in FP32
by eager torch, without a warm-up. They print the plain mean of a set and, with the test set, the
mean of the means of both sets. Memory is the maximum that torch had allocated after the valid set,
including the weights. A row states in its `warnings` where it differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Tuple

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.results.rows import BenchmarkRow, text_of


@dataclass(frozen=True)
class Baseline:
    """The network that a year's score is relative to, as its README prints it."""

    name: str
    ms: float
    macs_g: float
    params_m: float
    network: str
    """Our name of the network."""


@dataclass(frozen=True)
class Protocol:
    """One way to measure."""

    name: str
    statistic: str
    """The statistic of the latencies that is the row's time: `median` or `mean`."""
    counter: str
    metric: Optional[str] = None
    """The metric of PSNR; None: the user chooses."""
    sets: Tuple[str, ...] = ()
    """The challenge's own image sets: valid and test."""
    device: str = ""
    timer: str = ""
    precision: str = ""
    memory: str = ""
    scale: Optional[int] = None
    baseline: Optional[Baseline] = None
    weights: Tuple[float, ...] = ()
    """Of runtime, FLOPs and parameters in the score."""
    min_psnr_db: Tuple[float, ...] = ()
    """On valid and test. An entry below it is not ranked."""

    @property
    def of_images(self) -> bool:
        """Whether the images themselves are timed, once each and without a warm-up."""
        return self.statistic == "mean"


_2022 = Protocol(
    "ntire2022",
    "mean",
    "hooks",
    metric="rgb",
    sets=("DIV2K_valid", "DIV2K_test"),
    device="TITAN Xp",
    timer="device events",
    precision="fp32",
    memory="torch.cuda.max_memory_allocated",
    scale=4,
)
# The option --hybrid_test replaces both sets by LSDIR_DIV2K_test. The repository names no GPU.
_2023 = replace(_2022, name="ntire2023", device="")
_2024 = replace(
    _2022,
    name="ntire2024",
    counter="fvcore",
    sets=("LSDIR_DIV2K_valid", "LSDIR_DIV2K_test"),
    device="RTX 3090",
    baseline=Baseline("RLFN", 13.54, 19.67, 0.317, "rlfn_x4"),
    weights=(0.70, 0.15, 0.15),
    min_psnr_db=(26.90, 26.99),
)
_2025 = replace(
    _2024,
    name="ntire2025",
    sets=("DIV2K_LSDIR_valid", "DIV2K_LSDIR_test"),
    device="RTX A6000",
    baseline=Baseline("EFDN", 16.69, 16.70, 0.276, "efdn_x4"),
)
# The runtime was 5.59 ms until the results were published in June 2026.
_2026 = replace(
    _2025,
    name="ntire2026",
    baseline=Baseline("SPAN", 7.74, 9.83, 0.151, "span_x4"),
    weights=(0.80, 0.10, 0.10),
)
_STEADY = Protocol("steady", "median", "hooks")
# Of engines that a board built and measured. It cannot be selected.
_TRTEXEC = replace(_STEADY, name="trtexec")

PROTOCOLS: Dict[str, Protocol] = {
    p.name: p for p in (_STEADY, _TRTEXEC, _2022, _2023, _2024, _2025, _2026)
}
DEFAULT_PROTOCOL = "steady"
PROTOCOL_NAMES = tuple(name for name in PROTOCOLS if name != "trtexec")
"""The protocols that can be selected."""

CHALLENGES = tuple(name for name, p in PROTOCOLS.items() if p.of_images)


def get_protocol(name: str) -> Protocol:
    """Return a protocol that can be selected. Raises InputError when the name is unknown."""
    if name not in PROTOCOL_NAMES:
        raise InputError(
            f"unknown protocol '{name}'; expected one of {', '.join(PROTOCOL_NAMES)}",
            hint=did_you_mean(name, PROTOCOL_NAMES),
        )
    return PROTOCOLS[name]


def protocol_of(row: BenchmarkRow) -> Protocol:
    """Return the protocol of a row. Raises InputError when this version does not know it."""
    if row.protocol not in PROTOCOLS:
        raise InputError(
            f"a row's protocol is '{row.protocol}'; expected one of {', '.join(PROTOCOLS)}",
            hint="measure again with this version",
        )
    return PROTOCOLS[row.protocol]


def time_ms(row: BenchmarkRow) -> Optional[float]:
    """Return the row's time: the statistic of the latencies that its protocol uses."""
    return row.latency_ms_mean if protocol_of(row).statistic == "mean" else row.latency_ms_median


def split_mean(row: BenchmarkRow, split: str, key: str) -> Optional[float]:
    """Return the mean of `psnr_db`, `ssim` or `ms` over a split, valid or test.

    None where an image lacks its value.
    """
    values = [image[key] for image in row.images if image["split"] == split]
    return sum(values) / len(values) if values and None not in values else None


def of_own_images(row: BenchmarkRow) -> Tuple[bool, ...]:
    """Return whether a row's valid and its test images are the challenge's own, by their name."""
    pairs = zip((row.set, row.test_set), protocol_of(row).sets)
    return tuple(theirs.lower() in ours.lower() for ours, theirs in pairs)


def misses_min_psnr(row: BenchmarkRow) -> bool:
    """Return whether a row's PSNR on the challenge's own images is below the year's minimum."""
    measured = (split_mean(row, split, "psnr_db") for split in ("valid", "test"))
    minima = protocol_of(row).min_psnr_db
    return any(
        own and psnr is not None and psnr < minimum
        for own, psnr, minimum in zip(of_own_images(row), measured, minima)
    )


Scores = Tuple[float, float, float, float]
"""A challenge's score, and its parts for runtime, FLOPs and parameters. Less is better."""


def scores(row: BenchmarkRow) -> Optional[Scores]:
    """Return the score by the printed baseline, whose runtime is that of the challenge's GPU.

    None where the year has no score or the row lacks a number.
    """
    b = protocol_of(row).baseline
    return None if b is None else _scores(row, (b.ms, b.macs_g, b.params_m))


def scores_here(row: BenchmarkRow) -> Optional[Scores]:
    """Return the score by the baseline that was measured in turns with the row's network.

    Unlike `scores` it means something on any device. None where the baseline was not measured, or
    the row lacks a number.
    """
    b = row.baseline
    return None if b is None else _scores(row, (b["ms"], b["macs_g"], b["params_m"]))


def _scores(row: BenchmarkRow, baseline: Tuple[float, float, float]) -> Optional[Scores]:
    """A part is exp(2 x / baseline)."""
    p, ms = protocol_of(row), time_ms(row)
    if not p.weights or ms is None or row.macs_g is None or row.params is None:
        return None
    if row.counted_hw not in (None, NTIRE_HW):
        return None
    ratios = [v / b for v, b in zip((ms, row.macs_g, row.params / 1e6), baseline)]
    runtime, flops, params = (math.exp(2 * r) if r < 300 else math.inf for r in ratios)
    total = sum(w * part for w, part in zip(p.weights, (runtime, flops, params)))
    return total, runtime, flops, params


def score_text(score: float) -> str:
    """Return a score as text: as an exponential it soon has more digits than a reader can use."""
    return f"{score:.2f}" if score < 1e4 else f"{score:.1e}"


def deviations(row: BenchmarkRow) -> List[str]:
    """Return how a row differs from its protocol's harness; empty for our own protocols."""
    p = protocol_of(row)
    if not p.of_images:
        return []
    on_cpu = row.threads is not None
    texts = [f"measured on a CPU: time and memory are not {p.name}'s"] if on_cpu else []
    if row.settings and ("eager, NCHW" not in row.settings or "one CUDA graph" in row.settings):
        texts.append(f"run as {row.settings}, {p.name}: eager")
    facts = [
        ("run by", row.backend, "torch"),
        ("timed by", row.timer, p.timer),
        ("precision", row.precision, p.precision),
        ("device", row.device, p.device),
        ("memory:", row.mem_definition, p.memory),
        ("scale", f"x{row.scale}", f"x{p.scale}"),
        ("images", row.set, p.sets[0]),
        ("test images", row.test_set, p.sets[1]),
        ("counted at", text_of(row.counted_hw or NTIRE_HW), text_of(NTIRE_HW)),
    ]
    texts += [
        f"{name} {ours or 'none'}, {p.name}: {theirs}"
        for name, ours, theirs in facts
        if theirs.lower() not in ours.lower()
    ]
    if "tile" in row.tiling:
        texts.append(f"images {row.tiling}, {p.name}: not tiled")
    return texts
