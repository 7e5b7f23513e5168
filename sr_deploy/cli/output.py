"""Printing: data to stdout, messages to stderr."""

from __future__ import annotations

import json
from typing import Any

import click


def log(line: str) -> None:
    """Print a message to stderr."""
    click.echo(line, err=True)


def emit(text: str) -> None:
    """Print data to stdout."""
    click.echo(text)


def emit_json(value: Any) -> None:
    """Print one JSON value to stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
