"""What doctor tells of a machine. GPUs are stand-ins."""

from __future__ import annotations

import dataclasses

import pytest
from click.testing import CliRunner
from doubles.library import StandInCuda

from sr_deploy.cli.main import main
from sr_deploy.core.errors import CannotRunHereError, MissingPackageError, how_to_install
from sr_deploy.runtime import environment as module
from sr_deploy.runtime.environment import environment


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU that everything can use; tests break parts of it."""

    def put(**parts):
        defaults = {
            "gpu_present": lambda: True,
            "packages_conflict": lambda: ("", ""),
            "_torch": lambda: ("a stand-in GPU", ""),
            "why_unusable": lambda provider: ("", ""),
            "cuda": StandInCuda,
        }
        for name, part in {**defaults, **parts}.items():
            monkeypatch.setattr(module, name, part)

    return put


def run(*arguments):
    done = CliRunner().invoke(main, ["doctor", *arguments])
    return done.exit_code, done.output


def test_a_machine_on_which_all_is_well(machine):
    machine()
    code, text = run()
    assert code == 0 and text.endswith("no problem found\n")
    code, text = run("--json")
    assert '"torch": "a stand-in GPU"' in text
    assert '"CUDA binding": "a stand-in GPU, SM 7.2, by stand-in"' in text
    assert code == 0 and '"problems": []' in text


def raising(error):
    def function(*args):
        raise error

    return function


@pytest.mark.parametrize(
    ("parts", "what", "hint"),
    [
        (
            {"packages_conflict": lambda: ("both are installed", "pip uninstall one")},
            "both are installed",
            "pip uninstall one",
        ),
        (
            {"_torch": lambda: ("built without CUDA", "install another torch")},
            "torch cannot use the GPU: built without CUDA",
            "install another torch",
        ),
        (
            {"cuda": raising(CannotRunHereError("no driver", hint="pip install x"))},
            "CUDA binding cannot use the GPU: no driver",
            "pip install x",
        ),
        (
            {
                "why_unusable": lambda provider: ("cuDNN is missing", "pip install cudnn"),
                "installed_packages": lambda: ["onnxruntime-gpu"],
            },
            "onnxruntime cannot use the GPU: cuDNN is missing",
            "pip install cudnn",
        ),
    ],
)
def test_problems_come_with_what_to_do(machine, parts, what, hint):
    machine(**parts)
    code, text = run()
    assert code == 1 and f"problem: {what}\n  hint: {hint}" in text


def test_little_free_memory_is_a_problem(machine, monkeypatch):
    machine()
    monkeypatch.setattr(StandInCuda, "free_memory", lambda self: (200 * 2**20, 8 * 2**30))
    assert "only 200 MiB of the GPU's 8192 MiB are free" in environment().problems[0].what


def test_without_a_gpu_nothing_is_a_problem(machine):
    machine(
        gpu_present=lambda: False,
        _torch=lambda: ("built without CUDA", "install another torch"),
        cuda=raising(CannotRunHereError("no driver")),
    )
    assert environment().problems == ()


def test_a_binding_is_missed_only_where_a_library_needs_it(machine, monkeypatch):
    error = MissingPackageError("cuda-python", needed_for="x")
    machine(cuda=raising(error))
    monkeypatch.setattr(module, "package_versions", lambda: {"torch": "2.13.0"})
    assert environment().problems == ()
    monkeypatch.setattr(module, "package_versions", lambda: {"tensorrt": "8.5.3.1"})
    (problem,) = environment().problems
    assert problem.hint == how_to_install("cuda-python")


def test_this_machine_answers():
    found = environment()
    assert found.python and found.cpu and "numpy" in found.packages
    assert set(dataclasses.asdict(found)["uses_gpu"]) == {"torch", "onnxruntime", "CUDA binding"}
