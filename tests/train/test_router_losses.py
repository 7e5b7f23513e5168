"""CDNSR's and ClassSR's losses against their equations, on small tensors in float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.train.router_losses import (
    DepthBranches,
    ParallelBranches,
    RoutedNetwork,
    average_loss,
    class_loss,
    flops_excess,
    gumbel_noise,
    gumbel_softmax,
    mix_outputs,
    stage_terms,
    temperature,
)
from tests.train.conftest import TINY_ROUTER


@pytest.fixture()
def probabilities():
    return torch.rand(
        5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).softmax(dim=1)


@pytest.mark.parametrize("step, tau", [(0, 1.0), (30, 0.7), (60, 0.4), (99, 0.4)])
def test_tau_falls_with_the_steps_to_four_tenths(step, tau):
    assert temperature(step, 100) == pytest.approx(tau)


def test_noise_is_minus_log_minus_log_of_uniform_numbers():
    noise = gumbel_noise(20_000, 3, np.random.default_rng(0))
    assert noise.shape == (20_000, 3) and noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(
        0.5772, abs=0.02
    ) and noise.std().item() == pytest.approx(math.pi / 6**0.5, abs=0.02)


def test_the_relaxed_choice_is_equation_6_with_tau_in_the_exponent(probabilities):
    log_p, g, tau = probabilities.log(), torch.randn(5, 3, dtype=torch.float64), 0.4
    weights = np.exp((log_p.numpy() + g.numpy()) / tau)
    torch.testing.assert_close(
        gumbel_softmax(log_p, g, tau), torch.from_numpy(weights / weights.sum(1, keepdims=True))
    )
    hard = gumbel_softmax(log_p, g, 1e-4)
    assert torch.equal(hard.round(), nn.functional.one_hot((log_p + g).argmax(1), 3).double()), (
        "with tau to 0 it is equation 5"
    )


def test_equations_1_to_3(probabilities):
    outputs = torch.rand(5, 3, 3, 4, 4, dtype=torch.float64)
    expected = sum(probabilities[:, j, None, None, None] * outputs[:, j] for j in range(3))
    torch.testing.assert_close(mix_outputs(probabilities, outputs), expected)
    costs = [141.0, 304.0, 468.0]
    mean = sum(costs[j] * probabilities[:, j] for j in range(3)).mean() / 468
    for alpha in (0.1, 0.5, 0.99):
        assert flops_excess(probabilities, costs, alpha).item() == pytest.approx(
            max(0.0, mean.item() - alpha), abs=1e-12
        )


def test_classsr_losses(probabilities):
    p = probabilities
    pairs = (p[:, 0] - p[:, 1]).abs() + (p[:, 0] - p[:, 2]).abs() + (p[:, 1] - p[:, 2]).abs()
    torch.testing.assert_close(class_loss(p), (2 - pairs).mean())
    assert class_loss(torch.eye(3)).item() == 0
    torch.testing.assert_close(average_loss(p), (p.sum(0) - 5 / 3).abs().sum() / (5 / 3 * 4))
    assert average_loss(torch.eye(3)).item() == pytest.approx(0, abs=1e-6)
    assert average_loss(torch.eye(4)[[1, 1, 1]]).item() == pytest.approx(1)


class Fixed(nn.Module):
    """Return a constant, which is a parameter."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x):
        return self.value * 1


@pytest.fixture()
def batch():
    torch.manual_seed(1)
    lr, hr = (
        torch.rand(4, 3, 4, 4, dtype=torch.float64),
        torch.rand(4, 3, 8, 8, dtype=torch.float64),
    )
    modules = {
        "router": Fixed(torch.randn(4, 3, dtype=torch.float64)),
        "branches": Fixed(torch.rand(4, 3, 3, 8, 8, dtype=torch.float64)),
        "projector": nn.Flatten(),
        "features": nn.Identity(),
    }
    return lr, hr, modules, torch.randn(4, 3, dtype=torch.float64)


def terms_of(stage, batch, step=2, **changes):
    lr, hr, modules, noise = batch
    recipe = replace(
        TINY_ROUTER,
        stage=stage,
        steps=10,
        patch_hr=8,
        alpha=0.3,
        lambda_reg=0.5,
        negatives=2,
        **changes,
    )
    return stage_terms(recipe, modules, [1, 2, 4], lr, hr, noise, step)


def test_the_router_learns_equation_4_and_its_branches_nothing(batch):
    lr, hr, modules, noise = batch
    terms = terms_of("router", batch)
    p = ((modules["router"].value.log_softmax(1) + noise) / 0.8).softmax(1)
    torch.testing.assert_close(
        terms["pixel"], (mix_outputs(p, modules["branches"].value) - hr).abs().mean()
    )
    torch.testing.assert_close(terms["flops"], 0.5 * flops_excess(p, [1, 2, 4], 0.3))
    sum(terms.values()).backward()
    assert modules["router"].value.grad.abs().sum() > 0 and modules["branches"].value.grad is None


def test_the_sampled_differences_of_all_values_give_equation_4(batch):
    lr, hr, modules, noise = batch
    differences = (modules["branches"].value.detach() - hr[:, None]).flatten(2)
    whole = terms_of("router", batch)
    sampled = terms_of("router", (lr, differences, modules, noise), values=differences.shape[2])
    assert set(sampled) == {"pixel", "flops"}
    for key, term in sampled.items():
        torch.testing.assert_close(term, whole[key])


@pytest.mark.parametrize("stage", ["router", "joint"])
def test_the_expected_distance_is_that_of_hard_choices(batch, stage):
    lr, hr, modules, noise = batch
    p = modules["router"].value.softmax(1)
    distances = (modules["branches"].value - hr[:, None]).abs().mean(dim=(2, 3, 4))
    target = distances.detach() if stage == "router" else hr
    terms = terms_of(stage, (lr, target, modules, noise), objective="expected")
    each = [sum(p[n, j] * distances[n, j] for j in range(3)) for n in range(4)]
    torch.testing.assert_close(terms["pixel"], sum(each) / 4)
    torch.testing.assert_close(terms["flops"], 0.5 * flops_excess(p, [1, 2, 4], 0.3))
    mixed = (mix_outputs(p, modules["branches"].value) - hr).abs().mean()
    assert terms["pixel"] > mixed, "a mean image is nearer than the images are on average"
    sum(terms.values()).backward()
    assert (modules["branches"].value.grad is None) == (stage == "router")


def test_branches_learn_equation_9_on_the_patches_that_go_through_them(batch):
    lr, hr, modules, noise = batch
    terms = terms_of("distil", batch, distillation="pixel", lambda_ct=0.1)
    chosen = modules["router"].value.argmax(1)
    outputs = modules["branches"].value
    torch.testing.assert_close(terms["pixel"], (outputs[torch.arange(4), chosen] - hr).abs().mean())
    pairs = sum(
        (outputs[:, s] - outputs[:, t]).abs().mean() for s in range(3) for t in range(s + 1, 3)
    )
    assert set(terms) == {"pixel", "taught: pixel"}
    torch.testing.assert_close(terms["taught: pixel"], 0.1 * pairs)
    sum(terms.values()).backward()
    assert modules["router"].value.grad is None and outputs.grad.abs().sum() > 0


def test_at_the_last_stage_all_learn_all_terms_at_the_last_tau(batch):
    lr, hr, modules, noise = batch
    terms = terms_of("joint", batch, distillation="perceptual")
    assert set(terms) == {"pixel", "flops", "taught: perceptual"}
    p = ((modules["router"].value.log_softmax(1) + noise) / 0.4).softmax(1)
    torch.testing.assert_close(
        terms["pixel"], (mix_outputs(p, modules["branches"].value) - hr).abs().mean()
    )
    sum(terms.values()).backward()
    assert all(modules[key].value.grad.abs().sum() > 0 for key in ("router", "branches"))


def test_a_router_learns_soft_labels_of_errors(batch):
    lr, _, modules, noise = batch
    errors = 1e-4 * torch.rand(4, 3, dtype=torch.float64)
    terms = terms_of("router", (lr, errors, modules, noise), objective="labels", softness=2.0)
    labels = (-(errors / 0.5 + torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)) / 2).softmax(1)
    expected = -(labels * modules["router"].value.log_softmax(1)).sum(1).mean()
    assert set(terms) == {"labels"}
    torch.testing.assert_close(terms["labels"], expected)


def test_classsr_takes_the_probabilities_without_noise(batch):
    lr, hr, modules, noise = batch
    terms = terms_of("router", batch, objective="classsr")
    p = modules["router"].value.softmax(1)
    torch.testing.assert_close(
        terms["pixel"], 1000 * (mix_outputs(p, modules["branches"].value) - hr).abs().mean()
    )
    torch.testing.assert_close(terms["class"], 0.5 * class_loss(p))
    torch.testing.assert_close(terms["average"], 3 * average_loss(p))


def test_depths_of_one_network_are_its_slices():
    net = ARCHITECTURES["asrn"].build(4, Variant("d", 3))
    plain = []
    for depth in (1, 3):
        other = ARCHITECTURES["asrn"].build(4, Variant("d", depth))
        other.load_state_dict(
            {k: v for k, v in net.state_dict().items() if k in other.state_dict()}
        )
        plain.append(other)
    x = torch.rand(2, 3, 6, 7)
    with torch.no_grad():
        torch.testing.assert_close(
            DepthBranches(net, [1, 3])(x), ParallelBranches(plain)(x), rtol=0, atol=1e-5
        )


def test_a_patch_may_be_cut_from_its_branch_on_the_whole_image():
    x = torch.rand(1, 3, 8, 8) * 0.2
    x[..., 4:] += 0.8
    torch.manual_seed(0)
    blur = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 5, padding=2))
    routed = RoutedNetwork(Brightness(), [Paint(0.0), blur], scale=2, patch=4, surroundings=True)
    with torch.no_grad():
        y = routed(x)
        torch.testing.assert_close(y[..., 8:], blur(x)[..., 8:])
        torch.testing.assert_close(y[..., :8], Paint(0.0)(x)[..., :8])
    assert routed.counts == [2, 2]


def test_entropy_keeps_all_branches_in_use(batch):
    lr, _, modules, noise = batch
    distances = torch.rand(4, 3, dtype=torch.float64)
    terms = terms_of("router", (lr, distances, modules, noise), objective="expected", softness=0.25)
    p = modules["router"].value.softmax(1)
    assert set(terms) == {"pixel", "flops", "entropy"}
    torch.testing.assert_close(terms["entropy"], 0.5 * 0.25 * (p * p.log()).sum(1).mean())


class Paint(nn.Module):
    """Enlarge twice and add a number."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=2.0) + self.number


class Brightness(nn.Module):
    """Class 1 for bright patches."""

    def forward(self, x):
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


@pytest.mark.parametrize("h, w, patches", [(8, 8, 4), (9, 11, 9), (4, 4, 1), (3, 10, 3)])
def test_a_routed_image_is_that_of_each_patch_by_its_branch(h, w, patches):
    x = torch.rand(1, 3, h, w) * 0.2
    x[..., w // 2 :] += 0.8
    routed = RoutedNetwork(Brightness(), [Paint(0.0), Paint(5.0)], scale=2, patch=4)
    y = routed(x)
    assert sum(routed.counts) == patches
    painted = (y - nn.functional.interpolate(x, scale_factor=2.0)).round()
    assert set(painted.unique().tolist()) <= {0.0, 5.0}
    if (h, w) == (8, 8):
        assert routed.counts == [2, 2] and torch.equal(painted[..., :8], torch.zeros(1, 3, 16, 8))


def test_equation_4_of_two_patches_by_hand():
    """p = (1/4, 3/4) and (1/2, 1/2); differences 0.4 and 0.2, then 0.1 and -0.1; costs 1 and 2."""
    log_p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64).log()
    differences = torch.tensor([[[0.4], [0.2]], [[0.1], [-0.1]]], dtype=torch.float64)
    recipe = replace(
        TINY_ROUTER,
        steps=10,
        patch_hr=8,
        batch_size=2,
        alpha=0.5,
        lambda_reg=0.02,
        classes=2,
        values=1,
    )
    lr, no_noise = torch.rand(2, 3, 4, 4), torch.zeros(2, 2, dtype=torch.float64)
    terms = stage_terms(recipe, {"router": Fixed(log_p)}, [1, 2], lr, differences, no_noise, 0)
    assert terms["pixel"].item() == pytest.approx((0.25 * 0.4 + 0.75 * 0.2 + 0.0) / 2)
    cost = ((0.25 * 1 + 0.75 * 2) + (0.5 * 1 + 0.5 * 2)) / 2 / 2
    assert terms["flops"].item() == pytest.approx(0.02 * (cost - 0.5))
