from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import sr_deploy
from sr_deploy.cli import main as module
from sr_deploy.cli import output
from sr_deploy.cli.commands import COMMANDS as LISTED
from sr_deploy.cli.commands import SECTIONS, TASKS
from sr_deploy.cli.main import main
from sr_deploy.core.errors import InputError, how_to_install

COMMANDS = main.list_commands(click.Context(main))
ROOT = Path(__file__).resolve().parents[2]


def test_the_issue_s_commands_are_there():
    assert {
        "models",
        "complexity",
        "import-checkpoint",
        "export",
        "targets",
        "build-engine",
        "bench",
        "train",
    } <= set(COMMANDS)


@pytest.mark.smoke
@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help(run_cli, command, flag):
    result = run_cli(*filter(None, [command, flag]))
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.startswith("Usage:")
    described = main if command is None else main.get_command(click.Context(main), command)
    assert described.help.split(".")[0].split("\n")[0][:40] in " ".join(result.stdout.split())
    for parameter in described.params:
        assert not isinstance(parameter, click.Option) or parameter.opts[0] in result.stdout
    if command is None:
        assert all(name in result.stdout for name in COMMANDS)


def test_the_help_groups_all_commands_by_task_with_an_example_of_each(run_cli):
    text = run_cli("--help").stdout
    for task, entries in TASKS:
        assert f"\n{task}:\n" in text
        for name, entry in entries.items():
            assert entry.example.split()[0] == name
            assert f"  srdeploy {entry.example}" in text and entry.summary in text
    assert max(map(len, text.split("\n"))) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_valid_and_end_the_help_of_their_command(run_cli, name):
    example = LISTED[name].example.split()
    command = main.get_command(click.Context(main), name)
    command.make_context(name, example[1:])  # raises UsageError
    assert run_cli(name, "--help").stdout.endswith(f"\n  Example: srdeploy {' '.join(example)}\n")


@pytest.mark.parametrize("columns", ["80", "100"])
def test_help_fits_the_terminal(run_cli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for name in COMMANDS:
        assert max(map(len, run_cli(name, "--help").stdout.split("\n"))) <= int(columns), name


def test_options_of_one_matter_stand_together(run_cli):
    text = run_cli("upscale", "--help").stdout
    assert all(f"\n{title}:\n" in text for title in ("Options", *SECTIONS))
    assert text.index("--dry-run") < text.index("Videos:") < text.index("--codec")
    text = run_cli("import-onnx", "--help").stdout  # its --scale and --value-range are no code's
    assert "Networks given as code" not in text and "--scale" in text


def test_a_misspelt_command_is_named_with_the_one_meant(run_cli):
    for typed, hint in (("exportt", "did you mean 'export'?"), ("zz", "srdeploy --help lists all")):
        result = run_cli(typed)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"no command is named '{typed}'; {hint}" in result.stderr


def test_a_command_imports_no_other_one(run_python):
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom sr_deploy.cli.main import main\n"
        "for args in (['--help'], ['--version'], ['complation'], ['completion', 'bash']):\n"
        "    CliRunner().invoke(main, args)\n"
        "print([n for n in ('numpy', 'sr_deploy.cli.bench') if n in sys.modules])"
    )
    assert run_python("-c", code).stdout.strip() == "[]"


def test_version(run_cli):
    result = run_cli("--version")
    assert (result.exit_code, result.stdout) == (0, f"srdeploy, version {sr_deploy.__version__}\n")


@pytest.mark.smoke
@pytest.mark.parametrize(
    "args",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["complexity"],
        ["complexity", "asrn_x4", "--counter", "thop"],
        ["export", "asrn_x4", "-o", "x", "--precision", "int4"],
        ["build-engine", "x.onnx"],
        ["bench", "x.onnx", "--metric", "lpips"],
        ["bench", "x.onnx", "--runs", "0"],
        ["import-checkpoint", "asrn", "x.pth"],
        ["train", "x"],
    ],
)
def test_wrong_usage_is_exit_code_2_on_stderr(run_cli, args):
    result = run_cli(*args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage:" in result.stderr and "Error:" in result.stderr


@pytest.mark.parametrize("hint", ["", "try harder"])
def test_an_error_of_ours_is_exit_code_1_with_error_and_hint(run_cli, monkeypatch, hint):
    def fail(name):
        raise InputError("it is broken", hint=hint)

    monkeypatch.setattr("sr_deploy.cli.build_engine.load_target", fail)
    result = run_cli("targets")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: it is broken\n" + (f"\nhint: {hint}\n" if hint else "")


def test_another_package_s_absence_is_told_with_the_pip_line_and_a_bug_is_not_hidden(
    run_cli, monkeypatch
):
    def fail(name):
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    monkeypatch.setattr("sr_deploy.cli.build_engine.load_target", fail)
    missing = "torch"
    result = run_cli("targets")
    assert result.exit_code == 1
    assert (
        "error: srdeploy targets needs the package 'torch'" in result.stderr
        and f"hint: {how_to_install('torch')}" in result.stderr
    )
    missing = "sr_deploy.typo"
    assert isinstance(run_cli("targets").exception, ModuleNotFoundError)


def test_a_bug_of_ours_is_not_dressed_up_as_an_error(run_cli, monkeypatch):
    monkeypatch.setattr("sr_deploy.cli.build_engine.load_target", lambda name: 1 / 0)
    assert isinstance(run_cli("targets").exception, ZeroDivisionError)


@pytest.mark.parametrize("command", ["targets", "models", "recipes"])
def test_json_parses_and_is_all_there_is_on_stdout(run_cli, command):
    if command == "recipes":
        pytest.importorskip(
            "sr_deploy.train.recipe", reason="the recipes need torch, which is not installed"
        )
    result = run_cli(command, "--json")
    assert result.exit_code == 0, result.stderr
    assert isinstance(json.loads(result.stdout), (list, dict))


def test_no_escape_codes(run_cli):
    for args in (["--help"], ["targets"], ["models"], ["bogus"]):
        result = run_cli(*args)
        assert "\x1b" not in result.stdout + result.stderr


def test_a_name_that_is_too_long_is_an_error(run_cli, tmp_path):
    name = "x" * 300
    picture = ["upscale", f"{name}.png", "-m", "srn_x4", "-o", tmp_path / "a.png"]
    for args, told in ((picture, "there is no file"), (["bench", name], "File name too long")):
        result = run_cli(*args)
        assert result.exit_code == 1 and "Traceback" not in result.stderr
        assert told in result.stderr


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_path_without_a_name_is_no_traceback(run_cli, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    result = run_cli("bench", name)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "error: " in result.stderr


def test_stdout_takes_any_name(monkeypatch):
    for encoding, printed in (("utf-8", b"caf\xe9 \xe2\x86\x92"), ("latin-1", b"caf\xe9 ?")):
        buffer = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding, "strict"))
        output.print_any_name()
        output.emit("caf\udce9 →")
        sys.stdout.flush()
        assert buffer.getvalue().strip() == printed


def test_it_runs_as_a_module_and_a_closed_pipe_is_no_traceback(run_python):
    code = (
        "import os, subprocess, sys\n"
        "r, w = os.pipe(); os.close(r)\n"
        "command = [sys.executable, '-m', 'sr_deploy.cli.main', 'targets']\n"
        "p = subprocess.run(command, stdout=w, stderr=subprocess.PIPE)\n"
        "print(p.stderr.decode())\n"
    )
    result = run_python("-c", code)
    assert result.returncode == 0 and "Traceback" not in result.stdout, result.stdout
    assert run_python("-m", "sr_deploy.cli.main", "--version").stdout.startswith(
        "srdeploy, version"
    )


def test_the_packages_that_get_a_pip_line_are_the_export_extra_s():
    from sr_deploy.core.files import data_folder

    setup = data_folder("models").parent / "setup.cfg"
    if not setup.is_file():
        pytest.skip("this is an installed wheel: there is no setup.cfg to compare with")
    import configparser

    parser = configparser.ConfigParser()
    parser.read(str(setup), encoding="utf-8")
    extra = {
        line.split(">")[0].split("<")[0].strip()
        for line in parser["options.extras_require"]["export"].split("\n")
        if line
    }
    modules = {"opencv-python-headless": "cv2", "scikit-image": "skimage"}
    assert {modules.get(name, name) for name in extra} == set(module.EXPORT_PACKAGES)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("args", [["targets"], ["targets", "--json"]])
def test_data_that_cannot_be_printed_is_an_error(args):
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "sr_deploy.cli.main", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    assert run.returncode == 1
    assert run.stderr.startswith("error: cannot write to stdout: No space") and "hint" in run.stderr
    assert "Traceback" not in run.stderr and "Exception" not in run.stderr
