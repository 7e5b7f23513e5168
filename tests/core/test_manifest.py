from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import pytest

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.manifest import (
    Manifest,
    is_up_to_date,
    manifest_path,
    read_manifest,
    write_artifact,
)

MANIFEST = Manifest(
    kind="onnx",
    model="m_x2",
    variant="d1",
    arch="asrn",
    scale=2,
    min_shape=(8, 8),
    opt_shape=(8, 8),
    max_shape=(8, 8),
    input_dtype="fp32",
    output_dtype="fp32",
    precision_asked="fp32",
    precision_obtained="fp32",
    target="",
    parent_sha256="ab" * 32,
    command="srdeploy export",
    versions={"onnx": "1.18"},
    checks={"max_abs_err": 1e-6},
    not_checked=("the engine",),
)


def writer(content, manifest=MANIFEST):
    def write(temporary):
        temporary.write_bytes(content)
        return manifest

    return write


@pytest.fixture()
def artifact(tmp_path):
    path = tmp_path / "net.onnx"
    write_artifact(path, writer(b"one"))
    return path


@pytest.mark.smoke
def test_the_pair_is_written_and_read_back(artifact):
    found = read_manifest(artifact)
    assert found == replace(MANIFEST, sha256=found.sha256) and len(found.sha256) == 64
    assert sorted(os.listdir(artifact.parent)) == ["net.onnx", "net.onnx.json"]
    assert not found.dynamic and replace(found, max_shape=(9, 9)).dynamic


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_pair_or_none(artifact, failure):
    def write(temporary):
        temporary.write_bytes(b"half")
        raise failure

    for path in (artifact, artifact.with_name("other.onnx")):
        with pytest.raises(failure):
            write_artifact(path, write)
    assert sorted(os.listdir(artifact.parent)) == ["net.onnx", "net.onnx.json"]
    read_manifest(artifact)


def test_an_interruption_between_artifact_and_manifest_leaves_no_half_pair(artifact, monkeypatch):
    rename = os.replace

    def stop(source, destination):
        rename(source, destination)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)  # the artifact is in place, its manifest is not
    with pytest.raises(KeyboardInterrupt):
        write_artifact(artifact, writer(b"two"))
    assert (
        os.listdir(str(artifact.parent)) == []
    )  # whole or absent: an artifact without a manifest is neither


@pytest.mark.smoke
def test_an_artifact_edited_later_is_refused(artifact):
    artifact.write_bytes(b"One")
    with pytest.raises(
        ArtifactError, match="net.onnx was changed after its manifest was written"
    ) as e:
        read_manifest(artifact)
    assert "again" in e.value.hint
    assert not is_up_to_date(artifact, MANIFEST)


def test_a_missing_artifact_or_manifest_is_named(artifact):
    manifest_path(artifact).unlink()
    with pytest.raises(
        ArtifactError, match="net.onnx has no manifest: expected net.onnx.json beside it"
    ):
        read_manifest(artifact)
    artifact.unlink()
    with pytest.raises(ArtifactError, match="there is no file"):
        read_manifest(artifact)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"modle": "x"}, "unknown key 'modle'"),
        ({"scale": "2"}, "'scale': expected int"),
        ({"min_shape": ["a", "b"]}, "min_shape"),
        ({"align_px": 0}, "align_px 0"),
        ({"halo_px": -1}, "halo_px -1"),
        ({"min_px": [0, 1]}, r"min_px \(0, 1\)"),
        ({"checks": {"int8": 3}}, "checks.int8"),
        ({"checks": {"accuracy": {"psnr_db_vs_fp32": "x"}}}, "checks.accuracy"),
        ({"checks": {"fp16": {"psnr_db_vs_fp32": math.nan}}}, "checks.fp16"),
        ({"checks": {"int8": {"curve": [{"kept": 1}]}}}, "the curve of checks.int8"),
    ],
)
def test_a_malformed_manifest_is_refused(artifact, change, words):
    path = manifest_path(artifact)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match="net.onnx.json.*: .*" + words):
        read_manifest(artifact)


@pytest.mark.parametrize(
    "key, value",
    [
        ("parent_sha256", "cd" * 32),
        ("command", "srdeploy export --precision fp16"),
        ("versions", {"onnx": "1.19"}),
        ("target", "cpu"),
        ("variant", "d2"),
        ("model", "n"),
        ("kind", "engine"),
    ],
)
def test_up_to_date_only_while_nothing_it_depends_on_changed(artifact, key, value):
    assert is_up_to_date(artifact, MANIFEST)
    assert is_up_to_date(artifact, replace(MANIFEST, checks={}))  # an outcome, not a cause
    assert not is_up_to_date(artifact, replace(MANIFEST, **{key: value}))


@pytest.mark.parametrize("export_db, engine_db", [(50.0, 52.0), (52.0, 50.0)])
def test_an_int8_engine_has_the_lower_psnr_of_its_export_and_its_build(export_db, engine_db):
    checks = {"int8": {"psnr_db_vs_fp32": export_db}, "accuracy": {"psnr_db_vs_fp32": engine_db}}
    assert replace(MANIFEST, checks=checks).psnr_db_vs_fp32 is None  # FP32 loses nothing
    engine = replace(MANIFEST, precision_obtained="mixed: 2 fp32, 9 int8", checks=checks)
    assert engine.psnr_db_vs_fp32 == 50.0
