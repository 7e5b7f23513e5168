from dataclasses import replace

import numpy as np
import pytest

from sr_deploy.core.budgets import Budget
from sr_deploy.core.errors import ArtifactError, InputError
from sr_deploy.core.parts import OpenParts
from sr_deploy.core.quadtree import Quadtree
from sr_deploy.runtime.adaptive.elastic import ElasticSession, TileWorkers
from sr_deploy.runtime.adaptive.tiles import TorchArrays
from sr_deploy.runtime.gpu_arrays import GpuArrays

pytest.importorskip("torch", reason="torch runs the checkpoint")
from doubles.elastic import DEPTHS, open_in_torch, small_gains  # noqa: E402
from doubles.library import StandInCuda  # noqa: E402


@pytest.fixture(scope="module")
def gains(tmp_path_factory):
    return small_gains(tmp_path_factory.mktemp("gains"))


@pytest.fixture(scope="module")
def session(gains):
    return open_in_torch(gains)


@pytest.fixture(autouse=True)
def restored(session, monkeypatch):
    monkeypatch.setattr(session, "budget", Budget())
    monkeypatch.setattr(session, "_parts", session._parts)
    monkeypatch.setattr(session, "plan", session.plan)
    session.reset_work()


def image(h, w, seed=0):
    return np.random.default_rng(seed).random((1, 3, h, w), dtype=np.float32)


def decide(monkeypatch, session, gains_map):
    """Replace the predicted gains: (depths - 1, rows, columns)."""
    given = gains_map[None].astype(np.float32)
    parts = {**session._parts, "gains": lambda lr: [session.arrays.to_device(given)]}
    monkeypatch.setattr(session, "_parts", parts)


def by_static_networks(gains, x, decisions):
    import torch

    networks = [gains.checkpoint().network(variant) for variant in DEPTHS]
    with torch.no_grad():
        images = [net(torch.from_numpy(x)).numpy()[0] for net in networks]
    depths = np.rint(decisions * (len(DEPTHS) - 1)).astype(int)
    return np.choose(depths.repeat(2, axis=0).repeat(2, axis=1), images)[None]


@pytest.mark.parametrize("h, w", [(70, 130), (140, 65), (65, 33), (9, 97)])
def test_each_tile_is_what_its_depth_gives_on_the_whole_image(gains, session, monkeypatch, h, w):
    cells = -(-h // 32), -(-w // 32)
    wanted = np.random.default_rng(1).integers(0, 3, cells)
    wanted.flat[:3] = 0, 1, 2
    gain = -abs(np.arange(3)[:, None, None] - wanted)
    decide(monkeypatch, session, gain[1:] - gain[:1])
    session.budget = Budget(100.0)  # margins of small tiles cost more than the largest depth
    x = image(h, w)
    output = session.run_adaptive(x)
    shown = wanted.repeat(32, axis=0).repeat(32, axis=1)[:h, :w] / 2
    np.testing.assert_array_equal(output.decisions, shown)
    expected = by_static_networks(gains, x, output.decisions)
    np.testing.assert_allclose(output.y_nchw, expected, rtol=0, atol=1e-5)
    px = output.work.pixels
    assert list(px) == list(DEPTHS) and sum(px.values()) == h * w
    assert set(output.work.ms) == {"start", "choice", "tiles", *DEPTHS}
    workers = TileWorkers(2, session.arrays)
    monkeypatch.setattr(session, "_workers", workers)
    monkeypatch.setattr(workers, "_own_arrays", lambda: TorchArrays(session._info.device))
    np.testing.assert_array_equal(session.run(x), output.y_nchw)
    workers.release()


@pytest.mark.parametrize("hw", [(1, 1), (2, 5), (20, 33), (64, 64)])
@pytest.mark.parametrize("deepest", [False, True])
def test_where_one_depth_is_best_it_runs_on_the_whole_image(
    gains, session, monkeypatch, hw, deepest
):
    rows, columns = (-(-n // 32) for n in hw)
    gain = 9.0 if deepest else -9.0
    decide(monkeypatch, session, np.full((2, rows, columns), gain) * [[[1]], [[2]]])
    monkeypatch.setattr(session, "plan", replace(session.plan, price=1e-12))
    x = image(*hw)
    output = session.run_adaptive(x)
    assert (output.decisions == deepest).all() and "tiles" not in output.work.ms
    expected = by_static_networks(gains, x, output.decisions)
    np.testing.assert_allclose(output.y_nchw, expected, rtol=0, atol=1e-5)
    plan, px = session.plan, hw[0] * hw[1]
    assert output.work.plain_macs == plan.plain_macs_px * px
    cost = list(plan.tails.values())[-1 if deepest else 0]
    assert output.work.macs == plan.gains_macs_of(hw) + cost.whole_px * px


@pytest.mark.parametrize("price", [0.0, 1e-15])
def test_tiles_never_cost_more_than_the_largest_depth(session, monkeypatch, price):
    h, w = 160, 330
    decide(monkeypatch, session, np.random.default_rng(0).normal(size=(2, 5, 11)))
    monkeypatch.setattr(session, "plan", replace(session.plan, price=price))
    session.run(image(h, w))
    work, plan = session.executed_work(), session.plan
    assert 0.9 * work.plain_macs < work.macs <= work.plain_macs + plan.gains_macs_of((h, w))


@pytest.mark.parametrize("share", [0.45, 0.8])
def test_a_budget_of_work_is_kept(session, monkeypatch, share):
    h, w = 160, 330
    first = np.random.default_rng(0).random((1, 5, 11)) ** 4
    gains_map = np.concatenate([first, 2 * first])
    decide(monkeypatch, session, gains_map)
    session.budget = Budget(share)
    session.run(image(h, w))
    work = session.executed_work()
    assert 0.93 * share < work.share <= share
    session.reset_work(own=0.9)  # as tiles do whose overlaps are a tenth of what they are fed
    session.run(image(h, w))
    assert session.executed_work().share <= share
    session.reset_work(budget=False)  # as probes of the memory do, in any size
    decide(monkeypatch, session, gains_map[:, :1, :1])
    session.run(image(1, 1))
    session.reset_work()
    session.budget = Budget(0.45)
    with pytest.raises(InputError, match="too small for 1x1: 'deep_x2.d1' everywhere"):
        session.run(image(1, 1))


def test_opening_runs_no_part_whose_memory_a_probe_would_miss(session):
    def refuse(**inputs):
        raise AssertionError("a part was run")

    opened = OpenParts(dict.fromkeys(session._parts, refuse), session._info)
    ElasticSession(session.plan, opened, budget=Budget(max_ms=50.0))


class Clock:
    """Time that passes only while parts run, in proportion to their work."""

    def __init__(self, session, slower=1.0):
        self.now, self.slower, self._session = 0.0, slower, session
        self.parts = {role: self._timed(role, part) for role, part in session._parts.items()}

    def __call__(self):
        return self.now

    def _timed(self, role, part):
        def run(**inputs):
            plan = self._session.plan
            n, _, h, w = next(iter(inputs.values())).shape
            if role in plan.tails:
                margins = 2 * plan.tails[role].margin
                macs = n * plan.tails[role].of(np.array(h - margins), np.array(w - margins))
            else:
                whole = plan.tails.get(role.partition(".")[0])
                starts = plan.start_macs_px if role == "start" else 0
                macs = h * w * (starts if whole is None else whole.whole_px)
            self.now += float(macs) * 1e-10 * self.slower
            return part(**inputs)

        return run


@pytest.mark.parametrize(("share", "slower"), [(0.5, 1.0), (0.8, 1.0), (0.8, 1.4), (0.8, 0.7)])
def test_a_budget_of_time_is_kept(gains, session, monkeypatch, share, slower):
    h, w = 160, 330
    clock = Clock(session)
    monkeypatch.setattr(session, "_clock", clock)
    monkeypatch.setattr(session, "_parts", clock.parts)
    monkeypatch.setattr(session, "_rates", session._timed_rates())
    clock.slower = slower
    first = np.random.default_rng(0).random((1, 5, 11)) ** 4
    decide(monkeypatch, session, np.concatenate([first, 2 * first]))
    ms = share * session.plan.plain_macs_px * h * w * 1e-7
    session.budget, x = Budget(max_ms=ms), image(h, w)
    began = clock.now
    output = session.run_adaptive(x)
    used = (clock.now - began) * 1000
    assert 0.93 * ms < used <= ms
    assert output.work.macs == pytest.approx(used / slower * 1e7, rel=0.01)
    expected = by_static_networks(gains, x, output.decisions)
    np.testing.assert_allclose(output.y_nchw, expected, rtol=0, atol=1e-5)
    session.reset_work(fed_px=2 * h * w)  # half of the image's time
    with pytest.raises(InputError, match="is too short for 160x330 in tiles: 'deep_x2.d1'") as e:
        session.budget = Budget(max_ms=0.5 * ms)
        session.run(x)
    assert e.value.hint.endswith("ms or more")


def test_a_budget_below_the_smallest_depth_is_refused_when_it_opens(gains):
    with pytest.raises(InputError, match="a budget of 20.0% of 'deep_x2.d4' .* is too small"):
        open_in_torch(gains, budget=Budget(0.2))


def test_tiles_of_a_large_image_choose_as_the_whole_image_does(session):
    x = image(140, 300)
    whole, tile = session.run_adaptive(x), session.run_adaptive(x[..., 128:])
    assert session.align_px == 128
    np.testing.assert_array_equal(tile.decisions[:, 32:], whole.decisions[:, 160:])


def test_all_that_an_image_may_need_is_run_to_learn_its_memory(session, monkeypatch):
    seen = []

    def noted(role, part):
        return lambda **inputs: seen.append((role, inputs)) or part(**inputs)

    parts = {role: noted(role, part) for role, part in session._parts.items()}
    monkeypatch.setattr(session, "_parts", parts)
    session.run_all_paths((40, 50))
    assert [role for role, _ in seen] == ["gains", "d4.whole", "start", "d4"]
    seen.clear()
    session.take_fixed_memory()
    assert [role for role, _ in seen] == ["start", "d4", "d4"]
    fed = [inputs["features"].shape for _, inputs in seen[1:]]
    assert fed == [(1, 96, 154, 154), (4, 96, 90, 90)]


@pytest.mark.parametrize(
    "role, output, words",
    [
        ("gains", [np.zeros((1, 1, 9, 9), np.float32)], "gains does not fit its plan"),
        ("gains", None, "the predicted gains are not finite"),
        ("d1.whole", [np.zeros((1, 3, 9, 9), np.float32)], "d1.whole does not fit its plan"),
    ],
)
def test_parts_that_give_something_else_are_refused(session, monkeypatch, role, output, words):
    if output is None:
        decide(monkeypatch, session, np.full((2, 1, 1), np.nan))
    else:
        decide(monkeypatch, session, np.zeros((2, 1, 1)))  # the smallest depth, as a whole
        monkeypatch.setattr(session, "_parts", {**session._parts, role: lambda **inputs: output})
    with pytest.raises(ArtifactError, match=words):
        session.run(image(20, 20))


def test_the_choice_costs_what_is_executed(session):
    tree = Quadtree((140, 300), list(session.plan.tails.values()))
    whole, tiles = tree.deepest()
    assert whole.cost == session.plan.tails["d4"].whole_px * 140 * 300 < tiles.cost
    assert tiles.pixels(3) == [0, 0, 140 * 300]


def test_its_maps_may_live_on_a_gpu(session, monkeypatch):
    """By a stand-in for the driver; torch computes the parts on copies."""
    gpu = StandInCuda()
    arrays = GpuArrays(gpu)

    def on_gpu(part):
        def run(**inputs):
            found = part(**{name: arrays.to_host(x) for name, x in inputs.items()})
            return [arrays.to_device(y.numpy()) for y in found]

        return run

    parts = {role: on_gpu(part) for role, part in session._parts.items()}
    there = ElasticSession(
        replace(session.plan, price=1e-15), OpenParts(parts, replace(session._info, arrays=arrays))
    )
    wanted = np.array([[0, 2, 1], [2, 0, 0]])
    gain = -abs(np.arange(3)[:, None, None] - wanted)
    monkeypatch.setattr(session, "plan", there.plan)
    for one in (session, there):
        decide(monkeypatch, one, gain[1:] - gain[:1])
    x = image(60, 90)
    output, expected = there.run_adaptive(x), session.run_adaptive(x)
    np.testing.assert_array_equal(output.decisions, expected.decisions)
    np.testing.assert_allclose(output.y_nchw, expected.y_nchw, atol=1e-5)
    assert gpu.copies >= 2 * len(np.unique(wanted)) and isinstance(output.y_nchw, np.ndarray)
    there.close()
    assert gpu.freed
