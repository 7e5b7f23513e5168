"""Commands and options that messages, hints and notes of the package name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import click

from sr_deploy.cli.main import main

PACKAGE = Path(__file__).resolve().parents[2] / "sr_deploy"
COMMANDS = main.list_commands(click.Context(main))
PROSE = {"command", "that", "begins", "wrote"}
"""Words after the package's name in sentences."""
OF_OTHERS = {
    "--help", "--version", "--dirty", "--always", "--abbrev", "--exclude",
}  # fmt: skip
"""Options of click, nvcc and git."""


def texts() -> Iterator[Tuple[str, str]]:
    """Yield (place, text) of every string in the package; what is filled in becomes `_`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "alias.py":  # it shows an old name
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in inside:
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.value
            elif isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "_" for v in node.values]
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", "".join(parts)


def options_of(name: str) -> Set[str]:
    command = main.get_command(click.Context(main), name)
    return {option for p in command.params for option in [*p.opts, *p.secondary_opts]}


def aliases_of(name: str) -> Set[str]:
    """Return the older names of options, which the code lists and no text should name."""
    command = main.get_command(click.Context(main), name)
    return {alias for p in command.params for alias in getattr(p, "aliases", ())}


def wrong(text: str) -> List[str]:
    """Return the commands and options of srdeploy in a text that do not exist."""
    problems = []
    for name, rest in re.findall(r"srdeploy ([a-z][a-z-]*)((?: [^;:()`\n]*)?)", text):
        if name in PROSE:
            continue
        if name not in COMMANDS:
            problems.append(f"srdeploy {name}")
            continue
        options = set(re.findall(r"--[a-z][a-z0-9-]*(?![\w-])", rest))
        problems += [f"srdeploy {name} {option}" for option in sorted(options - options_of(name))]
    every = set().union(OF_OTHERS, *map(options_of, COMMANDS))
    if re.fullmatch("--[a-z-]+", text):  # in a list of aliases
        every = every.union(*map(aliases_of, COMMANDS))
    options = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+(?![\w-])", text)
    return problems + [option for option in options if option not in every]


def test_commands_and_options_that_are_named_exist():
    found = [(place, problem) for place, text in texts() for problem in wrong(text)]
    assert found == []


def test_wrong_ones_are_found():
    assert wrong("run srdeploy export-all") == ["srdeploy export-all"]
    assert wrong("run srdeploy export --int8 x") == ["srdeploy export --int8", "--int8"]
    assert wrong("run srdeploy export asrn_x4 --target cpu; omit --size") == []
