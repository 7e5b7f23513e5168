from __future__ import annotations

import json

import pytest

from sr_deploy.selftest import archive
from sr_deploy.selftest.checks import CheckResult
from sr_deploy.selftest.runner import Selftest


@pytest.mark.parametrize("state, code", [("pass", 0), ("skip", 0), ("not run", 0), ("fail", 1)])
def test_the_exit_code_tells_failures(run_cli, monkeypatch, tmp_path, state, code):
    done = Selftest("2026-11-28T13:00:00Z", {"cpu": "a CPU"}, (CheckResult("a way", state, "so"),))
    monkeypatch.setattr(archive, "run_selftest", lambda options, progress: done)
    result = run_cli("selftest", "-o", tmp_path / "out")
    assert result.exit_code == code and "a way" in result.stdout and "so" in result.stdout
    assert "selftest.html" in result.stderr and ".tar.gz" in result.stderr
    shown = json.loads(run_cli("selftest", "-o", tmp_path / "out", "--json").stdout)
    assert shown["results"][0]["state"] == state
    (packed,) = (tmp_path / "out").glob("*.tar.gz")
    if state not in ("pass", "fail"):  # it proves nothing
        assert "no check was done" in run_cli("adopt", packed, "-o", tmp_path / "devices").stderr
        return
    adopted = run_cli("adopt", packed, "-o", tmp_path / "devices")
    assert (adopted.exit_code, adopted.stdout.strip()) == (
        0, str(tmp_path / "devices" / "a-cpu" / "20261128T130000Z"),
    )  # fmt: skip


def test_an_interrupt_says_how_to_go_on(run_cli, monkeypatch, tmp_path):
    def interrupt(options, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "run_selftest", interrupt)
    result = run_cli("selftest", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "the same command goes on with what is in" in result.stderr


def test_wrong_options_are_errors(run_cli):
    assert "0 minutes; expected" in run_cli("selftest", "--minutes", "0").stderr
    assert "unknown target 'xaver'" in run_cli("selftest", "--target", "xaver").stderr
