from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, BuildError
from sr_deploy.runtime.boards.trtexec import (
    JobFile,
    JobLine,
    device_from_logs,
    job_text,
    latency_from_log,
    output_from_values,
    results_from_text,
    times_from_json,
    version_from_banner,
)

# Lines of public logs of trtexec 8.2.1 on a Jetson Nano; the explanations are from --verbose.
LOG_82 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # trtexec --workspace=2048 --onnx=model.onnx \
--saveEngine=model.engine
[07/14/2023-11:52:09] [I] === Device Information ===
[07/14/2023-11:52:09] [I] Selected Device: NVIDIA Tegra X1
[07/14/2023-11:52:09] [I] Compute Capability: 5.3
[07/14/2023-11:52:09] [I] SMs: 1
[07/14/2023-11:52:09] [I] Compute Clock Rate: 0.9216 GHz
[07/14/2023-11:52:09] [I] Device Global Memory: 3955 MiB
[07/14/2023-11:52:09] [I] TensorRT version: 8.2.1
[07/14/2023-11:55:18] [I] Average on 10 runs - GPU latency: 90.1627 ms - Host latency: 90.4484 ms \
(end to end 90.4616 \
ms, enqueue 7.42288 ms)
[07/14/2023-11:55:18] [I] === Performance summary ===
[07/14/2023-11:55:18] [I] Throughput: 11.0613 qps
[07/14/2023-11:55:18] [I] Latency: min = 89.312 ms, max = 91.492 ms, mean = 90.3919 ms, median = \
90.3035 ms, percentile(99%) = 91.492 ms
[07/14/2023-11:55:18] [I] GPU Compute Time: min = 89.0273 ms, max = 91.2045 ms, mean = 90.1061 ms, \
median = 90.0183 ms, \
percentile(99%) = 91.2045 ms
[07/14/2023-11:55:18] [I] D2H Latency: min = 0.00683594 ms, max = 0.00881958 ms, mean = 0.008238 \
ms, median = \
0.00830078 ms, percentile(99%) = 0.00881958 ms
[07/14/2023-11:55:18] [I] Total GPU Compute Time: 3.15371 s
[07/14/2023-11:55:18] [V] GPU Compute Time: the GPU latency to execute the kernels for a query.
[07/14/2023-11:55:18] [V] Total GPU Compute Time: the summation of the GPU Compute Time of all the \
queries. If this is significantly shorter
&&&& PASSED TensorRT.trtexec [TensorRT v8201] # trtexec --workspace=2048 --onnx=model.onnx \
--saveEngine=model.engine
"""
# The device of a public log of 8.5.2 on a Xavier NX; the latency follows that version's format.
LOG_85 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # /usr/src/tensorrt/bin/trtexec \
--loadEngine=model.engine
[10/21/2025-15:16:09] [I] Selected Device: Xavier
[10/21/2025-15:16:09] [I] Compute Capability: 7.2
[10/21/2025-15:16:09] [I] SMs: 6
[10/21/2025-15:16:09] [I] Compute Clock Rate: 1.109 GHz
[10/21/2025-15:16:09] [I] Device Global Memory: 14885 MiB
[10/21/2025-15:16:13] [I] GPU Compute Time: min = 4.1 ms, max = 1e+01 ms, mean = 4.3 ms, median = \
4.2 ms, \
percentile(90%) = 4.5 ms, percentile(95%) = 4.6 ms, percentile(99%) = 5 ms
"""
# The device of a public log of 10.9.0 on a desktop GPU.
LOG_10 = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v100900] [b34] # trtexec --onnx=model.onnx
[04/07/2025-23:59:33] [I] Available Devices:
[04/07/2025-23:59:33] [I]   Device 0: "NVIDIA GeForce RTX 3070" UUID: \
GPU-84a8068b-81a5-7df1-8d22-a523bb848827
[04/07/2025-23:59:33] [I] Selected Device: NVIDIA GeForce RTX 3070
[04/07/2025-23:59:33] [I] Selected Device ID: 0
[04/07/2025-23:59:33] [I] Compute Capability: 8.6
[04/07/2025-23:59:33] [I] SMs: 46
[04/07/2025-23:59:33] [I] Device Global Memory: 7817 MiB
[04/07/2025-23:59:33] [I] Application Compute Clock Rate: 1.845 GHz
"""


@pytest.mark.parametrize(
    "banner, version",
    [
        ("v8001", "8.0.1"),
        ("v8201", "8.2.1"),
        ("v8502", "8.5.2"),
        ("v8601", "8.6.1"),
        ("v100001", "10.0.1"),
        ("v100300] [b17", "10.3.0"),
        ("v101600] [b72", "10.16.0"),
        ("v101303", "10.13.3"),
        ("v110100", "11.1.0"),
        ("v11.1.0.106] [b48", "11.1.0"),
        ("v10701", "1.7.1"),
    ],
)
def test_the_version_is_read_from_the_banner(banner, version):
    assert (
        version_from_banner(
            f"noise\n&&&& RUNNING TensorRT.trtexec [TensorRT {banner}] # trtexec --help\n"
        )
        == version
    )


def test_another_text_has_no_version():
    with pytest.raises(BuildError, match="not the output of trtexec"):
        version_from_banner("trtexec: error while loading shared libraries: libnvinfer.so.8")


# The second format is that of 8.0 and 8.2, which export the warm-up, too.
TIMES = """[
  { "startEnqMs" : 1999, "endEnqMs" : 1999.1, "startH2dMs" : 1999, "endH2dMs" : 1999, \
"startComputeMs" : 1999.5, "endComputeMs" : 2100,
"startD2hMs" : 2100, "endD2hMs" : 2100, "h2dMs" : 0, "computeMs" : 100.5, "d2hMs" : 0, "latencyMs" \
: 100.5%(more)s }
, { "startEnqMs" : 2000, "endEnqMs" : 2000.1, "startH2dMs" : 2000, "endH2dMs" : 2000, \
"startComputeMs" : 2000, "endComputeMs" : 2004,
"startD2hMs" : 2004, "endD2hMs" : 2004, "h2dMs" : 0, "computeMs" : 4, "d2hMs" : 0, "latencyMs" : \
4%(more)s }
]
"""


@pytest.mark.parametrize("more", ["", ', "endToEndMs" : 4.2'])
def test_times_are_those_after_the_warm_up(more):
    assert times_from_json(TIMES % {"more": more}) == [4.0]
    assert times_from_json(TIMES % {"more": more}, warm_up_ms=0) == [100.5, 4.0]


@pytest.mark.parametrize(
    "text, message",
    [
        ("[", "cannot be read as JSON"),
        ("{}", "no run after"),
        ("[]", "no run after"),
        ('[{"timeMs": 1}]', "not in trtexec's format"),
        ("[1]", "not in trtexec's format"),
    ],
)
def test_other_times_are_refused(text, message):
    with pytest.raises(ArtifactError, match=message):
        times_from_json(text)


def test_the_latency_is_that_of_the_gpu():
    old, new = latency_from_log(LOG_82), latency_from_log(LOG_85)
    assert (old.min_ms, old.max_ms, old.median_ms) == (89.0273, 91.2045, 90.0183)
    assert (new.min_ms, new.max_ms, new.median_ms) == (4.1, 10.0, 4.2)
    assert latency_from_log(LOG_82 + LOG_85) == new
    without = "\n".join(line for line in LOG_82.splitlines() if "Compute Time: min" not in line)
    with pytest.raises(ArtifactError, match="no line 'GPU Compute Time"):
        latency_from_log(without)


@pytest.mark.parametrize(
    "log, expected",
    [
        (LOG_82, ("NVIDIA Tegra X1", 53, "8.2.1")),
        (LOG_85, ("Xavier", 72, "8.5.2")),
        (LOG_10, ("NVIDIA GeForce RTX 3070", 86, "10.9.0")),
    ],
)
def test_a_log_names_the_device(log, expected):
    device = device_from_logs(log)
    assert (
        device.name,
        device.compute_capability,
        device.tensorrt,
    ) == expected
    assert device_from_logs(log.replace("Compute Capability", "Capability")) is None


def test_an_output_is_read_with_its_shape():
    array = output_from_values("0.5\n-1e-05\n2\nnan\n-nan\ninf\n", (1, 1, 2, 3))
    assert array.shape == (1, 1, 2, 3) and array.dtype == np.float32
    np.testing.assert_array_equal(
        array.ravel(), np.float32([0.5, -1e-05, 2, np.nan, np.nan, np.inf])
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("1 2 3 4 5", "has 5 values; expected 1x1x2x3"),
        ("", "has 0 values"),
        ("zero 2 3 4 5 6", "values that are not numbers"),
    ],
)
def test_other_outputs_are_refused(text, message):
    with pytest.raises(ArtifactError, match=message):
        output_from_values(text, (1, 1, 2, 3))


def test_the_gpu_is_named_by_the_first_log_that_has_one():
    """The build log of TensorRT for RTX names none: it builds without a GPU."""
    built = "&&&& RUNNING TensorRT.tensorrt_rtx [TensorRT v10701] # x\n"
    timed = built + "[I] Selected Device: RTX\n[I] Compute Capability: 8.9\n"
    assert device_from_logs(built, timed).compute_capability == 89
    assert device_from_logs(built, "") is None


RESULTS = """format\t1
trtexec\t/usr/src/tensorrt/bin/trtexec
version\t8.5.2
engine\tone's.engine
status\tok
exit_code\t0
build_seconds\t61
size_bytes\t1234567
sha256\tabc
build_command\ttrtexec '--onnx=a b'
time_exit_code\t0
time_command\ttrtexec --loadEngine=x
engine\ttwo.engine
status\tfailed
exit_code\tnone
build_seconds\t0
build_command\ttrtexec
error\tfirst
error\tsecond
"""


def test_results_are_read():
    results = results_from_text(RESULTS)
    one, two = results.engines
    assert (results.trtexec, results.version) == ("/usr/src/tensorrt/bin/trtexec", "8.5.2")
    assert (one.engine, one.status, one.exit_code, one.build_seconds, one.size_bytes) == (
        "one's.engine",
        "ok",
        0,
        61,
        1234567,
    )
    assert (
        one.build_command == "trtexec '--onnx=a b'"
        and one.output_exit_code is None
        and one.errors == ()
    )
    assert (two.status, two.exit_code, two.size_bytes, two.errors) == (
        "failed",
        None,
        None,
        ("first", "second"),
    )


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("format\t1", "format\t2", "expected format 1"),
        ("version\t8.5.2\n", "", "expected format 1"),
        ("status\tok\n", "", "a status of each engine"),
        ("sha256\tabc", "sha257\tabc", "line 9: unexpected 'sha257"),
        ("sha256\tabc", "sha256", "line 9: unexpected 'sha256'"),
        ("size_bytes\t1234567", "size_bytes\tbig", "line 8: expected a whole number, found 'big'"),
    ],
)
def test_other_results_are_refused(old, new, message):
    with pytest.raises(ArtifactError, match=message):
        results_from_text(RESULTS.replace(old, new, 1))


SHAPES = {"lr": (1, 3, 256, 512)}
LINE = JobLine("a b's.onnx", "a.engine", "fp16", "weak", SHAPES, rows=((0, 1),))
JOB = JobFile(
    lines=(
        LINE,
        JobLine(
            "d.onnx",
            "d.engine",
            "fp32",
            "strong",
            {"input": (1, 3, 256, 512)},
            tuple({"input": (1, 3, *hw)} for hw in ((8, 8), (256, 512), (1024, 1024))),
            rows=((0, 16), (504, 520)),
        ),
        JobLine(
            "part.onnx",
            "part.engine",
            "fp16",
            "weak",
            {"y": (64, 96, 74, 74), "d:1": (1,)},
            tuple({"y": (n, 96, 74, 74), "d:1": (1,)} for n in (1, 64, 128)),
            {"y": (2, 96, 10, 10), "d:1": (1,)},
        ),
    ),
    versions=">=8.5,<8.6",
    workspace_mib=2048,
    sm=(72, 87),
    dla=1,
    fp32_layers=("tail conv", "/head/Conv"),
    measure_s=5,
)


def test_the_text_of_a_job():
    assert job_text(JOB) == (
        "# runtime tensorrt\n# versions >=8.5,<8.6\n# workspace_mib 2048\n# sm 72,87\n# dla 1\n"
        "# fp32_layers tail conv;/head/Conv\n# fp16_layers \n# tactics \n# measure_s 5\n"
        "a b's.onnx\ta.engine\tfp16\tweak\tlr:work/0.bin\tlr:1x3x256x512\tlr:1x3x256x512"
        "\t-\t-\t-\t0-1\n"
        "d.onnx\td.engine\tfp32\tstrong\tinput:work/0.bin\tinput:1x3x256x512"
        "\tinput:1x3x256x512\tinput:1x3x8x8\tinput:1x3x256x512\tinput:1x3x1024x1024"
        "\t0-16,504-520\n"
        "part.onnx\tpart.engine\tfp16\tweak\ty:work/0.bin,'d:1':work/1.bin"
        "\ty:64x96x74x74,'d:1':1\ty:2x96x10x10,'d:1':1"
        "\ty:1x96x74x74,'d:1':1\ty:64x96x74x74,'d:1':1\ty:128x96x74x74,'d:1':1\tall\n"
    )


@pytest.mark.parametrize(
    "name", ["a/b.onnx", "-a.onnx", ".a", "#a", "a\tb", "a\nb", "a\\b", "", "a.tmp"]
)
def test_invalid_file_names_in_a_job_are_refused(name):
    with pytest.raises(BuildError, match="cannot be the name of a file in a job"):
        job_text(JobFile(lines=(JobLine(name, "a.engine", "fp16", "weak", SHAPES),)))
    with pytest.raises(BuildError, match="cannot be the name of a file in a job"):
        job_text(JobFile(lines=(JobLine("a.onnx", name, "fp16", "weak", SHAPES),)))


def test_invalid_jobs_are_refused():
    with pytest.raises(BuildError, match="at least one engine"):
        job_text(JobFile(lines=()))
    with pytest.raises(BuildError, match="of different names"):
        job_text(JobFile(lines=(LINE, LINE)))
    with pytest.raises(BuildError, match="layer 'a:b'"):
        job_text(JobFile(lines=(LINE,), fp32_layers=("a:b",)))
