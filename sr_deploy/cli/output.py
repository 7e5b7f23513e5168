"""Printing: data to stdout, messages to stderr."""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
from typing import Any, Iterator, Optional, TextIO, Tuple, Union

import click

from sr_deploy.cli.progress import terminal_progress
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import write_hint


def print_any_name() -> None:
    """Let stdout print file names as their bytes, and `?` for what its encoding lacks."""
    codecs.register_error("srdeploy", _printable)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="srdeploy")


def _printable(error: UnicodeError) -> Tuple[Union[str, bytes], int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("replace")(error)


_data: Optional[TextIO] = None
"""Where data goes while `sys.stdout` is stderr."""


@contextlib.contextmanager
def prints_on_stderr() -> Iterator[None]:
    """Send to stderr what others print, so that stdout has data only."""
    global _data
    _data = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _data = None


log = terminal_progress
"""Prints a message to stderr. As the `progress` of a function, it shows bars too."""


def emit(text: str) -> None:
    """Print data to stdout. Raises InputError if it cannot be written, as to a full disk."""
    try:
        with terminal_progress.hidden():
            click.echo(text, file=_data)
    except BrokenPipeError:
        raise
    except OSError as e:
        reason = e.strerror or str(e)
        raise InputError(f"cannot write to stdout: {reason}", hint=write_hint(e)) from e


def stdout_is_terminal() -> bool:
    """Return whether data is printed to a terminal, not to a pipe or a file."""
    out = _data or sys.stdout
    return out is not None and out.isatty()


def emit_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    emit(json.dumps(value, indent=2, ensure_ascii=False))
