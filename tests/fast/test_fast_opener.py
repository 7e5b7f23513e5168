"""Models in their fastest form: an engine in the cache, made once, equal to torch."""

import dataclasses
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")

from sr_deploy.core.cache import cache_folder  # noqa: E402
from sr_deploy.core.errors import (  # noqa: E402
    ArtifactError,
    BuildError,
    CannotRunHereError,
    ExportError,
    InputError,
    VariantError,
)
from sr_deploy.core.jsonio import to_json  # noqa: E402
from sr_deploy.core.manifest import manifest_path, read_manifest  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.core.shipped import DEFAULT_MODELS, find_checkpoint, read_card  # noqa: E402
from sr_deploy.core.spec import Variant  # noqa: E402
from sr_deploy.fast import made, opener, ways  # noqa: E402
from sr_deploy.fast.made import ModelVariant, shipped_graph  # noqa: E402
from sr_deploy.fast.ways import ModelWay  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from sr_deploy.runtime import BACKENDS  # noqa: E402
from sr_deploy.runtime import build as build_module  # noqa: E402

BY_TORCH = RunOptions(runtime="torch")
ON_CPU = ModelWay("onnxruntime", "cpu", "cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    torch.manual_seed(0)
    architecture, largest = ARCHITECTURES["asrn"], Variant("d", 2)
    weights = architecture.build(2, largest).state_dict()
    folder = tmp_path_factory.mktemp("tiny")
    return save_checkpoint(folder, "tiny_x2", architecture.spec(2, largest, elastic=True), weights)


@pytest.fixture(scope="module")
def graphs(tiny, made_once):
    """The real graphs of both variants."""
    card = read_card(tiny)

    def fill(folder):
        for variant in card.variants:
            made.export_graph(ModelVariant(tiny, card, variant), ON_CPU, folder)

    folder = made_once("fast-graphs", fill)
    return {v: next(folder.glob(f"tiny_x2.{v}.*.onnx")) for v in card.variants}


@pytest.fixture()
def cache(tmp_path, monkeypatch, graphs):
    """An empty cache. Exports take seconds, so each test gets the same graphs."""
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(made, "export_graph", lambda model, *where: graphs[model.variant])
    return tmp_path / "cache"


def test_a_checkpoint_becomes_an_engine_in_the_cache(tiny, cache):
    lines = []
    networks = opener.describe(tiny, "d1", progress=lines.append)
    assert [(n.kind, n.name, n.backend, n.target) for n in networks] == [
        ("engine", "tiny_x2.d1", "onnxruntime", "cpu")
    ]
    assert cache in made.Path(networks[0].source).parents and made.is_made(cache / "models" / "x")
    assert networks[0].weights_sha256s == (read_card(tiny).weights_sha256,)
    assert lines == ["tiny_x2.d1: prepared for onnxruntime on this machine, once"]
    x = np.random.default_rng(0).random((1, 3, 13, 9), dtype=np.float32)
    with opener.open_session(tiny, "d1") as fast, opener.open_session(tiny, "d1", BY_TORCH) as slow:
        assert (fast.backend, slow.backend) == ("onnxruntime", "torch")
        assert np.abs(fast.run(x) - slow.run(x)).max() < 1e-5
    assert not [path for path in (cache / "models").iterdir() if path.name.startswith(".partial")]


def test_it_is_made_once_and_made_again_where_it_is_damaged(tiny, cache):
    first = opener.describe_one(tiny, "d1")
    lines = []
    again = opener.describe_one(f"{tiny}", "d1", progress=lines.append)
    assert (again.source, again.sha256, lines) == (first.source, first.sha256, [])
    made.Path(first.source).write_bytes(b"damaged")
    assert opener.describe_one(tiny, "d1", progress=lines.append).sha256 == first.sha256
    assert len(lines) == 1


def test_other_weights_have_an_entry_of_their_own(tiny, cache, tmp_path):
    first = opener.describe_one(tiny, "d1")
    torch.manual_seed(1)
    architecture, largest = ARCHITECTURES["asrn"], Variant("d", 2)
    spec = architecture.spec(2, largest, elastic=True)
    other = save_checkpoint(tmp_path, "tiny_x2", spec, architecture.build(2, largest).state_dict())
    assert opener.describe_one(other, "d1").source != first.source


def test_tensorrts_engines_are_kept_by_gpu(tiny, cache, monkeypatch):
    way = ModelWay("tensorrt", "cuda", "rtx-tensorrt")
    monkeypatch.setattr(BACKENDS["tensorrt"], "versions", lambda self: {"tensorrt": "10.9"})
    model, entries = ModelVariant(tiny, read_card(tiny), "d1"), set()
    for name in ("NVIDIA L4", "NVIDIA T4"):
        monkeypatch.setattr(made, "cuda", lambda name=name: SimpleNamespace(gpu_name=lambda: name))
        entries.add(made._entry(model, way))
    assert len(entries) == 2


def test_where_it_cannot_be_made_torch_runs_it_and_the_reason_is_told(tiny, cache, monkeypatch):
    def fail(*given):
        raise ExportError("the disk is full", hint="free some space")

    monkeypatch.setattr(opener, "make", fail)
    lines = []
    network = opener.describe_one(tiny, "d1", progress=lines.append)
    assert (network.kind, network.backend) == ("checkpoint", "torch")
    assert "tiny_x2 is not run by onnxruntime: the disk is full; free some space" in lines
    with pytest.raises(ExportError):
        opener.describe_one(tiny, "d1", RunOptions(runtime="onnxruntime"))


def test_a_cache_that_cannot_be_written_is_told(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRDEPLOY_CACHE", str(tmp_path / "file"))
    lines = []
    assert opener.describe_one(tiny, "d1", progress=lines.append).backend == "torch"
    assert "cannot write to the folder" in " ".join(lines)


def test_unknown_variants_and_damaged_checkpoints_are_the_openers_errors(tiny, cache, tmp_path):
    with pytest.raises(VariantError, match="has no variant 'd9'"):
        opener.describe(tiny, "d9")
    for path in (tiny, tiny.with_suffix(".json")):
        shutil.copy(path, tmp_path)
    copy = tmp_path / tiny.name
    copy.write_bytes(copy.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(Exception, match="does not match its card"):
        opener.describe(copy, "d1")


def test_all_means_the_variants_of_the_paper_and_none_all(tiny, cache):
    assert [n.variant for n in opener.describe_all(str(tiny))] == ["d1", "d2"]
    assert [n.variant for n in opener.describe_family(tiny)] == ["d1", "d2"]
    assert [
        n.variant for n in opener.describe_all(f"{tiny.with_suffix('')}.safetensors", "d2")
    ] == ["d2"]


def test_entries_that_are_not_used_are_removed(tiny, cache):
    first = made.Path(opener.describe_one(tiny, "d1").source).parent
    os.utime(first, (0, 0))
    opener.describe_one(tiny, "d2")
    assert not first.exists()


def test_other_files_beside_the_entries_are_left_alone(tiny, cache):
    """SRDEPLOY_CACHE may name a folder that has a folder `models` of the user's."""
    mine = cache / "models" / "best.run.1"
    mine.mkdir(parents=True)
    killed = cache / "models" / ".partial-abc"
    killed.mkdir()
    for path in (mine, killed):
        os.utime(path, (0, 0))
    opener.describe_one(tiny, "d1")
    assert mine.is_dir() and not killed.exists()


def test_a_file_in_the_place_of_an_entry_is_replaced(tiny, cache):
    entry = made.Path(opener.describe_one(tiny, "d1").source).parent
    shutil.rmtree(entry)
    entry.write_text("damaged")
    assert opener.describe_one(tiny, "d1").kind == "engine"


def test_settings_of_torch_contradict_another_runtime_before_anything_is_prepared(tiny, cache):
    both = RunOptions(runtime="onnxruntime", precision="fp16")
    with pytest.raises(InputError, match="is not run by onnxruntime, but by torch"):
        opener.open_session(tiny, "d1", both)
    assert opener.describe_one(tiny, "d1", RunOptions(precision="fp16")).backend == "torch"
    assert not (cache / "models").exists()


@pytest.fixture()
def bf16(graphs, cache, monkeypatch):
    """PSNR against FP32 by variant, to be changed, of a way whose engines are those of FP32.

    None: the build fails.
    """
    psnr_db, build = {"d1": 56.25, "d2": 48.125}, build_module.engine_from_onnx
    made_for = []

    def export(model, way, folder):
        made_for.append(way)
        return graphs[model.variant]

    def built(graph, folder, **options):
        (path,) = build(graph, folder, **options)
        if made_for[-1].precision == "bf16":
            manifest = read_manifest(path)
            if psnr_db[manifest.variant] is None:
                raise BuildError("it computes in FP32")
            checks = {"accuracy": {"psnr_db_vs_fp32": psnr_db[manifest.variant]}}
            lossy = dataclasses.replace(manifest, precision_obtained="bf16", checks=checks)
            manifest_path(path).write_text(to_json(lossy))
        return [path]

    monkeypatch.setattr(made, "export_graph", export)
    monkeypatch.setattr(build_module, "engine_from_onnx", built)
    way = dataclasses.replace(ON_CPU, precision="bf16")
    monkeypatch.setattr(ways, "_ON_CPU", (way, ON_CPU, ModelWay("torch", "cpu")))
    return psnr_db


def precisions(text, least, **given):
    run = RunOptions(min_psnr_vs_fp32=least, **given)
    lines = []
    networks = opener.describe(text, run=run, progress=lines.append)
    return {network.variant: network.precision for network in networks}, lines


def test_each_variant_runs_in_the_fastest_precision_that_a_bound_allows(tiny, bf16):
    assert precisions(tiny, None)[0] == {"d1": "fp32", "d2": "fp32"}
    found, lines = precisions(tiny, 50)
    assert found == {"d1": "bf16", "d2": "fp32"}
    assert lines == [
        "tiny_x2.d1, tiny_x2.d2: prepared for onnxruntime in bf16 on this machine, once",
        "tiny_x2.d2 is not run by onnxruntime in bf16: 48.1 dB against FP32, expected at least 50",
    ]
    assert precisions(tiny, 50) == (found, lines[1:])  # nothing is built again
    assert precisions(tiny, 48)[0] == {"d1": "bf16", "d2": "bf16"}
    assert precisions(tiny, 60)[0] == {"d1": "fp32", "d2": "fp32"}


def test_a_build_that_failed_is_not_tried_again(tiny, bf16):
    bf16["d2"] = None
    found, lines = precisions(tiny, 40)
    assert found == {"d1": "bf16", "d2": "fp32"}
    assert "tiny_x2.d2 is not run by onnxruntime in bf16: it computes in FP32" in lines
    bf16["d2"] = 99.0
    assert precisions(tiny, 40) == (found, [line for line in lines if "it computes" in line])


def test_what_is_prepared_next_is_known_before(tiny, bf16):
    run = RunOptions(min_psnr_vs_fp32=50)
    for prepared_for in ("onnxruntime in bf16", "", ""):
        assert opener.not_prepared_for(tiny, "d1", run) == prepared_for
        opener.describe_one(tiny, "d1", run)
    for prepared_for in ("onnxruntime in bf16", ""):  # bf16 is made, then FP32
        assert opener.not_prepared_for(tiny, "d2", run) == prepared_for
        opener.describe_one(tiny, "d2", run)


def test_a_runtime_that_reaches_it_in_no_precision_is_an_error(tiny, bf16, monkeypatch):
    monkeypatch.setattr(ways, "_ON_CPU", ways._ON_CPU[:1])
    assert precisions(tiny, 40, runtime="onnxruntime")[0] == {"d1": "bf16", "d2": "bf16"}
    with pytest.raises(CannotRunHereError) as e:
        precisions(tiny, 50, runtime="onnxruntime")
    assert e.value.message == "tiny_x2.d2: no precision of onnxruntime has 50 dB against FP32"


def test_a_session_tells_what_it_loses_and_an_artifact_that_loses_more_is_refused(tiny, bf16):
    run = RunOptions(min_psnr_vs_fp32=50)
    with opener.open_session(tiny, "d1", run) as session:
        assert session.psnr_db_vs_fp32 == 56.25
    network = opener.describe_one(tiny, "d2", RunOptions(min_psnr_vs_fp32=40))
    assert network.how_exact == "bf16 by onnxruntime, 48.1 dB against FP32"
    with pytest.raises(ArtifactError, match="48.1 dB against FP32, expected at least 50"):
        opener.open_session(network.source, run=run)
    with opener.open_session(tiny, "d1", RunOptions("cpu", "torch", min_psnr_vs_fp32=50)) as fp32:
        assert (fp32.backend, fp32.psnr_db_vs_fp32) == ("torch", None)


@pytest.mark.parametrize("name", DEFAULT_MODELS.values())
def test_default_models_have_a_shipped_graph_that_fits_their_weights(name, tmp_path):
    weights = find_checkpoint(name)
    card = read_card(weights)
    model = ModelVariant(weights, card, card.variants[-1])
    assert shipped_graph(model, ON_CPU, tmp_path) is not None, "run benchmarks/shipped_graphs.py"


def test_a_shipped_graph_computes_what_the_checkpoint_does(cache):
    x = np.random.default_rng(0).random((1, 3, 11, 8), dtype=np.float32)
    with opener.open_session("asrn_x2") as fast, opener.open_session(
        "asrn_x2", run=BY_TORCH
    ) as net:
        assert np.abs(fast.run(x) - net.run(x)).max() < 1e-5


def test_a_default_model_needs_no_torch(cache):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None; import numpy as np; "
        "from sr_deploy.fast.opener import open_session; "
        "print(open_session('asrn_x4').run(np.zeros((1, 3, 5, 4), np.float32)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 3, 20, 16)"
    assert (cache / "models").is_dir() and cache_folder() == cache


def test_a_default_model_needs_no_more_than_openvino(cache):
    pytest.importorskip("openvino", reason="needs openvino")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxruntime'])); "
        "from sr_deploy.fast.opener import describe_one; "
        "network = describe_one('asrn_x2'); print(network.backend, network.precision)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino fp32"


def test_a_shipped_graph_is_for_all_precisions_of_an_fp32_graph(tmp_path):
    weights = find_checkpoint("asrn_x2")
    card = read_card(weights)
    model = ModelVariant(weights, card, card.variants[-1])
    way = ModelWay("openvino", "cpu", "cpu-openvino", "bf16")
    graph = shipped_graph(model, way, tmp_path, any_form=True)
    manifest = read_manifest(graph)
    assert graph.parent == tmp_path and manifest.precision_obtained == "fp32"
    assert (manifest.target, manifest.precision_asked) == ("cpu-openvino", "bf16")
    for other in (
        dataclasses.replace(way, precision="int8"),  # quantised
        ModelWay("tensorrt", "cuda", "rtx-tensorrt"),  # of other sizes
    ):
        assert shipped_graph(model, other, tmp_path, any_form=True) is None


def test_int8_is_for_models_that_were_trained_for_it(tiny, cache, tmp_path, monkeypatch):
    """Its own engine is not built here: tests/runtime/test_openvino.py does."""
    int8 = dataclasses.replace(ON_CPU, precision="int8")
    monkeypatch.setattr(ways, "_ON_CPU", (int8, ON_CPU))
    run = RunOptions(min_psnr_vs_fp32=30)
    assert opener.not_prepared_for(tiny, "d1", run) == "onnxruntime"
    checkpoint = load_checkpoint(tiny)
    ranges = {"d1": {"head": (0.0, 1.0)}}
    trained = save_checkpoint(tmp_path, "tiny_x2", checkpoint.spec, checkpoint.weights, ranges)
    assert opener.not_prepared_for(trained, "d1", run) == "onnxruntime in int8"
    assert opener.not_prepared_for(trained, "d2", run) == "onnxruntime"
    assert opener.not_prepared_for(trained, "d1", RunOptions()) == "onnxruntime"


def test_a_shipped_graph_is_not_taken_for_other_weights_of_the_same_name(tmp_path):
    weights = find_checkpoint("asrn_x4")
    card = read_card(weights)
    assert shipped_graph(ModelVariant(weights, card, "d5"), ON_CPU, tmp_path) is not None
    other = dataclasses.replace(card, weights_sha256="0" * 64)
    assert shipped_graph(ModelVariant(weights, other, "d5"), ON_CPU, tmp_path) is None


def test_what_other_code_exported_is_made_again(tiny, cache, monkeypatch):
    first = opener.describe_one(tiny, "d1").source
    monkeypatch.setattr(made, "code_digest", lambda: "other")
    assert opener.describe_one(tiny, "d1").source != first
