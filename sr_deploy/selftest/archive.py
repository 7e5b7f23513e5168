"""The archive of a self-test: written here, checked and adopted elsewhere.

It has rows, results, facts, manifests and logs, and no weights, engines, users' or hosts' names or
absolute paths.
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import io
import json
import os
import platform
import re
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import IO, Any, Callable, Dict, List, cast

from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.files import atomic_path, make_output_folder
from sr_deploy.core.jsonio import LONE_SURROGATE, from_dict, has_lone_surrogates, to_json
from sr_deploy.results.rows import read_rows
from sr_deploy.selftest.checks import ENVIRONMENT, STATES, CheckResult
from sr_deploy.selftest.runner import (
    NOTHING_RUNS,
    Progress,
    Selftest,
    SelftestOptions,
    run_selftest,
)
from sr_deploy.selftest.summary import as_dict, rows_of, write_page

MAX_FILE, MAX_TOTAL, MAX_FILES = 32 * 2**20, 128 * 2**20, 2000
_SUMS = "SHA256SUMS"
_NAME = re.compile(
    r"selftest\.json|rows\.jsonl|SHA256SUMS|(manifests|logs)/(?!\.)[A-Za-z0-9._-]+\.(json|log)"
)
_UNIX_PATH = re.compile(r"(?:(?<=-[IL])|(?<![\w/.~]))~?/(?:[^/\s'\"<>|:,;]+/)+")
_WINDOWS_PATH = re.compile(r"(?<![\w/\\])[A-Za-z]:[\\/](?:[^\\/\s'\"<>|:]+[\\/])+")
_HOME = re.compile(r"(?:\b[A-Za-z]:)?[\\/](?:home|Users)[\\/][^\\/\s'\"<>|:,;]+(?=[\s'\"<>|:,;]|$)")
_LOGIN = re.compile(r"\b[\w.-]+@[\w.-]+\b")
_AGAIN = "send the archive again, as srdeploy selftest wrote it"


def prove(
    options: SelftestOptions, progress: Progress, show: Callable[[Selftest], None]
) -> Selftest:
    """Prove this machine in every way to run networks; write a page and an archive to send.

    show: receives the results before they are written.
    """
    selftest = run_selftest(options, progress)
    show(selftest)
    progress(f"wrote {write_page(selftest, options.output)}")
    progress(f"wrote {write_archive(selftest, options.output)}")
    if any(r.state == "fail" and r.reason != NOTHING_RUNS for r in selftest.results):
        progress(f"the logs of the failed checks are in {options.output / 'logs'}")
    return selftest


def write_archive(selftest: Selftest, folder: Path) -> Path:
    """Write `selftest-DEVICE-DATE.tar.gz` to the folder; return its path."""
    data = as_dict(selftest)
    files = {"selftest.json": to_json(_scrubbed(data, folder))}
    found = rows_of(selftest, folder)
    rows = [json.dumps(_scrubbed(vars(row), folder), ensure_ascii=False) for row in found]
    files["rows.jsonl"] = "".join(f"{row}\n" for row in rows)
    for path in sorted(folder.glob("artifacts/*/*.json")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # not one of ours
            continue
        name = f"manifests/{_slug(path.parent.name)}-{_file_slug(path.name)}"
        files[name] = to_json(_scrubbed(manifest, folder))
    for path in sorted(folder.glob("logs/*.log")):
        text = path.read_text(encoding="utf-8", errors="replace")[-(2**20) :]
        files[f"logs/{_file_slug(path.name)}"] = scrub(text, folder)
    contents = {name: text.encode("utf-8") for name, text in files.items()}
    sums = "".join(f"{_sha256(content)}  {name}\n" for name, content in contents.items())
    contents[_SUMS] = sums.encode()
    stamp = re.sub(r"[-:]", "", selftest.date_utc)
    output = folder / f"selftest-{_slug(data['device'])}-{stamp}.tar.gz"
    with atomic_path(output) as temporary, gzip.GzipFile(str(temporary), "wb", mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)  # owned by nobody, without a date
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return output


def scrub(text: str, folder: Path) -> str:
    """Return a text without absolute paths and the names of this user and this machine."""
    known = {
        "OUT": folder.resolve(),
        "CODE": Path(__file__).resolve().parents[2],
        "PYTHON": Path(sys.prefix),
    }
    for word, path in known.items():
        if path != Path(path.anchor):
            text = text.replace(str(path), word)
    text = _HOME.sub("HOME", _LOGIN.sub("USER@HOST", text))
    text = _UNIX_PATH.sub("PATH/", _WINDOWS_PATH.sub("PATH/", text.replace("file://", "file:")))
    for name, word in ((platform.node(), "HOST"), (_user(), "USER")):
        if len(name) >= 4 and name != "root":
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", word, text)
    return text


def _user() -> str:
    return os.environ.get("USER") or os.environ.get("USERNAME") or Path.home().name


def _scrubbed(value: Any, folder: Path) -> Any:
    """Return JSON data with all texts scrubbed; keys, too, except the names of fields."""
    if isinstance(value, str):
        return scrub(value, folder)
    if isinstance(value, dict):
        return {key: _scrubbed(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrubbed(item, folder) for item in value]
    return value


def is_selftest(path: Path) -> bool:
    """Whether a file is compressed, as archives of self-tests are and results of boards are not."""
    try:
        with open(path, "rb") as f:
            return f.read(2) == b"\x1f\x8b"
    except OSError as e:
        raise InputError(
            f"cannot read {path}: {e.strerror or e}",
            hint="give the result.tar of a bundle, or the archive of a self-test",
        ) from e


def adopt_selftest(path: Path, output: Path) -> Path:
    """Check an archive and write its files to `output`/DEVICE/DATE; return that folder.

    The logs stay in the archive. Raises ArtifactError for a damaged or foreign archive, and
    InputError if it was adopted before.
    """
    contents = _read(path)
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("selftest.json", "rows.jsonl"):
            Path(temporary, name).write_bytes(contents[name])
        try:
            read_rows(Path(temporary) / "rows.jsonl")
            data = checked_selftest(_json(contents["selftest.json"]))
            for name in contents:
                if name.startswith("manifests/") and not isinstance(_json(contents[name]), dict):
                    raise InputError(f"{name} is no JSON object")
        except (InputError, ValueError, RecursionError) as e:
            raise ArtifactError(f"{path} is not used: {e}", hint=_AGAIN) from e
    stamp = re.sub(r"[-:]", "", data["date_utc"])
    target = output / _slug(data["device"]) / stamp
    if target.exists():
        raise InputError(
            f"{target} exists: this self-test was adopted before",
            hint="remove that folder to adopt it again",
        )
    make_output_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=str(target.parent), prefix=".partial-") as temporary:
        made = Path(temporary) / stamp
        for name, content in contents.items():
            if not name.startswith("logs/") and name != _SUMS:
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
        os.replace(str(made), str(target))
    return target


def checked_selftest(data: Any) -> Dict[str, Any]:
    """Return the content of a selftest.json. Raises InputError unless it is one."""
    if not isinstance(data, dict) or data.get("schema") is True or data.get("schema") != 1:
        raise InputError("selftest.json is not of schema 1")
    texts = data.get("device"), data.get("date_utc")
    if not all(isinstance(text, str) and text.isprintable() and text for text in texts):
        raise InputError("selftest.json: device or date_utc is missing")
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z", data["date_utc"]):
        raise InputError(f"selftest.json: date_utc is '{data['date_utc']}'")
    datetime.datetime.strptime(data["date_utc"], "%Y-%m-%dT%H:%M:%SZ")
    facts, results = data.get("facts"), data.get("results")
    if not isinstance(facts, dict) or not isinstance(results, list) or not results:
        raise InputError("selftest.json: facts or results are missing")
    if not all(isinstance(facts.get(key, {}), dict) for key in ("board", "packages")):
        raise InputError("selftest.json: the board or the packages in facts are no JSON objects")
    for result in results:
        fields = result if isinstance(result, dict) else {}
        state = from_dict(CheckResult, fields, source="selftest.json", error=InputError).state
        if state not in STATES:
            raise InputError(f"selftest.json: the state '{state}' is unknown")
    if not any(
        result["state"] in ("pass", "fail")
        for result in results
        if result["name"] != ENVIRONMENT.name
    ):
        raise InputError("selftest.json: no check was done")
    return data


def _json(content: bytes) -> Any:
    """Parse JSON. Raises ValueError, also for NaN, infinities and lone surrogates."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no number")

    data = json.loads(content.decode("utf-8"), parse_constant=refuse)
    if has_lone_surrogates(data):
        raise ValueError(LONE_SURROGATE)
    return data


def _read(path: Path) -> Dict[str, bytes]:
    """Return the files of an archive, all regular, expected and unchanged. Raises ArtifactError."""
    contents: Dict[str, bytes] = {}
    try:
        with gzip.open(str(path)) as unpacked, tarfile.open(
            fileobj=cast("IO[bytes]", _Bounded(unpacked)), mode="r|"
        ) as archive:
            for member in archive:
                if not member.isreg() or member.issparse() or not _NAME.fullmatch(member.name):
                    raise ArtifactError(f"{path} holds '{member.name}'", hint=_AGAIN)
                if member.size > MAX_FILE or member.name in contents or len(contents) >= MAX_FILES:
                    raise ArtifactError(
                        f"{path}: '{member.name}' is too large, one too many or twice there",
                        hint=_AGAIN,
                    )
                source = archive.extractfile(member)
                assert source is not None
                contents[member.name] = source.read()
    except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error) as e:
        raise ArtifactError(f"{path} is not a complete archive: {e}", hint=_AGAIN) from e
    expected = {"selftest.json", "rows.jsonl", _SUMS}
    if not expected <= set(contents):
        missing = ", ".join(sorted(expected - set(contents)))
        raise ArtifactError(f"{path} is no archive of a self-test: it lacks {missing}", hint=_AGAIN)
    if _sums_of(contents) != sorted(contents[_SUMS].decode("utf-8", "replace").splitlines()):
        raise ArtifactError(f"{path} was changed: its SHA-256 sums differ", hint=_AGAIN)
    return contents


class _Bounded:
    """A stream that ends with an OSError after `MAX_TOTAL` bytes."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._left = stream, MAX_TOTAL

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise OSError(f"it unpacks to more than {MAX_TOTAL // 2**20} MiB")
        return content


def _sums_of(contents: Dict[str, bytes]) -> List[str]:
    return sorted(f"{_sha256(c)}  {name}" for name, c in contents.items() if name != _SUMS)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _slug(text: str) -> str:
    """Return a text as a file name: `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "unknown"


def _file_slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".")
