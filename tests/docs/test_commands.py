"""The commands of the documents exist, and those of the README and the quick start run."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

import click
import pytest
from blocks import PAGES, ROOT, Block, blocks_of, commands_in

from sr_deploy.cli.main import main

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
FIRST = [
    block
    for block in BLOCKS
    if block.page in ("README.md", "quick-start.md") and block.language in ("bash", "python")
]


def problems_of(line: str) -> List[str]:
    """Return what is wrong with the options of a line that calls srdeploy."""
    words = shlex.split(line)
    if "srdeploy" not in words:
        return []
    name, *arguments = words[words.index("srdeploy") + 1 :]
    command = main.get_command(click.Context(main), name)
    if command is None:
        return [f"{line}: there is no command {name}"]
    context = click.Context(command, info_name=name)
    try:
        values, _, _ = command.make_parser(context).parse_args(args=list(arguments))
    except click.UsageError as e:
        return [f"{line}: {e.message}"]
    shown = {o for p in command.params for o in [*p.opts, *p.secondary_opts]}
    old = [word for word in arguments if word[:2] == "--" and word.split("=")[0] not in shown]
    problems = [f"{line}: {word} is an old name" for word in old]
    for param in command.params:
        given = values.get(param.name)
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(value, str) and isinstance(param.type, click.Choice):
                try:
                    param.type.convert(value, param, context)
                except click.BadParameter as e:
                    problems.append(f"{line}: {e.message}")
    return problems


def test_the_commands_of_all_pages_exist_with_their_options():
    lines = [
        (str(block), line)
        for block in BLOCKS
        if block.language == "bash"
        for line in commands_in(block.code)
    ]
    assert len(lines) > 60
    wrong = [f"{place}: {text}" for place, line in lines for text in problems_of(line)]
    assert wrong == []


def test_wrong_commands_are_found():
    assert "no command uscale" in problems_of("srdeploy uscale photo.jpg")[0]
    assert "--nothing" in problems_of("srdeploy upscale photo.jpg --nothing")[0]
    assert problems_of("srdeploy upscale photo.jpg -o x.png # larger") == []


def test_every_block_with_a_command_has_a_language():
    bare = [str(b) for b in BLOCKS if not b.language and re.search("^srdeploy ", b.code, re.M)]
    assert bare == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command `srdeploy`."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "bin").mkdir()
    program = folder / "bin" / "srdeploy"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sr_deploy.cli.main "$@"\n')
    program.chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("block", FIRST, ids=str)
def test_a_block_of_the_first_pages_runs(block: Block, home: Path, tmp_path: Path):
    if block.not_run:
        pytest.skip(f"not run: {block.not_run}")
    for package in ("torch", "onnx", "onnxscript", "onnxruntime", "cv2", "skimage"):
        pytest.importorskip(package)
    import cv2
    from skimage import data

    cv2.imwrite(str(tmp_path / "photo.jpg"), cv2.resize(data.coffee()[..., ::-1], (160, 120)))
    call = (
        ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    )
    done = subprocess.run(
        [*call, block.code],
        cwd=str(tmp_path),
        env={
            **os.environ,
            "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SRDEPLOY_CACHE": str(tmp_path / "cache"),
            "OMP_NUM_THREADS": "2",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    printed = "\n".join(shape_of(line) for line in done.stdout.splitlines())
    for line in block.output.splitlines():
        pattern = ".*".join(map(re.escape, shape_of(line).split("…")))
        assert re.search(f"^{pattern}$", printed, re.M), f"{line}: not in\n{done.stdout}"


def shape_of(line: str) -> str:
    """Return a line with numbers and amounts of space replaced."""
    return " ".join(re.sub(r"[\d.,:]*\d", "#", line).split())
