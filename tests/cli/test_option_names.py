"""One name for one thing in the options of all commands; older names are accepted, not shown."""

from __future__ import annotations

import click
import pytest

from sr_deploy.cli.alias import AliasedOption
from sr_deploy.cli.main import main

CONTEXT = click.Context(main)
COMMANDS = {name: main.get_command(CONTEXT, name) for name in main.list_commands(CONTEXT)}
OPTIONS = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
]
OLD = {
    "--lr": "--size in bench, compare, complexity; --lr-data in train",
    "--shape": "--size",
    "--max-mem": "--max-memory",
    "--max-gflops": "--max-flops",
    "--backend": "--runtime",
    "--output-dir": "--output",
}
DIFFER = {
    "--adaptive": "export writes all ways of an adaptive network, upscale goes one of them",
    "--device": "export checks FP16 graphs, which two kinds of device can",
    "--dla": "check asks whether, build-engine on which core",
    "--fallback": "export also finds the nodes, build-engine does not",
    "--format": "of tables, or of pictures",
    "--max-flops": "in G, or in percent of a picture's own work",
    "--output": "a file, or a folder",
    "--precision": "of engines, or of torch, which has one more",
    "--protocol": "of measurements, or of challenges, which have no `steady`",
    "--value-range": "of the images of code, or of both ends of a graph",
}
"""Options whose values differ from command to command, and why."""


def value_of(option):
    if option.is_flag:
        return "flag"
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.metavar or option.type.name


def test_an_option_takes_the_same_value_in_every_command():
    values = {}
    for command, option in OPTIONS:
        for name in option.opts:
            if name.startswith("--") and name not in DIFFER:
                values.setdefault(name, {}).setdefault(value_of(option), []).append(command)
    assert {name: found for name, found in values.items() if len(found) > 1} == {}


def test_options_that_are_excused_differ():
    for name in DIFFER:
        assert len({value_of(o) for _, o in OPTIONS if name in o.opts}) > 1, name


@pytest.mark.parametrize("old", OLD)
def test_old_names_are_accepted_and_not_shown(run_cli, old):
    having = [c for c, o in OPTIONS if old in getattr(o, "aliases", ())]
    assert having
    assert [c for c, o in OPTIONS if old in o.opts] == []
    for command in having:
        assert f"{old} " not in run_cli(command, "--help").stdout
        result = run_cli(command, old)  # without a value
        assert result.exit_code == 2 and "requires an argument" in result.stderr


def test_an_alias_hides_no_option_of_the_same_command():
    for command, option in OPTIONS:
        names = {name for c, o in OPTIONS if c == command and o is not option for name in o.opts}
        assert not names & set(getattr(option, "aliases", ())), command


def test_an_aliased_option_takes_either_name():
    @click.command()
    @click.option("--size", cls=AliasedOption, aliases=["--lr"])
    def command(size):
        click.echo(size)

    from click.testing import CliRunner

    for name in ("--size", "--lr"):
        assert CliRunner().invoke(command, [name, "8x8"]).output == "8x8\n"
