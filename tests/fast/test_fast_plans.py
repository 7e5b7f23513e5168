"""Adaptive networks by plans that are made once and kept in the cache."""

import pytest

from sr_deploy.core.cache import cache_folder
from sr_deploy.core.errors import InputError
from sr_deploy.core.run_options import RunOptions
from sr_deploy.fast import opener
from sr_deploy.fast.plans import describe_adaptive
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions

CDNSR = AdaptiveOptions("cdnsr")
ON_CPU = RunOptions(device="cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRDEPLOY_CACHE", str(folder))
        yield folder


@pytest.fixture
def entry(cache):
    """The cache's one entry with a plan."""
    describe_adaptive(CDNSR, run=ON_CPU)
    (entry,) = (cache_folder() / "plans").iterdir()
    return entry


def test_a_router_is_exported_once(entry):
    lines = []
    network = describe_adaptive(CDNSR, run=ON_CPU, progress=lines.append)
    assert (network.kind, network.backend, lines) == ("plan", "onnxruntime", [])
    assert opener.describe_one("cdnsr-fsrcnn-gains_x4", run=ON_CPU).artifact == network.artifact


def test_a_damaged_entry_is_made_again(entry):
    graph = next(entry.glob("*.onnx"))
    graph.write_bytes(b"")
    lines = []
    describe_adaptive(CDNSR, run=ON_CPU, progress=lines.append)
    assert lines == ["cdnsr-fsrcnn-gains_x4: prepared for onnxruntime on this machine, once"]
    assert graph.stat().st_size > 0


def test_a_bad_budget_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="too small"):
        describe_adaptive(AdaptiveOptions("cdnsr", "1%"), run=ON_CPU)
    assert list(tmp_path.iterdir()) == []


def test_torch_runs_the_checkpoint_where_it_is_asked_for(cache):
    assert describe_adaptive(CDNSR, run=RunOptions(runtime="torch")).kind == "router"
    assert describe_adaptive(CDNSR, run=RunOptions(device="cuda")).kind == "router"
