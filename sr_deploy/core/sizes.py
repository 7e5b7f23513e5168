"""LR sizes as text: `256x512` (height x width), and `MIN:OPT:MAX` for a dynamic graph."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Tuple

from sr_deploy.core.errors import InputError

HW = Tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """The LR sizes (h, w) that a graph accepts; all three are equal for a static one."""

    min: HW
    opt: HW
    max: HW

    @property
    def dynamic(self) -> bool:
        return self.min != self.max

    def __str__(self) -> str:
        return f"dyn{hw_text(self.min)}-{hw_text(self.max)}" if self.dynamic else hw_text(self.opt)

    @property
    def option(self) -> str:
        """The command-line option that requests it."""
        return f"--dynamic {self.text}" if self.dynamic else f"--size {self.text}"

    @property
    def text(self) -> str:
        """`256x512` or `MIN:OPT:MAX`, as `parse_sizes` reads it."""
        if self.dynamic:
            return f"{hw_text(self.min)}:{hw_text(self.opt)}:{hw_text(self.max)}"
        return hw_text(self.opt)


def common_multiple(a: int, b: int) -> int:
    """Return the least common multiple; `math.lcm` is of Python 3.9."""
    return a * b // math.gcd(a, b)


def up_to_multiple(hw: HW, multiple: int) -> HW:
    """Return the size with both sides rounded up to a multiple, as sessions mirror images."""
    h, w = (-(-n // multiple) * multiple for n in hw)
    return h, w


def parse_hw(text: str) -> HW:
    """Read `256x512`. Raises InputError unless it is two integers from 1 to 16384."""
    match = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", text.strip())
    if match is None or not all(1 <= int(n) <= 16384 for n in match.groups()):
        raise InputError(
            f"'{text}' is not a size; expected HEIGHTxWIDTH, 1 to 16384 each, such as 256x512"
        )
    return int(match.group(1)), int(match.group(2))


def parse_sizes(text: str) -> Sizes:
    """Read `256x512` or `MIN:OPT:MAX`. Raises InputError unless min <= opt <= max."""
    parts = [parse_hw(part) for part in text.split(":")]
    if len(parts) == 1:
        return Sizes(parts[0], parts[0], parts[0])
    if len(parts) != 3:
        raise InputError(
            f"'{text}' is not a range of sizes; "
            "expected MIN:OPT:MAX, for example 16x16:256x256:1024x1024"
        )
    low, opt, high = parts
    if not all(a <= b <= c for a, b, c in zip(low, opt, high)):
        raise InputError(f"'{text}': expected min <= opt <= max in height and in width")
    return Sizes(low, opt, high)


def hw_text(hw: Tuple[int, ...]) -> str:
    return f"{hw[0]}x{hw[1]}"
