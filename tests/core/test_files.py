from __future__ import annotations

import errno
import hashlib
import os
import sys
from pathlib import Path

import pytest

from sr_deploy.core import files
from sr_deploy.core.errors import InputError
from sr_deploy.core.files import (
    atomic_path,
    data_folder,
    make_output_folder,
    native_path,
    remove_empty_folders,
    sha256_of,
    side_path,
    write_text,
)


def test_sha256_of_a_file_larger_than_one_block(tmp_path):
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    assert sha256_of(tmp_path / "f") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", ["a.mp4", "x" * 250 + ".mp4", "é" * 120 + ".png", "\udce9" * 250])
def test_names_beside_a_long_name_are_short_and_its_own(tmp_path, name):
    side = side_path(tmp_path / name, ".claim")
    assert side.name.endswith(".claim") and len(os.fsencode(side.name)) <= 106
    assert side.name == "a.mp4.claim" or side != side_path(tmp_path / (name[:-1] + "z"), ".claim")
    side.touch()


def test_libraries_get_names_that_are_text(tmp_path):
    plain = tmp_path / "é 😀.png"
    with native_path(plain) as name:
        assert name == str(plain)
    if sys.platform != "linux":
        return
    with native_path(tmp_path / "sub\udce9" / "net.onnx") as name:
        assert name.isascii() and name.endswith("net.onnx")
        (tmp_path / "sub\udce9").mkdir()
        Path(name + ".data").write_text("weights")
    assert (tmp_path / "sub\udce9" / "net.onnx.data").read_text() == "weights"
    for path in (tmp_path / "caf\udce9.png", tmp_path / "sub\udce9" / "a.png\udce9"):
        path.parent.mkdir(exist_ok=True)
        with native_path(path) as name:
            assert name.isascii() and Path(name).suffix == (".png" if path.suffix == ".png" else "")
            Path(name).write_bytes(b"written by the library")
        assert path.read_bytes() == b"written by the library" and not os.path.lexists(name)


def test_atomic_path_appears_only_at_the_end(tmp_path):
    target = tmp_path / "new" / "file.onnx"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        assert not target.exists()
        assert temporary.parent == target.parent and temporary.suffix == ".tmp"
        temporary.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["file.onnx"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_leaves_nothing_behind_and_an_older_file_as_it_was(tmp_path, failure, existing):
    target = tmp_path / "file"
    if existing:
        target.write_bytes(b"old")
    with pytest.raises(failure), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise failure
    assert os.listdir(tmp_path) == (["file"] if existing else [])
    assert not existing or target.read_bytes() == b"old"


def test_a_full_disk_is_an_input_error_that_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="cannot write .*No space left"), atomic_path(
        tmp_path / "file"
    ):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_the_remedy_fits_the_reason(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, hint in (
        (tmp_path / ("x" * 256), "use a shorter name"),
        (tmp_path / "folder", "it is a folder: use another name"),
        (tmp_path / "file" / "x", "a part of its path is a file"),
    ):
        with pytest.raises(InputError, match="cannot write") as caught:
            write_text(path, "")
        assert hint in caught.value.hint
    for error, hint in (
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permissions"),
        (errno.ENOSPC, "free some space"),
        (errno.EIO, "use another name or folder"),
    ):
        assert hint in files.write_hint(OSError(error, os.strerror(error)))
    assert files.is_disk_full(OSError(errno.ENOSPC, "")) and not files.is_disk_full(OSError())


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for use in (make_output_folder, lambda p: write_text(p / "x", "")):
        with pytest.raises(InputError, match="cannot write to the folder") as e:
            use(tmp_path / "file" / "folder")
        assert "use another folder" in e.value.hint


@pytest.mark.skipif(
    not sys.platform.startswith("linux"),
    reason="/proc is a folder nobody can write to on Linux only",
)
def test_a_folder_that_exists_but_cannot_be_written():
    with pytest.raises(InputError, match="cannot write to the folder /proc"):
        make_output_folder(Path("/proc"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_file_has_the_permissions_of_a_plainly_written_one(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "ours", "é")
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(old)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "ours").read_bytes() == "é".encode()


@pytest.mark.parametrize(
    "where, expected", [("checkout", "engines/targets"), ("wheel", "sr_deploy/_engines_targets")]
)
def test_data_lies_in_the_checkout_or_in_the_installed_package(
    tmp_path, monkeypatch, where, expected
):
    (tmp_path / "sr_deploy").mkdir()
    (tmp_path / "engines" / "targets").mkdir(parents=True)
    if where == "checkout":
        (tmp_path / "setup.cfg").write_text("")
    monkeypatch.setattr(files, "__file__", str(tmp_path / "sr_deploy" / "core" / "files.py"))
    assert data_folder("engines/targets") == tmp_path.resolve() / expected


def test_folders_that_were_made_and_hold_nothing_are_taken_away(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyboardInterrupt), remove_empty_folders(
        tmp_path / "old" / "a" / "b", tmp_path / "new", tmp_path / "used"
    ):
        (tmp_path / "old" / "a" / "b").mkdir(parents=True)
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "file").write_text("")
        raise KeyboardInterrupt
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["old", "used"]
        and list((tmp_path / "old").iterdir()) == []
    )
