"""Runs the checks of a machine within a time, each in a child process, and goes on after a kill.

Files in the folder: `results.jsonl` (one finished check a line), `rows.jsonl`, `facts.json`,
`selftest.html`, `artifacts/`, `logs/`, `pictures/` and the archive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import queue
import re
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from sr_deploy.core.claims import claim_file
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import make_output_folder, write_text
from sr_deploy.core.jsonio import from_dict, to_json
from sr_deploy.core.lifeline import child_with_lifeline, signal_name
from sr_deploy.core.progress import as_progress
from sr_deploy.core.target import load_target
from sr_deploy.results.rows import append_lines, drop_partial_line, read_rows
from sr_deploy.selftest.checks import ENVIRONMENT, Check, CheckResult, Way, planned_checks

DEFAULT_FOLDER = "selftest"
DEFAULT_MINUTES = 8.0
NOTHING_RUNS = "nothing here can build or run networks: the skipped checks tell why"
LIMIT_S = 240.0
"""A check that takes longer has failed."""
WORKER = ("-m", "sr_deploy.selftest.worker")
OUT_OF_TIME = "out of time: start it again with the same folder to go on"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class SelftestOptions:
    """What to check. Raises InputError or TargetError on wrong values."""

    target: str = ""
    """Check only engines of this target; empty: every way to run networks here."""
    output: Path = Path(DEFAULT_FOLDER)
    minutes: float = DEFAULT_MINUTES
    """What does not fit is listed as not run."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes <= 1440:
            raise InputError(f"{self.minutes:g} minutes; expected more than 0, at most 1440")
        if self.target:
            load_target(self.target)


@dataclass(frozen=True)
class Selftest:
    """A finished self-test."""

    date_utc: str
    facts: Dict[str, Any]
    results: Tuple[CheckResult, ...]

    def count(self, state: str) -> int:
        return sum(result.state == state for result in self.results)


def run_selftest(options: SelftestOptions, progress: Progress = lambda line: None) -> Selftest:
    """Run the checks and return their results, also those kept from an earlier start.

    Raises InputError if the folder cannot be written, is in use, or holds results of another
    machine, of other software, or not of a self-test.
    """
    deadline = time.monotonic() + 60 * options.minutes
    folder = make_output_folder(options.output)
    with claim_file(folder / ".claim") as claimed:
        if not claimed:
            raise InputError(
                f"another self-test works in {folder}",
                hint="wait until it has finished, or give another folder with -o",
            )
        return _run_selftest(options, folder, deadline, progress)


def _run_selftest(
    options: SelftestOptions, folder: Path, deadline: float, progress: Progress
) -> Selftest:
    environment = replace(ENVIRONMENT, model=options.target)
    (found,) = _run_checks([environment], folder, deadline, progress)
    facts = found.numbers.get("facts", {})
    identity = str(found.numbers.get("identity", ""))
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    first = replace(found, numbers={})
    if found.state != "pass":
        return Selftest(date, facts, (first,))
    _check_folder(folder, identity)
    write_text(folder / "facts.json", to_json({"identity": identity, "facts": facts}))
    ways = [
        from_dict(Way, data, source="the environment check", error=InputError)
        for data in found.numbers["ways"]
    ]
    checks = planned_checks(ways)
    if all(check.why_skipped for check in checks):
        first = replace(first, state="fail", reason=NOTHING_RUNS)
    kept = _kept(folder, progress)
    for check in checks:
        if check.name in kept:
            progress(f"{check.name}: passed before")
    todo = [check for check in checks if check.name not in kept]
    results = dict(kept)
    with as_progress(progress).track("checking", len(todo)) as advance:
        for result in _run_checks(todo, folder, deadline, progress):
            results[result.name] = result
            append_lines(folder / "results.jsonl", [dataclasses.asdict(result)])
            advance()
    return Selftest(date, facts, (first, *(results[check.name] for check in checks)))


def _check_folder(folder: Path, identity: str) -> None:
    """Raise InputError for a folder with results that are not of this machine and software."""
    file, rows = folder / "facts.json", folder / "rows.jsonl"
    before = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        before = json.loads(file.read_text(encoding="utf-8"))["identity"]
    written = (file, rows, folder / "results.jsonl")
    if before != identity and any(path.exists() for path in written):
        raise InputError(
            f"{folder} has results of another machine, of other software or of something else "
            "than a self-test",
            hint="give another folder with -o, or remove that one",
        )
    if rows.exists():
        drop_partial_line(rows)
        read_rows(rows)  # fail now, not after the checks


def _kept(folder: Path, progress: Progress) -> Dict[str, CheckResult]:
    """Return the passed checks of an earlier start by name, as long as what they made is there."""
    file = folder / "results.jsonl"
    drop_partial_line(file)
    kept = {}
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            result = from_dict(CheckResult, json.loads(line), source=str(file), error=InputError)
        except (ValueError, TypeError, AttributeError, InputError):
            progress(f"{file}, line {number}, is damaged: its check is done again")
            continue
        if result.state == "pass":
            kept[result.name] = result
    if not (folder / "artifacts").is_dir():
        kept = {name: result for name, result in kept.items() if ": build: " not in name}
    return kept


def _run_checks(
    checks: Sequence[Check], folder: Path, deadline: float, progress: Progress
) -> Iterator[CheckResult]:
    """Yield the result of each check in order. Checks of one way share a process until one dies."""
    todo = list(checks)
    while todo:
        if todo[0].why_skipped:
            result = CheckResult(todo[0].name, "skip", todo[0].why_skipped)
            yield _reported(result, progress)
            todo.pop(0)
            continue
        group = _of_one_way(todo)
        for result in _run_group(group, folder, deadline):
            yield _reported(result, progress)
            todo.pop(0)


def _reported(result: CheckResult, progress: Progress) -> CheckResult:
    progress(f"{result.name}: {result.state} ({result.seconds:g} s) {result.reason}".rstrip())
    return result


def _of_one_way(checks: Sequence[Check]) -> List[Check]:
    group = []
    for check in checks:
        if check.why_skipped or check.way != checks[0].way:
            break
        group.append(check)
    return group


def _run_group(checks: Sequence[Check], folder: Path, deadline: float) -> Iterator[CheckResult]:
    """Yield the results of checks in one process, up to and including one that ends it."""
    if time.monotonic() >= deadline:
        yield CheckResult(checks[0].name, "not run", OUT_OF_TIME)
        return
    log = make_output_folder(folder / "logs") / f"{_file_name(checks[0])}.log"
    listed = json.dumps([dataclasses.asdict(check) for check in checks])
    command = [sys.executable, *WORKER, str(folder), listed]
    with open(log, "a", encoding="utf-8") as stderr:
        try:
            with child_with_lifeline(command, stderr=stderr) as child:
                assert child.stdout is not None
                lines = _lines_of(child.stdout)
                for check in checks:
                    start = time.monotonic()
                    left = deadline - start
                    line = _next_line(lines, min(left, LIMIT_S))
                    if line:
                        data = json.loads(line)
                        yield from_dict(CheckResult, data, source=check.name, error=InputError)
                        continue
                    seconds = round(time.monotonic() - start, 1)
                    state, reason = "fail", f"it was not done after {LIMIT_S:g} s"
                    if line is not None:
                        reason = _why_ended(child.wait(), log)
                    elif left <= LIMIT_S:
                        state, reason = "not run", OUT_OF_TIME
                    ended = CheckResult(check.name, state, reason, seconds)
                    raise _EndedError(ended)
        except _EndedError as e:
            yield e.result


class _EndedError(Exception):
    """The child was given up; the result of the check that it was at."""

    def __init__(self, result: CheckResult) -> None:
        super().__init__(result.reason)
        self.result = result


def _lines_of(stdout: IO[str]) -> queue.Queue[str]:
    """Return a queue of the lines of a child, read by a thread; an empty text is the end."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _next_line(lines: queue.Queue[str], timeout_s: float) -> Optional[str]:
    """Return the next line; an empty text at the end, None if the time is over."""
    try:
        return lines.get(timeout=max(timeout_s, 0.0))
    except queue.Empty:
        return None


def _why_ended(code: int, log: Path) -> str:
    if code < 0:
        why = "out of memory?" if signal_name(-code) == "SIGKILL" else "a library crashed"
        return f"its process was ended by {signal_name(-code)}: {why}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no message")
    return f"its process exited with {code}: {last[:300]}"


def _file_name(check: Check) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", check.on.name if check.way else check.name)
