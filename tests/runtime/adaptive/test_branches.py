"""Routers whose patches are not blended: the same session as that of elastic networks."""

from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.core.budgets import Budget
from sr_deploy.core.elastic_plan import read_elastic_plan
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.jsonio import to_json

pytest.importorskip("torch", reason="torch makes the networks")
from doubles.branches import small_branches  # noqa: E402


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    return small_branches(tmp_path_factory.mktemp("branches"))


@pytest.fixture(scope="module")
def session(router):
    from sr_deploy.runtime.opener import open_session

    return open_session(router.path)


@pytest.fixture(autouse=True)
def restored(session, monkeypatch):
    for name in ("budget", "_parts", "plan"):
        monkeypatch.setattr(session, name, getattr(session, name))


def image(h, w):
    return np.random.default_rng(0).random((1, 3, h, w), dtype=np.float32)


def score(session, scores):
    """Replace the scores of the router: (branches - 1, rows, columns)."""
    given = np.asarray(scores, np.float32)[None]
    session._parts = {**session._parts, "gains": lambda lr: [session.arrays.to_device(given)]}


def by_whole_images(router, x, decisions):
    import torch

    with torch.no_grad():
        images = [net(torch.from_numpy(x)).numpy()[0] for net in router.branch_networks()]
    classes = np.rint(decisions * 2).astype(int)
    return np.choose(classes.repeat(2, axis=0).repeat(2, axis=1), images)[None]


@pytest.mark.parametrize("h, w", [(300, 420), (70, 500), (260, 330)])
def test_each_patch_is_cut_out_of_its_branch_on_the_whole_image(router, session, h, w):
    rows, columns = -(-h // 32), -(-w // 32)
    wanted = np.zeros((rows, columns), int)  # large areas of one branch: margins cost little
    wanted[:, columns // 2 :] = 1
    wanted[-1, -1] = 2
    score(session, [np.where(wanted == k, 5, -1) for k in (1, 2)])
    x = image(h, w)
    output = session.run_adaptive(x)
    shown = wanted.repeat(32, axis=0).repeat(32, axis=1)[:h, :w] / 2
    np.testing.assert_array_equal(output.decisions, shown)
    expected = by_whole_images(router, x, output.decisions)
    np.testing.assert_allclose(output.y_nchw, expected, rtol=0, atol=1e-5)
    assert 0 < output.work.share <= 1.01 and sum(output.work.pixels.values()) == h * w


@pytest.mark.parametrize("h, w", [(2, 2), (5, 31), (31, 5), (33, 64)])
def test_small_images(router, session, h, w):
    x = image(h, w)
    output = session.run_adaptive(x)
    expected = by_whole_images(router, x, output.decisions)
    np.testing.assert_allclose(output.y_nchw, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("price", [0.0, 1e-12])
def test_no_more_is_computed_than_by_the_largest_branch(session, price):
    h, w = 256, 256
    wanted = np.indices((8, 8)).sum(0) % 2 + 1  # a chessboard: margins everywhere
    score(session, [np.where(wanted == k, 5, 0) for k in (1, 2)])
    session.plan = replace(session.plan, price=price)
    output = session.run_adaptive(image(h, w))
    gains = session.plan.gains_macs_of((h, w))
    assert output.work.macs - gains <= output.work.plain_macs


def test_where_all_go_to_the_largest_the_plain_network_runs(router, session):
    score(session, np.stack([np.zeros((3, 4)), np.ones((3, 4))]))
    x = image(90, 120)
    output = session.run_adaptive(x)
    assert (output.decisions == 1).all() and set(output.work.ms) == {"choice", "w8.whole"}
    assert output.work.macs == output.work.plain_macs + session.plan.gains_macs_of((90, 120))
    np.testing.assert_allclose(
        output.y_nchw, by_whole_images(router, x, output.decisions), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("share", [0.9, 0.97])
def test_a_budget_is_kept_and_used(session, share):
    h, w = 320, 640
    first = np.arange(20) ** 3 * np.random.default_rng(0).uniform(0.9, 1, (10, 20))
    score(session, [first, 2 * first])
    session.budget = Budget(share)
    work = session.run_adaptive(image(h, w)).work
    assert share - 0.03 < work.share <= share
    session.budget = Budget(0.5)
    with pytest.raises(InputError, match=r"a budget of 50.0% of 'fsrcnn-w8_x2.w8' .* too small"):
        session.run_adaptive(image(h, w))


@pytest.fixture(scope="module")
def plan(router, tmp_path_factory):
    pytest.importorskip("onnx", reason="onnx makes the graphs")
    from sr_deploy.export.plans import plan_from_router

    return plan_from_router(router, tmp_path_factory.mktemp("plan"))


@pytest.mark.slow
def test_its_graphs_are_what_torch_makes_of_the_checkpoints(plan, session):
    from sr_deploy.runtime.opener import open_session

    x = image(40, 150)
    deployed = open_session(plan)
    run, torch_run = deployed.run_adaptive(x), session.run_adaptive(x)
    np.testing.assert_allclose(run.y_nchw, torch_run.y_nchw, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(run.decisions, torch_run.decisions)
    assert run.work.macs == torch_run.work.macs
    score(session, [np.where([[k == 1] * 3 + [k == 2] * 2] * 2, 5, -1) for k in (1, 2)])
    tiles = session.run_adaptive(x).y_nchw
    session._parts = {**deployed._parts, "gains": session._parts["gains"]}
    np.testing.assert_allclose(session.run_adaptive(x).y_nchw, tiles, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"branches": ("a",)}, "it names 1 branches for 3 tails"),
        ({"price": -1.0}, "its price is -1.0"),
        ({"gains_macs": 0}, "depths, margins and costs are inconsistent"),
    ],
)
def test_plans_that_cannot_be(session, tmp_path, change, message):
    broken = tmp_path / "broken.branches.json"
    broken.write_text(to_json(replace(session.plan, **change)))
    with pytest.raises(ArtifactError, match=message):
        read_elastic_plan(broken)
