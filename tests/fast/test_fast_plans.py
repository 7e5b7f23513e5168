"""Adaptive networks by plans that are made once and kept in the cache."""

import shutil
import sys
from dataclasses import replace

import pytest
from doubles.branches import small_branches

pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("onnx", reason="onnx makes the graphs")

from sr_deploy.core.elastic_plan import read_elastic_plan  # noqa: E402
from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.parts import check_part_files  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.core.shipped import shipped_graphs  # noqa: E402
from sr_deploy.export import plans  # noqa: E402
from sr_deploy.fast import opener  # noqa: E402
from sr_deploy.fast.plans import describe_adaptive  # noqa: E402
from sr_deploy.nets.elastic import elastic_modules  # noqa: E402
from sr_deploy.nets.gains import load_gains  # noqa: E402
from sr_deploy.nets.routed_tiles import branches_modules  # noqa: E402
from sr_deploy.nets.router import load_router  # noqa: E402
from sr_deploy.runtime.opener.adaptive import DEFAULTS, AdaptiveOptions  # noqa: E402
from sr_deploy.runtime.opener.folder import plans_in  # noqa: E402

CDNSR = AdaptiveOptions("cdnsr")
ON_CPU = RunOptions(device="cpu")


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    return str(small_branches(tmp_path_factory.mktemp("router")).path)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def entry(cache):
    """The cache's one entry: the plan of the shipped default."""
    describe_adaptive(CDNSR, run=ON_CPU)
    (entry,) = (cache / "plans").iterdir()
    return entry


def test_a_router_is_exported_once(router, cache, monkeypatch):
    exported = []

    def export(text, folder):  # what an export is, tests of the room export see
        exported.append(text)
        folder.mkdir()
        for path in shipped_graphs().glob(f"{CDNSR.default}.*"):
            shutil.copy(path, folder)

    monkeypatch.setattr(plans, "plans_from_model", export)
    for lines in (["prepared", "timed"], []):
        said = []
        network = describe_adaptive(CDNSR, router, ON_CPU, progress=said.append)
        assert (network.kind, network.backend) == ("plan", "onnxruntime")
        assert [line.split()[1] for line in said] == lines
    assert opener.describe_one(router, run=ON_CPU).artifact == network.artifact
    assert exported == [router]


def test_tiles_are_timed_once_with_each_backend(entry):
    pytest.importorskip("openvino", reason="needs OpenVINO")
    (path,) = entry.glob("*.branches.json")
    assert list(read_elastic_plan(path).rates) == ["onnxruntime"]
    lines = []
    for _ in range(2):
        run = RunOptions(runtime="openvino")
        assert describe_adaptive(CDNSR, run=run, progress=lines.append).kind == "plan"
    assert lines == [f"{CDNSR.default}: timed with openvino on this machine, once"]
    assert list(read_elastic_plan(path).rates) == ["onnxruntime", "openvino"]


def test_shipped_plans_are_up_to_date():
    """They are what an export of today has, but for its graphs and their errors."""
    for kind, modules in (("elastic", elastic_of), ("cdnsr", branches_of)):
        name = DEFAULTS[kind]
        (shipped,) = (p for p in plans_in(shipped_graphs()) if p.name.startswith(f"{name}."))
        plan = read_elastic_plan(shipped)
        check_part_files(shipped, plan)
        as_made = replace(plan, parts={}, checks={}, rates={})
        assert as_made == modules(name), "run benchmarks/shipped_graphs.py"


def test_shipped_plans_need_no_torch(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "sr_deploy.export.plans", None)
    said = []
    network = describe_adaptive(CDNSR, run=ON_CPU, progress=said.append)
    assert network.kind == "plan"
    assert said == [
        f"{CDNSR.default}: prepared for onnxruntime on this machine, once",
        f"{CDNSR.default}: timed with onnxruntime on this machine, once",
    ]
    again = describe_adaptive(CDNSR, run=ON_CPU, progress=said.append)
    assert again.artifact == network.artifact and len(said) == 2


def elastic_of(name):
    return elastic_modules(load_gains(name))[0]


def branches_of(name):
    return branches_modules(load_router(name))[0]


def test_a_damaged_entry_is_made_again(entry):
    graph = next(entry.glob("*.onnx"))
    graph.write_bytes(b"")
    lines = []
    describe_adaptive(CDNSR, run=ON_CPU, progress=lines.append)
    assert lines[0] == f"{CDNSR.default}: prepared for onnxruntime on this machine, once"
    assert graph.stat().st_size > 0


def test_a_bad_budget_is_refused_before_anything_is_made(router, cache):
    for text in (router, None):
        with pytest.raises(InputError, match="too small"):
            describe_adaptive(AdaptiveOptions("cdnsr", "1%"), text, ON_CPU)
    assert not cache.exists()


def test_torch_runs_the_checkpoint_where_it_is_asked_for(router, cache):
    for run in (RunOptions(runtime="torch"), RunOptions(device="cuda")):
        assert describe_adaptive(CDNSR, router, run).kind == "router"
    network = describe_adaptive(CDNSR, run=RunOptions(runtime="torch"))
    assert network.source == CDNSR.default == "cdnsr-fsrcnn-gains_x4"
