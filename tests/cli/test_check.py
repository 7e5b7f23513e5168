from __future__ import annotations

import pytest


def test_without_graphs_those_that_were_exported_for_the_target_are_checked(
    run_cli, fails, perfect, monkeypatch, tmp_path
):
    graph, _ = perfect
    monkeypatch.chdir(tmp_path)
    error = fails("check", "--target", "xavier")
    assert "no graphs are given, and there is no folder engines/graphs/xavier" in error
    assert "srdeploy export asrn_x4 --target xavier" in error
    folder = tmp_path / "engines" / "graphs" / "xavier"
    folder.mkdir(parents=True)
    graph.rename(folder / "nearest.onnx")
    assert "1 graph for xavier, fp16" in run_cli("check", "--target", "xavier").stderr


@pytest.mark.parametrize("args", [[], ["g.onnx"]])
def test_the_target_is_required(run_cli, args):
    result = run_cli("check", *args)
    assert result.exit_code == 2 and "Missing option '--target'" in result.stderr


def test_an_int8_graph_is_checked_as_one(run_cli, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from doubles.int8_graphs import int8_manifest, int8_model

    from sr_deploy.core.manifest import write_artifact

    def write(temporary):
        onnx.save(int8_model(weights="int8"), str(temporary))
        return int8_manifest()

    write_artifact(tmp_path / "g.onnx", write)
    result = run_cli("check", str(tmp_path / "g.onnx"), "--target", "xavier")
    assert result.exit_code == 1 and "1 graph for xavier, int8: 2 errors" in result.stderr
    assert "weights of INT8 are not read before TensorRT 10.0" in result.stdout
    result = run_cli("check", str(tmp_path / "g.onnx"), "--target", "xavier", "--dla")
    assert "1 graph for xavier, int8: 0 errors" in result.stderr
