"""build.sh under a POSIX shell, with a stand-in for trtexec: tests the script, builds no engine."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.runtime.boards import trtexec
from sr_deploy.runtime.boards.layer_types import (
    layers_from_json,
    layers_from_log,
    precision_of_layers,
)
from sr_deploy.runtime.boards.trtexec import JobFile, JobLine, job_text, results_from_text

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "sr_deploy" / "runtime" / "boards" / "on_board" / "build.sh"
STAND_IN = ROOT / "tests" / "doubles" / "trtexec"
ROWS = ((0, 3), (30, 32))
VERSIONS = ("8.0.1", "8.2.1", "8.5.2", "10.3.0", "11.1.0")
SHELLS = [
    [shell, *options] for shell, *options in (("dash",), ("bash", "--posix")) if shutil.which(shell)
] or [["sh"]]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="build.sh runs on boards; Windows has no POSIX shell"
)


def field(number, value):
    """Encode one field of a protobuf message."""

    def varint(n):
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def onnx_bytes(hw=(8, 8), *, fp16=False, weights=4096, quantised=False):
    """Return an ONNX file for the stand-in: one NCHW input, dynamic for hw=None, and weights."""
    element = 10 if fp16 else 1
    sizes = [
        field(1, 1),
        field(1, 3),
        *(field(1, n) if n else field(2, b"side") for n in hw or (0, 0)),
    ]
    tensor = field(1, element) + field(2, b"".join(field(1, size) for size in sizes))
    graph = field(5, field(2, element) + field(9, bytes(weights))) + field(
        11, field(1, b"lr") + field(2, field(1, tensor))
    )
    node = field(1, field(4, b"QuantizeLinear")) if quantised else b""
    return field(1, 8) + field(7, node + graph)


def precision_in(file):
    return precision_of_layers(layers_from_json(file.read_text()))[0]


class Board:
    """A job's folder, and the script in it as a board would run it."""

    def __init__(self, folder, shell):
        self.folder, self.shell = folder / "job", shell
        self.calls_file = folder / "calls"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.folder.mkdir()
        shutil.copy(SCRIPT, self.folder)
        (self.bin / "trtexec").symlink_to(STAND_IN)

    def job(self, graphs, **settings):
        """Write a job of {engine name: (graph bytes, JobLine's further arguments)}."""
        lines = []
        for engine, (graph, more) in graphs.items():
            name = engine.replace(".engine", ".onnx")
            (self.folder / name).write_bytes(graph)
            default = {"precision": "fp16", "typing": "weak", "rows": ROWS}
            default["shapes"] = {"lr": more.pop("shape", (1, 3, 8, 8))}
            lines.append(JobLine(name, engine, **{**default, **more}))
        (self.folder / "job.txt").write_text(
            job_text(JobFile(tuple(lines), **{"versions": ">=8,<12", **settings}))
        )
        self.seal()
        return self

    def seal(self):
        names = sorted(p for p in self.folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
        text = "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in names)
        (self.folder / "SHA256SUMS").write_text(text)

    def start(self, version="8.5.2", *, misbehave="", path="", **environment):
        # sys.executable: the stand-in's `env python3` must find one whatever PATH is.
        env = {
            "PATH": f"{path or self.bin}:{Path(sys.executable).parent}:/usr/bin:/bin",
            "STAND_IN_TRTEXEC_VERSION": version,
            "STAND_IN_TRTEXEC_MISBEHAVE": misbehave,
            "STAND_IN_TRTEXEC_CALLS": str(self.calls_file),
            **environment,
        }
        command = [*self.shell, str(self.folder / "build.sh")]
        return subprocess.Popen(
            command,
            env=env,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def run(self, version="8.5.2", **options):
        process = self.start(version, **options)
        text, _ = process.communicate(timeout=120)
        return process.returncode, text

    def wait_for(self, name, seconds=20):
        end = time.monotonic() + seconds
        while not list(self.folder.glob(name)):
            assert time.monotonic() < end, f"{name} did not appear"
            time.sleep(0.02)

    @property
    def calls(self):
        rows = (
            [json.loads(line) for line in self.calls_file.read_text().splitlines()]
            if self.calls_file.exists()
            else []
        )
        return [row for row in rows if row != ["--help"]]

    @property
    def state(self):
        return (self.folder / "state").read_text().strip()

    @property
    def results(self):
        return results_from_text((self.folder / "out" / "results.txt").read_text())


@pytest.fixture(params=SHELLS, ids=lambda shell: shell[0])
def board(request, tmp_path):
    return Board(tmp_path, request.param)


@pytest.fixture()
def one_board(tmp_path):
    """Return a board with one shell only, for long tests and tests of flags."""
    return Board(tmp_path, SHELLS[0])


SIZES = [{"lr": shape} for shape in ((1, 3, 8, 8), (1, 3, 8, 16), (1, 3, 32, 32))]
DYNAMIC = {"shapes": SIZES[1], "sizes": tuple(SIZES)}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_gets_its_own_flags(one_board, version):
    strong = version == "11.1.0"
    graph = {"typing": "strong"} if strong else {}
    one_board.job(
        {
            "a.engine": (onnx_bytes(fp16=strong), graph),
            "b.engine": (onnx_bytes(None, fp16=strong), {**graph, **DYNAMIC}),
        },
        workspace_mib=512,
    )
    code, text = one_board.run(version)
    assert code == 0, text
    assert "Unknown option" not in text and "FAILED" not in text
    twins = [call for call in one_board.calls if any(".fp32.tmp" in word for word in call)]
    assert len(twins) == (2 if version == "8.0.1" else 0) and not any(
        "--fp16" in call for call in twins
    )
    build, measure, dynamic, dynamic_measure = (
        set(call) for call in one_board.calls if call not in twins
    )
    assert {
        "--onnx=a.onnx",
        "--saveEngine=out/a.engine.tmp",
        "--timingCacheFile=work/timing.cache",
    } <= build
    assert ("--fp16" in build) == (not strong)
    assert ("--stronglyTyped" in build) == strong
    assert ("--workspace=512" in build) == (version in ("8.0.1", "8.2.1"))
    assert ("--memPoolSize=workspace:512" in build) == (version not in ("8.0.1", "8.2.1"))
    assert ("--buildOnly" in build) == version.startswith("8") and ("--skipInference" in build) == (
        not version.startswith("8")
    )
    assert (
        ("--profilingVerbosity=detailed" in build)
        == ("--exportLayerInfo=out/a.engine.layers.json" in build)
        == (version != "8.0.1")
    )
    assert not any("hapes" in flag for flag in build)
    assert "--shapes=lr:1x3x8x8" in measure and "enqueue() method" not in text
    assert {
        "--minShapes=lr:1x3x8x8",
        "--optShapes=lr:1x3x8x16",
        "--maxShapes=lr:1x3x32x32",
    } <= dynamic
    assert {
        "--loadEngine=out/b.engine",
        "--shapes=lr:1x3x8x16",
        "--warmUp=2000",
        "--duration=10",
    } <= dynamic_measure
    assert {"--useCudaGraph", "--useSpinWait", "--noDataTransfers"} <= measure
    assert one_board.results.version == version and one_board.state == "done"
    for engine in one_board.results.engines:
        assert (
            (engine.fp32_twin_bytes or 0) > engine.size_bytes * 1.5
            if version == "8.0.1"
            else engine.fp32_twin_bytes is None
        )
    out = one_board.folder / "out"
    for name in ("a.engine", "b.engine"):
        assert len(trtexec.times_from_json((out / f"{name}.times.json").read_text())) > 50
        log = (out / f"{name}.time.log").read_text()
        assert (
            trtexec.latency_from_log(log).median_ms > 0
            and trtexec.device_from_logs(log).compute_capability == 72
        )
        if version != "8.0.1":
            assert precision_in(out / f"{name}.layers.json") == "fp16"


def test_an_fp32_engine_is_built_without_fp16_and_is_larger(one_board):
    one_board.job(
        {"a.engine": (onnx_bytes(), {"precision": "fp32"}), "b.engine": (onnx_bytes(), {})}
    )
    assert one_board.run()[0] == 0
    assert ["--fp16" in call for call in one_board.calls] == [False, False, True, False]
    assert ["--noTF32" in call for call in one_board.calls] == [True, False, False, False]
    a, b = one_board.results.engines
    assert a.size_bytes > 1.8 * b.size_bytes
    assert precision_in(one_board.folder / "out" / "a.engine.layers.json") == "fp32"


@pytest.mark.parametrize(
    "version, typing, fp16, reason",
    [
        ("11.1.0", "weak", False, "has no --fp16"),
        ("8.5.2", "strong", True, "has no --stronglyTyped"),
    ],
)
def test_a_typing_that_the_version_lacks_fails_and_builds_nothing(
    one_board, version, typing, fp16, reason
):
    one_board.job({"a.engine": (onnx_bytes(fp16=fp16), {"typing": typing})})
    code, text = one_board.run(version)
    assert code == 1 and reason in text and one_board.calls == []
    (result,) = one_board.results.engines
    assert result.status == "failed" and result.exit_code is None and reason in result.errors[0]


def test_layers_stay_in_fp32_where_trtexec_can(one_board):
    one_board.job({"a.engine": (onnx_bytes(), {})}, fp32_layers=("tail one", "head"))
    assert one_board.run("8.5.2")[0] == 0
    kept = "tail one:fp32,head:fp32"
    expected = [f"--layerPrecisions={kept}", f"--layerOutputTypes={kept}"]
    assert {"--precisionConstraints=obey", *expected} <= set(one_board.calls[0])
    assert precision_in(one_board.folder / "out" / "a.engine.layers.json") == "mixed"
    code, text = one_board.run("8.2.1")
    assert code == 1 and "no --layerPrecisions" in text


@pytest.mark.parametrize("version", ["8.0.1", "8.5.2", "11.1.0"])
def test_an_int8_graph_gets_both_flags_where_typing_is_weak(one_board, version):
    strong = version == "11.1.0"
    graph = onnx_bytes(fp16=strong, quantised=True)
    typing = {"precision": "int8", "typing": "strong" if strong else "weak"}
    one_board.job({"a.engine": (graph, typing)})
    code, text = one_board.run(version)
    assert code == 0, text
    assert "Unknown option" not in text and re.search("ok +int8 ", text)
    build = set(one_board.calls[0])
    assert ({"--int8", "--fp16"} <= build) == (not strong) and "--noTF32" not in build
    assert not any(".fp32.tmp" in word for call in one_board.calls for word in call)
    (engine,) = one_board.results.engines
    assert engine.status == "ok" and engine.fp32_twin_bytes is None
    out = one_board.folder / "out"
    if version == "8.0.1":  # it has no file of layers, but lists them with --verbose
        assert "--verbose" in build
        logged = layers_from_log((out / "a.engine.build.log").read_text())
        assert precision_of_layers(logged)[0] == "int8"
    else:
        assert "--verbose" not in build and precision_in(out / "a.engine.layers.json") == "int8"


def test_int8_where_typing_is_only_strong_fails_and_builds_nothing(one_board):
    graph = {"precision": "int8", "typing": "weak"}
    one_board.job({"a.engine": (onnx_bytes(quantised=True), graph)})
    code, text = one_board.run("11.1.0")
    assert code == 1 and one_board.calls == []
    assert "TensorRT 11.1.0 has no --int8, it is strongly typed" in text


def test_a_missing_kernel_is_named(one_board):
    graph = {"precision": "int8", "typing": "weak"}
    one_board.job({"a.engine": (onnx_bytes(quantised=True), graph)})
    code, text = one_board.run(misbehave="no-kernel")
    assert code == 1
    assert any(
        "any implementation for node conv2_weight + conv2_weight_q + conv2" in line
        for line in one_board.results.engines[0].errors
    )


@pytest.mark.parametrize(
    "version, header",
    [("8.5.2", "TRT-8502"), ("10.3.0", "TRT-100300")],
)
def test_a_dla_gets_a_calibration_cache_of_the_board_s_version(one_board, version, header):
    (one_board.folder / "a.onnx.scales").write_text("lr: 3c010204\nconv 1: 3c810204\n")
    one_board.job({"a.engine": (onnx_bytes(), {"precision": "int8"})}, dla=0)
    code, text = one_board.run(version)
    assert code == 0, text
    build = set(one_board.calls[0])
    assert {"--int8", "--fp16", "--useDLACore=0", "--calib=work/calibration.cache"} <= build
    cache = (one_board.folder / "work" / "calibration.cache").read_text()
    assert cache == f"{header}-EntropyCalibration2\nlr: 3c010204\nconv 1: 3c810204\n"


@pytest.mark.parametrize("version, can", [("8.2.1", False), ("8.5.2", True)])
def test_a_dla_computes_the_other_layers_in_fp16(one_board, version, can):
    (one_board.folder / "a.onnx.scales").write_text("lr: 3c010204\n")
    graph = {"a.engine": (onnx_bytes(), {"precision": "int8"})}
    one_board.job(graph, dla=0, fp16_layers=("head", "tail one"))
    code, text = one_board.run(version)
    assert (code == 0) == can
    if can:
        expected = {"--precisionConstraints=obey", "--layerPrecisions=head:fp16,tail one:fp16"}
        assert expected <= set(one_board.calls[0])
    else:
        assert "TensorRT 8.2.1 cannot keep layers in FP16 (no --layerPrecisions)" in text


@pytest.mark.parametrize("version, passed", [("8.0.1", True), ("10.3.0", True), ("11.1.0", False)])
def test_kernels_of_cublas_and_cudnn_are_left_out_where_there_are_any(one_board, version, passed):
    graph = (onnx_bytes(fp16=not passed), {"typing": "weak" if passed else "strong"})
    one_board.job({"a.engine": graph}, no_cublas_cudnn=True)
    code, text = one_board.run(version)
    assert code == 0, text
    assert ("--tacticSources=-CUBLAS,-CUBLAS_LT,-CUDNN" in one_board.calls[0]) == passed


def test_the_table_at_the_end_names_each_engine_with_its_time_or_reason(board):
    fp32 = {"precision": "fp32"}
    board.job({"a.engine": (b"no graph", {}), "b.engine": (onnx_bytes(), fp32)})
    _, text = board.run()
    head, a, b = text[text.index("median [ms]") :].splitlines()[:3]
    assert re.fullmatch(r"failed +fp16 +[0-9]+ +a.engine: .*Failed to parse onnx file", a)
    assert re.fullmatch(r"ok +fp32 +[0-9.]+ +[0-9]+ +b.engine", b)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_not_called_a_full_disk(board):
    board.job({"a.engine": (onnx_bytes(), {})})
    assert board.run()[0] == 0
    (board.folder / "out" / "a.engine").unlink()
    (board.folder / "out").chmod(0o555)
    _, text = board.run(misbehave="no-space")
    (board.folder / "out").chmod(0o755)
    assert "no permission to write" in text


@pytest.mark.parametrize("version", ["8.5.2", "11.1.0"])
def test_dla_runs_in_no_cuda_graph(one_board, version):
    graph = (
        (onnx_bytes(fp16=True), {"typing": "strong"}) if version == "11.1.0" else (onnx_bytes(), {})
    )
    one_board.job({"a.engine": graph}, dla=0)
    assert one_board.run(version)[0] == 0
    build, measure = one_board.calls
    assert {"--useDLACore=0", "--allowGPUFallback"} <= set(build)
    assert (
        "--useDLACore=0" in measure
        and "--useCudaGraph" not in measure
        and ("--noCudaGraph" in measure) == (version == "11.1.0")
    )


def test_engines_for_rtx_are_built_for_the_named_gpus(one_board):
    (one_board.bin / "tensorrt_rtx").symlink_to(STAND_IN)
    graph = (onnx_bytes(fp16=True), {"typing": "strong"})
    one_board.job({"a.engine": graph}, runtime="tensorrt-rtx", versions=">=1.5,<2", sm=(86, 89))
    code, text = one_board.run("rtx")
    assert code == 0, text
    assert (
        "--computeCapabilities=86,89" in one_board.calls[0]
        and "--rtxCudaGraphStrategy=wholeGraph" in one_board.calls[1]
    )
    assert one_board.results.version == "1.7.1"


def test_the_result_is_complete(board):
    name = 'it\'s a $HOME "test" `id` ü.engine'
    lr = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    graph = name.replace(".engine", ".onnx")
    (board.folder / f"{graph}.0.bin").write_bytes(lr.tobytes())
    (board.folder / "timing.cache").write_bytes(b"old\n")
    (board.folder / "board.sh").write_text(
        'if [ "$1" = facts ]; then echo "model Stand-in"; '
        'else echo sample >>"$2"; exec sleep 60; fi\n'
    )
    board.job({name: (onnx_bytes(), {})}, versions=">=8.5,<8.6", sm=(72,))
    code, text = board.run()
    assert code == 0, text
    assert (
        f"srdeploy: [1/1] {name}: building" in text
        and "&&&& PASSED TensorRT.trtexec [TensorRT v8502]" in text
    )
    assert f"srdeploy: result in {board.folder}/result.tar" in text
    (result,) = board.results.engines
    assert (
        result.engine,
        result.status,
        result.exit_code,
        result.time_exit_code,
        result.output_exit_code,
    ) == (name, "ok", 0, 0, 0)
    assert shlex.split(result.build_command)[1:] == board.calls[0]
    assert shlex.split(result.time_command)[1:] == board.calls[1]
    assert shlex.split(result.output_command)[1:] == board.calls[2]
    out = board.folder / "out"
    assert (
        result.sha256 == hashlib.sha256((out / name).read_bytes()).hexdigest()
        and result.size_bytes == (out / name).stat().st_size
    )
    text = gzip.decompress((out / f"{name}.output.txt.gz").read_bytes()).decode()
    sr = lr.repeat(4, axis=2).repeat(4, axis=3)
    rows = np.concatenate([sr[:, :, :3], sr[:, :, 30:]], axis=2)
    np.testing.assert_allclose(trtexec.output_from_values(text, rows.shape), rows, rtol=1e-5)
    assert result.output_not_finite == 0
    assert (out / "board.txt").read_text() == "model Stand-in\n" and (
        out / f"{name}.power.txt"
    ).read_text() == "sample\n"
    assert (out / "timing.cache").read_bytes().startswith(b"old\n") and (
        board.folder / "timing.cache"
    ).read_bytes() == b"old\n"
    with tarfile.open(board.folder / "result.tar") as tar:
        names = set(tar.getnames())
        sums = tar.extractfile("out/SHA256SUMS").read().decode()
    kinds = (
        "",
        ".build.log",
        ".time.log",
        ".output.log",
        ".times.json",
        ".layers.json",
        ".output.txt.gz",
        ".power.txt",
    )
    files = {f"out/{name}{kind}" for kind in kinds} | {
        "out/results.txt",
        "out/board.txt",
        "out/timing.cache",
    }
    assert names == files | {"job.txt", "SHA256SUMS", "out", "out/SHA256SUMS"}
    assert {f"out/{line[66:]}" for line in sums.splitlines()} == files
    assert not list(board.folder.glob("out/*.tmp")) and board.state == "done"


def test_a_killed_script_resumes(board):
    board.job({f"{k}.engine": (onnx_bytes(weights=4096 + k), {}) for k in range(3)})
    process = board.start(misbehave="slow:0.6")
    board.wait_for("out/1.engine.build.log")
    process.kill()
    process.communicate()
    assert board.state.startswith("running")
    assert not (board.folder / "result.tar").exists()
    first = (board.folder / "out" / "0.engine").stat().st_mtime_ns
    before = len(board.calls)
    code, text = board.run()
    assert code == 0, text
    assert (
        "0.engine: already built" in text
        and (board.folder / "out" / "0.engine").stat().st_mtime_ns == first
    )
    assert [call[0] for call in board.calls[before:]] == [
        "--onnx=1.onnx",
        "--loadEngine=out/1.engine",
        "--onnx=2.onnx",
        "--loadEngine=out/2.engine",
    ]
    assert [e.status for e in board.results.engines] == ["ok", "ok", "ok"]


@pytest.mark.parametrize("sent, expected", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_script_leaves_no_process_and_no_result(board, sent, expected):
    board.job({"a.engine": (onnx_bytes(), {})})
    process = board.start(misbehave="slow:60")
    board.wait_for("work/pid")
    time.sleep(0.3)
    pid = int((board.folder / "work" / "pid").read_text())
    began = time.monotonic()
    process.send_signal(sent)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == expected and "stopped" in text and time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert board.state == f"failed {expected}"
    assert not (board.folder / "result.tar").exists()
    assert [p.name for p in (board.folder / "out").iterdir()] == ["a.engine.build.log"]


def test_a_second_script_is_refused(board):
    board.job({"a.engine": (onnx_bytes(), {})})
    process = board.start(misbehave="slow:60")
    board.wait_for("work/pid")
    assert board.run()[0] == 6
    assert board.state == f"running {process.pid}"
    process.terminate()
    process.communicate()


def test_a_lost_console_does_not_end_a_build(one_board):
    one_board.job({"a.engine": (onnx_bytes(), {})})
    process = one_board.start(misbehave="slow:0.5")
    one_board.wait_for("work/pid")
    process.stdout.close()
    assert process.wait(timeout=30) == 0
    assert "PASSED" in (one_board.folder / "out" / "a.engine.build.log").read_text()


@pytest.mark.parametrize("change", ["graph", "job", "missing", "added"])
def test_a_changed_job_is_refused(board, change):
    board.job({"a.engine": (onnx_bytes(), {})})
    if change == "graph":
        (board.folder / "a.onnx").write_bytes(onnx_bytes((16, 16)))
    elif change == "missing":
        (board.folder / "a.onnx").unlink()
    elif change == "job":
        text = (board.folder / "job.txt").read_text()
        (board.folder / "job.txt").write_text(text.replace("fp16", "fp32"))
    else:
        sums = (board.folder / "SHA256SUMS").read_text().splitlines(True)
        (board.folder / "SHA256SUMS").write_text(
            "".join(line for line in sums if "a.onnx" not in line)
        )
    code, text = board.run()
    assert code == 2 and "job was changed" in text and board.calls == []
    assert not (board.folder / "out").exists()


@pytest.mark.parametrize("version", ["8.2.1", "8.6.2", "10.3.0"])
def test_another_version_is_refused(board, version):
    board.job({"a.engine": (onnx_bytes(), {})}, versions=">=8.5,<8.6")
    code, text = board.run(version)
    assert (
        code == 4
        and f"TensorRT {version} is installed, but the job is for >=8.5,<8.6" in text
        and board.calls == []
    )


def test_another_gpu_is_refused(board):
    board.job({"a.engine": (onnx_bytes(), {})}, sm=(72,))
    code, text = board.run(STAND_IN_TRTEXEC_SM="8.7")
    assert (
        code == 4
        and "compute capability 8" in text.replace("87", "8")
        and not (board.folder / "out" / "a.engine").exists()
    )
    assert board.state == "failed 4" and not (board.folder / "result.tar").exists()


def test_without_trtexec_the_tried_paths_are_named(board, tmp_path):
    board.job({"a.engine": (onnx_bytes(), {})})
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "trtexec").write_text("#!/bin/sh\necho 'cannot open libnvinfer.so.8' >&2\nexit 127\n")
    (broken / "trtexec").chmod(0o755)
    if Path("/usr/src/tensorrt/bin/trtexec").exists():
        pytest.skip("a genuine trtexec is installed here")
    code, text = board.run(path=broken)
    assert (
        code == 3
        and "/usr/src/tensorrt/bin/trtexec" in text
        and "exit code 127: cannot open libnvinfer.so.8" in text
    )
    code, text = board.run(TRTEXEC="/nowhere/trtexec")
    assert code == 3 and "tried: /nowhere/trtexec;" in text


def test_trtexec_from_the_environment(board, tmp_path):
    board.job({"a.engine": (onnx_bytes(), {})})
    other = tmp_path / "other one"
    other.mkdir()
    shutil.copy(STAND_IN, other / "trtexec")
    (other / "trtexec.version").write_text("8.4.1\n")
    code, text = board.run("", TRTEXEC=str(other / "trtexec"))
    assert code == 0, text
    assert board.results.trtexec == str(other / "trtexec") and board.results.version == "8.4.1"


@pytest.mark.parametrize(
    "misbehave, exit_code, words",
    [("crash", 134, "crashes as told"), ("no-space", 1, "for another reason than space: ")],
)
def test_a_failing_build_is_recorded_and_the_next_one_is_built(board, misbehave, exit_code, words):
    board.job({"a.engine": (b"no graph", {}), "b.engine": (onnx_bytes(), {})})
    code, text = board.run()
    assert code == 1 and board.state == "failed 1"
    a, b = board.results.engines
    assert (a.status, a.exit_code, b.status) == ("failed", 1, "ok")
    assert "Failed to parse onnx file" in a.errors[-1] and "a.engine: failed, exit code 1" in text
    assert (
        not (board.folder / "out" / "a.engine").exists() and (board.folder / "result.tar").exists()
    )
    code, text = board.run(misbehave=misbehave)
    assert "b.engine: already built" in text
    (board.folder / "out" / "b.engine").unlink()
    code, text = board.run(misbehave=misbehave)
    a, b = board.results.engines
    assert (
        code == 1
        and (b.status, b.exit_code) == ("failed", exit_code)
        and any(words in line for line in b.errors)
    ), text
    assert not list((board.folder / "out").glob("*.tmp"))


def test_a_failed_measurement_keeps_the_engine_and_is_repeated(one_board):
    one_board.job({"a.engine": (onnx_bytes(), {})})
    (one_board.folder / "a.onnx.0.bin").write_bytes(b"too short")
    one_board.seal()
    code, _ = one_board.run()
    (result,) = one_board.results.engines
    assert code == 1 and (result.status, result.exit_code, result.output_exit_code) == (
        "unchecked",
        0,
        1,
    )
    assert result.errors and (one_board.folder / "out" / "a.engine").exists()
    assert "already built" in one_board.run()[1] and len(one_board.calls) == 5


def test_a_full_disk_is_reported_before_anything_is_built(board):
    board.job({"a.engine": (onnx_bytes(), {})})
    (board.bin / "df").write_text(
        "#!/bin/sh\necho Filesystem\necho '/dev/stand-in 100 90 10240 90% /'\n"
    )
    (board.bin / "df").chmod(0o755)
    code, text = board.run()
    assert (
        code == 5
        and "10 MiB are free" in text
        and "64 MiB are needed" in text
        and board.calls == []
    )


def test_the_needed_space_includes_the_output_s_text(board):
    board.job({"a.engine": (onnx_bytes(), {"shape": (1, 3, 256, 512)})})
    (board.bin / "df").write_text(
        "#!/bin/sh\necho Filesystem\necho '/dev/stand-in 200000 90 102400 50% /'\n"
    )
    (board.bin / "df").chmod(0o755)
    code, text = board.run()
    assert code == 5 and "100 MiB are free" in text and "184 MiB are needed" in text


def test_engines_of_another_job_or_library_are_built_again(one_board):
    one_board.job({"a.engine": (onnx_bytes(), {})})
    assert one_board.run("8.5.2")[0] == 0
    assert one_board.run("8.6.2")[0] == 0
    assert one_board.results.version == "8.6.2" and len(one_board.calls) == 4
    one_board.job({"a.engine": (onnx_bytes((16, 16)), {"shape": (1, 3, 16, 16)})})
    assert one_board.run("8.6.2")[0] == 0
    assert len(one_board.calls) == 6
