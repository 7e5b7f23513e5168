from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from sr_deploy.core.errors import ArtifactError, BuildError, InputError, TargetError
from sr_deploy.core.files import atomic_path
from sr_deploy.core.manifest import manifest_path, read_manifest, write_artifact
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import load_target, target_names
from sr_deploy.runtime import BACKENDS, build
from sr_deploy.runtime.build import engine_from_onnx, onnx_files

ON_DEVICE = [name for name in target_names() if load_target(name).runtime == "tensorrt"]


class Fake:
    """A backend that copies the graph."""

    name, version = "fake", "1"
    builds = 0

    def why_unavailable(self, target):
        return ""

    def versions(self):
        return {"fake": self.version}

    def build(self, onnx, graph, target, temporary, options):
        Fake.builds += 1
        if "bad" in onnx.name:
            temporary.write_bytes(b"half")
            raise BuildError("no such luck")
        temporary.write_bytes(onnx.read_bytes())
        return replace(
            graph, kind="engine", target=target.name, build={"seconds": 0.1, "size_bytes": 2}
        )


@pytest.fixture()
def fake(monkeypatch):
    monkeypatch.setattr(build, "BACKENDS", {"onnxruntime": Fake})
    Fake.builds = 0
    return Fake


def test_files_and_folders_of_graphs(any_graph, tmp_path):
    one, two = any_graph("a"), any_graph("b")
    assert onnx_files([one.parent]) == [one, two]
    assert onnx_files([two, str(one)]) == [two, one]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty contains no .onnx file") as e:
        onnx_files([tmp_path / "empty"])
    assert "srdeploy export" in e.value.hint
    with pytest.raises(InputError, match="there is no file .*absent.onnx"):
        onnx_files([one, tmp_path / "absent.onnx"])


def test_a_partial_file_of_a_killed_export_is_ignored(any_graph):
    graph = any_graph("a")
    with pytest.raises(KeyboardInterrupt), atomic_path(graph.with_name("b.onnx")) as temporary:
        temporary.write_bytes(b"\x08half")
        assert onnx_files([graph.parent]) == [graph]
        raise KeyboardInterrupt


@pytest.mark.smoke
def test_engines_are_built_once(any_graph, tmp_path, fake):
    graph, lines = any_graph(), []
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="cpu", progress=lines.append)
    manifest = read_manifest(engine)
    assert (
        engine.name == "tiny_x2.d1.16x24.fp32.engine"
        and manifest.kind == "engine"
        and manifest.target == "cpu"
    )
    assert manifest.parent_sha256 == read_manifest(graph).sha256
    assert (
        manifest.command == "srdeploy build-engine tiny_x2.d1.16x24.fp32.onnx --target cpu"
        and manifest.versions["fake"] == "1"
    )
    engine_from_onnx(graph, tmp_path / "out", target="cpu", progress=lines.append)
    assert fake.builds == 1
    assert "fp32, 0.00 MiB, built in 0.1 s" in lines[0] and lines[1].endswith("up to date")


@pytest.mark.parametrize("change", ["graph", "version", "engine", "manifest"])
def test_an_engine_is_rebuilt_when_something_it_depends_on_changes(
    any_graph, tmp_path, fake, monkeypatch, change
):
    graph = any_graph()
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="cpu")
    if change == "graph":

        def other(temporary):
            temporary.write_bytes(b"\x08\x09")
            return read_manifest(graph)

        write_artifact(graph, other)
    elif change == "version":
        monkeypatch.setattr(fake, "version", "2")
    elif change == "engine":
        engine.write_bytes(b"edited")
    else:
        manifest_path(engine).unlink()
    engine_from_onnx(graph, tmp_path / "out", target="cpu")
    assert fake.builds == 2
    read_manifest(engine)


def test_a_failure_keeps_finished_engines_and_leaves_no_partial_file(any_graph, tmp_path, fake):
    def write(temporary):
        temporary.write_bytes(b"\x08\x08")
        return replace(read_manifest(good), model="bad")

    good = any_graph("a")
    write_artifact(good.with_name("bad.onnx"), write)
    with pytest.raises(BuildError, match="no such luck"):
        engine_from_onnx(good.parent, tmp_path / "out", target="cpu")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "tiny_x2.d1.16x24.fp32.engine",
        "tiny_x2.d1.16x24.fp32.engine.json",
    ]


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x.onnx", b"just text\n", "x.onnx is not an ONNX graph"),
        ("x.onnx", b"", "is not an ONNX graph"),
        ("x.txt", b"\x08", "is not an ONNX graph"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=words) as e:
        engine_from_onnx(tmp_path / name, tmp_path / "out", target="cpu")
    assert "srdeploy export" in e.value.hint
    assert not (tmp_path / "out").exists()


def test_a_graph_without_or_edited_after_its_manifest_is_refused(any_graph, tmp_path):
    edited, bare = any_graph("edited"), any_graph("bare")
    edited.write_bytes(b"\x08\x09")
    manifest_path(bare).unlink()
    with pytest.raises(
        ArtifactError, match="edited.onnx was changed after its manifest was written"
    ):
        engine_from_onnx(edited, tmp_path / "out", target="cpu")
    with pytest.raises(ArtifactError, match="bare.onnx has no manifest"):
        engine_from_onnx(bare, tmp_path / "out", target="cpu")
    assert not (tmp_path / "out").exists()


def test_an_engine_is_refused_as_a_graph(any_graph, tmp_path, fake):
    (engine,) = engine_from_onnx(any_graph(), tmp_path, target="cpu")
    with pytest.raises(ArtifactError, match="engine"):
        engine_from_onnx(engine, tmp_path, target="cpu")


def test_sm_versions_are_for_rtx_only(any_graph, tmp_path, fake):
    with pytest.raises(InputError, match="--sm does not apply to target 'cpu'"):
        engine_from_onnx(
            any_graph(),
            tmp_path / "out",
            target="cpu",
            options=BuildOptions(compute_capabilities=(86,)),
        )


def test_an_unknown_target_is_refused_before_anything_else(tmp_path):
    with pytest.raises(TargetError, match="unknown target 'xavir'") as e:
        engine_from_onnx(tmp_path / "absent.onnx", tmp_path / "out", target="xavir")
    assert e.value.hint == "did you mean 'xavier'?"


@pytest.mark.parametrize("name", ON_DEVICE)
def test_a_board_s_engine_is_not_built_here_and_the_reason_is_given(name, any_graph, tmp_path):
    profile = load_target(name)
    weak = profile.fp16_graph == "fp32"
    graph = any_graph(precision="fp32" if weak else "fp16", asked="fp16", opset=profile.opset)
    with pytest.raises(
        BuildError, match=f"cannot build for '{name}'.* here: .*'tensorrt'.*no trtexec on PATH"
    ) as e:
        engine_from_onnx(graph, tmp_path / "out", target=name)
    for way in (
        f"install TensorRT {profile.runtime_versions}",
        "--on ssh://user@board",
        "--bundle FILE.tar",
    ):
        assert way in e.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, module", [("cpu", "onnxruntime"), ("rtx", "tensorrt_rtx")])
def test_a_missing_package_is_named_with_the_pip_line(
    name, module, any_graph, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    reason = BACKENDS[load_target(name).runtime]().why_unavailable(load_target(name))
    assert module in reason and "pip install" in reason
    with pytest.raises(BuildError, match=f"cannot build for '{name}'.* here: .*pip install") as e:
        engine_from_onnx(
            any_graph(precision="fp16" if name == "rtx" else "fp32"), tmp_path / "out", target=name
        )
    assert ("(no GPU is needed): pip install 'tensorrt-rtx" in e.value.hint) == (name == "rtx")


def test_two_graphs_that_would_become_one_engine_are_refused(any_graph, tmp_path, fake):
    graphs = [any_graph("a"), any_graph("b")]
    with pytest.raises(InputError, match="several of the graphs would become tiny_x2.d1"):
        engine_from_onnx(graphs, tmp_path / "out", target="cpu")
    assert not (tmp_path / "out").exists()


def test_a_manifest_cannot_send_the_engine_elsewhere(any_graph, tmp_path, fake):
    graph = any_graph()
    path = manifest_path(graph)
    path.write_text(path.read_text().replace('"tiny_x2"', '"../../x"'))
    with pytest.raises(ArtifactError, match="cannot be part of a file name"):
        engine_from_onnx(graph, tmp_path / "out", target="cpu")


@pytest.mark.parametrize(
    "board, expected",
    [
        ("NVIDIA Jetson AGX Xavier", ["cpu", "xavier"]),
        ("NVIDIA Jetson Xavier NX Developer Kit", ["cpu", "xavier-nx"]),
        (None, ["cpu", "rtx-tensorrt8"]),
    ],
)
def test_of_the_boards_with_this_tensorrt_only_the_own_one_is_a_target_here(
    monkeypatch, board, expected
):
    from sr_deploy.runtime import build
    from sr_deploy.runtime.boards.board import BoardFacts

    def why_not(profile):
        fits = profile.runtime == "tensorrt" and profile.supports_version("8.5.2")
        return ("" if fits or profile.name == "cpu" else "it is not here"), False

    monkeypatch.setattr(build, "why_not_here", why_not)
    monkeypatch.setattr(build, "facts_here", lambda: BoardFacts(board=board))
    assert [profile.name for profile in build.targets_here()] == expected
