from __future__ import annotations

import json
from pathlib import Path

import pytest
from doubles.foreign_graphs import save_foreign

from sr_deploy.core.files import data_folder
from sr_deploy.core.manifest import read_manifest
from sr_deploy.core.target import target_names


@pytest.fixture(scope="session")
def graph(exporter, asrn, tmp_path_factory):
    """A real FP32 graph for the CPU with its manifest."""
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint

    folder = tmp_path_factory.mktemp("graph")
    return onnx_from_checkpoint(
        asrn, folder, ExportOptions(variants="d1", sizes=["16x16"], target="cpu")
    )[0]


@pytest.fixture()
def own_graph(graph, tmp_path):
    """A copy that a test may spoil."""
    path = tmp_path / graph.name
    path.write_bytes(graph.read_bytes())
    path.with_name(path.name + ".json").write_text(
        graph.with_name(graph.name + ".json").read_text()
    )
    return path


def test_targets_lists_every_profile_and_why_one_cannot_be_built_here(run_cli):
    listed = {p["name"]: p for p in json.loads(run_cli("targets", "--json").stdout)}
    assert sorted(listed) == target_names()
    assert (
        "TensorRT >=8.5,<8.6" in listed["xavier"]["why_unavailable"]
        and listed["xavier"]["opset"] == 17
    )
    table = run_cli("targets").stdout
    for name, profile in listed.items():
        assert f"| {name} " in table
        assert (f"{name}: {profile['why_unavailable']}" in table) == bool(
            profile["why_unavailable"]
        )


def test_an_engine_s_path_is_the_data(run_cli, graph, tmp_path):
    args = ["build-engine", graph.parent, "--target", "cpu", "-o", tmp_path / "out"]
    first, second = run_cli(*args), run_cli(*args)
    assert first.exit_code == 0, first.stderr
    engine = tmp_path / "out" / "tiny-asrn_x2.d1.16x16.fp32.engine"
    assert first.stdout == second.stdout == f"{engine}\n"
    assert "built in" in first.stderr and "up to date" in second.stderr
    assert read_manifest(engine).parent_sha256 == read_manifest(graph).sha256


def test_the_default_folder_is_the_target_s(run_cli, graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_cli("build-engine", graph, "--target", "cpu")
    assert result.stdout.replace("\\", "/").startswith("engines/built/cpu/tiny-asrn_x2"), (
        result.stderr
    )


def test_the_default_folder_of_a_profile_of_one_s_own(run_cli, graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = json.loads((data_folder("engines/targets") / "cpu.json").read_text())
    profile = tmp_path / "mine" / "mycam.json"
    profile.parent.mkdir()
    profile.write_text(json.dumps({**data, "name": "mycam"}))
    result = run_cli("build-engine", graph, "--target", profile)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.replace("\\", "/").startswith("engines/built/mycam/")


@pytest.mark.parametrize("option", [("--no-cublas-cudnn",), ("--fallback", "head-tail")])
def test_options_of_tensorrt_are_refused_for_another_runtime(fails, graph, tmp_path, option):
    shown = fails("build-engine", graph, "--target", "cpu", *option, "-o", tmp_path / "out")
    assert f"{option[0]} is for engines of TensorRT" in shown


def test_a_graph_edited_after_its_manifest_was_written(fails, own_graph, tmp_path):
    data = own_graph.read_bytes()
    own_graph.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    error = fails("build-engine", own_graph, "--target", "cpu", "-o", tmp_path / "out")
    assert (
        "was changed after its manifest was written" in error
        and "hint: export or build it again" in error
    )
    assert not (tmp_path / "out").exists()


def test_an_fp32_graph_for_rtx(fails, graph, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    error = fails("build-engine", graph, "--target", "rtx", "-o", tmp_path / "out")
    assert (
        "was exported for an FP32 engine" in error
        and "hint: export it again with --target rtx" in error
    )


def test_a_board_s_engine(fails, graph, tmp_path):
    error = fails("build-engine", graph, "--target", "xavier", "-o", tmp_path / "out")
    assert "cannot build for 'xavier' here: it needs TensorRT >=8.5,<8.6" in error
    # The graph is one for the CPU: the hint must not send it to a parser that would misread it.
    assert (
        "hint: " in error
        and "opset 18" in error
        and "export it again with --target xavier" in error
        and "--on" not in error
    )


def test_hints_name_a_profile_of_ones_own_by_its_file(run_cli, fails, graph, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    board = json.loads((data_folder("engines/targets") / "xavier.json").read_text())
    Path("board.json").write_text(json.dumps({**board, "name": "board"}))
    error = fails("build-engine", graph, "--target", "board.json", "-o", tmp_path / "out")
    assert "export it again with --target board.json" in error
    shown = run_cli("check", graph, "--target", "board.json")
    assert shown.exit_code == 1 and "export it again with --target board.json" in shown.output


@pytest.mark.parametrize(
    "name, content, target, words",
    [
        ("absent.onnx", None, "cpu", ["there is no file", "srdeploy export"]),
        ("text.onnx", b"just text\n", "cpu", ["text.onnx is not an ONNX graph", "srdeploy export"]),
        ("empty.onnx", b"", "cpu", ["is not an ONNX graph"]),
        ("bare.onnx", b"\x08\x08", "cpu", ["has no manifest"]),
        ("bare.onnx", b"\x08\x08", "xavir", ["unknown target 'xavir'", "did you mean 'xavier'?"]),
    ],
)
def test_bad_graphs_and_targets(fails, tmp_path, name, content, target, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    error = fails("build-engine", tmp_path / name, "--target", target, "-o", tmp_path / "out")
    assert error.startswith("error: ") and all(word in error for word in words), error
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_and_a_folder_that_cannot_be_written(fails, graph, tmp_path):
    assert "contains no .onnx file" in fails(
        "build-engine", tmp_path, "--target", "cpu", "-o", tmp_path / "out"
    )
    error = fails("build-engine", graph, "--target", "cpu", "-o", graph / "below")
    assert "cannot write to the folder" in error and "-o" in error


def test_a_bundle_and_what_does_not_go_with_it(run_cli, fails, graph, tmp_path):
    pytest.importorskip(
        "skimage", reason="scikit-image is not installed; it gives the reference image"
    )
    result = run_cli(
        "build-engine", graph, "--target", "xavier-jp4", "--bundle", tmp_path / "job.tar"
    )
    assert (
        result.exit_code == 1
        and "opset 18" in result.stderr
        and not (tmp_path / "job.tar").exists()
    )
    assert (
        run_cli(
            "build-engine",
            graph,
            "--target",
            "xavier",
            "--bundle",
            tmp_path / "job.tar",
            "--on",
            "ssh://x",
        ).exit_code
        == 2
    )
    assert "cannot read" in fails("adopt", tmp_path / "result.tar")
    assert "invalid board address" in fails(
        "build-engine", graph, "--target", "xavier", "--on", "xavier.local"
    )


def test_an_imported_graph_is_exported_for_the_target_first(run_cli, fails, tmp_path):
    for package in ("onnx", "onnxruntime", "torch"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    file = save_foreign("luma_opset10", tmp_path)
    assert "srdeploy import-onnx" in fails("build-engine", file, "--target", "cpu")
    imported = run_cli("import-onnx", file, "-o", tmp_path / "in").stdout.strip()
    folder = tmp_path / "out"
    result = run_cli("build-engine", imported, "--target", "cpu", "-o", folder)
    (engine,) = map(Path, result.stdout.split())
    manifest = read_manifest(engine)
    assert engine.parent == folder and (manifest.kind, manifest.interface) == ("engine", None)
    assert [p.name for p in (folder / "graphs").glob("*.onnx")] == [f"{engine.stem}.onnx"]
    job = tmp_path / "job.tar"
    run_cli("build-engine", imported, "--target", "xavier", "--bundle", job)
    assert job.is_file()
    there = tmp_path / "there"
    error = fails("build-engine", imported, "--target", "xavier", "-o", there)
    assert "cannot build for 'xavier' here" in error and not there.exists()
