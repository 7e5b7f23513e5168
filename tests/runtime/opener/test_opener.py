from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import sr_deploy  # noqa: E402
from sr_deploy.core.errors import InputError, SrDeployError, VariantError  # noqa: E402
from sr_deploy.core.manifest import manifest_path, parse_manifest  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.runtime.opener import (  # noqa: E402
    check_run_options,
    describe,
    describe_all,
    describe_family,
    describe_one,
    kind_of,
    open_session,
    require_kind,
    split_variant,
)
from sr_deploy.runtime.tiling import plan_tiles  # noqa: E402
from sr_deploy.upscale.upscaler import Upscaler  # noqa: E402

MODEL = "imdeception_x2"


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Graphs of two variants, and the engine of one."""
    folder = tmp_path_factory.mktemp("family")
    graphs = sr_deploy.onnx_from_checkpoint(
        MODEL,
        folder / "graphs",
        sr_deploy.ExportOptions(variants="c4,c4-nla", sizes=["1x1:64x64:512x512"], target="cpu"),
    )
    engines = sr_deploy.engine_from_onnx(graphs[:1], folder / "engines", target="cpu")
    return folder / "graphs", graphs, engines


def test_a_checkpoint_a_graph_and_an_engine_know_the_same_of_their_network(family):
    _, graphs, engines = family
    facts = [
        (s.halo_px, s.align_px, s.scale)
        for s in (open_session(MODEL, "c4"), open_session(graphs[0]), open_session(engines[0]))
    ]
    assert facts == [(27, 1, 2)] * 3
    assert (open_session(graphs[1]).halo_px, open_session(graphs[1]).align_px) == (74, 32)
    assert (open_session(MODEL, "c4-nla").halo_px, open_session(MODEL, "c4-nla").align_px) == (
        74,
        32,
    )


@pytest.mark.parametrize("which", [0, 1])
def test_graphs_in_tiles_are_as_whole(family, which):
    session = open_session(family[1][which])
    image = np.random.default_rng(0).random((230, 215, 3), np.float32)
    upscaler = Upscaler(session, tile=200)
    assert (
        np.abs(upscaler(image) - Upscaler(session)(image)).max() <= 1e-4
        and not upscaler.plan((230, 215), bytes_per_px=12).whole
    )


def test_a_literal_graph_has_the_same_halo(tmp_path):
    given = {"variants": "d1", "sizes": ["8x8:16x16:32x32"], "target": "cpu"}
    paths = [
        sr_deploy.onnx_from_checkpoint(
            "asrn_x2", tmp_path / str(n), sr_deploy.ExportOptions(literal=n == 1, **given)
        )[0]
        for n in (0, 1)
    ]
    halos = {parse_manifest(manifest_path(path)).halo_px for path in paths}
    assert halos == {6}
    image = np.random.default_rng(0).random((31, 32, 3), dtype=np.float32)
    for path in paths:
        session = open_session(path)
        assert np.abs(Upscaler(session, tile=16)(image) - Upscaler(session)(image)).max() <= 1e-4


def test_the_largest_is_taken_unless_one_is_named(family):
    folder, graphs, _ = family
    assert [r.variant for r in describe_family(str(folder))] == ["c4", "c4-nla"]
    assert (
        describe_one(str(folder)).variant == "c4-nla"
        and describe_one(str(folder), "c4").name == f"{MODEL}.c4"
    )
    assert describe_one(MODEL).variant == "c16-nla"
    assert describe_one(str(graphs[0])).identity != describe_one(str(graphs[1])).identity
    assert describe_one(MODEL, "c4").identity != describe_one(MODEL, "c8").identity


def test_a_variant_that_is_not_held_is_refused(family):
    with pytest.raises(VariantError, match="no variant 'c8'; it contains c4, c4-nla"):
        describe_one(str(family[0]), "c8")
    with pytest.raises(VariantError, match="no variant 'd3'"):
        describe_one(MODEL, "d3")


def test_a_folder_of_several_models_or_of_one_variant_twice_is_refused(family, tmp_path):
    import shutil

    folder, graphs, engines = family
    for path in (*graphs, *engines):
        for file in (path, manifest_path(path)):
            shutil.copy(file, tmp_path)
    with pytest.raises(InputError, match=f"{MODEL}.c4 in fp32 more than once"):
        describe_family(str(tmp_path))
    (tmp_path / engines[0].name).unlink()
    other = manifest_path(tmp_path / graphs[1].name)
    other.write_text(other.read_text().replace(f'"{MODEL}"', '"another"'))
    with pytest.raises(InputError, match=f"several models, {MODEL} and another"):
        describe_family(str(tmp_path))
    with pytest.raises(InputError, match="contains no .onnx or .engine"):
        describe_family(str(folder.parent))


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    for given in ("asrm_x4", str(tmp_path / "none.onnx"), str(tmp_path / "x.onnx")):
        with pytest.raises(SrDeployError):
            open_session(given)


def test_a_graph_without_a_manifest_is_run_whole_or_in_tiles_that_are_measured(
    noise, family, tmp_path
):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(family[1][0].read_bytes())
    session = open_session(path)
    assert (session.halo_px, session.max_hw, session.scale) == (None, None, 2)
    assert plan_tiles((300, 200), session).whole
    upscaler = Upscaler(session, tile=64)
    upscaler(noise((100, 90)))
    assert upscaler.seam_difference > 0
    assert "differs from the whole image's result" in upscaler.describe()


def test_facts_are_frozen_in_the_manifest(family):
    manifest = parse_manifest(manifest_path(family[1][0]))
    assert (manifest.halo_px, manifest.align_px, manifest.min_px) == (27, 1, (1, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.halo_px = 1


@pytest.mark.parametrize(
    "text, kind, variant",
    [
        ("asrn_x4", "checkpoint", None),
        ("asrn_x4.d1", "checkpoint", "d1"),
        ("imdeception_x4.c16-nla", "checkpoint", "c16-nla"),
        ("elastic-asrn_x4", "gains", None),
        ("cdnsr-fsrcnn_x4", "router", None),
        ("x.router.safetensors", "router", None),
        ("x.routed.json", "plan", None),
        ("x.adadsr.json", "plan", None),
        ("x.engine", "artifact", None),
        ("x.engine.json", "artifact", None),
        ("x.d1.fp32.onnx", "artifact", None),
        (".", "folder", None),
    ],
)
def test_each_text_is_of_one_kind(text, kind, variant):
    assert (kind_of(text), split_variant(text)[1]) == (kind, variant)


def test_a_manifest_stands_for_its_artifact_and_is_skipped_beside_it(family):
    folder, _, _ = family
    files = sorted(str(path) for path in folder.iterdir())
    artifacts = [file for file in files if not file.endswith(".json")]
    described = [network.artifact for network in describe_all(files)]
    assert described == [network.artifact for network in describe_all(artifacts)]
    manifest = str(manifest_path(Path(artifacts[0])))
    assert describe(manifest)[0].identity == describe(artifacts[0])[0].identity


def test_a_variant_is_part_of_the_text_or_an_argument_but_not_both():
    assert [n.name for n in describe("asrn_x4.d3")] == ["asrn_x4.d3"]
    assert describe("asrn_x4.d3")[0].identity == describe("asrn_x4", "d3")[0].identity
    with pytest.raises(InputError, match="'asrn_x4.d3' names its variant, but variants are given"):
        describe("asrn_x4.d3", "d1")


def test_a_session_is_a_context_manager_with_a_short_repr(family):
    with open_session(family[0]) as session:
        text = repr(session)
    assert text.startswith("<OnnxRuntimeSession imdeception_x2.") and "onnxruntime fp32 x2" in text


@pytest.mark.parametrize("text, kind", [("cdnsr-fsrcnn_x4", "router"), ("x.onnx", "artifact")])
def test_commands_for_some_kinds_name_the_others(text, kind):
    assert require_kind("asrn_x4.d1", "export", ["checkpoint"]) == ("asrn_x4", "d1", "checkpoint")
    with pytest.raises(InputError, match=f"'{text}' is an? {kind}; export takes a checkpoint"):
        require_kind(text, "export", ["checkpoint"])


def test_options_for_some_of_the_networks_only_are_said(family):
    networks = [*describe(f"{MODEL}.c4"), *describe(family[0])]
    assert check_run_options(networks, RunOptions(device="cpu")) == ""
    note = check_run_options(networks, RunOptions(runtime="onnxruntime"))
    assert note == f"--runtime onnxruntime: not for {networks[0].name}, which have their own"
    assert check_run_options(networks[1:], RunOptions(runtime="onnxruntime")) == ""


def test_code_of_one_size_is_counted_at_that(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; it runs the network")
    (tmp_path / "fixed.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Conv2d):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 12, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return nn.functional.pixel_shuffle(super().forward(x.reshape(1, 3, 32, 32)), 2)\n"
    )
    (network,) = describe(f"{tmp_path / 'fixed.py'}:Net")
    counts = network.counts()
    assert counts["hw"] == [32, 32] and counts["macs"] == 32 * 32 * 27 * 12


def test_a_family_may_have_its_variants_in_several_precisions(family, tmp_path):
    import shutil

    _, graphs, _ = family
    for path in graphs:
        for name, precision in (("int8", "mixed: 2 fp32, 9 int8"), ("fp32", "fp32")):
            copy = tmp_path / f"{path.stem}.{name}.onnx"
            shutil.copy(path, copy)
            text = manifest_path(path).read_text()
            kept = '"precision_obtained": "fp32"'
            assert kept in text
            text = text.replace(kept, kept.replace("fp32", precision))
            measured = '"checks": {"accuracy": {"psnr_db_vs_fp32": 45.0}, '
            manifest_path(copy).write_text(re.sub(r'"checks": {\s*', measured, text))
    found = [(n.variant, n.precision[:5]) for n in describe_family(str(tmp_path))]
    assert found == [("c4", "mixed"), ("c4", "fp32"), ("c4-nla", "mixed"), ("c4-nla", "fp32")]
    assert describe_one(str(tmp_path)).precision == "fp32", "nothing is lost unasked"
    assert describe_one(str(tmp_path)).variant == "c4-nla"
    lower = describe_one(str(tmp_path), "c4", RunOptions(min_psnr_vs_fp32=45))
    assert (lower.variant, lower.precision) == ("c4", "mixed: 2 fp32, 9 int8")
    assert describe_one(tmp_path, run=RunOptions(min_psnr_vs_fp32=46)).precision == "fp32"
    for file in (copy, manifest_path(copy)):
        shutil.copy(file, tmp_path / file.name.replace(".fp32.", ".again."))
    with pytest.raises(InputError, match=f"{MODEL}.c4-nla in fp32 more than once"):
        describe_family(str(tmp_path))


@pytest.mark.parametrize(
    "name, message",
    [
        ("asrn_x4s", "there is no model 'asrn_x4s'; expected a file, or one of"),
        ("srn_x4", "'srn_x4' is an architecture"),
        ("no/asrn_x4.safetensors", "there is no checkpoint no/asrn_x4.safetensors"),
    ],
)
def test_a_wrong_name_is_told_where_torch_is_missing(name, message):
    code = (
        "import sys; sys.modules['torch'] = None; "
        "from sr_deploy.core.errors import InputError; "
        "from sr_deploy.runtime.opener import describe_one\n"
        f"try: describe_one({name!r})\n"
        "except InputError as e: print(e.message)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert message in done.stdout
