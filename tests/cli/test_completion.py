from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from sr_deploy.cli.completion import _COMPLETE
from sr_deploy.cli.main import main
from sr_deploy.core.shipped import shipped_checkpoints
from sr_deploy.core.target import target_names

ROOT = Path(__file__).resolve().parents[2]


def completed(*words):
    """Return what the Tab key offers for the last word, and `FILES` where the shell adds files."""
    shell = ShellComplete(main, {}, "srdeploy", "_SRDEPLOY_COMPLETE")
    found = shell.get_completions(list(words[:-1]), words[-1])
    return [item.value if item.type == "plain" else "FILES" for item in found]


def test_commands_and_options():
    assert completed("comp") == ["compare", "complexity", "completion"]
    assert "--target" in completed("export", "--t")


def test_models_and_their_variants():
    assert completed("export", "asrn_x4")[0] == "asrn_x4"
    assert {path.stem for path in shipped_checkpoints()} < set(completed("bench", ""))
    assert completed("compare", "asrn_x4.d1", "asrn_x4.d") == [f"asrn_x4.d{n}" for n in range(1, 6)]
    assert completed("upscale", "photo.jpg", "-m", "imd")[0].startswith("imdeception")


def test_variants_of_the_model_that_was_typed():
    assert completed("export", "asrn_x4", "--variants", "") == ["d1", "d2", "d3", "d4", "d5"]
    assert completed("export", "asrn_x4", "--variants", "d1,d3,") == [
        "d1,d3,d2",
        "d1,d3,d4",
        "d1,d3,d5",
    ]
    assert completed("export", "mynet.py:Net", "--variants", "") == []


def test_a_path_is_completed_by_the_shell():
    assert completed("export", "out/") == completed("train", "mine/") == ["FILES"]
    assert completed("export", "asrn_x4", "-o", "o") == ["FILES"]
    assert completed("check", "g") == completed("bench", "asrn_x4", "--data", "S") == ["FILES"]


def test_targets_runtimes_and_recipes():
    assert completed("check", "g.onnx", "--target", "") == target_names()
    assert completed("bench", "--runtime", "onnxruntime-c")[0] == "onnxruntime-cuda"
    assert "asrn-x4-small" in completed("train", "asrn")
    assert completed("recipes", "asrn-x4-sm")[0] == "asrn-x4-small"


def test_every_name_that_can_be_completed_is():
    context = click.Context(main)
    for name in main.list_commands(context):
        for parameter in main.get_command(context, name).params:
            metavar = parameter.metavar or ""
            if parameter.name in ("target", "variants") or "MODEL" in metavar:
                assert parameter.name in _COMPLETE, (name, parameter.name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_every_shell(run_cli, shell):
    if shell == "bash" and not shutil.which("bash"):
        pytest.skip("click asks bash for its version, and there is none")
    result = run_cli("completion", shell)
    assert result.exit_code == 0, result.stderr
    assert f"{shell}_complete" in result.stdout and "srdeploy" in result.stdout


def test_the_shell_is_that_of_the_user(run_cli, fails, monkeypatch):
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert "fish_complete" in run_cli("completion").stdout
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert "no completion for the shell 'tcsh'" in fails("completion")


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
def test_in_bash(tmp_path):
    program = tmp_path / "srdeploy"
    program.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c "
        '\'from sr_deploy.cli.main import main; main(prog_name="srdeploy")\' "$@"\n'
    )
    program.chmod(0o755)
    script = (
        'eval "$(srdeploy completion bash)"\n'
        "COMP_WORDS=(srdeploy build-engine --target rt); COMP_CWORD=3\n"
        '_srdeploy_completion srdeploy\necho "${COMPREPLY[@]}"\n'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
    )
    expected = [name for name in target_names() if name.startswith("rt")]
    assert run.stdout.split() == expected, run.stderr
