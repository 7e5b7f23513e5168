from __future__ import annotations

import pytest

from sr_deploy.core.errors import InputError, TargetError
from sr_deploy.core.registry import Registry


@pytest.fixture()
def registry():
    return Registry("colour", {"red": "math:pi", "green": "no_such_module:thing"})


def test_an_entry_is_imported_on_use_only(registry):
    import math

    assert (
        list(registry) == ["red", "green"]
        and len(registry) == 2
        and "green" in registry
        and "blue" not in registry
    )
    assert registry["red"] == math.pi
    with pytest.raises(ModuleNotFoundError):
        registry["green"]


def test_an_unknown_name_lists_the_known_and_suggests(registry):
    with pytest.raises(InputError, match="unknown colour 'gren'; expected one of red, green") as e:
        registry["gren"]
    assert e.value.hint == "did you mean 'green'?"


def test_the_error_class_is_the_registry_s():
    with pytest.raises(TargetError):
        Registry("target", {}, TargetError)["x"]


@pytest.mark.parametrize(
    "name, where, words",
    [
        ("red", "math:e", "'red' is already registered as math:pi"),
        ("blue", "math", "module:attribute"),
    ],
)
def test_a_failed_registration_changes_nothing(registry, name, where, words):
    with pytest.raises(InputError, match=words):
        registry.add(name, where)
    assert list(registry) == ["red", "green"]
    assert registry["red"] != 2.718281828459045
