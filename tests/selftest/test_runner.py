from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import pytest

from sr_deploy.core.claims import claim_file
from sr_deploy.core.errors import InputError, TargetError
from sr_deploy.results import rows
from sr_deploy.selftest import runner
from sr_deploy.selftest.checks import Check, Way
from sr_deploy.selftest.runner import SelftestOptions, run_selftest
from sr_deploy.selftest.summary import counts, table

WAY = dataclasses.asdict(Way("a way"))


@pytest.fixture()
def selftest(monkeypatch, tmp_path):
    """Run the self-test of checks of some kinds, with stand-ins for the checks."""
    worker = Path(__file__).with_name("stand_in_worker.py")
    monkeypatch.setattr(runner, "WORKER", (str(worker),))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))

    def run(*kinds, minutes=2.0, identity="this", checks=()):
        monkeypatch.setenv("IDENTITY", identity)
        checks = [*checks, *(Check(f"{kind} {n}", kind, WAY) for n, kind in enumerate(kinds))]
        monkeypatch.setattr(runner, "planned_checks", lambda ways: checks)
        done = run_selftest(SelftestOptions(output=tmp_path / "out", minutes=minutes))
        return done, {r.name: (r.state, r.reason) for r in done.results}

    return run


def test_each_check_gets_its_state_and_reason(selftest):
    done, found = selftest("good", "bad", "broken", "missing", "impossible")
    assert found["environment"] == ("pass", "")
    assert found["good 0"] == ("pass", "what was found")
    assert found["bad 1"] == ("fail", "it is wrong; mend it")
    assert found["broken 2"] == ("fail", "ZeroDivisionError: by zero")
    assert found["missing 3"][0] == "skip" and "pip install 'av>=12'" in found["missing 3"][1]
    assert found["impossible 4"] == ("skip", "no sensor")
    assert done.results[1].numbers == {"number": 1}
    assert counts(done) == "2 passed, 2 failed, 2 skipped, 0 not run"
    assert "fail     bad 1 " in table(done) and table(done).endswith("a CPU")


def test_a_crash_fails_one_check_and_the_next_ones_run(selftest):
    _, found = selftest("crash", "good", "leave", "good")
    assert found["crash 0"] == ("fail", "its process was ended by SIGSEGV: a library crashed")
    assert found["leave 2"][0] == "fail" and "its process exited with 3" in found["leave 2"][1]
    assert found["good 1"][0] == found["good 3"][0] == "pass"


def test_a_check_that_hangs_is_ended(selftest, monkeypatch):
    monkeypatch.setattr(runner, "LIMIT_S", 2.0)
    _, found = selftest("hang", "good")
    assert found["hang 0"] == ("fail", "it was not done after 2 s")
    assert found["good 1"][0] == "pass"


def test_what_does_not_fit_in_the_time_is_listed(selftest):
    done, found = selftest("good", "hang", "good", "good", minutes=0.08)
    assert found["good 0"][0] == "pass"
    for name in ("hang 1", "good 2", "good 3"):
        assert found[name] == ("not run", runner.OUT_OF_TIME)
    assert done.count("not run") == 3


def test_it_goes_on_where_it_was_ended(selftest, tmp_path):
    selftest("good", "bad", "hang", minutes=0.08)
    with open(tmp_path / "out" / "results.jsonl", "a") as f:
        f.write('{"name": "good 2", "sta')  # a killed process
    _, found = selftest("good", "bad", "good")
    assert [state for state, _ in found.values()] == ["pass", "pass", "fail", "pass"]
    assert (tmp_path / "out" / "ran.txt").read_text() == "good 0\ngood 2\n"
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines][-2:] == ["bad 1", "good 2"]


def test_results_of_other_software_machines_or_measurements_are_never_mixed(selftest, tmp_path):
    selftest("good", identity="one")
    with pytest.raises(InputError, match="has results of another machine"):
        selftest("good", identity="another")
    (tmp_path / "out" / "facts.json").unlink()
    (tmp_path / "out" / "rows.jsonl").write_text("")  # as bench writes
    with pytest.raises(InputError, match="something else than a self-test"):
        selftest("good", identity="one")


def test_results_that_cannot_be_written_are_an_error(selftest, monkeypatch):
    def no_space(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rows, "open", no_space, raising=False)
    with pytest.raises(InputError, match="cannot write .*results.jsonl: No space left"):
        selftest("good")


def test_two_in_one_folder_are_refused(selftest, tmp_path):
    (tmp_path / "out").mkdir(exist_ok=True)
    with claim_file(tmp_path / "out" / ".claim"):
        with pytest.raises(InputError, match="another self-test works in"):
            selftest("good")


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"name": 3}', "\ufffd"])
def test_the_check_of_a_damaged_line_is_done_again(selftest, tmp_path, line):
    selftest("good")
    (tmp_path / "out" / "results.jsonl").write_text(line + "\n")
    _, found = selftest("good")
    assert found["good 0"][0] == "pass"
    assert (tmp_path / "out" / "ran.txt").read_text() == "good 0\ngood 0\n"


def test_without_an_environment_nothing_else_is_run(selftest, monkeypatch):
    monkeypatch.setattr(runner, "ENVIRONMENT", Check("environment", "crash"))
    done, found = selftest("good")
    assert list(found) == ["environment"] and done.count("fail") == 1


def test_a_machine_where_nothing_runs_fails(monkeypatch, selftest):
    checks = [Check("torch", "networks", WAY, why_skipped="torch is missing")]
    monkeypatch.setattr(runner, "NOTHING_RUNS", "nothing")
    done, found = selftest(checks=checks)
    assert found == {"environment": ("fail", "nothing"), "torch": ("skip", "torch is missing")}


@pytest.mark.parametrize("minutes", [0, -1, 2000, float("nan")])
def test_wrong_minutes_are_refused(minutes):
    with pytest.raises(InputError, match="minutes; expected more than 0, at most 1440"):
        SelftestOptions(minutes=minutes)


def test_an_unknown_target_is_refused():
    with pytest.raises(TargetError, match="unknown target 'xaver'"):
        SelftestOptions(target="xaver")
