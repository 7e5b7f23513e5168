"""Print what self-tests have proven on which devices: a row for each adopted archive.

Usage: python3 benchmarks/devices.py --table benchmarks/devices
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sr_deploy.selftest.archive import checked_selftest  # noqa: E402

_HEADINGS = ("device", "date", "software", "passed", "failed", "not done")
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13")


def table(folder: Path) -> str:
    """Return the table of the self-tests below a folder, or a line if there is none."""
    files = sorted(folder.glob("*/*/selftest.json"))
    if not files:
        return "Nothing was adopted yet."
    data = [checked_selftest(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    lines = [_HEADINGS, ["---"] * len(_HEADINGS), *map(_cells, data)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(selftest: Dict[str, Any]) -> List[str]:
    facts, results = selftest["facts"], selftest["results"]
    packages = facts.get("packages", {})
    software = [f"srdeploy {facts.get('version')} ({facts.get('git_rev')})"]
    software += [f"{name} {packages[name]}" for name in _PACKAGES if name in packages]
    driver = facts.get("board", {}).get("driver")
    software += [f"driver {driver}"] if driver else []
    names = {
        state: [r["name"] for r in results if r["state"] == state] for state in ("pass", "fail")
    }
    not_done = [r["name"] for r in results if r["state"] in ("skip", "not run")]
    return [
        selftest["device"],
        selftest["date_utc"][:10],
        ", ".join(software),
        "; ".join(names["pass"]),
        "; ".join(names["fail"]) or "none",
        "; ".join(not_done) or "none",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, required=True, metavar="DIR")
    print(table(parser.parse_args().table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
