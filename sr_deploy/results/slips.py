"""Numbers of papers that a recount does not give, noted where printed ones are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Collection, List, Tuple


@dataclass(frozen=True)
class Slip:
    """A slip of a paper."""

    paper: str
    architectures: Tuple[str, ...]
    """The networks that it is about."""
    text: str

    def __str__(self) -> str:
        return f"{self.paper}, {self.text}"


_BRANCHES = ("fsrcnn", "carn-m", "msrresnet", "rcan")
SLIPS = (
    Slip(
        "ASRN",
        ("asrn",),
        "Table 7 prints 2.1 G and 8.3 G FLOPs of 5 and 25 blocks at a 1024x1024 output; "
        "x4 takes 20.8 G and 72.1 G (fvcore), and no input size gives the ratio at x4",
    ),
    Slip(
        "ASRN",
        ("asrn",),
        "Table 4 prints 29.0 to 28.2 dB (Set5 x4) for 4 blocks to 1 of single supervision; "
        "trained here, they fall from 27.8 to 16.9 dB: a long skip may be missing from the text",
    ),
    Slip(
        "CDNSR",
        _BRANCHES,
        "Table III prints 5.934 M FLOPs for Module-CL of 6 convolutions; they are 4.934 M",
    ),
    Slip(
        "CDNSR",
        ("fsrcnn",),
        "Table I prints 119 M as 42 % and 360 M as 75 % of 468 M; they are 25 % and 77 %",
    ),
    Slip("CDNSR", _BRANCHES, "the text fixes alpha at 0.55, Table II at 0.45"),
    Slip(
        "CDNSR",
        ("carn-m",),
        "section III-A gives CARN's widths as 32, 56, 64 and section IV-A as 56, 52, 36; "
        "the printed 1.15 G needs 64",
    ),
    Slip(
        "IMDeception",
        ("imdeception",),
        "Table 2 prints 57 M activations of c4 with NLA; they are 60.2 M",
    ),
    Slip(
        "AdaDSR",
        ("edsr-original", "adaedsr"),
        "Table 2's FLOPs of EDSR on Set5 imply 32,868, 15,992 and 9,988 LR pixels "
        "at x2, x3 and x4; its images have 28,373, 12,610 and 7,093",
    ),
    Slip(
        "NTIRE 2026",
        ("spanv2",),
        "results.txt prints 1.59 G FLOPs, 42.99 M activations and 18 convolutions of SPANV2; they "
        "are 9.11 G, 51.38 M and 22: fvcore saw nothing of the blocks that end in the team's CUDA "
        "operator",
    ),
)


def slips_of(architecture: str) -> List[Slip]:
    """Return the slips about a network."""
    return [slip for slip in SLIPS if architecture in slip.architectures]


def slips_in(papers: Collection[str]) -> List[Slip]:
    """Return the slips of papers."""
    return [slip for slip in SLIPS if slip.paper in papers]
