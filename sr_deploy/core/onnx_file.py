"""Facts of ONNX files, read without onnx: operators, types, and the files of the weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Dict, Iterator, List, Set, Tuple

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.files import sha256_of

FLOAT16, BFLOAT16 = 10, 16
"""Of TensorProto.DataType."""

_LARGEST = 1 << 31
"""No protobuf file is larger."""
# Fields of ONNX's messages by number (onnx.proto3). `file` is external_data, with keys and values.
_MESSAGES: Dict[str, Dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {4: "operator", 5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {2: "type", 13: "file"},
}


@dataclass(frozen=True)
class OnnxFacts:
    """What a file says of itself; empty for a damaged one."""

    operators: Tuple[str, ...] = ()
    types: Tuple[int, ...] = ()
    """TensorProto.DataType of the weights and constants."""
    locations: Tuple[str, ...] = ()
    """Of external weights, relative to the file's folder."""


def onnx_facts(path: Path) -> OnnxFacts:
    """Read the facts of an ONNX file."""
    found: Dict[str, Set[Any]] = {"operator": set(), "type": set(), "location": set()}
    try:
        if path.stat().st_size >= _LARGEST:
            return OnnxFacts()
        _read("model", memoryview(path.read_bytes()), found)
    except (ValueError, LookupError, RecursionError):  # damaged: the runtime says how
        return OnnxFacts()
    return OnnxFacts(*(tuple(sorted(found[key])) for key in ("operator", "type", "location")))


def artifact_sha256(path: Path) -> str:
    """Return the SHA-256 of an artifact: of its file, and of the files of external weights.

    Those that are missing or cannot be read are left out; `check_weight_files` refuses them.
    """
    return graph_sha256(path) if is_graph(path) else sha256_of(path)


def graph_sha256(path: Path) -> str:
    """Return the SHA-256 of a graph, whatever the end of its name; see `artifact_sha256`."""
    files = [path.parent / name for name in onnx_facts(path).locations]
    files = [file for file in files if _is_file(file)]
    if not files:
        return sha256_of(path)
    digests = " ".join(sha256_of(file) for file in (path, *files))
    return hashlib.sha256(digests.encode("ascii")).hexdigest()


def weight_files(path: Path) -> List[str]:
    """Return the names of the files that hold a graph's external weights.

    Raises ArtifactError for one that is missing, a symbolic link, or outside the graph's folder.
    """
    names = list(onnx_facts(path).locations)
    for name in names:
        file = PureWindowsPath(name)  # it knows both separators
        if file.is_absolute() or file.drive or file.root or ".." in file.parts:
            problem, hint = "is outside its folder", "save it again with its weights beside it"
        elif not _is_file(path.parent / name):
            problem, hint = "is missing", "copy it to the same folder"
        elif (path.parent / name).is_symlink():
            problem, hint = "is a symbolic link", "copy the file itself there"
        else:
            continue
        what = f"{path} has its weights in the file '{name[:200]}', which {problem}"
        raise ArtifactError(what, hint=hint)
    return names


def is_graph(path: Path) -> bool:
    """Return whether a path is called as a graph is."""
    return path.suffix.lower() == ".onnx"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long
        return False


def _read(message: str, data: memoryview, found: Dict[str, Set[Any]]) -> None:
    fields = _MESSAGES[message]
    for number, value in _fields(data):
        kind = fields.get(number)
        if kind == "type" and isinstance(value, int):
            found["type"].add(value)
        elif kind == "operator":
            found["operator"].add(_text(value))
        elif kind == "file":
            entry = {key: _text(text) for key, text in _fields(value)}
            if entry.get(1) == "location":
                found["location"].add(entry.get(2, ""))
        elif kind is not None and isinstance(value, memoryview):
            _read(kind, value, found)


def _text(value: Any) -> str:
    if not isinstance(value, memoryview):
        raise ValueError("not a string")
    return bytes(value).decode("utf-8")


def _fields(data: Any) -> Iterator[Tuple[int, Any]]:
    """Yield the fields of a protobuf message: numbers, and integers or parts of the data."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        if at + size > len(data):
            raise ValueError("the message is cut off")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> Tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number has too many bytes")
