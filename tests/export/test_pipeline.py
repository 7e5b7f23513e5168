import json
import re
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

import sr_deploy
from sr_deploy.core.errors import (
    CannotRunHereError,
    ExportError,
    InputError,
    TargetError,
    VariantError,
)
from sr_deploy.core.files import sha256_of
from sr_deploy.core.manifest import manifest_path, read_manifest
from sr_deploy.core.spec import Variant
from sr_deploy.core.target import load_target, target_names
from sr_deploy.export import pipeline, source, verify
from sr_deploy.export.half import precision_of
from sr_deploy.export.pipeline import ExportOptions, onnx_from_checkpoint, onnx_from_source
from sr_deploy.export.source import SourceFacts, TorchSource
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
from sr_deploy.runtime.opener import open_session
from sr_deploy.runtime.ort import OnnxRuntimeSession


def checkpoint_in(folder, arch="asrn", variant="d2", *, name="asrn_x4", seed=0):
    torch.manual_seed(seed)
    held = Variant.parse(variant)
    net = ARCHITECTURES[arch].build(4, held)
    with torch.no_grad():  # an output in the middle of 0..1, which PSNR does not clip
        last = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        last.bias.fill_(0.5)
    return save_checkpoint(
        folder, name, ARCHITECTURES[arch].spec(4, held, elastic=True), net.state_dict()
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint_in(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Both variants of a two-block network with default options, and the progress lines."""
    lines = []
    paths = onnx_from_checkpoint(
        model,
        tmp_path_factory.mktemp("exported"),
        ExportOptions(sizes=["32x48"]),
        progress=lines.append,
    )
    return paths, lines


@pytest.fixture()
def no_export(monkeypatch):
    """Fail if a graph is exported by torch."""

    def refuse(*args, **kwargs):
        raise AssertionError("a graph was exported again")

    monkeypatch.setattr(source, "graph_from_network", refuse)


@pytest.mark.smoke
def test_names(exported):
    paths, lines = exported
    assert [p.name for p in paths] == ["asrn_x4.d1.32x48.fp16.onnx", "asrn_x4.d2.32x48.fp16.onnx"]
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(
        n for p in paths for n in (p.name, p.name + ".json")
    )
    for line, path in zip(lines, paths):
        assert re.search(
            rf"{re.escape(path.name)}: \d+ nodes, opset 17, max error \S+, FP16 \S+ dB", line
        )


@pytest.mark.smoke
def test_manifest(exported, model):
    for path, variant in zip(exported[0], ("d1", "d2")):
        m = read_manifest(path)
        graph = onnx.load(str(path))
        assert (m.kind, m.model, m.variant, m.arch, m.scale, m.target) == (
            "onnx",
            "asrn_x4",
            variant,
            "asrn",
            4,
            "",
        )
        assert m.min_shape == m.opt_shape == m.max_shape == (32, 48) and not m.dynamic
        assert (m.input_name, m.output_name, m.input_dtype, m.output_dtype) == (
            "lr",
            "sr",
            "fp32",
            "fp32",
        )
        assert (m.precision_asked, m.precision_obtained) == ("fp16", "fp16")
        assert (m.opset, m.nodes) == (17, len(graph.graph.node))
        assert (m.halo_px, m.align_px, m.min_px) == (2 + 4 * int(variant[1]), 1, (1, 1))
        assert m.sha256 == sha256_of(path) and m.parent_sha256 == sha256_of(model)
        assert (
            m.command
            == f"srdeploy export asrn_x4 --variants {variant} --size 32x48 --precision fp16"
        )
        assert {"srdeploy", "torch", "onnx", "onnxscript", "onnxruntime"} <= set(m.versions)
        check = m.checks["onnxruntime_vs_torch"]
        assert (
            0 <= check["max_abs_err"] < 1e-4
            and set(check["psnr_db"]) == {"32x48"}
            and check["psnr_db"]["32x48"] > 80
        )
        assert m.checks["fp16"]["psnr_db_vs_fp32"] > 50 and m.checks["fp16"]["overflows"] == 0
        largest = m.checks["fp16"]["largest_activation"]
        assert "sr/fp16" in largest and list(largest.values()) == sorted(
            largest.values(), reverse=True
        )
        assert m.not_checked
        assert (
            m.counts["params"] == {"d1": 86_339, "d2": 125_795}[variant]
            and m.counts["counter"] == "hooks"
        )


def test_metadata_properties(exported, model):
    props = {p.key: p.value for p in onnx.load(str(exported[0][1])).metadata_props}
    assert (
        props["srdeploy.model"] == "asrn_x4"
        and props["srdeploy.variant"] == "d2"
        and props["srdeploy.scale"] == "4"
    )
    assert props["srdeploy.precision"] == "fp16" and props["srdeploy.value_range"] == "0..1 RGB"
    assert props["srdeploy.weights_sha256"] == sha256_of(model)


def test_files_are_valid_onnx_in_their_stated_precision(exported):
    for path in exported[0]:
        graph = onnx.load(str(path))
        onnx.checker.check_model(graph, full_check=True)
        assert precision_of(graph) == "fp16"


def test_files_hold_no_path_of_this_machine(exported):
    for path in exported[0]:
        for data in (path.read_bytes(), manifest_path(path).read_bytes()):
            for word in (
                str(path.parent),
                "site-packages",
                tempfile.gettempdir(),
                str(Path(sr_deploy.__file__).parent),
                sys.prefix,
            ):
                assert word.encode() not in data


@pytest.mark.smoke
def test_the_written_file_runs_as_the_network_does(exported, model):
    x = np.random.default_rng(0).random((1, 3, 32, 48), dtype=np.float32)
    with torch.inference_mode():
        expected = load_checkpoint(model).network("d2")(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(OnnxRuntimeSession(exported[0][1]).run(x), expected, atol=5e-3)


def test_a_second_run_leaves_everything_as_it_is(exported, model, no_export):
    folder = exported[0][0].parent
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
    lines = []
    onnx_from_checkpoint(model, folder, ExportOptions(sizes=["32x48"]), progress=lines.append)
    assert lines == [f"{folder}: 2 are up to date"]
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()} == before


def test_export_is_deterministic_and_a_loaded_checkpoint_will_do(exported, model, tmp_path):
    (again,) = onnx_from_checkpoint(
        load_checkpoint(model), tmp_path, ExportOptions(variants="d1", sizes=["32x48"])
    )
    assert sha256_of(again) == sha256_of(exported[0][0])


@pytest.mark.parametrize("change", ["weights", "graph", "manifest", "other target"])
def test_outdated_graphs_are_exported_again(tmp_path, change):
    model = checkpoint_in(tmp_path, variant="d1")
    (path,) = onnx_from_checkpoint(
        model, tmp_path / "out", ExportOptions(sizes=["8x8"], precision="fp32")
    )
    first = read_manifest(path)
    options = {"precision": "fp32"}
    if change == "weights":
        checkpoint_in(tmp_path, variant="d1", seed=1)
    elif change == "graph":
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "manifest":
        manifest_path(path).write_text("{}")
    else:  # the same file name
        options = {"precision": "fp32", "target": "xavier"}
    lines = []
    onnx_from_checkpoint(
        model, tmp_path / "out", ExportOptions(sizes=["8x8"], **options), progress=lines.append
    )
    assert "up to date" not in lines[0]
    second = read_manifest(path)
    assert (second.sha256 != first.sha256) == (change == "weights")
    assert second.parent_sha256 == sha256_of(model)
    assert second.precision_asked == options["precision"]


def test_a_graph_out_of_tolerance_leaves_no_file(model, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "MAX_ABS_ERR", 0.0)
    monkeypatch.setattr(pipeline, "raw_session", lambda data: Wrong())
    with pytest.raises(
        ExportError,
        match="asrn_x4.d1.32x48.fp32.onnx: ONNX Runtime differs from torch by .* at 32x48",
    ):
        onnx_from_checkpoint(model, tmp_path, ExportOptions(sizes=["32x48"], precision="fp32"))
    assert list(tmp_path.iterdir()) == []


class Wrong:
    def run(self, outputs, feed):
        (x,) = feed.values()
        return [x.repeat(4, 2).repeat(4, 3)]


def test_a_graph_of_not_a_numbers_is_out_of_tolerance(model, tmp_path, monkeypatch):
    class NotNumbers(Wrong):
        def run(self, outputs, feed):
            return [super().run(outputs, feed)[0] * np.float32("nan")]

    monkeypatch.setattr(pipeline, "raw_session", lambda data: NotNumbers())
    with pytest.raises(ExportError, match="differs from torch by nan"):
        onnx_from_checkpoint(model, tmp_path, ExportOptions(variants="d1", sizes=["8x8"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_graph_that_does_not_survive_half_precision_leaves_no_file_but_those_before_stay(
    tmp_path,
):
    path = checkpoint_in(tmp_path / "model", variant="d2")
    checkpoint = load_checkpoint(path)
    weights = dict(checkpoint.weights)
    for name, factor in (("body.1.expand.weight", 5e5), ("body.1.reduce.weight", 1e-6)):
        weights[name] = weights[name] * factor
    path = save_checkpoint(tmp_path / "model", "asrn_x4", checkpoint.spec, weights)
    with pytest.raises(
        ExportError,
        match=r"asrn_x4.d2.16x16.fp16.onnx fails in half precision: .*overflow.*largest activation",
    ) as e:
        onnx_from_checkpoint(path, tmp_path / "out", ExportOptions(sizes=["16x16"]))
    assert "--precision fp32" in e.value.hint
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "asrn_x4.d1.16x16.fp16.onnx",
        "asrn_x4.d1.16x16.fp16.onnx.json",
    ]
    (whole,) = onnx_from_checkpoint(
        path, tmp_path / "out", ExportOptions(variants="d2", sizes=["16x16"], precision="fp32")
    )
    assert read_manifest(whole).precision_obtained == "fp32"


# target, precision: the file's precision, its tensors, input and output, opset
DECIDED = [
    (None, None, "fp16", "fp16", "fp32", 17),
    (None, "fp32", "fp32", "fp32", "fp32", 17),
    ("xavier", None, "fp16", "fp32", "fp32", 17),
    ("xavier-jp4", None, "fp16", "fp32", "fp32", 13),
    ("rtx", None, "fp16", "fp16", "fp16", 18),
    ("rtx-tensorrt", "fp32", "fp32", "fp32", "fp32", 18),
    ("cpu", None, "fp32", "fp32", "fp32", 18),
]


@pytest.mark.parametrize(
    "target, precision, asked, tensors, io, opset", DECIDED, ids=[f"{d[0]} {d[1]}" for d in DECIDED]
)
def test_target_and_precision_decide_the_graph(
    model, tmp_path, target, precision, asked, tensors, io, opset
):
    (path,) = onnx_from_checkpoint(
        model,
        tmp_path,
        ExportOptions(variants="d1", sizes=["16x24"], precision=precision, target=target),
    )
    graph, manifest = onnx.load(str(path)), read_manifest(path)
    assert path.name == f"asrn_x4.d1.16x24.{asked}.onnx"
    assert (manifest.precision_asked, manifest.precision_obtained, manifest.target) == (
        asked,
        tensors,
        target or "",
    )
    assert (manifest.opset, graph.opset_import[0].version) == (opset, opset)
    assert precision_of(graph) == tensors
    code = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}[io]
    assert {
        v.type.tensor_type.elem_type for v in (graph.graph.input[0], graph.graph.output[0])
    } == {code}
    assert (manifest.input_dtype, manifest.output_dtype) == (io, io)
    assert ("fp16" in manifest.checks) == (asked == "fp16"), (
        "an FP16 engine's graph is checked in half precision, and no other"
    )
    onnx.checker.check_model(graph, full_check=True)


@pytest.mark.slow
def test_the_cpu_target_gives_a_dynamic_graph_checked_at_odd_and_oblong_sizes(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(verify, "CHECK_IMAGES", 1)
    (path,) = onnx_from_checkpoint(model, tmp_path, ExportOptions(variants="d1", target="cpu"))
    assert path.name == "asrn_x4.d1.dyn16x16-1024x1024.fp32.onnx"
    manifest = read_manifest(path)
    assert (manifest.min_shape, manifest.opt_shape, manifest.max_shape) == (
        (16, 16),
        (256, 256),
        (1024, 1024),
    )
    assert manifest.command.endswith(
        "--dynamic 16x16:256x256:1024x1024 --precision fp32 --target cpu"
    )
    sizes = [
        tuple(map(int, text.split("x")))
        for text in manifest.checks["onnxruntime_vs_torch"]["psnr_db"]
    ]
    assert (
        (256, 256) in sizes
        and any(h % 2 and w % 2 for h, w in sizes)
        and any(h != w for h, w in sizes)
    )
    assert OnnxRuntimeSession(path).run(np.zeros((1, 3, 17, 31), np.float32)).shape == (
        1,
        3,
        68,
        124,
    )


def test_default_sizes_are_the_targets(model, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        pipeline,
        "_export",
        lambda task, path, report: asked.append(path.name) or "",
    )
    for target in (None, *target_names()):
        asked.clear()
        onnx_from_checkpoint(model, tmp_path, ExportOptions(variants="d2", target=target))
        shapes = ("256x512",) if target is None else load_target(target).shapes
        assert len(asked) == len(shapes)
        assert all(("dyn" in name) == (":" in shape) for name, shape in zip(asked, shapes))
    asked.clear()
    onnx_from_checkpoint(model, tmp_path, ExportOptions(sizes=["8x8", "16x8"]))
    assert asked == [f"asrn_x4.{v}.{s}.fp16.onnx" for v in ("d1", "d2") for s in ("8x8", "16x8")]


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"target": "xaver"}, TargetError, "unknown target 'xaver'; expected one of"),
        (
            {"target": "rtx", "precision": "fp32"},
            TargetError,
            "target 'rtx' builds fp16 and int8 engines, not fp32",
        ),
        (
            {"target": "cpu", "precision": "fp16"},
            TargetError,
            "target 'cpu' builds fp32 and int8 engines, not fp16",
        ),
        ({"variants": "d9"}, VariantError, "has no variant 'd9'; it has d1, d2"),
        ({"variants": "d1,"}, VariantError, "has no variant ''"),
        ({"sizes": ["8by8"]}, InputError, "'8by8' is not a size"),
        ({"sizes": ["8x8:4x4:16x16"]}, InputError, "expected min <= opt <= max"),
        (
            {"precision": "int4"},
            InputError,
            "unknown precision 'int4'; expected fp32, bf16, fp16, int8",
        ),
        ({"precision": "int8"}, InputError, "int8 graphs are made for a target"),
        (
            {"precision": "int8", "target": "cpu"},
            InputError,
            "INT8 graphs are calibrated with pictures, and none are given",
        ),
        (
            {"precision": "int8", "target": "cpu", "data": "photos"},
            InputError,
            "--data measures INT8 graphs that --calibrate calibrates",
        ),
        (
            {"target": "cpu", "calibrate": "photos", "keep": "ends"},
            InputError,
            "--calibrate and --keep: for INT8 graphs only, and these are fp32",
        ),
        ({"max_loss_db": 0.2}, InputError, "--max-loss-db: for INT8 graphs only"),
        ({"max_loss_db": float("nan")}, InputError, "--max-loss-db nan: expected 0 dB or more"),
        ({"keep": ""}, InputError, "--keep is empty; expected auto, ends, none or NODE,NODE"),
        (
            {"precision": "int8", "target": "cpu", "fallback": "auto"},
            InputError,
            "--fallback keeps nodes of an FP16 graph in FP32, but --precision is int8",
        ),
        (
            {"literal": True, "candidates": True},
            InputError,
            "--literal and --candidates exclude each other",
        ),
    ],
    ids=str,
)
def test_bad_options_write_nothing(model, tmp_path, no_export, options, error, words):
    with pytest.raises(error, match=words) as e:
        onnx_from_checkpoint(model, tmp_path / "out", ExportOptions(**options))
    assert not list(tmp_path.rglob("*.onnx*"))
    if options.get("target") == "xaver":
        assert "did you mean 'xavier" in e.value.hint


@pytest.mark.parametrize("size", ["14x64", "64x14", "8x8:64x64:128x128"])
def test_sizes_too_small_for_srn_are_refused_before_anything_is_exported(tmp_path, no_export, size):
    model = checkpoint_in(tmp_path, "srn-s", "b1", name="srn_x4")
    with pytest.raises(InputError, match="too small for srn_x4: the smallest is 15x15"):
        onnx_from_checkpoint(model, tmp_path / "out", ExportOptions(sizes=["16x16", size]))


def test_a_folder_that_cannot_be_written(model, tmp_path, no_export):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to the folder"):
        onnx_from_checkpoint(model, tmp_path / "file" / "out")


def test_an_interrupt_leaves_finished_graphs_whole_and_no_partial_one(
    model, exported, tmp_path, monkeypatch
):
    real = pipeline.onnx.save

    def interrupted(graph, path):
        if "d2" in {p.value for p in graph.metadata_props if p.key == "srdeploy.variant"}:
            with open(path, "wb") as f:
                f.write(b"half")
            raise KeyboardInterrupt
        real(graph, path)

    monkeypatch.setattr(pipeline.onnx, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        onnx_from_checkpoint(model, tmp_path, ExportOptions(sizes=["32x48"]))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "asrn_x4.d1.32x48.fp16.onnx",
        "asrn_x4.d1.32x48.fp16.onnx.json",
    ]
    read_manifest(tmp_path / "asrn_x4.d1.32x48.fp16.onnx")


def test_manifests_are_plain_json(exported):
    data = json.loads(manifest_path(exported[0][0]).read_text(encoding="utf-8"))
    assert data["opt_shape"] == [32, 48] and data["checks"]["fp16"]["dead_output"] is False


@pytest.mark.parametrize(
    "text",
    [
        "15x15:32x32:128x128",
        "32x32:40x40:48x48",
        "1x1:1x1:8x9",
        "16x16:256x256:1024x1024",
        "30x41:30x50:30x60",
    ],
)
def test_a_dynamic_graph_is_checked_at_an_odd_and_a_non_square_size_of_its_range(text):
    sizes = pipeline.parse_sizes(text)
    checked = verify.check_sizes(sizes)
    assert sizes.opt in checked and all(
        sizes.min[i] <= hw[i] <= sizes.max[i] for hw in checked for i in (0, 1)
    )
    assert any(hw[0] != hw[1] for hw in checked)
    assert any(hw[1] % 2 for hw in checked) and (
        sizes.min[0] == sizes.max[0] or any(hw[0] % 2 and hw[1] % 2 for hw in checked)
    )


def test_rewrites_are_listed_and_left_out_of_a_literal_export(model, tmp_path):
    options = {"variants": "d1", "sizes": ["16x16"], "precision": "fp32"}
    fast, plain = (
        read_manifest(
            onnx_from_checkpoint(
                model, tmp_path / str(literal), ExportOptions(literal=literal, **options)
            )[0]
        )
        for literal in (False, True)
    )
    assert [r["pass"] for r in fast.checks["rewrites"]] == [
        "collapse-linear",
        "fold-shuffles",
    ] and plain.checks["rewrites"] == []
    assert plain.command.endswith("--literal") and not fast.command.endswith("--literal")
    trained, literal = (
        {k: v for k, v in m.counts.items() if k != "deployed"} for m in (fast, plain)
    )
    assert trained == literal, "the counts are the network's, as trained"
    for counter in ("hooks", "fvcore"):
        assert fast.counts["deployed"][counter]["macs"] < plain.counts["deployed"][counter]["macs"]
    assert plain.counts["deployed"]["fvcore"] == plain.counts["fvcore"]
    assert plain.counts["deployed"]["hooks"]["macs"] == plain.counts["macs"]


def test_fp16_graphs_are_run_on_the_requested_gpu(model, tmp_path, monkeypatch):
    """The GPU is a stand-in: no test of ours has run on one."""
    from doubles.onnxruntime_cuda import CUDA, StandInOrtCuda

    from sr_deploy.runtime import ort_device

    monkeypatch.setattr(ort_device, "torch_with_cuda", lambda index: None)
    monkeypatch.setattr(ort_device, "_cuda_binding", lambda index: None)
    ort = StandInOrtCuda(monkeypatch, half=True, on_cpu=["shuffle"])
    lines = []
    options = ExportOptions(variants="d1", sizes=["32x48"], device="cuda")
    (path,) = onnx_from_checkpoint(model, tmp_path, options, progress=lines.append)
    manifest = read_manifest(path)
    check = manifest.checks["this_file_vs_fp32_graph"]
    assert (check["device"], check["provider"]) == ("NVIDIA GPU 0", CUDA)
    assert check["precision"] == "fp16" and check["psnr_db"]["32x48"] > 50
    assert [len(session.asked) for session in ort.sessions if session.asked[0][0] == CUDA] == [1]
    assert "by other devices than NVIDIA GPU 0" in " ".join(manifest.not_checked)
    assert lines[0] == "FP16 graphs are checked on NVIDIA GPU 0"
    assert re.search(r" dB on NVIDIA GPU 0\)$", lines[1])


def test_a_requested_gpu_that_cannot_be_used_is_an_error_before_anything_is_written(
    model, tmp_path
):
    with pytest.raises(CannotRunHereError, match="onnxruntime-cuda cannot run on cuda:0"):
        onnx_from_checkpoint(model, tmp_path / "out", ExportOptions(device="cuda"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        ExportOptions(device="gpu")


def test_networks_of_windows_are_exported_and_checked_at_multiples_only(tmp_path):
    class Windows(torch.nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            x = x.reshape(n, c, h // 4, 4, w // 4, 4)
            x = (x - x.mean((3, 5), keepdim=True)).reshape(n, c, h, w)
            return torch.nn.functional.interpolate(x, scale_factor=2.0)

    class WindowSource(TorchSource):
        name = text = "windows_x2"
        scale, min_hw, parent_sha256 = 2, (4, 4), "0" * 64

        @classmethod
        def from_text(cls, text):
            return cls()

        def facts(self, variant):
            return SourceFacts("windows", "one", halo_px=0, align_px=4, multiple=4)

        def network(self, variant):
            return Windows().eval()

    def export(size):
        options = ExportOptions(sizes=[size], precision="fp32")
        return onnx_from_source(WindowSource(), tmp_path, options)

    (path,) = export("8x8:16x24:64x64")
    manifest = read_manifest(path)
    assert path.name == "windows_x2.dyn8x8-64x64.fp32.onnx"
    assert (manifest.variant, manifest.multiple, manifest.align_px) == ("", 4, 4)
    assert list(manifest.checks["onnxruntime_vs_torch"]["psnr_db"]) == ["16x24", "60x60", "8x64"]
    with pytest.raises(InputError, match="takes multiples of 4 only, not 10x16") as e:
        export("10x16")
    assert "12x16" in e.value.hint
    with open_session(path) as session:
        x = np.random.default_rng(0).random((1, 3, 10, 9), dtype=np.float32)
        assert session.run(x).shape == (1, 3, 20, 18)


def test_a_graph_that_cannot_run_at_one_of_the_sizes():
    class Failing:
        def run(self, *_):
            raise RuntimeError("Reshape:\n{1,53}")

    torch_source = types.SimpleNamespace(reference_name="torch")
    graph = types.SimpleNamespace(reference=lambda x: x)
    with pytest.raises(
        ExportError, match="n.onnx: ONNX Runtime cannot run .* at 8x8: Reshape: {1,"
    ):
        verify.compare_with_source(Failing(), torch_source, graph, [(8, 8)], "n.onnx")
