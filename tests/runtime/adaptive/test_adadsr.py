from dataclasses import replace

import numpy as np
import pytest
from doubles.plans import with_parts

from sr_deploy.core.depth_plan import (
    DepthPlan,
    dense_groups,
    parse_depth,
    read_depth_plan,
    tile_corners,
)
from sr_deploy.core.errors import (
    ArtifactError,
    CannotRunHereError,
    DeviceMemoryError,
    InputError,
    VariantError,
)
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.run_options import CPU_RUN, RunOptions
from sr_deploy.core.session import BackendInfo
from sr_deploy.runtime.adaptive.adadsr import AdaDSR

BLOCKS = 3


def masked(checkpoint, x, depth):
    import torch

    with torch.inference_mode():
        y, depth_map = checkpoint.network().forward_at(
            torch.from_numpy(x), torch.tensor([float(depth)])
        )
    return y.numpy(), depth_map.numpy()[0, 0]


def opened(plan, depth=1.0):
    return AdaDSR.from_plan(plan, depth=depth)


def image(h, w, seed=0):
    """Half flat and half noise, so that depths differ."""
    x = np.full((1, 3, h, w), 0.4, np.float32)
    x[..., w // 2 :] = np.random.default_rng(seed).random((1, 3, h, w - w // 2), dtype=np.float32)
    return x


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("h, w", [(14, 28), (13, 31), (2, 2), (7, 2), (3, 40), (40, 80)])
@pytest.mark.parametrize("depth", [0, 1.5, 3])
def test_both_ways_equal_the_masked_dense_network(checkpoint, plans, way, h, w, depth):
    x = image(h, w)
    found = opened(plans[way], depth).run_adaptive(x)
    y, depth_map = masked(checkpoint, x, depth)
    np.testing.assert_allclose(found.y_nchw, y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(BLOCKS * found.decisions, depth_map, rtol=0, atol=1e-5)


def test_the_images_of_these_tests_have_all_depths_and_go_both_ways_and_in_several_batches(plans):
    plan = read_depth_plan(plans["tiles"])
    found = opened(plans["tiles"], 3).run_adaptive(image(40, 80))
    depth_map = BLOCKS * found.decisions
    assert set(np.unique(np.ceil(depth_map))) == {0, 1, 2, 3}
    assert dense_groups(plan, depth_map) == (True, False, False)
    assert [len(tile_corners(plan, depth_map, before)) for before in (1, 2)] == [
        42,
        27,
    ]  # of 72; eight a batch
    assert list(found.work.ms) == ["map", "to 1, everywhere", "to 2, tiles", "to 3, tiles", "end"]
    assert sum(found.work.pixels.values()) == 40 * 80


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("h, w", [(9, 25), (14, 3)])
def test_a_group_by_its_way_is_that_group_everywhere_also_where_borders_are_deep(plans, way, h, w):
    session, rng = opened(plans[way]), np.random.default_rng(0)
    features = rng.standard_normal((1, 8, h, w)).astype(np.float32)
    depth_map = (BLOCKS * rng.random((1, 1, h, w))).astype(np.float32)
    depth_map[..., w // 2 :] = 0
    for group in range(BLOCKS):
        before = features.copy()
        found, expected = (
            session._run_group(group, dense, features, depth_map) for dense in (False, True)
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert (features == before).all() and np.abs(found - features).max() > 0.1


PLAN = DepthPlan(
    model="ada",
    scale=4,
    blocks=3,
    way="rows",
    parent_sha256="",
    macs_px=1,
    conv_macs_px=1,
    map_macs_px=1,
    depths=(3,),
)


def test_a_smaller_desired_depth_executes_less(plans):
    small, large = (opened(plans["rows"], d).run_adaptive(image(24, 24)).work for d in (0, 3))
    assert small.share < large.share
    assert small.plain_macs == read_depth_plan(plans["rows"]).macs_px * 24 * 24


@pytest.mark.parametrize("way", ["rows", "tiles"])
def test_its_tiles_are_the_whole_image(plans, way):
    session = opened(plans[way], 2)
    x, halo = image(20, 70), session.halo_px
    assert halo == 1 + 2 * BLOCKS + 3 + 5
    whole, tile = session.run(x), session.run(x[..., 10:70])
    np.testing.assert_allclose(
        tile[..., 4 * halo :], whole[..., 4 * (10 + halo) :], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("way", ["rows", "tiles"])
def test_an_image_that_is_not_finite_is_refused(plans, way):
    x = image(20, 20)
    x[0, 0, 4, 4] = np.nan
    with pytest.raises(ArtifactError, match="the depth map has values that are not in 0..3"):
        opened(plans[way], 2).run(x)


@pytest.mark.parametrize("way", ["rows", "tiles"])
def test_all_that_any_image_may_ask_for_is_computed_to_learn_its_memory(plans, way):
    session, seen = opened(plans[way], 0), []
    session._parts = [
        lambda n=n, part=part, **given: seen.append(n) or part(**given)
        for n, part in enumerate(session._parts)
    ]
    session.run(image(20, 30))
    session.run_all_paths((20, 30))
    assert set(seen) == set(range(len(session._parts)))


@pytest.mark.parametrize("text, depth", [("d2", 2.0), ("d1.5", 1.5)])
def test_variants_are_desired_depths(plans, text, depth):
    assert parse_depth(text, BLOCKS) == depth


@pytest.mark.parametrize("text", ["3", "d", "dnan", "w2", ""])
def test_other_words_are_no_depths(plans, text):
    with pytest.raises(VariantError, match="is not a desired depth; expected for example d1"):
        parse_depth(text, BLOCKS)


@pytest.mark.parametrize(
    "depth, match",
    [
        (-1, "depth -1; expected 0"),
        (3.5, "depth 3.5; expected 0 to 3"),
        (float("nan"), "desired depth nan"),
    ],
)
def test_a_desired_depth_that_the_backbone_has_not_is_refused(plans, depth, match):
    with pytest.raises(VariantError, match=match):
        opened(plans["rows"], depth)
    session = opened(plans["rows"])
    session.depth = depth
    with pytest.raises(VariantError, match=match):
        session.run(image(4, 4))


@pytest.mark.parametrize(
    "x",
    [np.zeros((3, 4, 4), np.float32), np.zeros((1, 3, 4, 4)), np.zeros((2, 3, 4, 4), np.float32)],
)
def test_other_arrays_are_refused(plans, x):
    with pytest.raises(InputError, match=r"expected a \(1, 3, H, W\) float32 array"):
        opened(plans["tiles"]).run(x)


def test_a_plan_without_its_graphs_or_with_changed_ones_is_refused(tmp_path):
    path = tmp_path / "ada.rows.json"
    with pytest.raises(ArtifactError, match="there is no file"):
        opened(path)
    path.write_text(to_json(with_parts(PLAN)))
    with pytest.raises(ArtifactError, match="ada.start.onnx, which does not exist"):
        opened(path)
    (tmp_path / "ada.start.onnx").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="was changed after its plan was written"):
        opened(path)


@pytest.mark.parametrize("way", ["rows", "tiles"])
def test_a_single_row_of_pixels_is_refused(plans, way):
    with pytest.raises(InputError, match="the smallest is 2x2"):
        opened(plans[way]).run(image(1, 5))


def test_a_network_trained_for_one_depth_is_asked_for_none():
    fixed = replace(PLAN, fixed=True)
    info = BackendInfo("", "", 1)
    assert AdaDSR(fixed, [], info, depth=None).depth == 1.5
    with pytest.raises(VariantError, match="'ada' was trained for one depth"):
        AdaDSR(fixed, [], info, depth=2)


def test_on_a_gpu_the_same_comes_out_and_the_first_runs_are_observed(plans, monkeypatch):
    """The GPU is a stand-in: no test of ours has run on one."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from doubles.onnxruntime_cuda import StandInOrtCuda

    from sr_deploy.runtime import ort_device

    expected = AdaDSR.from_plan(plans["tiles"], depth=1.5, run=CPU_RUN)
    x = image(40, 80)
    y = expected.run(x)
    assert (expected.place, expected.settings, expected.threads) != ("", "", None)
    monkeypatch.setattr(ort_device, "torch_with_cuda", lambda index: None)
    monkeypatch.setattr(ort_device, "_cuda_binding", lambda index: None)
    ort = StandInOrtCuda(monkeypatch)
    session = AdaDSR.from_plan(plans["tiles"], depth=1.5, run=RunOptions(device="cuda"))
    assert (session.backend, session.place, session.threads) == ("onnxruntime-cuda", "cuda:0", None)
    np.testing.assert_allclose(session.run(x), y, atol=1e-5)
    assert session.settings == "TF32 off, waits after each run, copies timed with it"
    ort.failing["on_cpu"] = [node.name for node in _nodes(plans["tiles"])]
    again = AdaDSR.from_plan(plans["tiles"], depth=1.5, run=RunOptions(device="cuda"))
    with pytest.raises(CannotRunHereError, match="nodes on the CPU instead of by CUDAExecution"):
        again.run(x)
    ort.failing["run"] = "Failed to allocate memory for requested buffer of size 7"
    with pytest.raises(DeviceMemoryError, match="is out of memory while onnxruntime runs"):
        session.run(x)


def _nodes(plan):
    import onnx

    return [n for f in plan.parent.glob("*.onnx") for n in onnx.load(str(f)).graph.node]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: [],
        lambda outputs: [*outputs, outputs[0]],
        lambda outputs: [y[..., :-1] for y in outputs],
        lambda outputs: [y[:, 0] for y in outputs],
        lambda outputs: [y.astype(np.int64) for y in outputs],
    ],
)
def test_a_part_that_does_not_fit_its_plan_is_refused(plans, number, change):
    session = opened(plans["rows"], 3)
    part, parts = session._parts[number], list(session._parts)
    parts[number] = lambda **inputs: change(part(**inputs))
    session._parts = parts
    with pytest.raises(ArtifactError, match="does not fit its plan: it gives"):
        session.run_all_paths((9, 25))


def test_depths_beyond_the_blocks_are_refused(plans):
    session = opened(plans["rows"], 3)
    start = session._parts[0]
    session._parts = [
        lambda **inputs: [y - 1 for y in start(**inputs)],
        *session._parts[1:],
    ]
    with pytest.raises(ArtifactError, match="the depth map has values that are not in 0..3"):
        session.run(image(9, 25))
