"""Printing: data to stdout, messages to stderr."""

from __future__ import annotations

import codecs
import json
import sys
from typing import Any, Tuple, Union

import click


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
    """Print data to stdout."""
    click.echo(text)


def emit_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
