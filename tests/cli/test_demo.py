"""srdeploy demo, with a network and pictures that take little time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

for package in ("torch", "onnx", "onnxscript", "onnxruntime", "cv2", "av", "matplotlib", "jinja2"):
    pytest.importorskip(package, reason=f"{package} is not installed; the demo needs it")

from sr_deploy.deploy import demo  # noqa: E402


@pytest.fixture()
def small(tmp_path, monkeypatch):
    """A demo of a small network, on small pictures and 3 frames, for the target cpu."""
    from sr_deploy.core.target import load_target

    def with_small_network(media, targets):
        for step in steps(media, targets):
            words = tuple("fsrcnn-w16_x4" if word == "asrn_x4" else word for word in step.words)
            extra = ("-m", "fsrcnn-w16_x4") if words[0] == "upscale" else ()
            yield replace(step, words=words + extra)

    steps = demo.demo_steps
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "demo_steps", with_small_network)
    monkeypatch.setattr(demo, "VARIANTS", "all")
    monkeypatch.setattr(demo, "_FRAMES", 3)
    monkeypatch.setattr(demo, "_HR_HW", (96, 128))
    monkeypatch.setattr("sr_deploy.runtime.build.targets_here", lambda: [load_target("cpu")])


@pytest.mark.slow
def test_every_step_is_run_and_all_files_are_listed(run_cli, small):
    result = run_cli("demo", "-o", "d")
    assert result.exit_code == 0, result.stderr
    commands = [line[2:] for line in result.stderr.splitlines() if line.startswith("$ ")]
    assert commands[:2] == ["cd d", "srdeploy upscale photo.png --compare -m fsrcnn-w16_x4"]
    assert [line.split()[1] for line in commands[1:]] == [
        *["upscale"] * 4, "export", "build-engine", "bench", "select", "report",
    ]  # fmt: skip
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("d/")]
    assert listed and all(Path(name).exists() for name in listed)
    made = {str(path) for path in Path("d").iterdir()} - set(listed)
    assert made == {
        str(Path("d", n)) for n in ("clip.mp4", "engines", "originals", "photo.png", "photos")
    }
    assert "srdeploy deploy" in result.stderr
    again = run_cli("demo", "-o", "d")
    assert again.exit_code == 1 and "d already exists" in again.stderr


def test_a_step_that_fails_is_told_and_the_others_are_run(run_cli, small, monkeypatch):
    from sr_deploy.deploy.demo import DemoStep

    steps = [
        DemoStep("one that fails", ("upscale", "none.png")),
        DemoStep("one that lists", ("models",)),
    ]
    monkeypatch.setattr(demo, "demo_steps", lambda media, targets: steps)
    result = run_cli("demo", "-o", "d")
    assert result.exit_code == 1
    assert "error: not every step worked: srdeploy upscale none.png" in result.stderr
    assert "asrn_x4" in result.stdout
    assert Path.cwd().name != "d"


def test_a_missing_package_is_no_failure(run_cli, small, monkeypatch):
    from sr_deploy.core.errors import MissingPackageError
    from sr_deploy.deploy.demo import DemoStep

    def fails(*args):
        raise MissingPackageError("jinja2", needed_for="the report")

    step = DemoStep("a report", ("report", "rows.jsonl", "-o", "r.html"))
    monkeypatch.setattr(demo, "demo_steps", lambda media, targets: [step])
    monkeypatch.setattr("sr_deploy.results.rows.read_rows", fails)
    monkeypatch.setattr("sr_deploy.results.report.html.check_can_render", fails)
    result = run_cli("demo", "-o", "d")
    assert result.exit_code == 0, result.stderr
    assert "left out: " in result.stderr and "pip install jinja2" in result.stderr


def test_without_torch_what_needs_graphs_is_left_out(run_cli, small, monkeypatch):
    made = demo.demo_steps
    monkeypatch.setattr(
        demo, "demo_steps", lambda *args: [s for s in made(*args) if s.words[0] != "upscale"]
    )
    monkeypatch.setattr("sr_deploy.cli.export.export.callback", lambda **options: import_torch())
    result = run_cli("demo", "-o", "d")
    assert result.exit_code == 0, result.stderr
    assert "left out: torch is not installed; pip install" in result.stderr
    assert "left out: there is no engines/graphs/cpu" in result.stderr
    assert "left out: there is no engines/rows/rows.jsonl" in result.stderr
    assert "asrn_x4" not in result.stdout


def import_torch():
    raise ImportError("No module named 'torch'", name="torch")
