from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.core.errors import BuildError
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import manifest_path, read_manifest, write_artifact
from sr_deploy.core.session import Backend, Session
from sr_deploy.runtime import autotune, build
from sr_deploy.runtime.autotune import tuned_engine_from_onnx

TIMES_MS = {"plain": 9.0, "blocks-8": 5.0, "blocks-16": 6.0, "dense": 30.0}


class FakeSession(Session):
    backend, backend_version, precision, scale, threads = "fake", "1", "fp32", 2, 1

    def __init__(self, ms, runs):
        self.ms, self.runs = ms, runs

    def _run(self, x_nchw):
        raise NotImplementedError

    def run_timed(self, x_nchw):
        assert x_nchw.shape == (1, 3, 16, 24)
        self.runs.append(self.ms)
        # A load of this machine that comes and goes: every third run takes three times as long.
        return type("TimedOutput", (), {"ms": self.ms * (3 if len(self.runs) % 3 == 0 else 1)})


class Fake(Backend):
    """Engines whose first words are their form, and their layout."""

    name = package = "fake"
    layouts = ("flat",)
    version, built, runs, no_device, broken = "1", [], [], "", ()

    def why_unavailable(self, target):
        return ""

    def why_no_device(self, target):
        return self.no_device

    def versions(self):
        return {"fake": self.version}

    def build(self, onnx, graph, target, temporary, options):
        if graph.form in self.broken:
            raise BuildError(f"no kernel for {graph.form}")
        Fake.built.append((graph.variant, graph.form, options.layout))
        temporary.write_text(f"{graph.form} {options.layout}")
        return replace(
            graph,
            kind="engine",
            target=target.name,
            precision_obtained="fp32",
            build={"seconds": 0.1, "size_bytes": 2},
        )

    def open(self, artifact, manifest, run=None):
        form, layout = artifact.read_text().split(" ")
        return FakeSession(TIMES_MS[form] - (2 if layout and form == "blocks-16" else 0), Fake.runs)


@pytest.fixture()
def fake(monkeypatch):
    for module in (build, autotune):
        monkeypatch.setattr(module, "BACKENDS", {"onnxruntime": Fake})
    monkeypatch.setattr(build, "preflight", lambda *args, **kwargs: [])
    monkeypatch.setattr("sr_deploy.core.timing.PAUSE_S", 0)
    Fake.version, Fake.built, Fake.runs, Fake.no_device, Fake.broken = "1", [], [], "", ()
    return Fake


def candidates(folder, graph, *, variant="d1", structure="any depth", forms=tuple(TIMES_MS)):
    """Candidates of one variant, as export writes them."""
    for form in forms:
        made = replace(read_manifest(graph), variant=variant, form=form, structure=structure)

        def write(temporary, made=made, form=form):
            temporary.write_bytes(graph.read_bytes() + f"{variant} {form}".encode())
            return made

        write_artifact(folder / f"tiny_x2.{variant}.16x24.fp32.{form}.onnx", write)
    return folder


def test_the_fastest_is_kept_and_all_are_recorded(fake, any_graph, tmp_path):
    folder = candidates(tmp_path / "c", any_graph())
    (engine,) = tuned_engine_from_onnx(folder, tmp_path / "out", target="cpu")
    assert engine.name == "tiny_x2.d1.16x24.fp32.engine" and engine.read_text() == "blocks-16 flat"
    manifest = read_manifest(engine)
    found = manifest.build["autotune"]
    assert (found["form"], found["layout"], manifest.form) == ("blocks-16", "flat", "")
    assert len(found["candidates"]) == 8 and [c["ms_p25"] for c in found["candidates"]] == sorted(
        c["ms_p25"] for c in found["candidates"]
    )
    rounds = {(c["form"], c["layout"]): c["rounds"] for c in found["candidates"]}
    assert (
        rounds["blocks-8", ""] == autotune.ROUNDS and rounds["dense", ""] == autotune.FIRST_ROUNDS
    ), "the hopeless are not timed on"
    assert (
        manifest.parent_sha256
        == read_manifest(folder / "tiny_x2.d1.16x24.fp32.blocks-16.onnx").sha256
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "autotune.json",
        engine.name,
        engine.name + ".json",
    ]


def test_a_choice_is_reused_for_variants_of_the_same_structure(fake, any_graph, tmp_path):
    folder = candidates(tmp_path / "c", any_graph())
    tuned_engine_from_onnx(folder, tmp_path / "out", target="cpu")
    fake.built, fake.runs = [], []
    candidates(folder, any_graph(), variant="d2")
    lines = []
    _, deeper = tuned_engine_from_onnx(
        folder, tmp_path / "out", target="cpu", progress=lines.append
    )
    assert fake.built == [("d2", "blocks-16", "flat")] and not fake.runs
    assert read_manifest(deeper).build["autotune"]["learnt_from"] == "tiny_x2.d1.16x24.fp32.engine"
    assert "[1/2] tiny_x2.d1.16x24.fp32.engine: up to date" in lines
    candidates(folder, any_graph(), variant="c4", structure="c4")
    tuned_engine_from_onnx(folder, tmp_path / "out", target="cpu")
    assert len([b for b in fake.built if b[0] == "c4"]) == 8, (
        "another structure is measured for itself"
    )


def test_another_version_is_timed_again(fake, any_graph, tmp_path):
    folder = candidates(tmp_path / "c", any_graph())
    tuned_engine_from_onnx(folder, tmp_path / "out", target="cpu")
    fake.built, fake.version = [], "2"
    tuned_engine_from_onnx(folder, tmp_path / "out", target="cpu")
    assert len(fake.built) == 8
    assert len(json.loads((tmp_path / "out" / "autotune.json").read_text())) == 2


def test_a_damaged_file_of_choices_is_replaced(fake, any_graph, tmp_path):
    folder = candidates(tmp_path / "c", any_graph())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "autotune.json").write_text("{half")
    tuned_engine_from_onnx(folder, tmp_path / "out", target="cpu")
    assert len(fake.built) == 8 and json.loads((tmp_path / "out" / "autotune.json").read_text())


def test_one_graph_alone_is_tuned_over_its_layouts(fake, any_graph, tmp_path):
    folder = candidates(tmp_path / "c", any_graph(), forms=("blocks-16",))
    (engine,) = tuned_engine_from_onnx(folder, tmp_path / "out", target="cpu")
    assert engine.read_text() == "blocks-16 flat" and len(fake.built) == 2


def test_candidates_that_cannot_be_timed_here_are_not_built(fake, any_graph, tmp_path):
    fake.no_device = "no GPU is found"
    with pytest.raises(BuildError, match="cannot be timed here: no GPU") as e:
        tuned_engine_from_onnx(
            candidates(tmp_path / "c", any_graph()), tmp_path / "out", target="cpu"
        )
    assert "--on" in e.value.hint and not fake.built and not (tmp_path / "out").exists()


def int8_candidates(any_graph, tmp_path):
    graph = any_graph()
    files = candidates(tmp_path / "candidates", graph)
    for path in sorted((tmp_path / "candidates").glob("*.onnx")):
        manifest = read_manifest(path)
        manifest_path(path).write_text(
            to_json(replace(manifest, precision_asked="int8", precision_obtained="int8"))
        )
    return files


def test_an_int8_candidate_that_cannot_be_built_is_left_out(fake, any_graph, tmp_path):
    files, lines = int8_candidates(any_graph, tmp_path), []
    fake.broken = ("blocks-16", "dense")
    (engine,) = tuned_engine_from_onnx(files, tmp_path / "out", target="cpu", progress=lines.append)
    facts = read_manifest(engine).build["autotune"]
    assert facts["form"] == "blocks-8"
    assert {c["form"] for c in facts["candidates"]} == {"plain", "blocks-8"}
    left_out = "dense is left out, it cannot be built: no kernel for dense"
    assert left_out in lines
    fake.broken = tuple(TIMES_MS)
    with pytest.raises(BuildError, match="no kernel for"):
        tuned_engine_from_onnx(files, tmp_path / "other", target="cpu")


def test_an_fp32_candidate_that_cannot_be_built_is_an_error(fake, any_graph, tmp_path):
    files = candidates(tmp_path / "candidates", any_graph())
    fake.broken = ("dense",)
    with pytest.raises(BuildError, match="no kernel for dense"):
        tuned_engine_from_onnx(files, tmp_path / "out", target="cpu")


def test_candidates_given_twice_are_refused(fake, any_graph, tmp_path):
    one, two = candidates(tmp_path / "a", any_graph()), candidates(tmp_path / "b", any_graph())
    with pytest.raises(BuildError, match="the same candidate"):
        tuned_engine_from_onnx([one, two], tmp_path / "out", target="cpu")
    assert list((tmp_path / "out").iterdir()) == []


def test_on_a_board_trtexecs_own_times_decide(tiny, stand_in, tmp_path, run_cli):
    stand_in()
    folder = candidates(
        tmp_path / "c", tiny(repeats=True, asked="fp16"), forms=("plain", "blocks-8")
    )
    for path in folder.glob("*.onnx"):  # each a whole graph: the words behind it are dropped
        content = tiny(repeats=True, asked="fp16").read_bytes()
        manifest = read_manifest(path)
        write_artifact(path, lambda t, m=manifest, c=content: (t.write_bytes(c), m)[1])
    done = run_cli(
        "build-engine", "--autotune", folder, "--target", "xavier", "-o", tmp_path / "out"
    )
    assert done.exit_code == 0, done.stderr
    found = read_manifest(tmp_path / "out" / "tiny_x2.d1.16x24.fp16.engine").build["autotune"]
    assert {c["form"] for c in found["candidates"]} == {"plain", "blocks-8"} and all(
        "timer" in c for c in found["candidates"]
    )


def test_conflicting_options(run_cli, tmp_path):
    done = run_cli("build-engine", "--autotune", "--sm", "89", tmp_path, "--target", "rtx")
    assert done.exit_code == 2 and "--autotune takes" in done.stderr


@pytest.mark.slow
def test_real_candidates_on_this_cpu(tmp_path, run_cli):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("torch", reason="torch is not installed; it makes the network")
    made = run_cli(
        "export",
        "asrn_x4",
        "--variants",
        "d1",
        "--target",
        "cpu",
        "--size",
        "32x32",
        "--candidates",
        "-o",
        tmp_path / "c",
    )
    assert made.exit_code == 0 and len(made.stdout.splitlines()) == 4, made.stderr
    done = run_cli(
        "build-engine", "--autotune", tmp_path / "c", "--target", "cpu", "-o", tmp_path / "out"
    )
    assert done.exit_code == 0, done.stderr
    engine = tmp_path / "out" / "asrn_x4.d1.32x32.fp32.engine"
    manifest = read_manifest(engine)
    assert len(manifest.build["autotune"]["candidates"]) == 8
    from sr_deploy.runtime.ort_engine import OnnxRuntimeBackend

    y = OnnxRuntimeBackend().open(engine, manifest).run(np.full((1, 3, 32, 32), 0.5, np.float32))
    assert y.shape == (1, 3, 128, 128)
