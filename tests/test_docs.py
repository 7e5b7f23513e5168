"""The documents name all commands, options, targets, backends, protocols, networks and recipes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from test_layers import TABLE

from sr_deploy.cli.main import main
from sr_deploy.core.target import target_names
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.results.protocols import PROTOCOLS
from sr_deploy.runtime import BACKENDS

ROOT = Path(__file__).resolve().parents[1]
DOCS = "\n".join(
    path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)
RECIPES = ROOT / "sr_deploy" / "train" / "recipes"


def is_documented(name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", DOCS) is not None


def test_every_option_has_help_and_is_documented():
    missing = []
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        if not command.help or not is_documented(f"srdeploy {name}"):
            missing.append(name)
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            if not option.help or not all(map(is_documented, option.opts)):
                missing.append(f"{name} {option.opts[-1]}")
    assert missing == []


@pytest.mark.parametrize(
    "names",
    [
        target_names(),
        list(BACKENDS),
        list(PROTOCOLS),
        list(ARCHITECTURES),
        [path.name for path in RECIPES.glob("*") if path.is_dir() and path.name != "__pycache__"],
    ],
    ids=["targets", "backends", "protocols", "networks", "recipe folders"],
)
def test_every_name_is_documented(names):
    assert [name for name in names if not is_documented(name)] == []


def test_undocumented_names_are_found():
    assert not is_documented("no-such-target") and not is_documented("xavie")


def test_the_reference_is_up_to_date():
    pytest.importorskip("torch", reason="the reference lists the networks, which need torch")
    command = [sys.executable, str(ROOT / "docs" / "make_reference.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_architecture_page_has_the_import_table_of_the_tests():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    documented = {
        room: tuple(re.sub("[`,]", "", cell).strip() for cell in cells) for room, *cells in rows
    }
    assert list(documented) == list(TABLE) and documented == TABLE


def test_the_architecture_page_names_modules_that_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = []
    for name in set(re.findall(rf"`((?:{'|'.join(TABLE)})\.[\w.]+)`", page)):
        path = (ROOT / "sr_deploy").joinpath(*name.split("."))
        module, function = path.parent.with_suffix(".py"), path.name
        if not module.is_file():
            module = path.parent / "__init__.py"
        if not path.is_dir() and not path.with_suffix(".py").is_file():
            if f"def {function}(" not in module.read_text(encoding="utf-8"):
                missing.append(name)
    assert missing == []


def test_links_to_files_exist():
    broken = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if "://" not in link and not (path.parent / link).exists():
                broken.append(f"{path.name}: {link}")
    assert broken == []
