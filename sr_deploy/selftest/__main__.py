"""python -m sr_deploy.selftest: `srdeploy selftest` where click is not installed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from sr_deploy.core.errors import SrDeployError
from sr_deploy.selftest.archive import prove
from sr_deploy.selftest.runner import DEFAULT_FOLDER, DEFAULT_MINUTES, Selftest, SelftestOptions
from sr_deploy.selftest.summary import as_dict, table


def main() -> int:
    """Run the self-test that sys.argv asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sr_deploy.selftest", description=prove.__doc__)
    parser.add_argument("--target", default="", help="check only engines of this target")
    parser.add_argument("-o", "--output", type=Path, default=Path(DEFAULT_FOLDER), metavar="DIR")
    parser.add_argument("--minutes", type=float, default=DEFAULT_MINUTES)
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    options = vars(parser.parse_args())
    as_json = options.pop("as_json")

    def show(selftest: Selftest) -> None:
        data = json.dumps(as_dict(selftest), indent=2) if as_json else table(selftest)
        sys.stdout.write(data + "\n")
        sys.stdout.flush()

    try:
        selftest = prove(SelftestOptions(**options), _log, show)
    except KeyboardInterrupt:
        _log("stopped; the same command goes on")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for Python's own flush at the end
        return 1
    except SrDeployError as e:
        _log(f"error: {e.message}" + (f"\n\nhint: {e.hint}" if e.hint else ""))
        return 1
    return 1 if selftest.count("fail") else 0


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
