"""Adaptive networks by plans that are made once and kept in the cache."""

import pytest
from doubles.branches import small_branches

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnx", reason="onnx makes the graphs")

from sr_deploy.core.cache import cache_folder  # noqa: E402
from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.fast import opener  # noqa: E402
from sr_deploy.fast.plans import describe_adaptive  # noqa: E402
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions  # noqa: E402

CDNSR = AdaptiveOptions("cdnsr")
ON_CPU = RunOptions(device="cpu")


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    return str(small_branches(tmp_path_factory.mktemp("router")).path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SRDEPLOY_CACHE", str(folder))
        yield folder


@pytest.fixture
def entry(cache, router):
    """The cache's one entry with a plan."""
    describe_adaptive(CDNSR, router, ON_CPU)
    (entry,) = (cache_folder() / "plans").iterdir()
    return entry


def test_a_router_is_exported_once(router, entry):
    lines = []
    network = describe_adaptive(CDNSR, router, ON_CPU, progress=lines.append)
    assert (network.kind, network.backend, lines) == ("plan", "onnxruntime", [])
    assert opener.describe_one(router, run=ON_CPU).artifact == network.artifact


def test_a_damaged_entry_is_made_again(router, entry):
    graph = next(entry.glob("*.onnx"))
    graph.write_bytes(b"")
    lines = []
    describe_adaptive(CDNSR, router, ON_CPU, progress=lines.append)
    assert lines == ["branches_x2: prepared for onnxruntime on this machine, once"]
    assert graph.stat().st_size > 0


def test_a_bad_budget_is_refused_before_anything_is_made(router, tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="too small"):
        describe_adaptive(AdaptiveOptions("cdnsr", "1%"), router, ON_CPU)
    assert list(tmp_path.iterdir()) == []


def test_torch_runs_the_checkpoint_where_it_is_asked_for(router, cache):
    for run in (RunOptions(runtime="torch"), RunOptions(device="cuda")):
        assert describe_adaptive(CDNSR, router, run).kind == "router"


def test_the_shipped_default_is_what_is_described_without_a_text(cache):
    network = describe_adaptive(CDNSR, run=RunOptions(runtime="torch"))
    assert network.source == CDNSR.default == "cdnsr-fsrcnn-gains_x4"
