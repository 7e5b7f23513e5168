"""Files that are either whole or absent: atomic writes, checksums, and where the shipped data lies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Iterator, List, Union

import sr_deploy
from sr_deploy.core.errors import InputError


def sha256_of(path: Union[str, Path]) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is synced and renamed to `path`, else removed.

    Raises InputError when the folder cannot be made or written.
    """
    make_output_folder(path.parent)
    # Not the suffix of `path`: what a killed process leaves must not look like an artifact.
    descriptor, name = tempfile.mkstemp(dir=str(path.parent), prefix=".partial-", suffix=".tmp")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as e:
        full = e.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        hint = "free some space or give another folder" if full else "give another name or folder"
        raise InputError(f"cannot write {path}: {e.strerror or e}", hint=hint) from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_output_folder(path: Path) -> Path:
    """Make `path` and return it. Raises InputError when it cannot be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(path)):
            pass
    except OSError as e:
        raise InputError(
            f"cannot write to the folder {path}: {e.strerror or e}",
            hint="give a folder you may write to with -o",
        ) from e
    return path


@contextlib.contextmanager
def remove_empty_folders(*folders: Path) -> Iterator[None]:
    """Take away in the end what of these folders and their parents was made meanwhile and is empty: an interrupt leaves nothing."""
    made = sorted(
        {p for f in folders for p in (f, *f.parents) if not p.exists()}, key=lambda p: -len(p.parts)
    )
    try:
        yield
    finally:
        for folder in made:
            with contextlib.suppress(OSError):  # it holds something, or was never made
                folder.rmdir()


def files_with_suffix(folder: Path, *suffixes: str) -> List[Path]:
    """Return the files of a folder with one of the suffixes, in the order people count: d2 before d10, c4 before c4-nla."""

    def key(path: Path) -> list:
        return [
            [(int(t), "") if t.isdigit() else (-1, t) for t in re.findall(r"\d+|\D+", part)]
            for part in path.name.split(".")
        ]

    return sorted((p for p in folder.iterdir() if p.suffix in suffixes and p.is_file()), key=key)


def printable_name(path: Path) -> str:
    """Return a file's name as text that can be written anywhere: bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def data_folder(name: str) -> Path:
    """Return the folder of shipped data, `models` or `engines/targets`: the checkout's, or the installed wheel's."""
    package = Path(sr_deploy.__file__).resolve().parent
    checkout = package.parent / name
    if (package.parent / "setup.cfg").is_file() and checkout.is_dir():
        return checkout
    return package / ("_" + name.replace("/", "_"))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
