"""Write docs/reference.md and docs/api.md from the code: python3 docs/make_reference.py [--check]

With `--check`, nothing is written, and the exit code is 1 if a file is out of date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Iterable, Iterator, List, Sequence

import click

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def reference() -> str:
    """Return the page, in Markdown."""
    from sr_deploy.core.providers import PROVIDERS
    from sr_deploy.core.shipped import shipped_checkpoints
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.importers import IMPORTERS
    from sr_deploy.results.protocols import PROTOCOLS
    from sr_deploy.results.slips import SLIPS
    from sr_deploy.runtime import BACKENDS

    parts = [
        "# Reference",
        "Written by `python3 docs/make_reference.py`. A test compares it with the code.",
        "## Commands",
        *_commands(),
        "## Targets",
        "A target is a JSON file in `engines/targets/`.",
        _table(("target", "device", "runtime", "versions", "precisions", "ONNX opset"), _targets()),
        "## Backends",
        "A backend builds and runs the engines of a target's `runtime`.",
        _table(("backend",), [(f"`{name}`",) for name in BACKENDS]),
        "## Providers",
        "ONNX Runtime runs graphs by a provider, which `--runtime` selects. The first of a device "
        "is its default. Only one of the packages can be installed.",
        _table(
            ("backend", "device", "provider", "package", "state"),
            [
                (
                    f"`{p.backend}`",
                    p.device,
                    p.name,
                    p.package,
                    "tested" if p.tested else "untested on a device",
                )
                for p in PROVIDERS.values()
            ],
        ),
        "## Protocols",
        "A protocol fixes how `srdeploy bench` times and scores. "
        "`trtexec` marks times that a board's trtexec measured.",
        _table(
            ("protocol", "latency", "counter", "metric", "image sets", "device of the challenge"),
            [
                (
                    f"`{p.name}`",
                    p.statistic,
                    p.counter,
                    p.metric or "by option",
                    ", ".join(p.sets) or "by option",
                    p.device,
                )
                for p in PROTOCOLS.values()
            ],
        ),
        "## Networks",
        "A network is a file in `sr_deploy/nets/`. Its name alone selects the default variant.",
        _table(
            ("network", "scales", "default variant", "backbone"),
            [
                (
                    f"`{name}`",
                    ", ".join(f"x{s}" for s in ARCHITECTURES[name].scales),
                    f"`{ARCHITECTURES[name].default_variant}`",
                    ARCHITECTURES[name].backbone,
                )
                for name in ARCHITECTURES
            ],
        ),
        "Numbers that papers print and that a recount does not give:",
        "\n".join(f"- {slip}." for slip in SLIPS),
        "Kinds of `srdeploy import-checkpoint`, beside these networks: "
        + ", ".join(f"`{name}`" for name in IMPORTERS)
        + ".",
        "## Recipes",
        "The recipes of `srdeploy train` are JSON files in folders of `sr_deploy/train/recipes/`.",
        _table(("folder", "file", "recipes"), _recipes()),
        "## Shipped models",
        "Shipped checkpoints: "
        + ", ".join(f"`{path.stem}`" for path in shipped_checkpoints())
        + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _commands() -> Iterator[str]:
    from sr_deploy.cli.commands import TASKS
    from sr_deploy.cli.main import main

    rows = [
        (task if first else "", f"[`{name}`](#srdeploy-{name})", f"`srdeploy {entry.example}`")
        for task, entries in TASKS
        for first, (name, entry) in zip([True, *[False] * len(entries)], entries.items())
    ]
    yield _table(("task", "command", "example"), rows)
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        words = [argument.metavar or str(argument.name).upper() for argument in arguments]
        yield f"### srdeploy {name}"
        yield "`" + " ".join(["srdeploy", name, "[OPTIONS]", *words]) + "`"
        yield "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
        options = [p for p in command.params if isinstance(p, click.Option)]
        yield _table(("option", "value", "meaning"), map(_option, options))


def _option(option: click.Option) -> Sequence[str]:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.is_flag:
        value = ""
    elif isinstance(option.type, click.Choice):
        value = ", ".join(f"`{choice}`" for choice in option.type.choices)
    else:
        value = f"`{option.metavar or option.type.name.upper()}`"
    notes = [option.help or ""]
    if option.required:
        notes.append("Required.")
    if option.show_default is True:
        default = option.default
        text = ", ".join(default) if isinstance(default, tuple) else default
        notes.append(f"Default: {text}.")
    return names, value, " ".join(" ".join(notes).split())


def _targets() -> List[Sequence[str]]:
    from sr_deploy.core.target import load_target, target_names

    profiles = [load_target(name) for name in target_names()]
    return [
        (
            f"`{p.name}`",
            p.title,
            p.runtime,
            f"`{p.runtime_versions}`",
            ", ".join(p.precisions),
            str(p.opset),
        )
        for p in profiles
    ]


def _recipes() -> Iterator[Sequence[str]]:
    for path in sorted((ROOT / "sr_deploy" / "train" / "recipes").glob("*/*.json")):
        names = json.loads(path.read_text(encoding="utf-8"))
        yield f"`{path.parent.name}`", path.name, ", ".join(f"`{name}`" for name in names)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from make_api import api

    stale = []
    for path, page in ((DOCS / "reference.md", reference()), (DOCS / "api.md", api())):
        if "--check" not in sys.argv[1:]:
            path.write_text(page, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != page:
            stale.append(f"docs/{path.name}")
    if stale:
        verb = "is" if len(stale) == 1 else "are"
        print(
            f"{' and '.join(stale)} {verb} out of date: python3 docs/make_reference.py",
            file=sys.stderr,
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
