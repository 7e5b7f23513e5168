from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.adaptive.adadsr import AdaDSR, binned
from sr_deploy.core.depths import DepthPlan, read_plan
from sr_deploy.core.errors import ArtifactError, InputError, VariantError
from sr_deploy.core.jsonio import to_json


def masked(checkpoint, x, depth):
    import torch

    with torch.inference_mode():
        y, depth_map = checkpoint.network().forward_at(torch.from_numpy(x), torch.tensor([float(depth)]))
    return y.numpy(), depth_map.numpy()[0, 0]


def image(h, w, seed=0):
    """Half flat and half noise, so that depths differ."""
    x = np.full((1, 3, h, w), 0.4, np.float32)
    x[..., w // 2 :] = np.random.default_rng(seed).random((1, 3, h, w - w // 2), dtype=np.float32)
    return x


@pytest.mark.parametrize("way", ["rows", "tiles"])
@pytest.mark.parametrize("h, w", [(14, 28), (13, 31), (2, 2), (7, 2), (3, 40)])
@pytest.mark.parametrize("depth", [0, 1.5, 3])
def test_both_ways_equal_the_masked_dense_network(checkpoint, plans, way, h, w, depth):
    x = image(h, w)
    found = AdaDSR(plans[way]).run(x, depth=depth)
    y, depth_map = masked(checkpoint, x, depth)
    np.testing.assert_allclose(found.y_nchw, y, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.depth_map, depth_map, rtol=0, atol=1e-5)


def test_the_images_of_these_tests_have_all_depths_and_bins(checkpoint, plans):
    found = AdaDSR(plans["tiles"]).run(image(14, 60), depth=3)
    assert set(np.unique(np.ceil(found.depth_map))) == {0, 1, 2, 3}
    bins = binned(read_plan(plans["tiles"]), found.depth_map)
    assert all(bins.values())
    assert sum(map(len, bins.values())) == 2 * 9
    assert set(found.ms) == {"map", "1 blocks", "3 blocks"}


PLAN = DepthPlan(
    model="ada", scale=4, blocks=3, way="rows", parent_sha256="", graphs={"ada.rows.onnx": "0"}, macs_px=1, conv_macs_px=1, map_macs_px=1
)


def test_a_tile_goes_as_deep_as_the_deepest_pixel_that_the_layers_after_the_blocks_reach():
    plan = replace(PLAN, way="tiles", tile=7, depths=(1, 3))
    depth_map = np.zeros((7, 21), np.float32)
    depth_map[3, 9] = 1.5  # three pixels right of the first tile
    assert binned(plan, depth_map) == {1: [(0, 14)], 3: [(0, 0), (0, 7)]}
    depth_map[3, 9], depth_map[3, 10] = 0, 1.5
    assert binned(plan, depth_map) == {1: [(0, 0), (0, 14)], 3: [(0, 7)]}


def test_a_smaller_desired_depth_executes_less(plans):
    runtime = AdaDSR(plans["rows"])
    small, large = (runtime.run(image(24, 24), depth=d) for d in (0, 3))
    assert small.share < large.share
    assert small.macs == pytest.approx(small.share * runtime.plan.macs_px * 24 * 24)


@pytest.mark.parametrize("depth, match", [(-1, "negative"), (3.5, "beyond the 3 blocks"), (float("nan"), "desired depth of nan")])
def test_a_desired_depth_that_the_backbone_has_not_is_refused(plans, depth, match):
    with pytest.raises(VariantError, match=match):
        AdaDSR(plans["rows"]).run(image(4, 4), depth=depth)


@pytest.mark.parametrize("x", [np.zeros((3, 4, 4), np.float32), np.zeros((1, 3, 4, 4)), np.zeros((2, 3, 4, 4), np.float32)])
def test_other_arrays_are_refused(plans, x):
    with pytest.raises(InputError, match=r"expected a \(1, 3, H, W\) float32 array"):
        AdaDSR(plans["tiles"]).run(x, depth=1)


def test_a_plan_without_its_graphs_or_with_changed_ones_is_refused(tmp_path):
    path = tmp_path / "ada.rows.json"
    with pytest.raises(ArtifactError, match="there is no file"):
        AdaDSR(path)
    path.write_text(to_json(PLAN))
    with pytest.raises(ArtifactError, match="ada.rows.onnx, which is not beside it"):
        AdaDSR(path)
    (tmp_path / "ada.rows.onnx").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="was changed after its plan was written"):
        AdaDSR(path)


def test_a_single_row_of_pixels_is_refused_by_rows_and_taken_by_tiles(checkpoint, plans):
    x = image(1, 5)
    with pytest.raises(InputError, match="too small for ada by rows: the smallest is 2x2"):
        AdaDSR(plans["rows"]).run(x, depth=1)
    np.testing.assert_allclose(AdaDSR(plans["tiles"]).run(x, depth=1).y_nchw, masked(checkpoint, x, 1)[0], rtol=0, atol=1e-5)
