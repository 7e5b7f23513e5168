"""Results of jobs: read back, and refused when they are damaged, forged or of another job."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from dataclasses import asdict

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, BuildError, InputError
from sr_deploy.core.manifest import read_manifest
from sr_deploy.core.target import load_target
from sr_deploy.runtime.boards.job import BoardJob
from sr_deploy.runtime.boards.result import engines_from_result, target_of_result

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="build.sh runs on boards; Windows has no POSIX shell"
)


@pytest.mark.smoke
def test_a_bundle_is_built_with_sh_and_trtexec_and_adopted(board_result, tmp_path):
    assert target_of_result(board_result) == "xavier"
    paths = engines_from_result(board_result, tmp_path / "engines")
    assert [p.name for p in paths] == [
        "tiny_x2.d1.16x24.fp16.engine",
        "tiny_x2.d1.dyn8x8-32x40.fp16.engine",
    ]
    for path in paths:
        manifest = read_manifest(path)
        assert manifest.checks["accuracy"]["psnr_db_vs_fp32"] > 60 and manifest.target == "xavier"
        assert manifest.command.startswith("srdeploy build-engine tiny_x2.d1.")


_RESULT = []


@pytest.fixture()
def a_result(request):
    """The bytes of a good result.tar, built once."""
    if not _RESULT:
        _RESULT.append(request.getfixturevalue("board_result").read_bytes())
    return _RESULT[0]


def rewritten(result, change):
    """Pack the result again with `change` applied to {name: bytes}."""
    with tarfile.open(str(result)) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()}
    change(files)
    with tarfile.open(str(result), "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


ENGINE = "out/tiny_x2.d1.16x24.fp16.engine"


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: f.update({ENGINE: f[ENGINE] + b"x"}), "was changed after it was packed"),
        (
            lambda f: f.update({"out/results.txt": f["out/results.txt"].replace(b"ok", b"no")}),
            "results.txt was changed after it was packed",
        ),
        (
            lambda f: f.update(
                {"desk/manifests.json": f["desk/manifests.json"].replace(b"fp16", b"fp32")}
            ),
            "manifests.json was changed after",
        ),
        (lambda f: f.update({"out/added": b"x"}), "added was changed after it was packed"),
        (lambda f: f.pop("out/SHA256SUMS"), "has no checksums"),
        (lambda f: f.pop(f"{ENGINE}.output.txt.gz"), "is incomplete, .*output.txt.gz is missing"),
        (lambda f: f.pop(f"desk/{ENGINE[4:]}.npy"), "is incomplete, desk/.*npy is missing"),
        (lambda f: f.pop("job.txt"), "is incomplete, job.txt is missing"),
        (
            lambda f: f.update({"../outside": b"x"}),
            "holds '../outside', not a file of a result",
        ),
        (lambda f: f.update({"out/../../outside": b"x"}), "not a file of a result"),
        (lambda f: f.update({"/tmp/outside": b"x"}), "not a file of a result"),
        (lambda f: f.update({"other/file": b"x"}), "not a file of a result"),
    ],
)
def test_a_result_that_was_tampered_with_is_refused(a_result, tmp_path, change, words):
    result = tmp_path / "result.tar"
    result.write_bytes(a_result)
    rewritten(result, change)
    with pytest.raises(ArtifactError, match=words):
        engines_from_result(result, tmp_path / "engines")
    assert not (tmp_path / "engines").exists() and not (tmp_path / "outside").exists()


def sealed(files):
    """Make the checksums valid, as an attacker would."""
    for folder in ("out/", ""):
        names = [
            n
            for n in files
            if n.startswith(folder)
            and not n.endswith("SHA256SUMS")
            and (folder or not n.startswith("out/"))
        ]
        sums = "".join(
            f"{hashlib.sha256(files[n]).hexdigest()}  {n[len(folder) :]}\n" for n in names
        )
        files[folder + "SHA256SUMS"] = sums.encode()


def edited(name, old, new):
    def change(files):
        assert old in files[name]
        files[name] = files[name].replace(old, new)

    return change


def elsewhere(files):
    for name in ("desk/manifests.json", "out/results.txt"):
        files[name] = files[name].replace(ENGINE[4:].encode(), b"../desk/evil.engine")
    files["desk/evil.engine"] = files[ENGINE]


def not_a_number(files):
    name = f"desk/{ENGINE[4:]}.npy"
    y = np.load(io.BytesIO(files[name]))
    y[0, 0, 0, 0] = np.nan
    out = io.BytesIO()
    np.save(out, y)
    files[name] = out.getvalue()


@pytest.mark.parametrize(
    "change, words",
    [
        (elsewhere, "manifests.json was not written for a job: '../desk/evil.engine'"),
        (not_a_number, "FP32 output is not finite"),
        (
            edited("out/results.txt", b"status\tok", b"status\tbanana"),
            "the status of .* is 'banana'",
        ),
        (
            edited("out/results.txt", b"exit_code\t0\nbuild", b"exit_code\t1\nbuild"),
            "does not match its entry in results.txt",
        ),
        (
            edited("out/results.txt", b"size_bytes\t", b"size_bytes\t1"),
            "does not match its entry in results.txt",
        ),
        (
            edited("out/results.txt", b"status\tok", b"status\tunchecked"),
            "was built, but gives no output",
        ),
        (
            edited("out/results.txt", b"status\tok", b"status\tunmeasured"),
            "was built, but cannot be run",
        ),
        (
            edited("desk/manifests.json", b'"kind": "engine"', b'"kind": "onnx"'),
            "was not written for a job",
        ),
        (
            edited("desk/manifests.json", b'"scale": 2', b'"scale": -2'),
            "is not a valid manifest: the scale -2",
        ),
        (
            edited(
                "desk/manifests.json", b'"precision_asked": "fp16"', b'"precision_asked": "fp9"'
            ),
            "precision_asked 'fp9'",
        ),
        (
            lambda f: f.update({f"{ENGINE}.output.txt.gz": b"\x1f\x8b\x08" + bytes(20)}),
            "is damaged",
        ),
        (
            lambda f: f.update({f"{ENGINE}.layers.json": b'{"Layers": [{"Inputs": 5}]}'}),
            "cannot be read: TypeError",
        ),
        (lambda f: f.update({f"{ENGINE}.times.json": b"[" * 100000}), "cannot be read"),
        (lambda f: f.update({f"desk/{ENGINE[4:]}.npy": b""}), "is damaged"),
        (
            lambda f: f.update({"desk/manifests.json": b'{"x.engine": null}'}),
            "expected an object of manifests",
        ),
    ],
)
def test_a_forged_result_with_valid_checksums_is_refused(a_result, tmp_path, change, words):
    def both(files):
        change(files)
        sealed(files)

    result = tmp_path / "result.tar"
    result.write_bytes(a_result)
    rewritten(result, both)
    with pytest.raises((ArtifactError, BuildError), match=words):
        engines_from_result(result, tmp_path / "engines")
    assert not (tmp_path / "engines" / ENGINE[4:]).exists() and not (tmp_path / "desk").exists()


def without_gpu(board_txt, target):
    """Return a change: logs that name no GPU, other facts, and another target."""

    def change(files):
        for name in [n for n in files if n.endswith(("build.log", "time.log"))]:
            lines = files[name].split(b"\n")
            gone = (b"Selected Device", b"Compute Capability")
            files[name] = b"\n".join(x for x in lines if not any(word in x for word in gone))
        files["out/board.txt"] = board_txt
        drafts = json.loads(files["desk/manifests.json"])
        for draft in drafts.values():
            profile = asdict(load_target("xavier"))
            draft["profile"] = {**profile, "compute_capabilities": target}
        files["desk/manifests.json"] = json.dumps(drafts).encode()
        sealed(files)

    return change


def adopted_without_gpu(a_result, tmp_path, board_txt, target):
    result, lines = tmp_path / "result.tar", []
    result.write_bytes(a_result)
    rewritten(result, without_gpu(board_txt, target))
    paths = engines_from_result(result, tmp_path / "engines", progress=lines.append)
    return read_manifest(paths[0]), lines


def test_a_gpu_that_no_log_names_is_the_one_of_the_board_s_facts(a_result, tmp_path):
    facts = b"== compatible\nnvidia,tegra194\n"
    manifest, _ = adopted_without_gpu(a_result, tmp_path, facts, [72])
    assert (manifest.build["gpu"], manifest.build["compute_capability"]) == ("gv11b", 72)
    assert not any("GPU" in entry for entry in manifest.not_checked)


def test_a_gpu_that_nothing_names_is_recorded_as_not_checked(a_result, tmp_path):
    manifest, lines = adopted_without_gpu(a_result, tmp_path, b"", [])
    assert manifest.build["gpu"] == "" and "compute_capability" not in manifest.build
    assert "the GPU that it was timed on: no log names it" in manifest.not_checked
    assert "ms on an unknown GPU" in lines[0]
    assert not list((tmp_path / "engines").glob(".timing-*"))


def test_a_gpu_that_nothing_names_is_refused_for_a_target_of_one(a_result, tmp_path):
    words = "built on an unknown GPU, but the target is SM 72"
    with pytest.raises(BuildError, match=words):
        adopted_without_gpu(a_result, tmp_path, b"", [72])


def test_adopt_tells_the_mean_power(a_result, tmp_path):
    def change(files):
        end = 1000.0
        files[f"{ENGINE}.power.txt"] = "".join(
            f"tegrastats {end - i * 0.001:.3f} RAM 1/2MB VDD_IN 5000mW/5000mW\n" for i in range(5)
        ).encode()
        sealed(files)

    result, lines = tmp_path / "result.tar", []
    result.write_bytes(a_result)
    rewritten(result, change)
    engines_from_result(result, tmp_path / "engines", progress=lines.append)
    assert lines[0].endswith(", 5.0 W (module input (VDD_IN))")


def test_the_result_of_another_job_is_refused(a_result, tmp_path):
    (tmp_path / "result.tar").write_bytes(a_result)
    with pytest.raises(ArtifactError, match="is the result of another job"):
        engines_from_result(
            tmp_path / "result.tar", tmp_path / "engines", job=BoardJob(tmp_path, "0" * 20)
        )


def test_a_link_in_a_result_is_refused(a_result, tmp_path):
    result = tmp_path / "result.tar"
    result.write_bytes(a_result)
    with tarfile.open(str(result), "a") as archive:
        member = tarfile.TarInfo("out/link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ArtifactError, match="holds 'out/link'"):
        engines_from_result(result, tmp_path / "engines")


def test_another_version_than_the_target_s_is_refused_despite_valid_checksums(a_result, tmp_path):
    def change(files):
        files["out/results.txt"] = files["out/results.txt"].replace(
            b"version\t8.5.2", b"version\t8.6.1"
        )
        names = [name for name in files if name.startswith("out/") and name != "out/SHA256SUMS"]
        files["out/SHA256SUMS"] = "".join(
            f"{hashlib.sha256(files[n]).hexdigest()}  {n[4:]}\n" for n in names
        ).encode()

    result = tmp_path / "result.tar"
    result.write_bytes(a_result)
    rewritten(result, change)
    with pytest.raises(
        BuildError, match="built by TensorRT 8.6.1, but target 'xavier' is for >=8.5,<8.6"
    ):
        engines_from_result(result, tmp_path / "engines")


@pytest.mark.parametrize("content", [b"", b"no tar", b"\0" * 1024])
def test_other_files_are_refused_as_results(content, tmp_path):
    (tmp_path / "result.tar").write_bytes(content)
    with pytest.raises(ArtifactError, match="result.tar"):
        engines_from_result(tmp_path / "result.tar", tmp_path / "engines")
    with pytest.raises(InputError, match="there is no file"):
        engines_from_result(tmp_path / "absent.tar", tmp_path / "engines")
