from dataclasses import replace

import numpy as np
import pytest
from doubles.plans import with_parts

from sr_deploy.core.depth_plan import (
    DepthPlan,
    Window,
    choose_windows,
    parse_depth,
    read_depth_plan,
)
from sr_deploy.core.errors import (
    ArtifactError,
    CannotRunHereError,
    DeviceMemoryError,
    InputError,
    VariantError,
)
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.parts import OpenParts
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


@pytest.mark.parametrize("h, w", [(14, 28), (13, 31), (2, 2), (7, 2), (3, 40), (40, 80)])
@pytest.mark.parametrize("depth", [0, 1.5, 3])
def test_it_equals_the_masked_dense_network(checkpoint, depth_plan_path, h, w, depth):
    x = image(h, w)
    found = opened(depth_plan_path, depth).run_adaptive(x)
    y, depth_map = masked(checkpoint, x, depth)
    np.testing.assert_allclose(found.y_nchw, y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(BLOCKS * found.decisions, depth_map, rtol=0, atol=1e-5)


def test_windows_give_what_the_whole_network_gives(depth_plan_path):
    session, seen = opened(depth_plan_path, 3), []
    depth_map = np.zeros((1, 1, 100, 120), np.float32)
    depth_map[..., 40:44, 50:58] = np.linspace(0, 3, 8)
    depth_map[..., 95:, 110:] = 1.5
    parts = {**session._parts, "map": lambda **inputs: [depth_map]}
    session._parts = recorded(parts, seen)
    x = image(100, 120)
    found = session.run_adaptive(x)
    assert seen[:3] == ["map", "head", "b1"] and seen[-2:] == ["b3", "end"]
    assert found.work.share < 0.9 and sum(found.work.pixels.values()) == 100 * 120
    (expected,) = parts["whole"](lr=x, depth_map=depth_map)
    np.testing.assert_allclose(found.y_nchw, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("h, w", [(9, 25), (90, 70)])
def test_a_group_on_windows_is_that_group_everywhere_where_it_is_needed(depth_plan_path, h, w):
    session, rng = opened(depth_plan_path), np.random.default_rng(0)
    features = rng.standard_normal((1, 8, h, w)).astype(np.float32)
    depth_map = np.zeros((1, 1, h, w), np.float32)
    for top, left in ((0, 0), (h - 1, 2), (h // 2, w - 1)):
        depth_map[..., top : top + 3, left : left + 3] = 2.5
    choice = choose_windows(session.plan, depth_map[0])
    everywhere = (Window((0, 0, h, w), (0, 0), (h, w)),)
    for last, windows in zip(session.plan.depths, choice.groups):
        before = features.copy()
        found, expected = (
            session._run_group(f"b{last}", given, features, depth_map)
            for given in (windows, everywhere)
        )
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert (features == before).all() and np.abs(found - features).max() > 0.1


def test_where_all_is_deep_only_the_map_and_the_whole_network_run(depth_plan_path):
    session, seen = opened(depth_plan_path, 3), []
    session._parts = recorded(session._parts, seen)
    noise = np.random.default_rng(0).random((1, 3, 40, 40), dtype=np.float32)
    found = session.run_adaptive(noise)
    assert seen == ["map", "whole"] == list(found.work.ms)
    plan = session.plan
    assert found.work.macs == (plan.macs_px + plan.map_macs_px) * 1600


def recorded(parts, seen):
    return {
        role: lambda role=role, part=part, **given: seen.append(role) or part(**given)
        for role, part in parts.items()
    }


@pytest.fixture(params=["graphs", "torch"])
def attended(request, small_adarcan):
    """Return a session of a small AdaRCAN; its graphs have one residual group, torch two."""
    if request.param == "graphs":
        return opened(request.getfixturevalue("adarcan_plan_path"))
    from sr_deploy.nets.sparse import depth_plan, load_adadsr, split_network
    from sr_deploy.runtime.torch_device import TorchDevice
    from sr_deploy.runtime.torch_module import tensor_part

    checkpoint, net = load_adadsr(small_adarcan(2))
    plan, device = depth_plan(checkpoint, net), TorchDevice()
    modules = split_network(net, plan).items()
    parts = {role: tensor_part(module, device) for role, module in modules}
    return AdaDSR(plan, OpenParts(parts, device.info()), depth=1)


def test_an_adarcan_equals_the_masked_network_at_every_depth(attended, small_adarcan):
    ways, groups = set(), attended.plan.maps
    for attended.depth in (0, 0.3, 1, 2):
        for h, w in ((2, 2), (13, 31), (40, 150)):
            x = image(h, w)
            x[..., 6:, :] = 0.4
            found = attended.run_adaptive(x)
            y, depth_maps = every_map(small_adarcan(groups), x, attended.depth)
            np.testing.assert_allclose(found.y_nchw, y, rtol=0, atol=1e-5)
            mean = depth_maps.mean(axis=0)
            np.testing.assert_allclose(2 * found.decisions, mean, rtol=0, atol=1e-5)
            assert sum(found.work.pixels.values()) == h * w
            ways.add(tuple(found.work.ms))
    by_groups = [f"group {number}" for number in range(1, groups + 1)]
    assert ways == {("map", "head", *by_groups, "end"), ("map", "whole")}
    assert attended.levels[2] == f"1 blocks (mean of {groups} groups)"
    assert attended.halo_px is None  # tiles of a large image are not exact, as those of RCAN


def every_map(checkpoint, x, depth):
    import torch

    with torch.inference_mode():
        y, maps = checkpoint.network().forward_at(torch.from_numpy(x), torch.tensor([float(depth)]))
    return y.numpy(), maps.numpy()[0]


def test_blocks_of_an_adarcan_run_on_windows_and_attend_to_all_of_them(attended):
    seen, maps = [], np.zeros((1, 2, 150, 170), np.float32)
    maps[0, 0, 40:44, 50:58] = np.linspace(0, 2, 8)
    maps[0, 0, 145:, 160:] = 0.5
    maps[0, 1, :, :60] = 0.7
    maps = maps[:, : attended.plan.maps]
    parts = {**attended._parts, "map": lambda **inputs: [attended.arrays.to_device(maps)]}
    attended._parts = recorded(parts, seen)
    x = attended.arrays.to_device(image(150, 170))
    found = attended.run_adaptive(image(150, 170))
    assert "g2.b2" not in seen and seen.count("factors") == 1 + attended.plan.maps
    assert seen.count("g1.b1") == 2 and found.work.share < 0.9
    (whole,) = parts["whole"](lr=x, depth_map=attended.arrays.to_device(maps))
    whole = attended.arrays.to_host(whole)
    np.testing.assert_allclose(found.y_nchw, whole, rtol=0, atol=1e-5)
    (none,) = parts["whole"](lr=x, depth_map=attended.arrays.to_device(0 * maps))
    assert np.abs(attended.arrays.to_host(none) - whole).max() > 1e-3


PLAN = DepthPlan(
    model="ada",
    scale=4,
    blocks=3,
    parent_sha256="",
    macs_px=1,
    conv_macs_px=1,
    map_macs_px=1,
    depths=(3,),
)


def test_a_smaller_desired_depth_executes_less(depth_plan_path):
    small, large = (opened(depth_plan_path, d).run_adaptive(image(24, 24)).work for d in (0, 3))
    assert small.share < large.share
    assert small.plain_macs == read_depth_plan(depth_plan_path).macs_px * 24 * 24


def test_its_tiles_are_the_whole_image(depth_plan_path):
    session = opened(depth_plan_path, 2)
    x, halo = image(20, 70), session.halo_px
    assert halo == 1 + 2 * BLOCKS + 3 + 5
    whole, tile = session.run(x), session.run(x[..., 10:70])
    np.testing.assert_allclose(
        tile[..., 4 * halo :], whole[..., 4 * (10 + halo) :], rtol=0, atol=1e-5
    )


def test_an_image_that_is_not_finite_is_refused(depth_plan_path):
    x = image(20, 20)
    x[0, 0, 4, 4] = np.nan
    with pytest.raises(ArtifactError, match="the depth map has values that are not in 0..3"):
        opened(depth_plan_path, 2).run(x)


def test_all_that_any_image_may_ask_for_is_computed_to_learn_its_memory(depth_plan_path):
    session, seen = opened(depth_plan_path, 0), []
    session._parts = recorded(session._parts, seen)
    session.run(image(20, 30))
    session.run_all_paths((20, 30))
    assert set(seen) == set(session.plan.roles())


@pytest.mark.parametrize("text, depth", [("d2", 2.0), ("d1.5", 1.5)])
def test_variants_are_desired_depths(depth_plan_path, text, depth):
    assert parse_depth(text, BLOCKS) == depth


@pytest.mark.parametrize("text", ["3", "d", "dnan", "w2", ""])
def test_other_words_are_no_depths(depth_plan_path, text):
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
def test_a_desired_depth_that_the_backbone_has_not_is_refused(depth_plan_path, depth, match):
    with pytest.raises(VariantError, match=match):
        opened(depth_plan_path, depth)
    session = opened(depth_plan_path)
    session.depth = depth
    with pytest.raises(VariantError, match=match):
        session.run(image(4, 4))


@pytest.mark.parametrize(
    "x",
    [np.zeros((3, 4, 4), np.float32), np.zeros((1, 3, 4, 4)), np.zeros((2, 3, 4, 4), np.float32)],
)
def test_other_arrays_are_refused(depth_plan_path, x):
    with pytest.raises(InputError, match=r"expected a \(1, 3, H, W\) float32 array"):
        opened(depth_plan_path).run(x)


def test_a_plan_without_its_graphs_or_with_changed_ones_is_refused(tmp_path):
    path = tmp_path / "ada.adadsr.json"
    with pytest.raises(ArtifactError, match="there is no file"):
        opened(path)
    path.write_text(to_json(with_parts(PLAN)))
    with pytest.raises(ArtifactError, match="ada.map.onnx, which does not exist"):
        opened(path)
    (tmp_path / "ada.map.onnx").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="was changed after its plan was written"):
        opened(path)


def test_a_single_row_of_pixels_is_refused(depth_plan_path):
    with pytest.raises(InputError, match="the smallest is 2x2"):
        opened(depth_plan_path).run(image(1, 5))


def test_a_network_trained_for_one_depth_is_asked_for_none():
    fixed = replace(PLAN, fixed=True)
    opened_parts = OpenParts({}, BackendInfo("", "", 1))
    assert AdaDSR(fixed, opened_parts, depth=None).depth == 1.5
    with pytest.raises(VariantError, match="'ada' was trained for one depth"):
        AdaDSR(fixed, opened_parts, depth=2)


def test_on_a_gpu_the_same_comes_out_and_the_first_runs_are_observed(depth_plan_path, monkeypatch):
    """The GPU is a stand-in: no test of ours has run on one."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from doubles.onnxruntime_cuda import StandInOrtCuda

    from sr_deploy.runtime import ort_device

    expected = AdaDSR.from_plan(depth_plan_path, depth=1.5, run=CPU_RUN)
    x = image(40, 80)
    y = expected.run(x)
    assert (expected.place, expected.settings, expected.threads) != ("", "", None)
    monkeypatch.setattr(ort_device, "torch_with_cuda", lambda index: None)
    monkeypatch.setattr(ort_device, "_cuda_binding", lambda index: None)
    ort = StandInOrtCuda(monkeypatch)
    session = AdaDSR.from_plan(depth_plan_path, depth=1.5, run=RunOptions(device="cuda"))
    assert (session.backend, session.place, session.threads) == ("onnxruntime-cuda", "cuda:0", None)
    np.testing.assert_allclose(session.run(x), y, atol=1e-5)
    assert session.settings == "TF32 off, waits after each run, copies timed with it"
    ort.failing["on_cpu"] = [node.name for node in _nodes(depth_plan_path)]
    again = AdaDSR.from_plan(depth_plan_path, depth=1.5, run=RunOptions(device="cuda"))
    with pytest.raises(CannotRunHereError, match="nodes on the CPU instead of by CUDAExecution"):
        again.run(x)
    ort.failing["run"] = "Failed to allocate memory for requested buffer of size 7"
    with pytest.raises(DeviceMemoryError, match="is out of memory while onnxruntime runs"):
        session.run(x)


def _nodes(plan):
    import onnx

    return [n for f in plan.parent.glob("*.onnx") for n in onnx.load(str(f)).graph.node]


@pytest.mark.parametrize("role", ["map", "whole", "head", "end", "b1", "b2", "b3"])
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
def test_a_part_that_does_not_fit_its_plan_is_refused(depth_plan_path, role, change):
    session = opened(depth_plan_path, 3)
    part = session._parts[role]
    session._parts = {**session._parts, role: lambda **inputs: change(part(**inputs))}
    with pytest.raises(ArtifactError, match="does not fit its plan: it gives"):
        session.run_all_paths((9, 25))


def test_depths_beyond_the_blocks_are_refused(depth_plan_path):
    session = opened(depth_plan_path, 3)
    part = session._parts["map"]
    session._parts = {**session._parts, "map": lambda **inputs: [y - 1 for y in part(**inputs)]}
    with pytest.raises(ArtifactError, match="the depth map has values that are not in 0..3"):
        session.run(image(9, 25))
