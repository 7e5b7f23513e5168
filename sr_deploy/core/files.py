"""Atomic file writes, checksums, and the location of the shipped data."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Iterator, List, Optional, Tuple, Union

from sr_deploy.core.errors import InputError


def sha256_of(path: Union[str, Path]) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


_HINTS = {
    "ENOSPC": "free some space, or use another folder",
    "EDQUOT": "your quota is used up: remove files, or use another folder",
    "EFBIG": "its file system holds no file of this size: use another folder",
    "ENAMETOOLONG": "use a shorter name, or a folder that is less deep",
    "EACCES": "change its permissions, or use another folder",
    "EPERM": "change its permissions, or use another folder",
    "EROFS": "its file system is read-only: use another folder",
    "EISDIR": "it is a folder: use another name",
    "ENOTDIR": "a part of its path is a file: use another folder",
    "EEXIST": "a part of its path is a file: use another folder",
    "EINVAL": "its file system does not allow this name: use another name",
    "EILSEQ": "its file system does not allow this name: use another name",
}


def check_new(path: Path, *, force: bool) -> None:
    """Raise InputError if `path` exists, unless `force` allows to replace it."""
    if not force and os.path.lexists(str(path)):
        raise InputError(f"{path} already exists", hint="give another output, or --force")


def write_hint(error: OSError) -> str:
    """Return what to do where a file or folder cannot be written."""
    name = errno.errorcode.get(error.errno or 0, "")
    return _HINTS.get(name, "use another name or folder")


def is_disk_full(error: Optional[BaseException]) -> bool:
    """Return whether an error is a full disk or quota, at which all further writes fail too."""
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return isinstance(error, OSError) and error.errno in full


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder. On success it is synced and renamed to `path`.

    On failure it is removed. Raises InputError if the folder cannot be created or written.
    """
    make_output_folder(path.parent)
    # Without the suffix of `path`: a file left by a killed process must not look like an artifact.
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
        raise InputError(f"cannot write {path}: {e.strerror or e}", hint=write_hint(e)) from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


_SIDE_NAME = 100
"""The most bytes of a file's name that the name of a file beside it repeats."""


def side_path(path: Path, ending: str) -> Path:
    """Return the path of a file beside `path`, such as a claim: its name with `ending`.

    A name of more than 100 bytes is shortened and gets a checksum, since file systems allow 255
    bytes or fewer.
    """
    name = path.name
    if len(os.fsencode(name)) > _SIDE_NAME:
        checksum = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        while len(os.fsencode(name)) > _SIDE_NAME - 17:
            name = name[:-1]
        name = f"{name}~{checksum}"
    return path.with_name(name + ending)


@contextlib.contextmanager
def native_path(path: Path) -> Iterator[str]:
    """Yield a name by which a library that takes names as UTF-8 text can open the file `path`.

    On Linux, a name may be any bytes. Where they are not UTF-8, many libraries crash: these get the
    name of a link in the temporary folder, with the same suffix. The files beside `path` are beside
    that name too if only the folder's name is not UTF-8.
    """
    if is_text(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="srdeploy-") as folder:
        link = Path(folder) / "link"
        if is_text(path.name):
            link.symlink_to(path.parent.absolute(), target_is_directory=True)
            yield str(link / path.name)
        else:
            link = link.with_suffix(path.suffix if is_text(path.suffix) else "")
            link.symlink_to(path.absolute())
            yield str(link)


def is_text(name: str) -> bool:
    """Return whether a file's name is UTF-8. Python marks other bytes by lone surrogates."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_output_folder(path: Path) -> Path:
    """Create `path` and return it. Raises InputError if it cannot be created or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=str(path)):
            pass
    except OSError as e:
        raise InputError(
            f"cannot write to the folder {path}: {e.strerror or e}",
            hint=write_hint(e),
        ) from e
    return path


@contextlib.contextmanager
def remove_empty_folders(*folders: Path) -> Iterator[None]:
    """At the end, remove folders and parents that were created meanwhile and are empty."""
    absent = {p for folder in folders for p in (folder, *folder.parents) if not p.exists()}
    try:
        yield
    finally:
        for folder in sorted(absent, key=lambda p: -len(p.parts)):
            with contextlib.suppress(OSError):  # not empty, or never created
                folder.rmdir()


def files_with_suffix(folder: Path, *suffixes: str) -> List[Path]:
    """Return the files of a folder with one of the suffixes, d2 before d10 and c4 before c4-nla."""

    def key(path: Path) -> List[object]:
        return [
            [(int(t), "") if t.isdigit() else (-1, t) for t in re.findall(r"\d+|\D+", part)]
            for part in path.name.split(".")
        ]

    return sorted((p for p in folder.iterdir() if p.suffix in suffixes and p.is_file()), key=key)


def size_text(path: Path) -> str:
    """Return a file's size, such as `1.4 MiB`; empty where there is no file."""
    return f"{path.stat().st_size / 2**20:.1f} MiB" if path.is_file() else ""


def printable_name(path: Path) -> str:
    """Return a file's name as valid text: bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(path.name).decode("utf-8", "backslashreplace")


def data_folder(name: str) -> Path:
    """Return a folder of shipped data (`models`, `engines/targets`), in the checkout or wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / name
    if (package.parent / "setup.cfg").is_file() and checkout.is_dir():
        return checkout
    return package / ("_" + name.replace("/", "_"))


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def foreign_file(path: Path) -> Tuple[str, str]:
    """Return what a file is that was downloaded as another, and what to do; empty for others."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(64)
    except OSError:
        return "", ""
    if begin.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS", "download the file that it stands for: git lfs pull"
    if begin.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "it is a web page", "download the file itself"
    if begin[4:8] == b"ORTM":
        return "it is in ONNX Runtime's own format", "give the .onnx file that it was made of"
    return "", ""
