"""How a row was measured: what each year's NTIRE harness does, as data, and the steady protocol beside it.

Read off the public repositories (`test_demo.py`, README) of ofsoundof/NTIRE2022_ESR and NTIRE2023_ESR and of
Amazingren/NTIRE2024_ESR, NTIRE2025_ESR (README only) and NTIRE2026_ESR. All time each image once, batch 1, by events on the
device around the call, in FP32 by eager torch, without any warm-up, and print the plain mean of a set; with the test set the
mean of both sets' means. Memory is what torch had allocated at most after the valid set, weights included. A row says in its
`warnings` where it differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from sr_deploy.core.errors import InputError, did_you_mean
from sr_deploy.results.rows import BenchmarkRow


@dataclass(frozen=True)
class Baseline:
    """The network a year's score is relative to, as its README prints it."""

    name: str
    ms: float
    macs_g: float
    params_m: float


@dataclass(frozen=True)
class Protocol:
    """One way to measure."""

    name: str
    statistic: str
    """Of the latencies, what the row's time is: `median` or `mean`."""
    counter: str
    metric: Optional[str] = None
    """What PSNR is taken on; None: the user's choice."""
    sets: Tuple[str, ...] = ()
    """The challenge's own images: valid and test."""
    device: str = ""
    timer: str = ""
    precision: str = ""
    memory: str = ""
    scale: Optional[int] = None
    baseline: Optional[Baseline] = None
    weights: Tuple[float, ...] = ()
    """Of runtime, FLOPs and parameters in the score."""
    min_psnr_db: Tuple[float, ...] = ()
    """On valid and on test: below it an entry is not ranked."""

    @property
    def of_images(self) -> bool:
        """Whether the images themselves are timed, once each and without a warm-up."""
        return self.statistic == "mean"


_DIV2K = ("DIV2K_valid", "DIV2K_test")
_LSDIR_DIV2K = ("LSDIR_DIV2K_valid", "LSDIR_DIV2K_test")
_DIV2K_LSDIR = ("DIV2K_LSDIR_valid", "DIV2K_LSDIR_test")


def _ntire(
    year: int,
    *,
    counter: str,
    sets: Tuple[str, ...],
    device: str,
    baseline: Optional[Baseline] = None,
    weights: Tuple[float, ...] = (),
) -> Protocol:
    return Protocol(
        f"ntire{year}",
        "mean",
        counter,
        "rgb",
        sets,
        device,
        "device events",
        "fp32",
        "torch.cuda.max_memory_allocated",
        4,
        baseline,
        weights,
        (26.90, 26.99) if baseline else (),
    )


PROTOCOLS: Dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol("steady", "median", "hooks"),
        Protocol(
            "trtexec", "median", "hooks"
        ),  # of an engine that a board built and measured; cannot be asked for
        _ntire(2022, counter="hooks", sets=_DIV2K, device="TITAN Xp"),
        # Its `--hybrid_test` takes LSDIR_DIV2K_test instead of both. The repository does not name the GPU.
        _ntire(2023, counter="hooks", sets=_DIV2K, device=""),
        _ntire(
            2024,
            counter="fvcore",
            sets=_LSDIR_DIV2K,
            device="RTX 3090",
            baseline=Baseline("RLFN", 13.54, 19.67, 0.317),
            weights=(0.70, 0.15, 0.15),
        ),
        _ntire(
            2025,
            counter="fvcore",
            sets=_DIV2K_LSDIR,
            device="RTX A6000",
            baseline=Baseline("EFDN", 16.69, 16.70, 0.276),
            weights=(0.70, 0.15, 0.15),
        ),
        # The runtime was 5.59 ms until the results were published in June 2026.
        _ntire(
            2026,
            counter="fvcore",
            sets=_DIV2K_LSDIR,
            device="RTX A6000",
            baseline=Baseline("SPAN", 7.74, 9.83, 0.151),
            weights=(0.80, 0.10, 0.10),
        ),
    )
}
DEFAULT_PROTOCOL = "steady"
PROTOCOL_NAMES = tuple(name for name in PROTOCOLS if name != "trtexec")


def get_protocol(name: str) -> Protocol:
    """Return a protocol that can be asked for. Raises InputError when there is none of that name."""
    if name not in PROTOCOL_NAMES:
        raise InputError(
            f"unknown protocol '{name}'; expected {', '.join(PROTOCOL_NAMES)}",
            hint=did_you_mean(name, PROTOCOL_NAMES),
        )
    return PROTOCOLS[name]


def protocol_of(row: BenchmarkRow) -> Protocol:
    """Return the protocol a row was measured by. Raises InputError when this version knows none of that name."""
    if row.protocol not in PROTOCOLS:
        raise InputError(
            f"a row's protocol is '{row.protocol}'; known are {', '.join(PROTOCOLS)}",
            hint="measure again with this version",
        )
    return PROTOCOLS[row.protocol]


def time_ms(row: BenchmarkRow) -> Optional[float]:
    """Return the row's time: the statistic its protocol takes of the latencies."""
    return row.latency_ms_mean if protocol_of(row).statistic == "mean" else row.latency_ms_median


def split_mean(row: BenchmarkRow, split: str, key: str) -> Optional[float]:
    """Return the mean of `psnr_db` or `ms` over the images of a split, valid or test; None where one is missing."""
    values = [image[key] for image in row.images if image["split"] == split]
    return sum(values) / len(values) if values and None not in values else None


def below_gate(row: BenchmarkRow) -> bool:
    """Tell whether a row's PSNR on the challenge's own images is below what the year asks for."""
    p = protocol_of(row)
    found = (
        (row.set, split_mean(row, "valid", "psnr_db")),
        (row.test_set, split_mean(row, "test", "psnr_db")),
    )
    return any(
        theirs.lower() in ours.lower() and psnr is not None and psnr < least
        for (ours, psnr), theirs, least in zip(found, p.sets, p.min_psnr_db)
    )


def scores(row: BenchmarkRow) -> Optional[Tuple[float, float, float, float]]:
    """Return the challenge's score and its parts for runtime, FLOPs and parameters: exp(2 x / baseline); less is better.

    None where the year has no score, or the row lacks a number. The baseline's runtime is that of the challenge's GPU.
    """
    protocol, ms = protocol_of(row), time_ms(row)
    if protocol.baseline is None or ms is None or row.macs_g is None or row.params is None:
        return None
    ratios = (
        ms / protocol.baseline.ms,
        row.macs_g / protocol.baseline.macs_g,
        row.params / 1e6 / protocol.baseline.params_m,
    )
    parts = [math.exp(2 * ratio) if ratio < 300 else math.inf for ratio in ratios]
    return (sum(w * p for w, p in zip(protocol.weights, parts)), parts[0], parts[1], parts[2])


def score_text(score: float) -> str:
    """Return a score as it is printed: an exponential, it soon has more digits than a reader can use."""
    return f"{score:.2f}" if score < 1e4 else f"{score:.1e}"


def deviations(row: BenchmarkRow) -> List[str]:
    """Return in what a measured row differs from what its protocol's harness does; nothing for protocols of our own."""
    p = protocol_of(row)
    if not p.of_images:
        return []
    found = [
        (row.backend, "torch", "run by"),
        (row.timer, p.timer, "timed by"),
        (row.precision, p.precision, "precision"),
        (row.device, p.device, "device"),
        (row.mem_definition, p.memory, "memory:"),
        (f"x{row.scale}", f"x{p.scale}", "scale"),
        *(
            (ours, theirs, what)
            for ours, theirs, what in zip(
                (row.set, row.test_set), p.sets, ("images", "test images")
            )
        ),
    ]
    told = [
        f"{what} {ours or 'none'}, {p.name}: {theirs}"
        for ours, theirs, what in found
        if theirs.lower() not in ours.lower()
    ]
    if "tiled" in row.tiling:
        told.append(f"images {row.tiling}, {p.name} takes them whole")
    return told
