"""A wheel contains the shipped data, and the installed package finds it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sr_deploy.core.gains import GAINS
from sr_deploy.core.routers import ROUTERS
from sr_deploy.core.samples import shipped_crops
from sr_deploy.core.shipped import shipped_checkpoints, shipped_graphs
from sr_deploy.core.target import target_names
from sr_deploy.results import shipped_numbers

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", reason="building a wheel needs setuptools")
    pytest.importorskip("wheel", reason="building a wheel needs the package wheel")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves files beside setup.cfg
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(
            ".git", ".venv*", "out", "build", "*.egg-info", "tests", ".*_cache"
        ),
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(command, check=True, timeout=300)
    return next(folder.glob("srdeploy-*.whl"))


def test_wheel_carries_the_shipped_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    models = [*shipped_checkpoints(), *ROUTERS.shipped(), *GAINS.shipped()]
    carried = {
        Path(n).name
        for n in names
        if n.startswith("sr_deploy/_models/") and not n.endswith("__init__.py")
    }
    cards = {p.with_suffix(".json").name for p in models}
    graphs = {p.name for p in shipped_graphs().iterdir()}
    assert carried == {p.name for p in models} | cards | graphs | {shipped_numbers.FILE}
    assert (
        sorted(Path(n).stem for n in names if n.startswith("sr_deploy/_engines_targets/"))
        == target_names()
    )
    page = {p.name for p in (ROOT / "sr_deploy" / "results" / "report" / "page").iterdir()}
    assert (
        page
        == {"report.html", "style.css", "script.js"}
        == {Path(n).name for n in names if n.startswith("sr_deploy/results/report/page/")}
    )
    recipes = {
        p.relative_to(ROOT).as_posix() for p in ROOT.glob("sr_deploy/train/recipes/*/*.json")
    }
    assert recipes and recipes <= set(names)
    papers = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("sr_deploy/results/papers/*.json")}
    assert papers and papers <= set(names)
    crops = {path.relative_to(ROOT).as_posix() for path in shipped_crops()}
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("sr_deploy/**/*.py")}
    assert crops | modules <= set(names)
    assert all(n.startswith(("sr_deploy/", "srdeploy-")) for n in names)
    assert "sr_deploy/py.typed" in names


def test_installed_package_finds_them(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "sr_deploy.cli.main", *arguments]
        return subprocess.run(
            command, cwd=str(tmp_path), env=environment, check=True, capture_output=True, text=True
        ).stdout

    found = json.loads(run("models", "--json"))
    assert [m["name"] for m in found] == [
        *(p.stem for p in shipped_checkpoints()),
        *map(ROUTERS.name_of, ROUTERS.shipped()),
        *map(GAINS.name_of, GAINS.shipped()),
    ]
    assert all(str(tmp_path) in m["path"] for m in found)
    assert [t["name"] for t in json.loads(run("targets", "--json"))] == target_names()


@pytest.fixture(scope="module")
def extras():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return {name: lines.split("\n") for name, lines in parser["options.extras_require"].items()}


def test_hints_install_what_the_extras_name(extras):
    from sr_deploy.core.errors import _REQUIREMENTS

    listed = {line.split(";")[0].strip() for lines in extras.values() for line in lines}
    assert set(_REQUIREMENTS.values()) <= listed
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "sr_deploy").rglob("*.py")]
    named = {n for text in sources for n in re.findall(r'MissingPackageError\(\s*"([\w-]+)"', text)}
    assert "av" in named and named <= set(_REQUIREMENTS)
    assert not any("srdeploy[" in text for text in sources)  # it is not on PyPI


@pytest.mark.parametrize("extra", ["board", "gpu", "rtx"])
def test_what_runs_engines_brings_a_cuda_binding_for_every_python(extras, extra):
    assert [line for line in extras[extra] if line.startswith("cuda-python")] == [
        'cuda-python>=12,<13; python_version >= "3.10"',
        'cuda-python==11.8.0; python_version < "3.10"',
    ]
