"""Adaptive networks on boards: jobs of several inputs and outputs, built by the stand-in."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from doubles.part_graph import write_depth_plan

from sr_deploy.core.errors import ArtifactError, BuildError, InputError
from sr_deploy.core.parts import check_part_files
from sr_deploy.runtime.boards.result import engines_from_result, target_of_result
from sr_deploy.runtime.build import bundle_from_onnx, engine_from_onnx, planned_engines
from sr_deploy.runtime.opener.plan import load_plan

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="build.sh runs on boards; Windows has no POSIX shell"
)
NAME = "ada.fp16.adadsr.json"


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """The plan of a small AdaDSR, which has parts of two inputs and of two outputs."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed; it makes the references")
    return write_depth_plan(tmp_path_factory.mktemp("graphs"))


@pytest.fixture()
def board(stand_in, monkeypatch):
    """Install the stand-in for trtexec, with a Python that has onnxruntime, and no TensorRT."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("STAND_IN_TRTEXEC_RUNS", "1")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    stand_in()


_RESULT = []


@pytest.fixture()
def result(graphs, board, tmp_path):
    """Return a good result.tar, which is built once."""
    if not _RESULT:
        bundle = bundle_from_onnx(graphs, tmp_path / "job.tar", target="xavier")
        _RESULT.append(built(unpacked(bundle, tmp_path / "board")).read_bytes())
    path = tmp_path / "a" / "result.tar"
    path.parent.mkdir()
    path.write_bytes(_RESULT[0])
    return path


def built(folder):
    """Run a bundle's script; return its result.tar."""
    done = subprocess.run(["sh", "build.sh"], cwd=str(folder), capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder / "result.tar"


def unpacked(bundle, folder):
    with tarfile.open(str(bundle)) as archive:
        archive.extractall(str(folder))
    (job,) = folder.iterdir()
    return job


def rewritten(result, **contents):
    """Pack a result again with other contents of files, by the ends of their names."""
    with tarfile.open(str(result)) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}
    for end, content in contents.items():
        (name,) = [name for name in files if name.endswith(end.replace("__", "."))]
        files[name] = content(files[name])
    for sums, folder in (("out/SHA256SUMS", "out/"), ("SHA256SUMS", "")):
        lines = []
        for line in files[sums].decode().splitlines():
            name = folder + line[66:]
            content = files.get(name)
            digest = line[:64] if content is None else hashlib.sha256(content).hexdigest()
            lines.append(f"{digest}  {line[66:]}")
        files[sums] = "".join(f"{line}\n" for line in lines).encode()
    with tarfile.open(str(result), "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_bundle_of_parts_is_built_with_sh_and_trtexec_and_adopted(graphs, result, tmp_path):
    assert target_of_result(result) == "xavier"
    lines = []
    (path,) = engines_from_result(result, tmp_path / "engines", progress=lines.append)
    plan, source = load_plan(path), load_plan(graphs)
    assert path.name == NAME and plan.target == "xavier"
    check_part_files(path, plan)
    engine = plan.engine
    assert (engine.runtime, engine.versions["tensorrt"]) == ("tensorrt", "8.5.2")
    assert engine.graphs == {role: part.sha256 for role, part in source.parts.items()}
    assert "fp16" in engine.precision_obtained
    assert lines[-1].startswith(f"{NAME}: 5 engines, fp16, ") and "Stand-in GPU" in lines[-1]
    assert all(part["psnr_db_vs_graph"] > 60 for part in plan.checks["parts"].values())
    assert list(plan.checks["preflight"]) == list(plan.parts)
    command = engine.receipts["end"]["command"]
    assert "--minShapes=y:1x4x4x4,features:1x4x4x4 --optShapes=y:1x4x8x8,features" in command
    first = engine.receipts["map"]
    assert "--optShapes=lr:1x3x8x8,depth:1" in first["command"] and "--fp16" in first["command"]
    assert first["latency_ms"]["median"] > 0 and first["compute_capability"] == 72
    assert (tmp_path / "engines" / "ada.fp16.adadsr.map.engine.build.log").is_file()
    assert (tmp_path / "engines" / ".timing-xavier-8.5.2-sm72.cache").is_file()
    with pytest.raises(InputError, match="the engines' plan would replace"):
        engines_from_result(result, graphs.parent)


def test_trtexec_here_builds_parts_beside_networks_and_once(graphs, repeating, board, tmp_path):
    lines = []
    given = {"target": "xavier", "progress": lines.append}
    paths = engine_from_onnx([graphs, repeating()], tmp_path, **given)
    assert [path.name for path in paths] == ["tiny_x2.d1.16x24.fp16.engine", NAME]
    states = planned_engines([graphs], tmp_path, target="xavier")
    assert [engine.state for engine in states] == ["up to date"]
    del lines[:]
    engine_from_onnx([graphs], tmp_path, **given)
    assert lines == [f"{NAME}: up to date"]
    (tmp_path / "ada.fp16.adadsr.end.engine").write_bytes(b"damaged")
    states = planned_engines([graphs], tmp_path, target="xavier")
    assert [engine.state for engine in states] == ["out of date"]
    with pytest.raises(InputError, match="the engines' plan would replace"):
        engine_from_onnx([graphs], graphs.parent, **given)


def values(change):
    return lambda packed: gzip.compress(change(gzip.decompress(packed)))


@pytest.mark.parametrize(
    "contents, error, words",
    [
        (
            {"map__engine__output__txt__gz": values(lambda text: text[: len(text) // 2])},
            ArtifactError,
            "the outputs of ada.fp16.adadsr.map.engine are depth_map, features with",
        ),
        (
            {"end__engine__output__txt__gz": values(lambda text: b"0\n" * text.count(b"\n"))},
            BuildError,
            "the output of ada.fp16.adadsr.end.engine differs from that of its graph",
        ),
        (
            {"end__engine__output__txt__gz": lambda packed: b"no gzip"},
            ArtifactError,
            "the output of ada.fp16.adadsr.end.engine is damaged",
        ),
        (
            {
                f"{role}__engine__layers__json": lambda text: text.replace(b"FP16", b"FP32")
                for role in ("map", "whole", "head", "end", "b1")
            },
            BuildError,
            "FP16 was requested, but the engines of ada.fp16.adadsr.json compute in fp32",
        ),
        (
            {"out/results__txt": lambda text: text.replace(b"status\tok", b"status\tunchecked", 2)},
            BuildError,
            "ada.fp16.adadsr.map.engine was built, but gives no output",
        ),
        (
            {NAME.replace(".", "__"): lambda text: text.replace(b'": "xavier"', b'": "orin"', 1)},
            ArtifactError,
            "was not written for a job: the result is not used",
        ),
    ],
)  # fmt: skip
def test_engines_that_are_not_as_asked_are_not_adopted(result, tmp_path, contents, error, words):
    rewritten(result, **contents)
    with pytest.raises(error, match=words):
        engines_from_result(result, tmp_path / "out")
    assert not (tmp_path / "out" / NAME).exists() and not list(tmp_path.glob("out/*.engine"))


def test_references_are_what_earlier_parts_give_and_a_bundle_is_made_once(graphs, board, tmp_path):
    bundle, lines = bundle_from_onnx(graphs, tmp_path / "job.tar", target="xavier"), []
    bundle_from_onnx(graphs, bundle, target="xavier", progress=lines.append)
    assert lines == ["job.tar: up to date"]
    job = unpacked(bundle, tmp_path / "b")
    features = np.load(str(job / "desk" / "ada.fp16.adadsr.head.engine.0.npy"))
    fed = np.fromfile(str(job / "ada.end.onnx.1.bin"), np.float32)
    np.testing.assert_allclose(fed.reshape(features.shape), features, atol=1e-2)
