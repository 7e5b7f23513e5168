"""export, build-engine and bench without a network: in the folder engines/, one after the other."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from sr_deploy.core.files import data_folder
from sr_deploy.core.manifest import read_manifest
from sr_deploy.results.rows import read_rows

GRAPH = Path("engines/graphs/mini/tiny-asrn_x2.d1.16x16.fp32.onnx")
ENGINE = Path("engines/built/mini/tiny-asrn_x2.d1.16x16.fp32.engine")


def profile(name, of):
    """Write the profile of a target of one's own, for a small size."""
    data = json.loads((data_folder("engines/targets") / f"{of}.json").read_text())
    file = Path(f"{name}.json")
    file.write_text(json.dumps({**data, "name": name, "shapes": ["16x16"]}))
    return str(file)


@pytest.fixture()
def main_model(exporter, asrn, monkeypatch):
    """A tiny checkpoint in place of the shipped main models."""
    from sr_deploy.export import defaults

    monkeypatch.setattr(defaults, "MAIN_MODELS", (str(asrn),))


@pytest.fixture(scope="session")
def exports(exporter, asrn, tmp_path_factory):
    """The folders of graphs for two targets of one's own, exported once."""
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint

    root = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, of in (("mini", "cpu"), ("board", "xavier")):
            options = ExportOptions(target=profile(name, of))
            onnx_from_checkpoint(asrn, root / name, options)
    return root


@pytest.fixture()
def graphs_of(main_model, exports):
    """Put the graphs of a target into engines/graphs; return the target's file."""

    def put(name):
        shutil.copytree(exports / name, Path("engines/graphs") / name)
        shutil.copyfile(exports / f"{name}.json", f"{name}.json")
        return f"{name}.json"

    return put


def ok(result):
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def text(output):
    return output.replace("\\", "/")


def test_the_three_commands_in_order(run_cli, main_model, data):
    target = profile("mini", "cpu")
    planned = ok(run_cli("export", "--target", target, "--dry-run"))
    assert "missing" in planned.stdout and "2 of 2 graphs to export: about" in planned.stderr
    assert not Path("engines").exists()

    exported = ok(run_cli("export", "--target", target))
    assert text(exported.stdout) == "engines/graphs/mini\n" and GRAPH.is_file()
    assert f"next: srdeploy build-engine --target {target}" in exported.stderr
    again = ok(run_cli("export", "--target", target))
    assert "all 2 graphs are up to date" in again.stderr and "max error" not in again.stderr

    planned = ok(run_cli("build-engine", "--target", target, "--dry-run"))
    assert "2 of 2 engines to build" in planned.stderr and not ENGINE.exists()
    built = ok(run_cli("build-engine", "--target", target))
    assert text(built.stdout) == "engines/built/mini\n" and ENGINE.is_file()
    assert "next: srdeploy bench" in built.stderr
    assert "2 are up to date" in ok(run_cli("build-engine", "--target", target)).stderr

    measured = ok(run_cli("bench", "--data", data, "--runs", 2, "--format", "markdown"))
    assert "2 networks in engines/built/mini" in text(measured.stderr)
    rows = read_rows(Path("engines/rows/rows.jsonl"))
    assert [row.artifact for row in rows] == [ENGINE.name, ENGINE.name.replace("d1", "d2")]
    assert "next: srdeploy report" in measured.stderr


def test_build_engine_alone_exports_what_is_missing(run_cli, graphs_of):
    target = graphs_of("mini")
    before = GRAPH.stat().st_mtime_ns
    second = GRAPH.with_name(GRAPH.name.replace("d1", "d2"))
    second.unlink()  # as a killed export leaves it
    result = ok(run_cli("build-engine", "--target", target))
    assert "1 of 2 graphs to export" in result.stderr and second.is_file()
    assert GRAPH.stat().st_mtime_ns == before and len(list(ENGINE.parent.glob("*.engine"))) == 2


def test_graphs_that_engines_cannot_be_built_from_are_left_out(run_cli, graphs_of):
    target = graphs_of("mini")
    GRAPH.with_name("bare.onnx").write_bytes(b"\x08\x08")
    other = GRAPH.with_name("other.16x16.fp32.onnx")
    other.write_bytes(GRAPH.read_bytes())
    manifest = json.loads(GRAPH.with_name(GRAPH.name + ".json").read_text())
    other.with_name(other.name + ".json").write_text(json.dumps({**manifest, "opset": 21}))
    result = ok(run_cli("build-engine", "--target", target))
    assert "bare.onnx: it has no manifest" in result.stderr
    assert "other.16x16.fp32.onnx: it has opset 21" in result.stderr
    assert len(list(ENGINE.parent.glob("*.engine"))) == 2


def test_where_nothing_can_be_exported_the_graphs_that_are_there_are_taken(
    run_cli, fails, graphs_of, monkeypatch
):
    from sr_deploy.core.errors import MissingPackageError
    from sr_deploy.deploy import workspace

    target = graphs_of("mini")

    def no_torch(target):
        raise MissingPackageError("torch", needed_for="exporting graphs")

    monkeypatch.setattr(workspace, "_main_jobs", no_torch)
    result = ok(run_cli("build-engine", "--target", target))
    assert "only the graphs that are there are taken" in result.stderr and ENGINE.is_file()
    for file in GRAPH.parent.iterdir():
        file.unlink()
    error = fails("build-engine", "--target", target)
    assert f"srdeploy export --target {target}" in error and "pip install" in error


def test_a_bundle_where_the_engines_cannot_be_built(run_cli, graphs_of):
    target = graphs_of("board")
    planned = ok(run_cli("build-engine", "--target", target, "--dry-run"))
    assert "a bundle would be written" in planned.stderr and not Path("engines/built").exists()
    result = ok(run_cli("build-engine", "--target", target))
    bundle = Path("engines/built/board/board.tar")
    assert result.stdout == f"{bundle}\n"
    with tarfile.open(bundle) as archive:
        folder = archive.next().name
    assert "nothing was built: it needs TensorRT >=8.5,<8.6" in result.stderr
    assert f"scp {bundle} USER@BOARD: && ssh USER@BOARD" in result.stderr
    assert f"tar xf board.tar && sh {folder}/build.sh" in result.stderr
    assert f"scp USER@BOARD:{folder}/result.tar . && srdeploy adopt result.tar" in result.stderr
    assert "next: srdeploy bench" not in result.stderr

    whole = bundle.read_bytes()
    assert "board.tar: up to date" in ok(run_cli("build-engine", "--target", target)).stderr
    bundle.write_bytes(whole[: len(whole) // 2])
    again = ok(run_cli("build-engine", "--target", target))
    assert "2 engines to build" in again.stderr and bundle.stat().st_size == len(whole)


def test_the_targets_of_this_machine(run_cli, fails, main_model, monkeypatch):
    from sr_deploy.core.target import load_target
    from sr_deploy.deploy.workspace import measurable_here

    monkeypatch.setattr("sr_deploy.runtime.build.targets_here", lambda: [load_target("cpu")])
    exported = ok(run_cli("export", "--size", "16x16"))
    assert "for cpu" in exported.stderr
    assert exported.stderr.endswith("next: srdeploy build-engine\n")
    graphs = sorted(Path("engines/graphs/cpu").glob("*.onnx"))
    found = measurable_here()  # without engines, the graphs
    assert list(found.networks) == graphs and len(graphs) == 2 and found.left_out == ()
    monkeypatch.setattr("sr_deploy.runtime.build.targets_here", list)
    for command in ("export", "build-engine"):
        assert "this machine can build for no target" in fails(command)


def test_a_target_whose_engines_nothing_can_bundle(fails, main_model):
    assert "cannot build for 'cuda' here" in fails("build-engine", "--target", "cuda")
    assert not Path("engines").exists()


def test_a_model_without_a_folder_goes_to_the_targets_(run_cli, asrn, graphs_of):
    target = graphs_of("mini")
    result = ok(run_cli("export", asrn, "--variants", "d1", "--target", target))
    assert result.stdout == f"{GRAPH}\n"
    assert f"next: srdeploy build-engine {GRAPH.parent} --target {target}" in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("export", "--variants", "d1"),
        ("export", "asrn_x4", "--adaptive"),
        ("build-engine", "g.onnx"),
        ("build-engine", "--on", "ssh://u@board"),
        ("build-engine", "--bundle", "x.tar"),
        ("build-engine", "--target", "cpu", "--autotune"),
    ],
)
def test_wrong_usage(run_cli, args):
    assert run_cli(*args).exit_code == 2
    assert not Path("engines").exists()


def test_a_folder_that_cannot_be_written(run_cli, fails, exports, main_model, data):
    Path("engines").write_text("")
    for command in (("export", "--target", "cpu"), ("build-engine", "--target", "cpu")):
        assert "cannot write to the folder engines" in fails(*command)
    result = ok(run_cli("bench", exports / "mini" / GRAPH.name, "--data", data, "--runs", 1))
    assert "rows are printed, not kept" in result.stderr and "tiny-asrn_x2" in result.stdout


def test_bench_leaves_out_what_cannot_run_here(run_cli, graphs_of, rtx_engine, data):
    folder = Path("engines/built/rtx")
    folder.mkdir(parents=True)
    for file in (rtx_engine, rtx_engine.with_name(rtx_engine.name + ".json")):
        (folder / file.name).write_bytes(file.read_bytes())
    graphs_of("board")
    ok(run_cli("build-engine", "--target", graphs_of("mini")))
    result = ok(run_cli("bench", "--data", data, "--runs", 1, "--json"))
    rows = json.loads(result.stdout)
    assert [row["artifact"] for row in rows] == [ENGINE.name, ENGINE.name.replace("d1", "d2")]
    assert "left out: 1 in engines/built/rtx: it needs the GPU of target 'rtx'" in result.stderr
    assert "left out: 2 in engines/graphs/board: " in result.stderr
    assert not Path("engines/rows").exists()


def test_bench_takes_a_shipped_model_where_nothing_is(run_cli, monkeypatch, exports, data):
    monkeypatch.setattr("sr_deploy.cli.bench.DEFAULT_MODELS", {4: str(exports / "mini")})
    result = ok(run_cli("bench", "--data", data, "--runs", 1))
    assert "engines has nothing that can be measured here" in result.stderr
    assert len(read_rows(Path("engines/rows/rows.jsonl"))) == 2


def test_bench_without_torch_takes_the_shipped_graph(run_cli, monkeypatch, data):
    monkeypatch.setattr("sr_deploy.cli.bench.find_spec", lambda name: None)
    result = ok(run_cli("bench", "--data", data, "--runs", 1, "--size", "16x16"))
    assert "asrn_x4.d5 is measured; its other variants need torch" in result.stderr
    (row,) = read_rows(Path("engines/rows/rows.jsonl"))
    assert (row.model, row.variant) == ("asrn_x4", "d5")


def test_a_graph_that_changed_since_its_engine_was_built_is_told(graphs_of, run_cli):
    from sr_deploy.deploy.workspace import measurable_here

    ok(run_cli("build-engine", "--target", graphs_of("mini")))
    manifest = GRAPH.with_name(GRAPH.name + ".json")
    manifest.write_text(manifest.read_text().replace(read_manifest(GRAPH).sha256, "0" * 64))
    found = measurable_here()
    assert len(found.networks) == 2
    (line,) = found.left_out
    assert line.startswith("1 in engines/graphs/mini: changed since their engines were built")
