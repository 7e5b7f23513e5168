from __future__ import annotations

import json
import os
import struct
import sys
from dataclasses import replace

import numpy as np
import pytest
from doubles.library import StandInCuda, stand_in_tensorrt

from sr_deploy.core.errors import (
    ArtifactError,
    BuildError,
    CannotRunHereError,
    DeviceMemoryError,
    InputError,
    TargetError,
)
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import manifest_path, read_manifest, same_versions
from sr_deploy.core.run_options import RunOptions
from sr_deploy.core.session import BuildOptions
from sr_deploy.core.target import load_target
from sr_deploy.runtime import BACKENDS, build, tensorrt, tensorrt_engine
from sr_deploy.runtime.build import engine_from_onnx
from sr_deploy.runtime.doctor import diagnose
from sr_deploy.runtime.opener import describe
from sr_deploy.runtime.ort import OnnxRuntimeSession
from sr_deploy.runtime.tensorrt_engine import read_header

# Real builds, by the real library, without a GPU.


@pytest.fixture()
def real():
    return pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")


@pytest.mark.parametrize(
    "asked, expected",
    [((), (80, 86, 89, 120)), ([75], (75,)), ([89, 75, 89], (75, 89)), ([121, 86], (86, 121))],
)
def test_an_engine_is_for_the_requested_gpus(real, tiny, tmp_path, asked, expected):
    graph = tiny(precision="fp16")
    (engine,) = engine_from_onnx(
        graph,
        tmp_path / "out",
        target="rtx",
        options=BuildOptions(compute_capabilities=tuple(asked)),
    )
    assert engine.read_bytes()[:4] == b"vtrt"
    assert read_header(engine).compute_capabilities == expected
    manifest = read_manifest(engine)
    assert (manifest.target, manifest.precision_asked, manifest.precision_obtained) == (
        "rtx",
        "fp16",
        "fp16",
    )
    assert manifest.build["compute_capabilities"] == list(expected)
    assert manifest.versions["tensorrt_rtx"] == real.__version__ and real.__version__.startswith(
        read_header(engine).version
    )
    assert any("the engine's output: " in line for line in manifest.not_checked)
    assert manifest.parent_sha256 == read_manifest(graph).sha256


def test_a_dynamic_graph_is_built_for_its_range(real, tiny, tmp_path):
    (engine,) = engine_from_onnx(
        tiny(hw=(8, 8), high=(32, 40), precision="fp16"),
        tmp_path / "out",
        target="rtx",
        options=BuildOptions(compute_capabilities=(86,)),
    )
    assert engine.name == "tiny_x2.d1.dyn8x8-32x40.fp16.sm86.engine"
    assert read_manifest(engine).max_shape == (32, 40)


def test_another_set_of_gpus_is_another_engine(real, tiny, tmp_path):
    graph, lines = tiny(precision="fp16"), []
    for asked in ([86], [86], [89]):
        (engine,) = engine_from_onnx(
            graph,
            tmp_path / "out",
            target="rtx",
            options=BuildOptions(compute_capabilities=tuple(asked)),
            progress=lines.append,
        )
    assert [line.endswith("up to date") for line in lines] == [False, True, False]
    assert read_header(engine).compute_capabilities == (89,)


def test_the_parser_s_errors_name_the_node(real, tiny, tmp_path, monkeypatch):
    graph = tiny(precision="fp16", extra="NonZero")
    with pytest.raises(BuildError, match="cannot be built for 'rtx': node 'find_them' .NonZero."):
        engine_from_onnx(
            graph, tmp_path / "out", target="rtx", options=BuildOptions(compute_capabilities=(86,))
        )
    monkeypatch.setattr(build, "preflight", lambda *args, **kwargs: [])
    with pytest.raises(BuildError, match=r"cannot read tiny_x2.d1.onnx: .*find_them.*NonZero"):
        engine_from_onnx(
            graph, tmp_path / "out", target="rtx", options=BuildOptions(compute_capabilities=(86,))
        )
    assert os.listdir(str(tmp_path / "out")) == []


# What needs no library, or one that fails.


def rtx(version="1.7.1.116", **failing):
    return stand_in_tensorrt(version, name="tensorrt_rtx", **failing)


@pytest.fixture()
def use(monkeypatch):
    """Replace the real library by a stand-in."""

    def put(library):
        monkeypatch.setitem(sys.modules, library.__name__, library)
        monkeypatch.setattr(tensorrt_engine, "_LOGS", {})
        monkeypatch.setattr(tensorrt, "cuda", lambda index=0: library.gpu)
        return library

    return put


@pytest.mark.parametrize(
    "failing, words",
    [
        ({"network": None}, "could not create the network"),
        ({"dtype": "FLOAT"}, "is not an FP16 graph: 2 layers are FP32 as parsed"),
        ({"parse": False}, "cannot read tiny_x2.d1.onnx: the parser gave no reason"),
        ({"config": None}, "could not create the configuration"),
        ({"set_compute_capability": False}, "refused SM80"),
        ({"profile": -1}, "refused the sizes .1, 3, 8, 8. to .1, 3, 32, 40."),
        ({"plan": None}, "could not build tiny_x2.d1.onnx: the tactic ran off"),
        ({}, "the engine is for SM ..; expected .80, 86, 89, 120."),
        ({"plan": b"short"}, "is not a TensorRT engine"),
    ],
)
def test_every_silent_failure_is_an_error(failing, words, any_graph, tmp_path, use):
    use(rtx(**failing))
    graph = any_graph(low=(8, 8), high=(32, 40), precision="fp16")
    with pytest.raises((BuildError, ArtifactError), match=words) as e:
        engine_from_onnx(graph, tmp_path / "out", target="rtx")
    assert "chatter" not in e.value.message
    assert os.listdir(str(tmp_path / "out")) == []


def test_the_errors_of_one_build_are_not_reported_for_the_next(
    any_graph, tmp_path, use, monkeypatch
):
    use(rtx())
    for failing, words in (
        ({"plan": None}, "the tactic ran off"),
        ({"network": None}, "could not create the network, and gave no reason$"),
    ):
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", rtx(**failing))
        with pytest.raises(BuildError, match=words):
            engine_from_onnx(any_graph(precision="fp16"), tmp_path / "out", target="rtx")


def test_a_gpu_unknown_to_the_library_is_refused(any_graph, tmp_path, use):
    use(rtx("1.9.9"))
    with pytest.raises(BuildError, match="tensorrt_rtx 1.9.9 does not support SM121"):
        engine_from_onnx(
            any_graph(precision="fp16"),
            tmp_path / "out",
            target="rtx",
            options=BuildOptions(compute_capabilities=(121,)),
        )


def test_an_fp32_graph_is_refused_with_the_reason(any_graph, tmp_path, use):
    use(rtx())
    with pytest.raises(
        BuildError,
        match="for an FP32 engine .fp32 tensors., but target 'rtx' builds fp16 and int8 engines",
    ) as e:
        engine_from_onnx(any_graph(), tmp_path / "out", target="rtx")
    assert "--target rtx" in e.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked", [[72], [90], [86, 87]])
def test_a_gpu_that_is_not_in_the_target_is_refused(asked, any_graph, tmp_path, use):
    use(rtx())
    with pytest.raises(
        TargetError,
        match=f"target 'rtx' has no SM {asked[-1]}; expected one of 75, 80, 86, 89, 120, 121",
    ):
        engine_from_onnx(
            any_graph(precision="fp16"),
            tmp_path / "out",
            target="rtx",
            options=BuildOptions(compute_capabilities=tuple(asked)),
        )


@pytest.mark.parametrize(
    "bits, expected",
    [(0b011110, (80, 86, 89, 120)), (0b000001, (75,)), (0b100000, (121,)), (0, ())],
)
def test_the_header(tmp_path, bits, expected):
    path = tmp_path / "x.engine"
    path.write_bytes(
        b"vtrt" + bytes(20) + bytes([1, 7, 1, 116]) + bytes(4) + struct.pack("<Q", bits) + b"rest"
    )
    header = read_header(path)
    assert (header.version, header.compute_capabilities) == ("1.7.1.116", expected)


@pytest.mark.parametrize("content", [b"", b"vtrt", b"\x08\x08" + bytes(60)])
def test_files_that_are_not_engines_are_refused(tmp_path, content):
    (tmp_path / "x.engine").write_bytes(content)
    with pytest.raises(ArtifactError, match="x.engine is not a TensorRT engine"):
        read_header(tmp_path / "x.engine")


def test_tensorrt_s_own_header(tmp_path):
    (tmp_path / "x.engine").write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(20))
    assert read_header(tmp_path / "x.engine") == tensorrt_engine.EngineHeader("10.3.0.26", ())


def test_a_manifest_that_does_not_match_its_graph_is_detected(real, tiny, tmp_path, monkeypatch):
    """The receipt comes from the parsed network, not from the manifest."""
    graph = tiny(precision="fp32", asked="fp16")
    path = graph.with_name(graph.name + ".json")
    path.write_text(
        path.read_text().replace('"precision_obtained": "fp32"', '"precision_obtained": "fp16"')
    )
    with pytest.raises(BuildError, match="cannot be built for 'rtx'.*FP32"):
        engine_from_onnx(
            graph, tmp_path / "out", target="rtx", options=BuildOptions(compute_capabilities=(86,))
        )
    monkeypatch.setattr(build, "preflight", lambda *args, **kwargs: [])
    with pytest.raises(BuildError, match="not an FP16 graph: .* are FP32 as parsed"):
        engine_from_onnx(
            graph, tmp_path / "out", target="rtx", options=BuildOptions(compute_capabilities=(86,))
        )


def test_another_version_of_the_library_than_the_profile_s_is_refused(tiny, tmp_path, use):
    use(rtx("2.0.1"))
    with pytest.raises(
        BuildError, match="tensorrt_rtx 2.0.1 is installed; the profile expects >=1.5,<2"
    ):
        engine_from_onnx(tiny(precision="fp16"), tmp_path / "out", target="rtx")


# TensorRT on a stand-in GPU.


@pytest.fixture()
def graph_for(tiny, monkeypatch):
    """Return a tiny graph for an engine of `precision` on `target`."""

    def make(target, precision="fp16", **kwargs):
        strong = load_target(target).fp16_graph == "fp16"
        return tiny(
            precision="fp16" if strong and precision == "fp16" else "fp32",
            asked=precision,
            **kwargs,
        )

    for package in ("onnxruntime", "skimage", "cv2"):
        pytest.importorskip(
            package, reason=f"{package} is not installed; the stand-in engine runs by it"
        )
    return make


ON_GPU = [
    ("xavier", "8.5.2.2", 72),
    ("orin", "8.6.2", 87),
    ("orin", "10.3.0", 87),
    ("rtx-tensorrt", "10.16.0", 90),
    ("rtx-tensorrt", "11.1.0", 90),
]


def on_gpu(use, version, sm, **failing):
    library = use(stand_in_tensorrt(version, **failing))
    library.gpu.sm = sm
    return library


@pytest.mark.parametrize("target, version, sm", ON_GPU)
def test_an_engine_is_built_inspected_and_compared(target, version, sm, graph_for, tmp_path, use):
    weak = load_target(target).fp16_graph == "fp32"
    library = on_gpu(use, version, sm, **({} if weak else {"io_dtype": "HALF", "dtype": "HALF"}))
    (engine,) = engine_from_onnx(graph_for(target), tmp_path / "out", target=target)
    manifest = read_manifest(engine)
    builder = library.builders[0]
    assert ("FP16" in builder.config.flags) == weak and "TF32" in builder.config.flags
    assert builder.config.profiling_verbosity == "DETAILED"
    assert (
        manifest.precision_obtained == "fp16"
        and "engine inspector" in manifest.checks["precision_receipt"]
    )
    assert (
        manifest.checks["accuracy"]["psnr_db_vs_fp32"] > 100
        and manifest.versions["tensorrt"] == version
    )
    assert (
        tmp_path / "out" / f".timing-{target}-{version}-sm{sm}.cache"
    ).read_bytes() == version.encode()


@pytest.mark.parametrize("version, flags", [("10.16.0", 0b11), ("11.1.0", 0b1)])
def test_strong_typing_is_requested_by_name(version, flags, any_graph, tmp_path, use):
    """The bit is 1 in version 10 and 0 in version 11."""
    library = on_gpu(use, version, 90, plan=None, dtype="HALF")
    with pytest.raises(BuildError, match="the tactic ran off"):
        engine_from_onnx(any_graph(precision="fp16"), tmp_path / "out", target="rtx-tensorrt")
    assert library.builders[0].network.flags == flags


def test_an_fp32_engine_is_not_computed_in_tf32(graph_for, tmp_path, use):
    library = on_gpu(use, "8.5.2.2", 72)
    (engine,) = engine_from_onnx(graph_for("xavier", "fp32"), tmp_path / "out", target="xavier")
    assert library.builders[0].config.flags == set()
    assert read_manifest(engine).precision_obtained == "fp32"


@pytest.mark.parametrize(
    "failing, words",
    [
        ({"builder": "no driver"}, "could not create the builder: CUDA initialization failure"),
        ({"layer_types": ("FLOAT",)}, "FP16 was requested, but the engine computes in FP32"),
        (
            {"inspector": '{"Layers": ["conv"], "Bindings": []}'},
            "does not report the engine's precision",
        ),
        ({"deserialize": None}, "TensorRT 8.5.2.2 cannot open .*: expecting library version"),
        ({"names": ("lr", "other")}, "has the tensors lr, other; expected lr and sr"),
        ({"io_dtype": "INT8"}, "the engine's lr is INT8"),
        ({"context": None}, "could not prepare"),
        ({"set_input_shape": False}, "refused an input of .1, 3, 16, 24."),
        ({"set_tensor_address": False}, "refused the memory of lr"),
        ({"execute": False}, "failed to run the engine: illegal memory access"),
        ({"output": lambda y: y * np.nan}, "values are not finite"),
        ({"output": lambda y: y * 0}, "its output is one colour"),
        (
            {"output": lambda y: y * 50},
            "more values than in FP32 are outside 0..1; .* dB against FP32",
        ),
        ({"timing_cache": None}, "could not create the timing cache"),
    ],
)
def test_a_failure_on_a_gpu_is_an_error_and_leaves_no_file(
    failing, words, graph_for, tmp_path, use
):
    on_gpu(use, "8.5.2.2", 72, **failing)
    with pytest.raises((BuildError, ArtifactError), match=words):
        engine_from_onnx(graph_for("xavier"), tmp_path / "out", target="xavier")
    assert [p for p in os.listdir(str(tmp_path / "out")) if "engine" in p] == []


def test_another_gpu_than_the_target_s_is_refused(any_graph, tmp_path, use):
    on_gpu(use, "8.5.2.2", 86)
    with pytest.raises(
        BuildError,
        match="cannot build for 'xavier'.* here: .*GPU is SM 8.6, but the target is SM 7.2",
    ):
        engine_from_onnx(any_graph(asked="fp16"), tmp_path / "out", target="xavier")


def test_dla_records_the_layers_on_the_gpu(graph_for, tmp_path, use):
    library = on_gpu(use, "8.5.2.2", 72)
    (engine,) = engine_from_onnx(
        graph_for("xavier"), tmp_path / "out", target="xavier", options=BuildOptions(dla=1)
    )
    manifest = read_manifest(engine)
    assert engine.name == "tiny_x2.d1.16x24.fp16.dla1.engine" and "--dla 1" in manifest.command
    assert manifest.build["dla"] == {"core": 1, "layers_on_gpu": ["shuffle"]}
    assert (
        library.builders[0].config.DLA_core == 1
        and "GPU_FALLBACK" in library.builders[0].config.flags
    )
    assert [r.DLA_core for r in library.runtimes] == [-1, 1] and "graph" not in library.gpu.enqueued
    with pytest.raises(InputError, match="target 'xavier' has no DLA core 2: expected one of 0, 1"):
        engine_from_onnx(
            graph_for("xavier"), tmp_path / "out", target="xavier", options=BuildOptions(dla=2)
        )


def test_fallback_keeps_layers_in_fp32_and_records_them(graph_for, tmp_path, use):
    library = on_gpu(use, "8.5.2.2", 72, layer_types=("FLOAT", "HALF"))
    (engine,) = engine_from_onnx(
        graph_for("xavier"),
        tmp_path / "out",
        target="xavier",
        options=BuildOptions(fallback="head-tail"),
    )
    manifest = read_manifest(engine)
    assert engine.name == "tiny_x2.d1.16x24.fp16.fallback.engine" and manifest.build[
        "fp32_layers"
    ] == ["conv"]
    assert (
        manifest.precision_obtained == "mixed: 1 fp16, 1 fp32"
        and "--fallback head-tail" in manifest.command
    )
    assert "OBEY_PRECISION_CONSTRAINTS" in library.builders[0].config.flags
    assert library.builders[0].network.layers[0].precision == "float32"
    with pytest.raises(BuildError, match="has no node 'cov' to keep in FP32") as e:
        engine_from_onnx(
            graph_for("xavier"),
            tmp_path / "out",
            target="xavier",
            options=BuildOptions(fallback="cov"),
        )
    assert "'conv'" in e.value.hint


def test_fallback_where_typing_is_strong_rewrites_the_graph(real, graph_for, tmp_path):
    graph = graph_for("rtx", extra="Relu")
    (engine,) = engine_from_onnx(
        graph,
        tmp_path / "out",
        target="rtx",
        options=BuildOptions(fallback="conv", compute_capabilities=(86,)),
    )
    manifest = read_manifest(engine)
    assert manifest.precision_obtained.startswith("mixed: ") and manifest.build["fp32_layers"] == [
        "conv"
    ]


def test_a_session_times_the_network_and_the_copies_apart(graph_for, tmp_path, use):
    library = on_gpu(use, "8.5.2.2", 72)
    graph = graph_for("xavier", hw=(8, 8), high=(32, 40))
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier")
    session = BACKENDS["tensorrt"]().open(engine, read_manifest(engine))
    library.gpu.enqueued.clear()
    x = np.random.default_rng(0).random((1, 3, 9, 10), dtype=np.float32)
    timed = session.run_timed(x)
    assert (timed.ms, timed.copies_ms, timed.timer) == (5, 2, "device events")
    np.testing.assert_allclose(
        timed.y, OnnxRuntimeSession(graph, read_manifest(graph)).run(x), atol=1e-6
    )
    session.run_timed(x)
    assert library.gpu.enqueued == [
        "network",
        "network",
        "graph",
        "network",
        "graph",
        "network",
    ]  # once plain, once recorded, then the graph
    before = len(library.gpu.freed)
    session.run_timed(x[:, :, :8])  # another size: new buffers
    assert len(library.gpu.freed) == before + 2
    assert session.device == "a stand-in GPU" and session.precision == "fp16"


def test_without_graphs_the_network_is_enqueued_each_time(graph_for, tmp_path, use):
    library = on_gpu(use, "8.5.2.2", 72)
    library.gpu.can_capture = False
    (engine,) = engine_from_onnx(graph_for("xavier"), tmp_path / "out", target="xavier")
    assert "accuracy" in read_manifest(engine).checks and "graph" not in library.gpu.enqueued


def test_an_engine_of_another_version_cannot_run_here(graph_for, tmp_path, use):
    on_gpu(use, "8.5.2.2", 72)
    (engine,) = engine_from_onnx(graph_for("xavier"), tmp_path / "out", target="xavier")
    on_gpu(use, "8.5.3.1", 72)
    with pytest.raises(
        CannotRunHereError, match="was built with TensorRT 8.5.2.2, but 8.5.3.1 is installed"
    ) as e:
        BACKENDS["tensorrt"]().open(engine, read_manifest(engine))
    assert "srdeploy build-engine" in e.value.hint


def test_an_engine_of_trtexec_runs_with_the_same_installation_s_python(graph_for, tmp_path, use):
    """trtexec's banner has three numbers, Python's version four."""
    on_gpu(use, "8.5.2.2", 72)
    (engine,) = engine_from_onnx(graph_for("xavier"), tmp_path / "out", target="xavier")
    manifest = read_manifest(engine)
    by_trtexec = replace(manifest, versions={**manifest.versions, "tensorrt": "8.5.2"})
    assert BACKENDS["tensorrt"]().open(engine, by_trtexec).precision == "fp16"
    assert same_versions(by_trtexec.versions, manifest.versions)
    manifest_path(engine).write_text(to_json(by_trtexec))
    assert diagnose(engine).differs_here == ()


def test_the_layers_of_a_dynamic_engine_have_types_with_a_context_only(graph_for, tmp_path, use):
    on_gpu(use, "8.5.2.2", 72, dynamic=True)
    graph = graph_for("xavier", hw=(8, 8), high=(32, 40))
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier")
    assert read_manifest(engine).precision_obtained == "fp16"


def test_the_manifest_names_the_gpu(graph_for, tmp_path, use):
    on_gpu(use, "8.5.2.2", 72)
    (engine,) = engine_from_onnx(graph_for("xavier"), tmp_path / "out", target="xavier")
    build = read_manifest(engine).build
    assert (build["gpu"], build["compute_capability"]) == ("a stand-in GPU", 72)


def opened_engine(graph_for, tmp_path, use, **failing):
    library = on_gpu(use, "8.5.2.2", 72, **failing)
    graph = graph_for("xavier", hw=(8, 8), high=(32, 40))
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier")
    return library, BACKENDS["tensorrt"]().open(engine, read_manifest(engine))


def test_events_and_graphs_are_destroyed(graph_for, tmp_path, use):
    library, session = opened_engine(graph_for, tmp_path, use)
    x = np.zeros((1, 3, 9, 10), np.float32)
    for part in (x, x, x[:, :, :8], x):
        session.run_timed(part)
        assert (library.gpu.events, library.gpu.graphs) == (4, 1)
    session.close()
    assert (library.gpu.events, library.gpu.graphs) == (0, 0)


def test_the_settings_tell_what_happened(graph_for, tmp_path, use, monkeypatch):
    x = np.zeros((1, 3, 9, 10), np.float32)
    library, session = opened_engine(graph_for, tmp_path, use)
    assert session.settings.startswith("one stream, ")
    session.run(x)
    assert session.settings.startswith("one CUDA graph, ")
    monkeypatch.setattr(library.gpu, "capture", lambda work: None)
    session.run(x[:, :, :8])
    assert session.settings.startswith("no CUDA graph (capture failed), ")
    assert "rise over opening" in session.peak_memory().definition


def test_tensors_of_torch_are_taken_without_waiting_or_copies_to_the_host(
    graph_for, tmp_path, use, monkeypatch
):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from doubles.torch_cuda import StandInTorchCuda

    library, session = opened_engine(graph_for, tmp_path, use)
    assert not session.takes_tensors  # torch has no CUDA here
    torch_cuda = StandInTorchCuda(monkeypatch)
    session.close()
    _, session = opened_engine(graph_for, tmp_path, use)
    gpu = session._gpu
    assert session.takes_tensors
    x = np.random.default_rng(0).random((1, 3, 9, 10), dtype=np.float32)
    expected = session.run(x)
    for name in ("to_device", "to_host", "synchronize"):
        monkeypatch.setattr(gpu, name, lambda *args, name=name: pytest.fail(name))
    y = session.run_tensor(torch.from_numpy(x))
    assert gpu.stream in torch_cuda.calls and gpu.enqueued[-2:] == ["graph", "network"]
    assert y.dtype == torch.float32
    np.testing.assert_array_equal(y.numpy(), expected)


def test_tensors_and_arrays_of_several_sizes_take_turns(graph_for, tmp_path, use, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from doubles.torch_cuda import StandInTorchCuda

    StandInTorchCuda(monkeypatch)
    library, session = opened_engine(graph_for, tmp_path, use)
    x = np.random.default_rng(0).random((1, 3, 9, 10), dtype=np.float32)
    sizes = (x, x[:, :, :8], x)
    with_arrays = [session.run(part) for part in sizes]
    for part, expected in zip(sizes, with_arrays):
        y = session.run_tensor(torch.from_numpy(np.ascontiguousarray(part)))
        np.testing.assert_array_equal(y.numpy(), expected)
        np.testing.assert_array_equal(session.run(part), expected)
    session.close()
    assert library.gpu.graphs == 0 and len(library.gpu.freed) == len(library.gpu.memory)


def test_a_size_whose_preparation_failed_is_prepared_again(graph_for, tmp_path, use, monkeypatch):
    """It would return the memory as it was, without having run the network."""
    library, session = opened_engine(graph_for, tmp_path, use)
    x = np.random.default_rng(0).random((1, 3, 9, 10), dtype=np.float32)
    run, freed = session._context.execute_async_v3, len(library.gpu.freed)
    session._context.execute_async_v3 = lambda stream: False
    for _ in range(2):
        with pytest.raises(CannotRunHereError, match="failed to run the engine"):
            session.run(x)
    assert len(library.gpu.freed) == freed + 4
    session._context.execute_async_v3 = run
    assert np.ptp(session.run(x)) > 0


def test_memory_is_freed_where_only_the_input_fits(graph_for, tmp_path, use, monkeypatch):
    library, session = opened_engine(graph_for, tmp_path, use)
    gpu, freed = library.gpu, len(library.gpu.freed)
    allocate = gpu.allocate

    def full(size_bytes):
        if size_bytes > 9 * 10 * 3 * 4:
            raise DeviceMemoryError("CUDA failed: out of memory", hint="")
        return allocate(size_bytes)

    monkeypatch.setattr(gpu, "allocate", full)
    with pytest.raises(DeviceMemoryError):
        session.run(np.zeros((1, 3, 9, 10), np.float32))
    assert len(gpu.freed) == freed + 1


def test_tensorrt_for_rtx_captures_by_itself_with_specialised_kernels(any_graph, tmp_path, use):
    library = use(rtx(names=("lr", "sr")))
    library.gpu.sm = 86
    graph = any_graph(low=(8, 8), high=(32, 40), precision="fp16")
    blob = b"vtrt" + bytes(36) + json.dumps({"graph": str(graph), "fp16": True}).encode()
    engine = tmp_path / "x.engine"
    engine.write_bytes(blob)
    manifest = replace(read_manifest(graph), kind="engine", target="rtx")
    manifest = replace(manifest, versions={"tensorrt_rtx": "1.7.1.116"})
    session = BACKENDS["tensorrt-rtx"]().open(engine, manifest)
    (config,) = library.runtime_configs
    assert config.cuda_graph_strategy == "WHOLE_GRAPH_CAPTURE"
    assert config.dynamic_shapes_kernel_specialization_strategy == "EAGER"
    assert session.settings.startswith("CUDA graphs left to the library, ")
    assert library.gpu.graphs == 0


def test_kernels_of_cublas_and_cudnn_can_be_left_out(graph_for, tmp_path, use):
    library = on_gpu(use, "8.5.2.2", 72)
    options = BuildOptions(no_cublas_cudnn=True)
    graph = graph_for("xavier")
    (engine,) = engine_from_onnx(graph, tmp_path / "out", target="xavier", options=options)
    assert library.builders[0].config.tactic_sources == 0b11000
    manifest = read_manifest(engine)
    assert "--no-cublas-cudnn" in manifest.command and manifest.build["no_cublas_cudnn"]


def test_an_engine_runs_on_the_requested_gpu_and_not_on_the_cpu(graph_for, tmp_path, use):
    on_gpu(use, "8.5.2.2", 72)
    (engine,) = engine_from_onnx(graph_for("xavier"), tmp_path / "out", target="xavier")
    backend, manifest = BACKENDS["tensorrt"](), read_manifest(engine)
    assert backend.open(engine, manifest, RunOptions(device="cuda:0")).place == "cuda:0"
    with pytest.raises(CannotRunHereError, match="runs on an NVIDIA GPU, not on cpu"):
        backend.open(engine, manifest, RunOptions(device="cpu"))


def test_a_target_of_one_s_own_is_kept_in_the_engine_s_manifest(graph_for, tmp_path, use):
    on_gpu(use, "8.5.2.2", 72)
    data = json.loads((data_folder("engines/targets") / "xavier.json").read_text())
    path = tmp_path / "mycam.json"
    path.write_text(json.dumps({**data, "name": "mycam", "title": "My camera"}))
    (engine,) = engine_from_onnx(graph_for("xavier"), tmp_path / "out", target=str(path))
    path.unlink()
    (network,) = describe(engine)
    assert network.open().place == "cuda:0" and "--target mycam.json" in network.manifest.command
    assert "mycam (My camera)" in diagnose(engine).built_for


def test_one_logger_for_the_process(use):
    library = use(stand_in_tensorrt())
    assert tensorrt_engine.library_log(library) is tensorrt_engine.library_log(library)
    assert isinstance(StandInCuda(), tensorrt_engine.Cuda)


# INT8.


@pytest.mark.parametrize(
    "form, obtained, parsed",
    [
        ({}, "int8", "2 of 2"),
        ({"weights": "int8"}, "int8", "2 of 2"),
        ({"kept": ("conv1",)}, "mixed: 1 fp16, 1 int8", "1 of 2"),
    ],
)
def test_rtx_builds_an_int8_graph_and_its_layers_are_int8(
    real, tiny_int8, tmp_path, form, obtained, parsed
):
    (engine,) = engine_from_onnx(
        tiny_int8(half=True, **form), tmp_path / "out", target="rtx",
        options=BuildOptions(compute_capabilities=(86,)),
    )  # fmt: skip
    manifest = read_manifest(engine)
    assert engine.name == "tiny_x2.d1.16x24.int8.sm86.engine"
    assert (manifest.precision_asked, manifest.precision_obtained) == ("int8", obtained)
    assert f"{parsed} convolutions of the parsed" in manifest.checks["precision_receipt"]
    assert "'int8'" in manifest.checks["engine_layers"]
    assert not any("its layers" in line for line in manifest.not_checked)


def test_rtx_has_no_int8_on_turing(real, tiny_int8, tmp_path):
    with pytest.raises(BuildError, match="on Turing .SM 7.5.: there is no INT8 engine") as e:
        engine_from_onnx(
            tiny_int8(half=True), tmp_path / "out", target="rtx",
            options=BuildOptions(compute_capabilities=(75,)),
        )  # fmt: skip
    assert "omit --sm 75" in e.value.hint


def test_a_scale_per_channel_of_an_activation_is_refused_or_seen_in_the_layers(
    real, tiny_int8, tmp_path, monkeypatch
):
    from onnx import numpy_helper

    def per_channel(model):
        for tensor in model.graph.initializer:
            if tensor.name in ("conv2_x_scale", "conv2_x_zero"):
                values = np.repeat(numpy_helper.to_array(tensor), 8)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    graph = tiny_int8(half=True, kept=("conv1",), edit=per_channel)
    options = BuildOptions(compute_capabilities=(86,))
    with pytest.raises(BuildError, match="one scale per channel: only weights can"):
        engine_from_onnx(graph, tmp_path / "out", target="rtx", options=options)
    monkeypatch.setattr(build, "preflight", lambda *args, **kwargs: [])
    with pytest.raises(BuildError, match="INT8 was requested, but the engine computes in FP"):
        engine_from_onnx(graph, tmp_path / "out", target="rtx", options=options)
    assert os.listdir(str(tmp_path / "out")) == []


def convolution_layers(*kinds):
    """Return the inspector's JSON of convolutions with weights of these types."""
    layers = [
        {"Name": f"conv{i}", "LayerType": "CaskConvolution", "ParameterType": "Convolution",
         "Inputs": [], "Outputs": [], "Weights": {"Type": kind, "Count": 9}}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    return json.dumps({"Layers": layers, "Bindings": ["lr", "sr"]})


@pytest.fixture()
def build_int8(use, tiny_int8, tmp_path, monkeypatch):
    """Build for Xavier with a stand-in for TensorRT 8.5.2; return the library and the manifest."""

    def run(kinds, *, form=None, **failing):
        library = use(stand_in_tensorrt(inspector=convolution_layers(*kinds), **failing))
        lines = []
        (engine,) = engine_from_onnx(
            tiny_int8(**(form or {})), tmp_path / "out", target="xavier", progress=lines.append
        )
        return library, read_manifest(engine), lines

    return run


def test_a_weakly_typed_build_has_both_flags(build_int8):
    library, manifest, _ = build_int8(["Int8", "Int8"])
    assert {"INT8", "FP16"} <= library.builders[0].config.flags
    assert manifest.precision_obtained == "int8"
    assert "engine inspector: layers by type: {'int8': 2}" in manifest.checks["precision_receipt"]
    accuracy = manifest.checks["accuracy"]
    assert accuracy["psnr_db_vs_graph"] > 60 > accuracy["psnr_db_vs_fp32"] > 30
    assert accuracy["against"].startswith("onnxruntime: the graph, and the graph without its Q/DQ")


def test_a_mixed_engine_counts_its_layers_with_weights(build_int8):
    _, manifest, _ = build_int8(["Int8", "Half"], form={"kept": ("conv2",)})
    assert manifest.precision_obtained == "mixed: 1 fp16, 1 int8"


@pytest.mark.parametrize("kinds, words", [(["Half", "Half"], "FP16"), (["Float"], "FP32")])
def test_a_quantised_engine_that_does_not_compute_in_int8_fails(build_int8, kinds, words):
    with pytest.raises(BuildError, match=f"INT8 was requested, but the engine computes in {words}"):
        build_int8(kinds)


def test_a_convolution_without_a_kernel_loses_its_pairs_and_is_named(build_int8):
    library, manifest, lines = build_int8(["Int8", "Half"], no_kernel=["conv2"])
    assert manifest.precision_obtained == "mixed: 1 fp16, 1 int8"
    assert manifest.build["no_int8_kernel"] == ["conv2"]
    expected = "TensorRT has no INT8 kernel for conv2, which compute in higher precision"
    assert manifest.build["warnings"][0] == expected
    assert "no INT8 kernel for conv2" in lines[-1]
    assert manifest.parent_sha256 and manifest.checks["accuracy"]["psnr_db_vs_graph"] > 40


def test_a_layer_without_a_kernel_that_is_not_quantised_fails_the_build(build_int8):
    with pytest.raises(BuildError, match="Could not find any implementation for node") as e:
        build_int8(["Int8"], lacking="head")
    assert "--keep NODE" in e.value.hint


def test_an_inaccurate_int8_engine_is_refused(build_int8):
    with pytest.raises(BuildError, match="dB against the INT8 graph, expected at least 40") as e:
        build_int8(["Int8"], output=lambda y: y + 0.05)
    assert "--keep NODE,NODE" in e.value.hint


def test_a_library_without_the_flag_builds_no_int8_engine(use, tiny_int8, tmp_path):
    library = stand_in_tensorrt("8.5.2.2")
    del library.BuilderFlag.INT8
    use(library)
    with pytest.raises(BuildError, match="has no INT8 flag: it would build an FP32 engine"):
        engine_from_onnx(tiny_int8(), tmp_path / "out", target="xavier")


@pytest.fixture()
def build_for_dla(use, tiny_int8, tmp_path):
    def run(*layers, **form):
        library, dla = use(stand_in_tensorrt(layers=layers)), BuildOptions(dla=0)
        (engine,) = engine_from_onnx(
            tiny_int8(**form), tmp_path / str(len(layers)), target="xavier", options=dla
        )
        return library, read_manifest(engine)

    return run


def test_a_dla_takes_a_calibration_cache_and_no_pairs(build_for_dla):
    library, manifest = build_for_dla("conv1", "conv2")
    builder = library.builders[0]
    assert {"INT8", "FP16", "GPU_FALLBACK"} <= builder.config.flags
    calibrator = builder.config.int8_calibrator
    head, *lines = calibrator.read_calibration_cache().decode().splitlines()
    assert head == "TRT-8502-EntropyCalibration2" and "lr: 3c010204" in lines
    assert {line.split(": ")[0] for line in lines} == {"lr", "conv1", "activation", "conv2", "sr"}
    assert calibrator.get_batch(["lr"]) is None and calibrator.get_batch_size() == 1
    assert manifest.precision_obtained == "int8"
    assert "which layers on the DLA compute in INT8" in manifest.not_checked
    # The stand-in computes in FP32, of the graph that it got.
    assert manifest.checks["accuracy"]["psnr_db_vs_fp32"] > 100


def test_a_dla_keeps_convolutions_without_pairs_in_fp16(build_for_dla):
    library, _ = build_for_dla("conv1", "conv2", kept=("conv2",))
    precisions = [layer.precision for layer in library.builders[0].network.layers]
    assert precisions == [None, "float16"]
    assert "OBEY_PRECISION_CONSTRAINTS" in library.builders[0].config.flags
    with pytest.raises(BuildError, match="there is no layer conv2 to keep in FP16"):
        build_for_dla("conv1", kept=("conv2",))
