"""Fetch the large photographs that the benchmark of adaptive networks uses.

Usage: python3 benchmarks/photographs.py DIR

They are the photographs of 1900 pixels or more, without drawings, in five packages of wallpapers of
Debian 12, under free licences: photographs.json names for each the package, the file, the author,
the licence and the SHA-256. The packages are downloaded by `apt-get download`, so this needs Debian
or a system with its package sources, and 210 MB. Photographs that are in DIR already are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

TABLE = Path(__file__).with_suffix(".json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    fetch(parser.parse_args().folder)


def fetch(folder: Path) -> List[Path]:
    """Put the missing photographs into `folder`; return the paths of all, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    missing: Dict[str, List[dict]] = {}
    for photograph in photographs():
        if not is_there(folder, photograph):
            missing.setdefault(photograph["package"], []).append(photograph)
    for package, files in missing.items():
        with tempfile.TemporaryDirectory() as temporary:
            subprocess.run(["apt-get", "download", package], cwd=temporary, check=True)
            (archive,) = Path(temporary).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive.name, "all"], cwd=temporary, check=True)
            for photograph in files:
                source = Path(temporary, "all", photograph["path"])
                shutil.copyfile(source, folder / f"{photograph['name']}.jpg")
                if not is_there(folder, photograph):
                    sys.exit(f"{package} has another version of {photograph['path']}")
    return [folder / f"{photograph['name']}.jpg" for photograph in photographs()]


def photographs() -> List[dict]:
    """Return the rows of photographs.json."""
    rows: List[dict] = json.loads(TABLE.read_text(encoding="utf-8"))
    return rows


def is_there(folder: Path, photograph: dict) -> bool:
    """Return whether `folder` has this photograph."""
    path = folder / f"{photograph['name']}.jpg"
    if not path.is_file():
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == photograph["sha256"]


if __name__ == "__main__":
    main()
