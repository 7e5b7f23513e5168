"""The user's cache folder: what was made or measured once for this machine. All can be deleted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Optional

from sr_deploy.core.errors import SrDeployError
from sr_deploy.core.files import write_text

CACHE_VARIABLE = "SRDEPLOY_CACHE"


def cache_folder() -> Path:
    """Return the cache folder, which may not exist yet.

    It is named by the environment variable SRDEPLOY_CACHE, else it is the folder `srdeploy` in the
    system's place for caches: `$XDG_CACHE_HOME` or `~/.cache`, `%LOCALAPPDATA%`,
    `~/Library/Caches`.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    return Path(base or os.path.expanduser("~/.cache")) / "srdeploy"


def key_of(*parts: object) -> str:
    """Return a short checksum of values by their texts, for a name of what they decide."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def read_cached(folder: str, key: str) -> Optional[Dict[str, Any]]:
    """Return a cached JSON object; None if there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        value = json.loads((cache_folder() / folder / f"{key}.json").read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else None
    return None


def write_cached(folder: str, key: str, value: Dict[str, Any]) -> None:
    """Keep a JSON object. A cache that cannot be written is left as it is."""
    with contextlib.suppress(SrDeployError, OSError):
        write_text(cache_folder() / folder / f"{key}.json", json.dumps(value))
