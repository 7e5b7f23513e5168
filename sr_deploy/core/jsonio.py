"""Frozen dataclasses to JSON and back. Reading is strict: an unknown or missing key is an error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type, TypeVar, Union

from sr_deploy.core.errors import SrDeployError, did_you_mean
from sr_deploy.core.files import is_text

T = TypeVar("T")
LONE_SURROGATE = "contains a lone surrogate, half of a character"
_LARGEST = 2**63
"""JSON's numbers have no bounds. Nothing that is read here is larger."""
_SCALARS: Dict[str, Union[type, Tuple[type, ...]]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "dict": dict,
    "list": list,
}
"""Annotations are strings (`from __future__ import annotations`). Our dataclasses use only these,
dataclasses that their module knows, `Optional[...]` of them, tuples of one element type, and
`Dict[str, ...]` of dataclasses and tuples."""


def to_json(value: Any) -> str:
    """Return a dataclass (or plain data) as indented JSON with a final newline."""
    is_instance = dataclasses.is_dataclass(value) and not isinstance(value, type)
    data = dataclasses.asdict(value) if is_instance else value
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, error: Type[SrDeployError]) -> Dict[str, Any]:
    """Read a JSON object from a file. Raises `error` naming the file and line if it is not one."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows writes a byte order mark
        data = json.loads(text, object_pairs_hook=_dict_without_duplicates)
        if has_lone_surrogates(data):
            raise error(f"{path}: {LONE_SURROGATE}")
    except OSError as e:
        raise error(f"cannot read {path}: {e.strerror or e}") from e
    except json.JSONDecodeError as e:
        raise error(f"{path}, line {e.lineno}: not valid JSON: {e.msg}") from e
    except UnicodeDecodeError as e:
        raise error(f"{path}: not a UTF-8 text file") from e
    except RecursionError as e:
        raise error(f"{path}: nested too deeply") from e
    except ValueError as e:  # Python reads integers of up to 4300 digits
        raise error(f"{path}: contains a number with too many digits") from e
    except _DuplicateKeyError as e:
        raise error(f"{at_line(path, str(e))}: the key '{e}' appears twice") from e
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise error(f"{path}: expected a JSON object, found {found}")
    return data


def has_lone_surrogates(data: Any) -> bool:
    """Return whether parsed JSON has text that is no Unicode, such as `"\\ud800"`."""
    return not is_text(json.dumps(data, ensure_ascii=False))


class _DuplicateKeyError(Exception):
    pass


def _dict_without_duplicates(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    result: Dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _DuplicateKeyError(key)
        result[key] = value
    return result


def at_line(path: Path, key: str) -> str:
    """Return `path, line N` of the last line of a JSON file with `key`; `path` if there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number in range(len(lines), 0, -1):
            if f'"{key}"' in lines[number - 1]:
                return f"{path}, line {number}"
    return str(path)


def read_dataclass(cls: Type[T], path: Path, error: Type[SrDeployError]) -> T:
    """Read a JSON file as the frozen dataclass `cls`. Raises `error` if it does not fit."""
    return from_dict(cls, read_json(path, error), source=path, error=error)


def from_dict(
    cls: Type[T], data: Dict[str, Any], *, source: Union[str, Path], error: Type[SrDeployError]
) -> T:
    """Build the frozen dataclass `cls` from `data`. Lists become tuples where the class has tuples.

    Raises `error` for an unknown key, a missing key, or a value of the wrong type. The message
    names the key and `source`, with the line if `source` is a path.
    """

    def where(key: str) -> str:
        return at_line(source, key) if isinstance(source, Path) else source

    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise error(f"{where(key)}: unknown key '{key}'", hint=did_you_mean(key, fields))
    missing = dataclasses.MISSING
    for name, field in fields.items():
        if name not in data and field.default is missing and field.default_factory is missing:
            raise error(f"{source}: the key '{name}' is missing")
    values = {}
    for name, value in data.items():
        try:
            annotation = str(fields[name].type)
            part = _dataclass_of(cls, annotation)
            of_values = _dataclass_of(cls, _value_type(annotation))
            if part is not None and isinstance(value, dict):
                values[name] = from_dict(part, value, source=source, error=error)
            elif of_values is not None and isinstance(value, dict):
                values[name] = {
                    key: from_dict(of_values, _object(item), source=source, error=error)
                    for key, item in value.items()
                }
            else:
                values[name] = _convert(value, annotation, is_part=part is not None)
        except TypeError as e:
            raise error(f"{where(name)}: key '{name}': {e}") from None
    return cls(**values)


def _dataclass_of(cls: type, annotation: str) -> Any:
    """Return the dataclass that an annotation in `cls` names; None if it names none."""
    name = annotation[9:-1] if annotation.startswith("Optional[") else annotation
    found = getattr(sys.modules[cls.__module__], name, None)
    return found if dataclasses.is_dataclass(found) else None


def _value_type(annotation: str) -> str:
    """Return the type of the values of `Dict[str, TYPE]`; empty for other annotations."""
    return annotation[10:-1] if annotation.startswith("Dict[str, ") else ""


def _object(value: Any) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, found {value!r:.200}")
    return value


def _convert(value: Any, annotation: str, *, is_part: bool = False) -> Any:
    """Return `value` as the type of the annotation. Raises TypeError with the mismatch.

    is_part: the annotation is a dataclass, and the value is no JSON object.
    """
    if annotation.startswith("Optional["):
        return None if value is None else _convert(value, annotation[9:-1], is_part=is_part)
    if is_part:
        raise TypeError(f"expected an object, found {value!r:.200}")
    head = annotation.split("[")[0].lower()
    if head == "tuple":
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"expected a list, found {value!r}")
        elements = [part.strip() for part in annotation[6:-1].split(",")]
        if "..." not in elements and len(value) != len(elements):
            raise TypeError(f"expected {len(elements)} values, found {value!r}")
        return tuple(_convert(v, elements[0]) for v in value)
    if _value_type(annotation).startswith("Tuple[") and isinstance(value, dict):
        return {key: _convert(item, _value_type(annotation)) for key, item in value.items()}
    expected = _SCALARS.get(head)
    wrong = expected is not None and not isinstance(value, expected)
    if wrong or (head in ("int", "float") and isinstance(value, bool)):
        raise TypeError(f"expected {head}, found {value!r:.200}")
    if head in ("int", "float") and not abs(value) < _LARGEST:  # also for NaN
        raise TypeError(f"expected a number below 2^63, found {value!r:.40}")
    return value
