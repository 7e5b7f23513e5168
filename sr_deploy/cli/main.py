"""The command group. Errors are printed to stderr as `error:` and `hint:`, with exit code 1."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from typing import Any, Dict, List, NoReturn, Optional, Tuple

import click
from click.shell_completion import CompletionItem

from sr_deploy.cli.commands import COMMANDS, SECTIONS, TASKS
from sr_deploy.cli.completion import complete_by_name
from sr_deploy.cli.output import print_any_name
from sr_deploy.cli.progress import terminal_progress
from sr_deploy.core.errors import (
    EXPORT_PACKAGES,
    InputError,
    MissingPackageError,
    SrDeployError,
    did_you_mean,
)
from sr_deploy.core.files import write_hint
from sr_deploy.core.version import __version__

_VALUES = {
    "--target": "TARGET",
    "--variants": "LIST",
    "--variant": "NAME",
    "--name": "NAME",
    "--output": "DIR",
    "--fps": "N",
    "--max-ms": "MS",
}
_VALUES_OF_TYPES = {
    type(click.INT): "N",
    click.IntRange: "N",
    type(click.FLOAT): "X",
    click.FloatRange: "X",
}
_HELP: Dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""How the help of all commands is asked for and drawn."""
_COLUMN = 42
"""Width of the examples in the help."""


def _fail(error: SrDeployError) -> NoReturn:
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"\nhint: {error.hint}", err=True)
    sys.exit(1)


def _name_values(command: click.Command) -> None:
    """Name the values of options alike in all commands, where an option does not name its own."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and option.metavar is None:
            option.metavar = _VALUES.get(option.opts[-1]) or _VALUES_OF_TYPES.get(type(option.type))


def _format_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write a command's options, those of `SECTIONS` last."""
    rows: Dict[str, List[Tuple[str, str]]] = {"Options": []}
    every = {name for option in command.params for name in option.opts}
    sections = {title: names for title, names in SECTIONS.items() if set(names) <= every}
    for option in command.get_params(ctx):
        row = option.get_help_record(ctx) if isinstance(option, click.Option) else None
        if row is not None:
            fits = [title for title, names in sections.items() if option.opts[-1] in names]
            rows.setdefault((fits or ["Options"])[0], []).append(row)
    for title in ("Options", *sections):
        with formatter.section(title):
            formatter.write_dl(rows[title])


class _Group(click.Group):
    """Imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> List[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            entry = COMMANDS[cmd_name]
            module, function = entry.defined.split(":")
            command = getattr(importlib.import_module(f"sr_deploy.cli.{module}"), function)
            command.context_settings = {**_HELP, **command.context_settings}
            command.epilog = command.epilog or f"Example: srdeploy {entry.example}"
            complete_by_name(command)
            _name_values(command)
            setattr(command, "format_options", functools.partial(_format_options, command))  # noqa: B010
            self.add_command(command, cmd_name)
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: List[str]
    ) -> Tuple[Optional[str], Optional[click.Command], List[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            hint = did_you_mean(args[0], COMMANDS) or "srdeploy --help lists all"
            raise click.UsageError(f"no command is named '{args[0]}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for task, entries in TASKS:
            with formatter.section(task):
                rows = [(f"srdeploy {e.example}", e.summary) for e in entries.values()]
                formatter.write_dl([(f"{text:<{_COLUMN}}", what) for text, what in rows], _COLUMN)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> List[CompletionItem]:
        names = [
            CompletionItem(name, help=entry.summary)
            for name, entry in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with terminal_progress.starting("working"):
                return super().invoke(ctx)
        except SrDeployError as e:
            _fail(e)
        except ImportError as e:
            if e.name is None or e.name.split(".")[0] not in EXPORT_PACKAGES:
                raise
            _fail(MissingPackageError(e.name, needed_for=f"srdeploy {ctx.invoked_subcommand}"))
        except BrokenPipeError:  # the reader of stdout (head, less) has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as e:
            if e.filename is None:
                raise
            name, reason = os.fsdecode(e.filename), e.strerror or str(e)
            _fail(InputError(f"cannot use {name}: {reason}", hint=write_hint(e)))


@click.group(cls=_Group, context_settings=_HELP, epilog="All options: srdeploy COMMAND --help")
@click.version_option(__version__, prog_name="srdeploy")
def main() -> None:
    """Deploy super-resolution networks: import, slice, export, build, measure and upscale.

    MODEL is the path of a checkpoint, the name of a shipped one (see srdeploy models), a PyTorch
    module such as mynet.py:Net or, where weights do not matter, an architecture and scale such as
    srn_x4. An ARTIFACT is an ONNX graph or an engine.
    """
    print_any_name()
    # Exit on termination as on an interrupt, so that temporary files are removed.
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))


if __name__ == "__main__":
    main(prog_name="srdeploy")
