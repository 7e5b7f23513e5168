"""Losses against the papers' equations, written out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import ElasticNetwork
from sr_deploy.train.losses import (
    LossInputs,
    deep_supervision,
    pixel_loss,
    progressive_self_distillation,
    sandwich,
    supervised,
)
from tests.train.conftest import TINY


def given(lr, hr, *, taught=None, seed=0, **fields):
    recipe = replace(TINY, **{"loss": "l1", "psd": 0.0, **fields})
    return LossInputs(lr, hr, recipe, np.random.default_rng(seed), taught)


@pytest.mark.parametrize(
    "name, expected",
    [("l1", 0.75), ("l2", 1.25), ("charbonnier", (0.2 + math.sqrt(1.01) + math.sqrt(4.01)) / 4)],
)
def test_pixel_losses(name, expected):
    sr = torch.tensor([0.0, 1.0, -2.0, 5.0]).view(1, 1, 2, 2)
    hr = torch.tensor([0.0, 0.0, 0.0, 5.0]).view(1, 1, 2, 2)
    assert pixel_loss(name, sr, hr).item() == pytest.approx(expected, rel=1e-6)


def test_an_unknown_pixel_loss_is_an_error_not_another_loss():
    with pytest.raises(Exception, match="mse"):
        pixel_loss("mse", torch.zeros(1), torch.ones(1))


def test_psd_in_closed_form():
    # Eq. 9: attention maps are sums of magnitudes, here (3, 4) and (0, 5) in two pixels.
    # Eq. 10: the distance of the L2-normalised maps.
    shallow = torch.tensor([[[[1.0, -4.0]], [[-2.0, 0.0]]]])
    deep = torch.tensor([[[[0.0, 5.0]], [[0.0, 0.0]]]])
    assert progressive_self_distillation([shallow, deep]).item() == pytest.approx(
        math.hypot(0.6, 0.8 - 1), rel=1e-6
    )


def test_psd_is_the_mean_over_samples_and_the_sum_over_blocks():
    features = [
        torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(i)) for i in range(4)
    ]
    expected = 0.0
    for student, teacher in zip(features, features[1:]):
        for n in range(3):
            q = [f[n].abs().sum(0).flatten() for f in (student, teacher)]
            q = [m / m.norm() for m in q]
            expected += (q[0] - q[1]).norm().item() / 3
    assert progressive_self_distillation(features).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "features", [[torch.ones(1, 2, 3, 3)], [torch.ones(2, 2, 3, 3), 7 * torch.ones(2, 1, 3, 3)]]
)
def test_psd_is_zero_for_one_block_and_for_equal_maps(features):
    assert progressive_self_distillation(features).item() == 0


def test_psd_pulls_no_teacher_to_its_student():
    features = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(3)]
    progressive_self_distillation(features).backward()
    assert features[0].grad.abs().sum() > 0 and features[1].grad.abs().sum() > 0
    assert features[2].grad is None
    alone = features[1].detach().requires_grad_()  # as a student of the third only
    progressive_self_distillation([alone, features[2].detach()]).backward()
    torch.testing.assert_close(alone.grad, features[1].grad)


def test_psd_may_pull_its_teacher_too():
    features = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    progressive_self_distillation(features, detached=False).backward()
    assert features[1].grad.abs().sum() > 0


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("psd", [0.0, 0.1])
def test_deep_supervision_is_equation_11(loss, scale, psd):
    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES["asrn"], scale, Variant("d", 3))
    elastic.net.double()
    lr, hr = (
        torch.rand(2, 3, 5, 6, dtype=torch.float64),
        torch.rand(2, 3, 5 * scale, 6 * scale, dtype=torch.float64),
    )
    features = []
    x = elastic.net.head(lr)
    for block in elastic.net.body:
        x = block(x)
        features.append(x)
    distance = torch.abs if loss == "l1" else torch.square
    routine_and_dsl = sum(
        distance(elastic(lr, f"d{n}") - hr).mean() for n in (1, 2, 3)
    )  # eqs. 5 and 7
    expected = routine_and_dsl + psd * progressive_self_distillation(features)
    got = sum(deep_supervision(elastic, given(lr, hr, loss=loss, psd=psd)).values())
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    parameters = list(elastic.net.parameters())
    for a, b in zip(
        torch.autograd.grad(got, parameters), torch.autograd.grad(expected, parameters)
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_the_losses_of_the_first_depth_may_count_more():
    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES["asrn"], 2, Variant("d", 3))
    lr, hr, taught = torch.rand(2, 3, 5, 6), torch.rand(2, 3, 10, 12), torch.rand(2, 3, 10, 12)
    plain = deep_supervision(elastic, given(lr, hr, taught=taught))
    weighed = deep_supervision(elastic, given(lr, hr, taught=taught, first=4.0))
    assert plain.keys() == weighed.keys()
    for name, term in plain.items():
        factor = 4.0 if name.startswith("depth 1") else 1.0
        torch.testing.assert_close(weighed[name], factor * term)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_ss_is_equation_5_at_the_cost_of_training(scale):
    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES["asrn"], scale, Variant("d", 2))
    elastic.net.double()
    lr, hr = (
        torch.rand(1, 3, 4, 7, dtype=torch.float64),
        torch.rand(1, 3, 4 * scale, 7 * scale, dtype=torch.float64),
    )
    terms = supervised(elastic, given(lr, hr, loss="l2"))
    assert list(terms) == ["pixel"]
    expected = ((elastic.net(lr) - hr) ** 2).mean()
    torch.testing.assert_close(terms["pixel"], expected, rtol=1e-9, atol=1e-12)
    parameters = list(elastic.net.parameters())
    for a, b in zip(
        torch.autograd.grad(terms["pixel"], parameters), torch.autograd.grad(expected, parameters)
    ):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_deep_supervision_of_edsr_scores_every_depth_of_its_slices():
    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES["edsr"], 4, Variant("b", 3), {"channels": 6})
    elastic.net.double()
    lr, hr = (
        torch.rand(1, 3, 5, 6, dtype=torch.float64),
        torch.rand(1, 3, 20, 24, dtype=torch.float64),
    )
    terms = deep_supervision(elastic, given(lr, hr, psd=0.1))
    assert list(terms) == ["depth 1", "depth 2", "depth 3", "psd"]
    for n in (1, 2, 3):
        torch.testing.assert_close(
            terms[f"depth {n}"], (elastic(lr, f"b{n}") - hr).abs().mean(), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", ["srn", "srn-s"])  # with and without the last convolution
def test_with_a_teacher_the_loss_is_equation_4(name):
    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES[name], 4, Variant("b", 1))
    lr, hr, taught = torch.rand(2, 3, 16, 15), torch.rand(2, 3, 64, 60), torch.rand(2, 3, 64, 60)
    terms = supervised(elastic, given(lr, hr, taught=taught))
    y = elastic.net(lr)
    expected = (y - hr).abs().mean() + (y - taught).abs().mean()
    torch.testing.assert_close(sum(terms.values()), expected)
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in elastic.net.parameters())


def test_a_teacher_takes_part_in_the_loss_of_the_stage_and_at_every_depth():
    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES["asrn"], 2, Variant("d", 2))
    lr, hr, taught = torch.rand(1, 3, 9, 9), torch.rand(1, 3, 18, 18), torch.rand(1, 3, 18, 18)
    terms = deep_supervision(elastic, given(lr, hr, loss="l2", taught=taught))
    assert list(terms) == ["depth 1", "depth 1, teacher", "depth 2", "depth 2, teacher"]
    for n in (1, 2):
        y = elastic(lr, f"d{n}")
        torch.testing.assert_close(terms[f"depth {n}"], ((y - hr) ** 2).mean())
        torch.testing.assert_close(terms[f"depth {n}, teacher"], ((y - taught) ** 2).mean())


class Points:
    """An elastic network whose points are numbers: it returns its parameter of that name."""

    largest = None

    def __init__(self, *points):
        self.values = {
            p: torch.full((1, 1, 1, 1), float(i + 1), requires_grad=True)
            for i, p in enumerate(points)
        }
        self.architecture = self
        self.calls = []

    def points(self, largest):
        return tuple(self.values)

    def __call__(self, lr, point):
        self.calls.append(point)
        return self.values[point]


def test_the_sandwich_runs_the_largest_the_smallest_and_a_random_one_between():
    between = set()
    for seed in range(30):
        elastic = Points("s", "m1", "m2", "l")
        sandwich(elastic, given(torch.zeros(1), torch.zeros(1, 1, 1, 1), seed=seed))
        assert elastic.calls[:2] == ["l", "s"] and len(elastic.calls) == 3
        between.add(elastic.calls[2])
    assert between == {"m1", "m2"}


def test_the_sandwich_in_closed_form_with_its_teacher_detached():
    elastic = Points("s", "m", "l")  # 1, 2, 3; the target is 0
    loss = sum(
        sandwich(elastic, given(torch.zeros(1), torch.zeros(1, 1, 1, 1), loss="l2")).values()
    )
    assert loss.item() == 9 + (1 + 0.5 * 4) + (4 + 0.5 * 1)
    loss.backward()
    assert elastic.values["l"].grad.item() == 2 * 3, "the teacher is pulled to its students"
    assert elastic.values["s"].grad.item() == 2 * 1 + 0.5 * 2 * (1 - 3)


def test_the_sandwich_reaches_the_weights_of_every_width():
    torch.manual_seed(0)
    elastic = ElasticNetwork(ARCHITECTURES["imdeception"], 2, Variant("c", 16, ("nla",)))
    sum(
        sandwich(elastic, given(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16))).values()
    ).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in elastic.net.parameters())
