"""The catalogue is a file in the client's cache, and downloads are copies: no network is used."""

import json
import sys

import openmodeldb
import pytest
import torch
from doubles.spandrel_networks import weights_of
from openmodeldb import downloader

from sr_deploy.core.errors import CheckpointError, InputError, MissingPackageError
from sr_deploy.core.files import sha256_of
from sr_deploy.nets.online import checkpoint_from_catalogue, find_online


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """Serve two networks; return their entries, which a test may change before it fetches them."""
    file = tmp_path / "served.pth"
    torch.save({"params_ema": weights_of("Compact")}, file)
    entry = {
        "name": "Sharp",
        "author": ["ann", "bob"],
        "license": "CC-BY-4.0",
        "architecture": "compact",
        "scale": 4,
        "tags": ["photo", "denoise"],
        "dataset": "DF2K",
        "resources": [
            {"type": "onnx", "platform": "onnx", "urls": ["https://example.org/sharp.onnx"]},
            {
                "type": "pth",
                "platform": "pytorch",
                "sha256": sha256_of(file),
                "urls": ["https://example.org/a%20file.pth?download=1"],
            },
        ],
    }
    entries = {"4x-Sharp": entry, "2x-Other": {**entry, "name": "Other", "tags": [], "scale": 2}}

    class Client(openmodeldb.OpenModelDB):
        def __init__(self):
            super().__init__(cache_dir=str(tmp_path / "cache"))

        def _fetch_remote(self):
            return json.loads(json.dumps(entries))

    def download(url, destination, quiet=False):
        (tmp_path / destination).write_bytes(file.read_bytes())

    monkeypatch.setattr(openmodeldb, "OpenModelDB", Client)
    monkeypatch.setattr(downloader, "smart_download", download)
    return entries


def test_networks_are_found_by_id_author_and_tag(catalogue):
    assert [m["name"] for m in find_online()] == ["2x-Other", "4x-Sharp"]
    assert [m["name"] for m in find_online("SHARP")] == ["4x-Sharp"]
    assert [m["name"] for m in find_online("denoise")] == ["4x-Sharp"]
    assert len(find_online("bob")) == 2
    assert find_online("sharp")[0]["licence"] == "CC-BY-4.0"


@pytest.mark.parametrize("name", ["4x-Sharp", "sharp"])
def test_a_network_is_downloaded_checked_and_imported(catalogue, tmp_path, name):
    checkpoint = checkpoint_from_catalogue(name, tmp_path / "out")
    assert checkpoint.path == tmp_path / "out" / "4x-Sharp_x4.safetensors"
    spec = checkpoint.spec
    assert (spec.licence, spec.trained_on) == ("CC-BY-4.0", "DF2K")
    assert spec.notes.startswith("Sharp by ann, bob (photo, denoise), from OpenModelDB, SHA-256 ")
    assert "Compact, 8nf, 2nc, SR" in spec.notes


def test_a_file_without_a_checksum_is_said_to_have_none(catalogue, tmp_path):
    catalogue["4x-Sharp"]["resources"][1]["sha256"] = None
    notes = checkpoint_from_catalogue("4x-Sharp", tmp_path / "out").spec.notes
    assert "OpenModelDB, which has no checksum of it" in notes


def test_a_file_with_another_checksum_is_refused(catalogue, tmp_path):
    catalogue["4x-Sharp"]["resources"][1]["sha256"] = "0" * 64
    with pytest.raises(InputError, match="'4x-Sharp' cannot be downloaded: SHA-256 mismatch"):
        checkpoint_from_catalogue("4x-Sharp", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_in_the_catalogue(catalogue, tmp_path):
    with pytest.raises(InputError, match="no network '4x-Shrp' in OpenModelDB") as e:
        checkpoint_from_catalogue("4x-Shrp", tmp_path)
    assert e.value.hint == "did you mean '4x-Sharp'?"


def test_a_name_of_several_networks(catalogue, tmp_path):
    catalogue["2x-Other"]["name"] = "Sharp"
    with pytest.raises(InputError, match="several networks of OpenModelDB have the name") as e:
        checkpoint_from_catalogue("sharp", tmp_path)
    assert e.value.hint == "name one by its id: 4x-Sharp, 2x-Other"


def test_a_network_that_is_only_a_graph(catalogue, tmp_path):
    del catalogue["4x-Sharp"]["resources"][1]
    with pytest.raises(InputError, match="'4x-Sharp' is offered as onnx only") as e:
        checkpoint_from_catalogue("4x-Sharp", tmp_path)
    assert "srdeploy import-onnx" in e.value.hint


def test_an_address_that_cannot_be_reached(catalogue, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionResetError("reset")

    monkeypatch.setattr(downloader, "smart_download", fail)
    with pytest.raises(InputError, match="'4x-Sharp' cannot be downloaded: reset") as e:
        checkpoint_from_catalogue("4x-Sharp", tmp_path)
    assert "srdeploy import-checkpoint FILE" in e.value.hint


def test_a_network_that_nobody_knows(catalogue, tmp_path, monkeypatch):
    def other(url, destination, quiet=False):
        torch.save({"fc.weight": torch.zeros(2)}, destination)

    monkeypatch.setattr(downloader, "smart_download", other)
    catalogue["4x-Sharp"]["resources"][1]["sha256"] = None
    with pytest.raises(CheckpointError, match="4x-Sharp.pth is of no network"):
        checkpoint_from_catalogue("4x-Sharp", tmp_path / "out")


def test_a_catalogue_that_cannot_be_fetched(catalogue, monkeypatch):
    def fail(self):
        raise openmodeldb.OpenModelDBError("Failed to fetch: no network")

    monkeypatch.setattr(openmodeldb.OpenModelDB, "_fetch_remote", fail)
    with pytest.raises(InputError, match="OpenModelDB cannot be fetched: .*no network") as e:
        find_online()
    assert "check the network" in e.value.hint


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmodeldb", None)
    with pytest.raises(MissingPackageError, match="needs the package 'openmodeldb'"):
        find_online()
