"""The cache folder: where it is, and that it never stands in the way."""

import sys
from pathlib import Path

from sr_deploy.core.cache import cache_folder, key_of, read_cached, write_cached


def test_the_folder_is_that_of_the_variable_or_of_the_system(tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("SRDEPLOY_CACHE", "~/mine")  # no shell has expanded it
    assert cache_folder() == Path.home() / "mine"
    monkeypatch.delenv("SRDEPLOY_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "srdeploy"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "srdeploy"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "srdeploy"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "srdeploy"


def test_values_are_kept_and_what_cannot_be_read_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path))
    assert read_cached("memory", "a") is None
    write_cached("memory", "a", {"bytes_per_px": 3.5})
    assert read_cached("memory", "a") == {"bytes_per_px": 3.5}
    (tmp_path / "memory" / "a.json").write_text("[1")
    assert read_cached("memory", "a") is None
    (tmp_path / "memory" / "a.json").write_text("[1]")
    assert read_cached("memory", "a") is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "file"))
    write_cached("memory", "a", {})
    assert read_cached("memory", "a") is None


def test_keys_tell_parts_apart():
    assert key_of("ab", "c") != key_of("a", "bc") and key_of("a", 1) == key_of("a", "1")
