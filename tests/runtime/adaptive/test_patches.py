import json

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.routers import RoutedPlan, patch_spans
from sr_deploy.core.session import BackendInfo
from sr_deploy.runtime.adaptive.patches import RoutedSession

PLAN = RoutedPlan(
    model="r",
    scale=2,
    names=("a", "b", "c"),
    macs=(10, 20, 40),
    router_macs=2,
    patch=8,
    parent_sha256="0",
    overlap=2,
)


def router(patches):
    """By the mean of a patch: dark, middling, bright."""
    mean = patches.mean(axis=(1, 2, 3))
    return np.stack([-mean, 0.5 - np.abs(mean - 0.5) * 3, mean - 0.6], axis=1)


def enlarged(by):
    return lambda patches: patches.repeat(2, axis=2).repeat(2, axis=3) + np.float32(by)


def routed(plan=PLAN, branches=(0, 0, 0), **more):
    return RoutedSession(
        plan,
        router,
        [enlarged(b) for b in branches],
        BackendInfo("numpy", "", 1),
        **more,
    )


def image(h, w):
    x = np.random.default_rng(0).random((1, 3, h, w), dtype=np.float32) * 0.1
    x[..., w // 3 :] += 0.4
    x[..., 2 * w // 3 :] += 0.4
    return x


@pytest.mark.parametrize("h, w", [(8, 8), (20, 50), (9, 33), (1, 1), (3, 40), (7, 90)])
def test_what_all_branches_agree_on_is_what_comes_out(h, w):
    x = image(h, w)
    np.testing.assert_allclose(
        routed().run(x), x.repeat(2, axis=2).repeat(2, axis=3), rtol=0, atol=1e-6
    )


def test_each_patch_goes_through_its_own_branch_and_the_rest_is_blended():
    x = image(8, 60)
    done = routed(branches=(0, 1, 2)).run_adaptive(x)
    added = (done.y_nchw - x.repeat(2, axis=2).repeat(2, axis=3))[0, 0, 0]
    assert set(np.unique(done.decisions)) == {0, 0.5, 1}
    np.testing.assert_allclose(added[:30], 0, atol=1e-6)
    np.testing.assert_allclose(added[-30:], 2, atol=1e-6)
    assert np.all(np.diff(added) > -1e-5)  # blends rise from one to the next
    starts, _ = patch_spans(60, 8, 2)
    counts = {name: px // 64 for name, px in done.work.pixels.items()}
    assert sum(counts.values()) == len(starts) and min(counts.values()) > 0
    assert done.work.macs == 10 * counts["a"] + 20 * counts["b"] + 40 * counts["c"] + 2 * len(
        starts
    )
    assert done.work.plain_macs == 40 * 8 * 60 / 8**2  # not 40 for each overlapping patch
    assert set(done.work.ms) == {"cut", "decide", "a", "b", "c", "blend"}


def test_tiles_on_its_grid_are_the_whole_image():
    session, x = routed(branches=(0, 1, 2)), image(8, 100)
    assert (session.halo_px, session.align_px) == (8, 6)
    whole, tile = session.run(x), session.run(x[..., 24:84])
    np.testing.assert_array_equal(tile[..., 16:-16], whole[..., 2 * 24 + 16 : 2 * 84 - 16])
    assert routed(max_share=0.8).halo_px is None  # a budget is kept on each tile by itself


def test_a_budget_is_of_the_plain_network_on_the_whole_image():
    session, x = routed(max_share=0.8), image(30, 90)
    patches = 5 * 15
    session.reset_work()
    session.run(x)
    work = session.executed_work()
    assert work.plain_macs == 40 * 30 * 90 / 64 and 0.75 < work.share <= 0.8
    session.reset_work(own=0.9)  # as tiles do whose halos are a tenth of what they are fed
    session.run(x)
    work = session.executed_work()
    assert work.plain_macs == pytest.approx(0.9 * 40 * 30 * 90 / 64) and 0.75 < work.share <= 0.8
    session = routed(max_share=0.5)
    with pytest.raises(InputError, match="'a' on its 75 overlapping patches take 53.3%") as caught:
        session.run(x)
    assert caught.value.hint == "give 54% or more"
    assert patches * 12 / (40 * 30 * 90 / 64) == pytest.approx(0.533, abs=1e-3)
    with pytest.raises(InputError, match="is too small for 1x1: .*1 overlapping") as caught:
        session.run(image(1, 1))
    assert caught.value.hint == "omit the budget"
    session.reset_work(budget=False)  # as probes of the memory do
    session.run(x)
    with pytest.raises(InputError, match="the router and 'a' everywhere take 30.0%"):
        routed(max_share=0.2)


def test_all_branches_are_run_to_learn_their_memory():
    session, seen = routed(), []
    session.branches = [lambda patches, n=n: seen.append((n, patches.shape)) for n in range(3)]
    session.run_all_paths((20, 30))
    assert seen == [(n, (16, 3, 8, 8)) for n in range(3)]


def test_a_router_of_other_classes_is_refused():
    session = routed()
    session.router = lambda patches: np.zeros((len(patches), 2))
    with pytest.raises(
        ArtifactError, match=r"does not fit its plan: it gives \(\d+, 2\), expected"
    ):
        session.run(image(8, 60))


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 16, 17), (1, 16, 16), (16, 16)])
def test_a_branch_of_another_scale_is_refused(shape):
    session = routed()
    session.branches = [lambda patches: np.zeros((len(patches), *shape), np.float32)] * 3
    with pytest.raises(ArtifactError, match="does not fit its plan: it gives"):
        session.run(image(8, 60))


def test_what_is_spent_adds_up_until_it_begins_anew():
    session, x = routed(), image(8, 60)
    session.run(x)
    once = session.executed_work().macs
    session.run(x)
    assert session.executed_work().macs == 2 * once
    session.reset_work()
    assert session.executed_work().macs == 0 and session.executed_work().share == 1
    session.decisions = []
    session.run(x)
    assert [d.shape for d in session.decisions] == [(8, 60, 2)]


def test_a_deployed_router_is_what_torch_makes_of_its_checkpoints(tmp_path, small_router):
    from sr_deploy.runtime.opener import open_session

    plan_from_router = pytest.importorskip(
        "sr_deploy.export.plans", reason="needs torch and onnx"
    ).plan_from_router

    plan = plan_from_router(small_router, tmp_path)
    x = np.random.default_rng(1).random((1, 3, 21, 40), dtype=np.float32)
    x[..., :20] *= 0.2
    deployed, torch = (open_session(given) for given in (plan, small_router.path))
    a, b = deployed.run_adaptive(x), torch.run_adaptive(x)
    np.testing.assert_allclose(a.y_nchw, b.y_nchw, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(a.decisions, b.decisions)
    assert (a.work.macs, a.work.pixels) == (b.work.macs, b.work.pixels)
    assert (deployed.backend, torch.backend) == ("onnxruntime", "torch")
    parts = json.loads(plan.read_text())["parts"]
    assert {part["file"] for part in parts.values()} == {
        "small_x4.router.onnx",
        "small_x4.tiny_x4.d1.onnx",
        "small_x4.tiny_x4.d2.onnx",
    }
