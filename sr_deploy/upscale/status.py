"""A status line: rewritten in place on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import Callable, TextIO

_LINE_EVERY_S = 10.0


def status_line(
    stream: TextIO, *, clock: Callable[[], float] = time.monotonic
) -> Callable[[str], None]:
    """Return a function that shows a line on `stream`. An empty line ends what a terminal shows."""
    terminal = stream.isatty()
    shown = [-_LINE_EVERY_S, 0.0]  # when the last line was shown, and its length

    def show(line: str) -> None:
        if terminal:
            line = line[: shutil.get_terminal_size().columns - 1]
            stream.write("\r" + line + " " * (int(shown[1]) - len(line)) + "\r" * (not line))
            shown[1] = len(line)
        elif line and clock() - shown[0] >= _LINE_EVERY_S:
            stream.write(line + "\n")
            shown[0] = clock()
        stream.flush()

    return show
