"""Frozen dataclasses to JSON and back, strictly: an unknown or missing key is an error that names it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any, Dict, List, Tuple, Type, TypeVar, Union

from sr_deploy.core.errors import SrDeployError, did_you_mean

T = TypeVar("T")


def to_json(value: Any) -> str:
    """Return the dataclass (or plain data) as indented JSON with a final newline."""
    data = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, error: Type[SrDeployError]) -> Dict[str, Any]:
    """Read a JSON object from a file. Raises `error` with the file's line when it is not one."""
    try:
        data = json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_once_each
        )  # a BOM, as Windows writes, is fine
    except OSError as e:
        raise error(f"cannot read {path}: {e.strerror or e}") from e
    except json.JSONDecodeError as e:
        raise error(f"{path}, line {e.lineno}: not valid JSON: {e.msg}") from e
    except UnicodeDecodeError as e:
        raise error(f"{path}: not a UTF-8 text file") from e
    except RecursionError as e:
        raise error(f"{path}: nested too deeply") from e
    except ValueError as e:  # Python reads integers of 4300 digits at most
        raise error(f"{path}: holds a number of too many digits") from e
    except _TwiceError as e:
        raise error(f"{at_line(path, str(e))}: the key '{e}' is given twice") from e
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as e:
        raise error(f"{path}: holds half of a character (a lone surrogate)") from e
    if not isinstance(data, dict):
        raise error(f"{path}: expected a JSON object, found a {type(data).__name__}")
    return data


class _TwiceError(Exception):
    pass


def _once_each(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(
            next(key for i, (key, _) in enumerate(pairs) if key in [k for k, _ in pairs[:i]])
        )
    return found


def at_line(path: Path, key: str) -> str:
    """Return `path, line N`, the line where a JSON file last names `key`, or the bare path where it does not."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = path.read_text(encoding="utf-8").splitlines()
        for number in range(len(lines), 0, -1):
            if f'"{key}"' in lines[number - 1]:
                return f"{path}, line {number}"
    return str(path)


def from_dict(
    cls: Type[T], data: Dict[str, Any], *, source: Union[str, Path], error: Type[SrDeployError]
) -> T:
    """Build the frozen dataclass `cls` from `data`.

    Lists become tuples where the class holds tuples. Raises `error`, naming `source` (of a path also the line) and the key, on
    an unknown or a missing key or on a value of another type than the field's default or annotation allows.
    """

    def where(key: str) -> str:
        return at_line(source, key) if isinstance(source, Path) else source

    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise error(f"{where(key)}: unknown key '{key}'", hint=did_you_mean(key, fields))
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _checked(
                data[name], str(field.type), f"{where(name)}: key '{name}'", error
            )
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise error(f"{source}: the key '{name}' is missing")
    return cls(**values)


# Annotations are strings here (`from __future__ import annotations`); only these shapes are used by our dataclasses.
_PLAIN = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict, "list": list}


def _checked(value: Any, annotation: str, what: str, error: Type[SrDeployError]) -> Any:
    if annotation.startswith("Optional["):
        return None if value is None else _checked(value, annotation[9:-1], what, error)
    head = annotation.split("[")[0].lower()
    if head == "tuple":
        if not isinstance(value, (list, tuple)):
            raise error(f"{what}: expected a list, found {value!r}")
        elements = [part.strip() for part in annotation[6:-1].split(",")]
        if "..." not in elements and len(value) != len(elements):
            raise error(f"{what}: expected {len(elements)} values, found {value!r}")
        element = elements[0]
        return tuple(_checked(v, element, what, error) for v in value)
    expected = _PLAIN.get(head)
    wrong = expected is not None and not isinstance(value, expected)
    if wrong or (head in ("int", "float") and isinstance(value, bool)):
        raise error(f"{what}: expected {head}, found {value!r}")
    return value
