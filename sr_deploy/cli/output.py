"""Printing: data to stdout, messages to stderr."""

from __future__ import annotations

import codecs
import json
import sys
from typing import Any, Tuple, Union

import click

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


def log(line: str) -> None:
    """Print a message to stderr."""
    click.echo(line, err=True)


def emit(text: str) -> None:
    """Print data to stdout. Raises InputError if it cannot be written, as to a full disk."""
    try:
        click.echo(text)
    except BrokenPipeError:
        raise
    except OSError as e:
        reason = e.strerror or str(e)
        raise InputError(f"cannot write to stdout: {reason}", hint=write_hint(e)) from e


def emit_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    emit(json.dumps(value, indent=2, ensure_ascii=False))
