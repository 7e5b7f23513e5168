"""Runs checks in a process of its own: python -m sr_deploy.selftest.worker FOLDER CHECKS.

CHECKS is a JSON list. One JSON line per finished check goes to stdout; whatever libraries print
goes to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
from pathlib import Path

from sr_deploy.core.errors import InputError, MissingPackageError, SrDeployError
from sr_deploy.core.jsonio import from_dict
from sr_deploy.core.lifeline import end_with_parent
from sr_deploy.selftest.checks import KINDS, Check, CheckResult, SkippedError


def main() -> None:
    """Run the checks in sys.argv."""
    end_with_parent()
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    for data in json.loads(sys.argv[2]):
        check = from_dict(Check, data, source="the worker's checks", error=InputError)
        sys.stderr.write(f"== {check.name}\n")
        sys.stderr.flush()
        result = run_check(check, folder)
        results.write(json.dumps(dataclasses.asdict(result)) + "\n")
        results.flush()


def run_check(check: Check, folder: Path) -> CheckResult:
    """Run a check here, and return what became of it."""
    start = time.perf_counter()
    state, numbers = "pass", {}
    try:
        numbers = KINDS[check.kind](check, folder)
        reason = str(numbers.pop("found", ""))
    except (MissingPackageError, SkippedError) as e:
        state, reason = "skip", f"{e.message}; {e.hint}" if e.hint else e.message
    except SrDeployError as e:
        traceback.print_exc()
        state, reason = "fail", f"{e.message}; {e.hint}" if e.hint else e.message
    except Exception as e:
        traceback.print_exc()
        state, reason = "fail", f"{type(e).__name__}: {e}"
    seconds = round(time.perf_counter() - start, 1)
    return CheckResult(check.name, state, " ".join(reason.split()), seconds, numbers)


if __name__ == "__main__":
    main()
