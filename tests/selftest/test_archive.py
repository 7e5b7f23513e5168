from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import shutil
import tarfile

import pytest

from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.results.rows import BenchmarkRow, append_rows, read_rows
from sr_deploy.selftest import archive
from sr_deploy.selftest.archive import adopt_selftest, is_selftest, scrub, write_archive
from sr_deploy.selftest.checks import CheckResult
from sr_deploy.selftest.runner import Selftest

FACTS = {"cpu": "a CPU, 2 cores", "version": "0", "board": {"gpu": "NVIDIA H100 80GB"}}


@pytest.fixture()
def written(tmp_path):
    folder = tmp_path / "out"
    row = BenchmarkRow(
        "m_x4", "c4", "torch", error=f"no {folder}/artifacts/m.onnx", cell="a: m_x4.c4"
    )
    append_rows(
        folder / "rows.jsonl", [row, BenchmarkRow("m_x4", "c4", "torch", cell="a: m_x4.c4")]
    )
    (folder / "artifacts" / "cpu").mkdir(parents=True)
    (folder / "artifacts" / "cpu" / "m_x4.c4.engine.json").write_text('{"kind": "engine"}')
    (folder / "artifacts" / "cpu" / "m_x4.c4.engine").write_bytes(b"an engine")
    (folder / "logs").mkdir()
    (folder / "logs" / "torch-cpu.log").write_text(f'File "{folder}/x.py", line 1\nlibc: fine\n')
    results = (CheckResult("environment", "pass"), CheckResult("a", "fail", f"no {folder}/x.onnx"))
    return write_archive(Selftest("2026-11-28T13:00:00Z", FACTS, results), folder)


def members(path):
    with tarfile.open(str(path)) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def rewritten(path, changes, *, sums=True, extra=()):
    """Write an archive with other contents; with sums that fit them."""
    contents = {**members(path), **changes}
    contents = {name: content for name, content in contents.items() if content is not None}
    if sums:
        lines = [
            f"{hashlib.sha256(c).hexdigest()}  {n}\n"
            for n, c in contents.items()
            if n != "SHA256SUMS"
        ]
        contents["SHA256SUMS"] = "".join(lines).encode()
    path = path.with_name("changed.tar.gz")
    with tarfile.open(str(path), "w:gz") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return path


def test_it_names_the_device_and_holds_no_engine_path_user_or_host(written, tmp_path):
    assert written.name == "selftest-nvidia-h100-80gb-20261128T130000Z.tar.gz"
    contents = members(written)
    assert sorted(contents) == [
        "SHA256SUMS", "logs/torch-cpu.log", "manifests/cpu-m_x4.c4.engine.json", "rows.jsonl",
        "selftest.json",
    ]  # fmt: skip
    everything = b"".join(contents.values()).decode()
    assert str(tmp_path) not in everything and platform.node() not in everything
    assert len(contents["rows.jsonl"].splitlines()) == 1  # of a cell the last
    with tarfile.open(str(written)) as tar:
        assert {(m.uname, m.uid, m.mtime) for m in tar} == {("", 0, 0)}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("in /home/someone/x/y.py, line 3", "in PATH/y.py, line 3"),
        ("'/a/b' ~/c/d", "'PATH/b' PATH/d"),
        (r"C:\Users\me\x.py", "PATH/x.py"),
        (
            "https://huggingface.co/docs/x and 3/4/5 J/Mpx",
            "https://huggingface.co/docs/x and 3/4/5 J/Mpx",
        ),
        ("on bighost by someone", "on HOST by USER"),
        ("-I/opt/a/b:/opt/c/d", "-IPATH/b:PATH/d"),
        ("in /home/other", "in HOME"),
        ("file:///home/other/x C:/Users/other/x", "file:PATH/x PATH/x"),
        ("ssh://nvidia@xavier", "ssh://USER@HOST"),
    ],
)
def test_texts_are_scrubbed(monkeypatch, tmp_path, text, expected):
    monkeypatch.setattr(platform, "node", lambda: "bighost")
    monkeypatch.setattr(archive, "_user", lambda: "someone")
    assert scrub(text, tmp_path) == expected


def test_it_is_adopted_once_and_a_later_one_of_the_device_too(written, tmp_path):
    folder = adopt_selftest(written, tmp_path / "devices")
    assert folder == tmp_path / "devices" / "nvidia-h100-80gb" / "20261128T130000Z"
    assert sorted(p.name for p in folder.rglob("*.*")) == [
        "m_x4.c4.engine.json".join(["cpu-", ""]), "rows.jsonl", "selftest.json",
    ]  # fmt: skip
    assert read_rows(folder)[0].cell == "a: m_x4.c4"
    with pytest.raises(InputError, match="this self-test was adopted before"):
        adopt_selftest(written, tmp_path / "devices")
    later = json.loads(members(written)["selftest.json"])
    later["date_utc"] = "2026-11-29T00:00:00Z"
    second = rewritten(written, {"selftest.json": json.dumps(later).encode()})
    assert adopt_selftest(second, tmp_path / "devices").parent == folder.parent
    assert sorted(p.name for p in folder.parent.iterdir()) == [
        "20261128T130000Z",
        "20261129T000000Z",
    ]


def link(name, target):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


@pytest.mark.parametrize(
    "changes, options, words",
    [
        ({"rows.jsonl": b""}, {"sums": False}, "was changed: its SHA-256 sums differ"),
        ({"rows.jsonl": None}, {}, "it lacks rows.jsonl"),
        ({"rows.jsonl": b"{}\n"}, {}, "not a row of schema"),
        ({"../evil.json": b"{}"}, {}, "holds '../evil.json'"),
        ({"manifests/../../evil.json": b"{}"}, {}, "holds 'manifests"),
        ({"/etc/x.json": b"{}"}, {}, "holds '/etc/x.json'"),
        ({"an.engine": b"x"}, {}, "holds 'an.engine'"),
        ({}, {"extra": [link("logs/x.log", "/etc/passwd")]}, "holds 'logs/x.log'"),
        ({"manifests/x.json": b"{"}, {}, "is not used"),
        ({"selftest.json": b"[]"}, {}, "not of schema 1"),
        ({"selftest.json": b'{"a": "\\ud800"}'}, {}, "lone surrogate"),
        ({"selftest.json": b'{"schema": 1}'}, {}, "device or date_utc is missing"),
    ],
)
def test_damaged_and_foreign_archives_are_refused(written, tmp_path, changes, options, words):
    changed = rewritten(written, changes, **options)
    with pytest.raises(ArtifactError, match=words):
        adopt_selftest(changed, tmp_path / "devices")
    assert not (tmp_path / "devices").exists()


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("date_utc", "../../x", "date_utc is"),
        ("results", [], "facts or results are missing"),
        ("results", [{"name": "a", "state": "good"}], "the state 'good' is unknown"),
        ("results", [{"name": "a"}], "the key 'state' is missing"),
        ("device", "", "device or date_utc is missing"),
    ],
)
def test_a_wrong_selftest_json_is_refused(written, tmp_path, key, value, words):
    data = {**json.loads(members(written)["selftest.json"]), key: value}
    changed = rewritten(written, {"selftest.json": json.dumps(data).encode()})
    with pytest.raises(ArtifactError, match=words):
        adopt_selftest(changed, tmp_path / "devices")


def test_a_large_file_and_a_cut_archive_are_refused(written, tmp_path, monkeypatch):
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(written.read_bytes()[:-60])
    with pytest.raises(ArtifactError, match="not a complete archive|was changed|lacks"):
        adopt_selftest(cut, tmp_path / "devices")
    monkeypatch.setattr(archive, "MAX_FILE", 10)
    with pytest.raises(ArtifactError, match="too large"):
        adopt_selftest(written, tmp_path / "devices")


def test_a_flipped_byte_is_never_a_traceback(written, tmp_path):
    content = written.read_bytes()
    damaged = tmp_path / "damaged.tar.gz"
    for place in range(10, len(content) - 8):  # all but gzip's own header and end
        flipped = bytes([content[place] ^ 0x55])
        damaged.write_bytes(content[:place] + flipped + content[place + 1 :])
        with contextlib.suppress(ArtifactError):  # padding of tar may differ without harm
            shutil.rmtree(str(adopt_selftest(damaged, tmp_path / "devices")))


def test_the_kinds_that_adopt_takes_are_told_apart(written, tmp_path):
    (tmp_path / "result.tar").write_bytes(b"\0" * 1024)
    assert is_selftest(written) and not is_selftest(tmp_path / "result.tar")
    with pytest.raises(InputError, match="cannot read"):
        is_selftest(tmp_path / "absent.tar")
