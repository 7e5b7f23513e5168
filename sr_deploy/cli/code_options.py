"""The options of networks given as code (`mynet.py:Net`), for commands that take MODEL."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, Callable, Tuple

import click

from sr_deploy.cli.output import prints_on_stderr
from sr_deploy.core.errors import InputError
from sr_deploy.core.network_code import CODE_OPTIONS, NetworkCode, is_code, parse_code

_OPTIONS = (
    click.option(
        "--weights",
        default="",
        metavar="FILE",
        help="Code: the file of its state dict.  [default: as the code makes it]",
    ),
    click.option(
        "--scale",
        type=click.IntRange(1, 16),
        help="Code: passed to it if it has such a parameter, else compared.",
    ),
    click.option(
        "--value-range",
        type=click.FloatRange(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="Code: its images are 0 to this value, such as 255.",
    ),
)


def code_options(*parameters: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add the options of a network's code, and fold them into the text that names it.

    parameters: those of the command that take networks, a text or a tuple of texts. What the code
    prints goes to stderr.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_code(*args: Any, **kwargs: Any) -> None:
            given = NetworkCode(
                "",
                "",
                weights=kwargs.pop("weights"),
                scale=kwargs.pop("scale"),
                value_range=kwargs.pop("value_range"),
            )
            if given != NetworkCode("", ""):
                kwargs.update(_folded({name: kwargs[name] for name in parameters}, given))
            with prints_on_stderr():
                command(*args, **kwargs)

        wrapped: Callable[..., None] = with_code
        for option in reversed(_OPTIONS):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _folded(arguments: Any, given: NetworkCode) -> Any:
    """Return the arguments of a command with the options in the one that is code.

    Raises InputError if none is, or several are.
    """
    texts = [text for value in arguments.values() for text in _texts(value)]
    codes = [text for text in texts if is_code(text)]
    options = " and ".join(option for option in CODE_OPTIONS if option in given.options)
    if not codes:
        raise InputError(
            f"{options}: for a network given as code, but none is",
            hint="give for example mynet.py:Net; a checkpoint's weights are in its file"
            + ("; upscale makes another size by --outscale" if given.scale else ""),
        )
    if len(codes) > 1:
        raise InputError(
            f"{options}: for one network, but {len(codes)} are given as code",
            hint=f'give each its own in quotation marks: "{codes[0]} {given.options}"',
        )
    code, variant = parse_code(codes[0])
    if code != NetworkCode(code.source, code.attribute):
        raise InputError(
            f"{options}: '{codes[0]}' has options of its own", hint="give all of them in one way"
        )
    label = code.attribute if variant is None else f"{code.attribute}.{variant}"
    text = str(replace(given, source=code.source, attribute=label))

    def fold(value: Any) -> Any:
        folded = tuple(text if item == codes[0] else item for item in _texts(value))
        return folded if isinstance(value, tuple) else (folded or (value,))[0]

    return {name: fold(value) for name, value in arguments.items()}


def _texts(value: Any) -> Tuple[str, ...]:
    return value if isinstance(value, tuple) else tuple(filter(None, [value]))
