"""`NetworkCode`: a network named by Python code, such as `mynet.py:Net --weights w.pth --scale 4`.

Code is run only where a user names it so. Nothing is imported from a card or a manifest.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from sr_deploy.core.errors import InputError

CODE_OPTIONS = ("--weights", "--scale", "--value-range")
"""The options of a network's code, in a text as on the command line."""
SCALE_PARAMETERS = ("scale", "upscale", "scale_factor", "upscale_factor")
"""The parameters of a user's code that `--scale` is passed to."""
_NAME = r"[^\W\d]\w*"
_TEXT = re.compile(
    rf"(?P<source>.+\.py(?=:|$)|{_NAME}(?:\.{_NAME})*(?=:))"
    rf"(?::(?P<attribute>{_NAME})(?:\.(?P<variant>[a-z][0-9]+(?:-[a-z]+)*))?)?"
)


@dataclass(frozen=True)
class NetworkCode:
    """Where the code of a network is, and what it is made with.

    `str()` is the canonical text, with the options as on the command line.
    """

    source: str
    """A file `mynet.py`, or a module `package.module` on Python's path or in the working folder."""
    attribute: str
    """A class or a function that makes the network, or the network; empty: not given."""
    weights: str = ""
    """A file with the state dict; empty: the network is used as the code makes it."""
    scale: Optional[int] = None
    """Passed to the code if it has such a parameter, and compared with the network's scale."""
    value_range: float = 1.0
    """The network takes and returns 0..value_range instead of 0..1."""

    def __str__(self) -> str:
        return " ".join(filter(None, (shlex.quote(self.label), self.options)))

    @property
    def options(self) -> str:
        """The options, as on the command line; empty: none."""
        words = ["--weights", self.weights] if self.weights else []
        words += ["--scale", str(self.scale)] if self.scale is not None else []
        words += ["--value-range", f"{self.value_range:g}"] if self.value_range != 1 else []
        return " ".join(map(shlex.quote, words))

    @property
    def label(self) -> str:
        """The text without options, for messages."""
        return ":".join(filter(None, (self.source, self.attribute)))

    @property
    def is_file(self) -> bool:
        return self.source.endswith(".py")


def is_code(text: str) -> bool:
    """Return whether a text has the form of a network's code. Reads no file."""
    return _match(text)[0] is not None


def parse_code(text: str) -> Tuple[NetworkCode, Optional[str]]:
    """Return a network's code and the variant that its text names: `mynet.py:Net.d3`.

    Raises InputError for a text of another form, or for options that are unknown or malformed.
    """
    match, options = _match(text)
    if match is None:
        raise InputError(
            f"'{text}' is not the code of a network; expected FILE.py:NAME or MODULE:NAME"
        )
    words = _option_values(text, options)
    code = NetworkCode(
        match["source"],
        match["attribute"] or "",
        weights=words.get("--weights", ""),
        scale=_scale(text, words.get("--scale")),
        value_range=_value_range(text, words.get("--value-range")),
    )
    return code, match["variant"]


def _match(text: str) -> Tuple[Optional[re.Match[str]], Tuple[str, ...]]:
    """Return the match of the first word, and the words after it."""
    if " --" not in text:
        match = _TEXT.fullmatch(text)  # as typed: a path may contain spaces
        if match is not None:
            return match, ()
    try:
        words = shlex.split(text)
    except ValueError:  # an open quotation mark
        return None, ()
    return (_TEXT.fullmatch(words[0]) if words else None), tuple(words[1:])


def _option_values(text: str, words: Tuple[str, ...]) -> Dict[str, str]:
    unknown = [word for word in words[::2] if word not in CODE_OPTIONS]
    if unknown:
        raise InputError(
            f"'{text}': unknown option '{unknown[0]}'; expected {', '.join(CODE_OPTIONS)}",
            hint="put a path with spaces into quotation marks",
        )
    if len(words) % 2:
        raise InputError(f"'{text}': {words[-1]} has no value")
    return dict(zip(words[::2], words[1::2]))


def _scale(text: str, word: Optional[str]) -> Optional[int]:
    if word is None:
        return None
    if not re.fullmatch(r"[0-9]{1,2}", word) or not 1 <= int(word) <= 16:
        raise InputError(f"'{text}': the scale '{word}' is not a whole number from 1 to 16")
    return int(word)


def _value_range(text: str, word: Optional[str]) -> float:
    try:
        value = 1.0 if word is None else float(word)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"'{text}': the value range '{word}' is not a positive number")
    return value
