from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

import pytest

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.jsonio import from_dict, read_json, to_json


@dataclass(frozen=True)
class Thing:
    name: str
    count: int
    ratio: float = 0.5
    flag: bool = False
    hw: Tuple[int, ...] = (1, 1)
    limit: Optional[int] = None
    notes: Dict[str, str] = field(default_factory=dict)


def parse(data):
    return from_dict(Thing, data, source="thing.json", error=ArtifactError)


@pytest.mark.parametrize("thing", [Thing("a", 1), Thing("é", -1, 2.0, True, (3, 4), 5, {"k": "v"})])
def test_a_round_trip_keeps_everything(thing):
    text = to_json(thing)
    assert parse(json.loads(text)) == thing
    assert text.endswith("}\n") and "\\u" not in text


def test_whole_numbers_are_floats_too():
    assert parse({"name": "a", "count": 1, "ratio": 2}).ratio == 2


@pytest.mark.parametrize(
    "change, words",
    [
        ({"cuont": 1}, "unknown key 'cuont'"),
        ({"name": 1}, "key 'name': expected str, found 1"),
        ({"count": 1.5}, "key 'count': expected int, found 1.5"),
        ({"count": True}, "key 'count': expected int, found True"),
        ({"count": None}, "key 'count': expected int, found None"),
        ({"ratio": "1"}, "key 'ratio': expected float, found '1'"),
        ({"ratio": False}, "key 'ratio': expected float"),
        ({"flag": 1}, "key 'flag': expected bool, found 1"),
        ({"hw": "ab"}, "key 'hw': expected a list, found 'ab'"),
        ({"hw": ["a", "b"]}, "key 'hw'.*'a'"),
        ({"limit": "5"}, "key 'limit': expected int, found '5'"),
        ({"notes": []}, "key 'notes': expected dict"),
    ],
)
def test_every_deviation_names_source_and_key(change, words):
    with pytest.raises(ArtifactError, match="thing.json: .*" + words):
        parse({"name": "a", "count": 1, **change})


def test_an_unknown_key_suggests_and_a_missing_one_is_named():
    with pytest.raises(ArtifactError) as e:
        parse({"name": "a", "cuont": 1})
    assert e.value.hint == "did you mean 'count'?"
    with pytest.raises(ArtifactError, match="the key 'count' is missing"):
        parse({"name": "a"})


@pytest.mark.parametrize(
    "content, words",
    [
        (b'{\n "a": 1,\n "b": }\n', "line 3: not valid JSON"),
        (b"", "line 1: not valid JSON"),
        (b"[1]", "expected a JSON object, found a list"),
        (b'{"a": "\xff\xfe"}', "not a UTF-8 text file"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": {"\\ud800": 1}}', "contains a lone surrogate, half of a character"),
        pytest.param(
            b'{"a": ' + b"9" * 5000 + b"}",
            "a number with too many digits",
            marks=pytest.mark.skipif(
                not hasattr(sys, "set_int_max_str_digits"),
                reason="this Python reads numbers of any length",
            ),
        ),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="x.json.*" + words):
        read_json(path, ArtifactError)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="cannot read .*absent.json: No such file"):
        read_json(tmp_path / "absent.json", ArtifactError)


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x.json", ArtifactError) == {"a": 1}
