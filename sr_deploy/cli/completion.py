"""srdeploy completion, and what the Tab key completes: models, variants, targets and recipes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional

import click
from click.shell_completion import CompletionItem, get_completion_class

from sr_deploy.cli.output import emit
from sr_deploy.core.errors import InputError, SrDeployError

_SHELLS = ("bash", "zsh", "fish")
Complete = Callable[[click.Context, str], List[CompletionItem]]


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
def completion(shell: Optional[str]) -> None:
    """Print the script by which SHELL, bash, zsh or fish, completes what you type.

    The Tab key then completes commands, options, files, and names of models, variants, targets and
    recipes. SHELL is by default the one of the variable SHELL.

    bash: add to ~/.bashrc the line eval "$(srdeploy completion bash)"

    zsh: add to ~/.zshrc, after compinit, the line eval "$(srdeploy completion zsh)"

    fish: srdeploy completion fish > ~/.config/fish/completions/srdeploy.fish
    """
    shell = shell or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in _SHELLS:
        raise InputError(
            f"no completion for the shell '{shell}'; expected one of {', '.join(_SHELLS)}",
            hint="name one, such as: srdeploy completion bash",
        )
    from sr_deploy.cli.main import main

    scripts = get_completion_class(shell)
    assert scripts is not None
    emit(scripts(main, {}, "srdeploy", "_SRDEPLOY_COMPLETE").source())


def complete_by_name(command: click.Command) -> None:
    """Complete the values of a command's parameters of the names in `_COMPLETE`, and files."""
    for parameter in command.params:
        text = _files if parameter.type is click.STRING else None
        complete = _COMPLETE.get(str(parameter.name), text)
        if complete is not None:
            setattr(parameter, "shell_complete", complete)  # noqa: B010


def _models(ctx: click.Context, incomplete: str) -> List[CompletionItem]:
    """Names of shipped networks, variants after a dot, else files."""
    name, dot, _ = incomplete.partition(".")
    if dot and name in _cards():
        return _begin((f"{name}.{v}" for v in _variants_of(name)), incomplete)
    from sr_deploy.core.gains import GAINS
    from sr_deploy.core.routers import ROUTERS

    adaptive = [*map(ROUTERS.name_of, ROUTERS.shipped()), *map(GAINS.name_of, GAINS.shipped())]
    names = [*_cards(), *adaptive]
    return _begin(names, incomplete) or _files(ctx, incomplete)


def _cards() -> Dict[str, Path]:
    from sr_deploy.core.shipped import shipped_checkpoints

    return {path.stem: path for path in shipped_checkpoints()}


def _variants_of(model: str) -> List[str]:
    from sr_deploy.core.shipped import read_card

    try:
        return list(filter(None, read_card(_cards().get(model, Path(model))).variants))
    except SrDeployError:  # a graph, code, or no model
        return []


def _variants(ctx: click.Context, incomplete: str) -> List[CompletionItem]:
    """Variants of the models that stand before the option, after those that are listed already."""
    values = [value for name in _MODELS for value in _texts(ctx.params.get(name))]
    given = [*values, *ctx.args]  # where an option lacks its value, arguments are in `args`
    listed, comma, _ = incomplete.rpartition(",")
    found = dict.fromkeys(v for model in given for v in _variants_of(model))
    left = [v for v in found if v not in listed.split(",")]
    return _begin((listed + comma + v for v in left), incomplete)


def _texts(value: Any) -> List[str]:
    return list(value) if isinstance(value, tuple) else [value] if value else []


def _targets(ctx: click.Context, incomplete: str) -> List[CompletionItem]:
    from sr_deploy.core.target import target_names

    return _begin(target_names(), incomplete)


def _recipes(ctx: click.Context, incomplete: str) -> List[CompletionItem]:
    """Names of recipes, else files. Reads their files: to import them would import torch."""
    files = sorted((Path(__file__).parents[1] / "train" / "recipes").glob("*/*.json"))
    names = [name for file in files for name in json.loads(file.read_text(encoding="utf-8"))]
    return _begin(names, incomplete) or _files(ctx, incomplete)


def _runtimes(ctx: click.Context, incomplete: str) -> List[CompletionItem]:
    from sr_deploy.core.providers import RUN_RUNTIMES

    return _begin(RUN_RUNTIMES, incomplete)


def _files(ctx: click.Context, incomplete: str) -> List[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def _begin(names: Iterable[str], incomplete: str) -> List[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


_MODELS = ("model", "networks", "a", "b")
_COMPLETE: Dict[str, Complete] = {
    **dict.fromkeys((*_MODELS, "crops", "init", "teacher", "judge", "branches"), _models),
    **dict.fromkeys(("variant", "variants"), _variants),
    "target": _targets,
    "recipe": _recipes,
    "runtime": _runtimes,
}
