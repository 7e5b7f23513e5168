"""Options with older names that are still accepted, and not shown."""

from __future__ import annotations

from typing import Any, Sequence

import click


class AliasedOption(click.Option):
    """An option that is also accepted under the names in `aliases`; help shows its own only.

    >>> option = AliasedOption(["--size"], aliases=["-s"])
    >>> option.opts
    ['--size']
    """

    def __init__(self, *args: Any, aliases: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aliases = tuple(aliases)

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        shown = self.opts
        self.opts = [*shown, *self.aliases]
        try:
            super().add_to_parser(parser, ctx)
        finally:
            self.opts = shown
