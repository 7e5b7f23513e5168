"""Distillation between branches against the paper's equations, and the features it compares."""

import math

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.core.errors import CheckpointError, InputError
from sr_deploy.train.contrast import (
    DISTILLATION,
    Projector,
    RandomFeatures,
    VGG19Features,
    contrastive,
    csd,
    load_vgg19,
    negative_samples,
    perceptual,
    pixel,
)


@pytest.fixture()
def given():
    torch.manual_seed(0)
    outputs = torch.rand(3, 3, 3, 6, 6, dtype=torch.float64, requires_grad=True)  # (N, M, 3, H, W)
    others = torch.rand(2, 3, 3, 6, 6, dtype=torch.float64)  # (S, N, 3, H, W)
    mix = torch.randn(3 * 36, 5, dtype=torch.float64)
    return outputs, others, (lambda x: x * 2 - 1), (lambda f: f.flatten(1) @ mix)


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def test_contrastive_is_equation_8(given):
    outputs, others, features, project = given
    e = [project(features(outputs[:, j].detach())) for j in range(3)]
    far = [project(features(x)) for x in others]
    expected = 0.0
    for student in range(3):
        for teacher in range(student + 1, 3):  # larger networks teach smaller ones
            for n in range(3):
                near = math.exp(cosine(e[student][n], e[teacher][n]))
                away = sum(math.exp(cosine(e[student][n], f[n])) for f in far)
                expected -= math.log(near / away) / 3
    assert contrastive(outputs, others, features, project).item() == pytest.approx(
        expected, rel=1e-9
    )


def test_pixel_is_the_sum_of_equation_7(given):
    outputs, others, features, project = given
    expected = sum(
        (outputs[:, s] - outputs[:, t]).abs().mean() for s in range(3) for t in range(s + 1, 3)
    )
    torch.testing.assert_close(pixel(outputs, others, features, project), expected)


def test_perceptual_and_csd(given):
    outputs, others, features, project = given
    pairs = [
        (features(outputs[:, s]), features(outputs[:, t]))
        for s in range(3)
        for t in range(s + 1, 3)
    ]
    torch.testing.assert_close(
        perceptual(outputs, others, features, project), sum(((a - b) ** 2).mean() for a, b in pairs)
    )
    expected = sum(
        (a - b).abs().mean() / (sum((a - features(x)).abs().mean() for x in others) / 2 + 1e-7)
        for a, b in pairs
    )
    torch.testing.assert_close(csd(outputs, others, features, project), expected)


@pytest.mark.parametrize("name", list(DISTILLATION))
def test_the_largest_branch_has_no_teacher(given, name):
    outputs, others, features, project = given
    DISTILLATION[name](outputs, others, features, project).backward()
    reached = outputs.grad.abs().sum(dim=(0, 2, 3, 4))
    assert reached[0] > 0 and reached[1] > 0 and reached[2] == 0


def test_negatives_are_other_patches_of_the_batch_enlarged():
    lr = torch.rand(4, 3, 5, 5)
    others = negative_samples(lr, (10, 10), 3)
    assert others.shape == (3, 4, 3, 10, 10)
    large = F.interpolate(lr, size=(10, 10), mode="bicubic", align_corners=False)
    for n in range(4):
        drawn = {next(i for i in range(4) if torch.equal(others[s, n], large[i])) for s in range(3)}
        assert drawn == set(range(4)) - {n}


@pytest.fixture(scope="module")
def vgg_weights():
    """Random weights with the names and shapes of torchvision's vgg19."""
    torch.manual_seed(0)
    places, width = {}, 3
    for at in (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34):
        channels = 64 if at < 5 else 128 if at < 10 else 256 if at < 19 else 512
        places[f"features.{at}.weight"] = 0.05 * torch.randn(channels, width, 3, 3)
        places[f"features.{at}.bias"] = torch.zeros(channels)
        width = channels
    return {**places, "classifier.6.bias": torch.zeros(1000)}


def test_vgg19_has_its_16_convolutions_where_torchvision_has_them(vgg_weights):
    torchvision = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    assert [
        int(k.split(".")[1]) for k in VGG19Features().state_dict() if k.endswith("weight")
    ] == torchvision
    assert vgg_weights["features.34.weight"].shape == (512, 512, 3, 3)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_vgg19_is_read_from_a_file_of_torchvisions_layout(vgg_weights, tmp_path, kind):
    path = tmp_path / f"vgg19.{kind}"
    if kind == "pth":
        torch.save(vgg_weights, path)
    else:
        from safetensors.torch import save_file

        save_file(vgg_weights, str(path))
    net = load_vgg19(path)
    for name, value in net.state_dict().items():
        assert torch.equal(value, vgg_weights[name])
    x = torch.rand(1, 3, 32, 48)
    y = net(x)
    assert y.shape == (1, 512, 2, 3) and y.min() >= 0
    normalised = torch.stack(
        [
            (x[:, c] - m) / d
            for c, (m, d) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])
        ],
        dim=1,
    )
    torch.testing.assert_close(y, net.features(normalised))
    first = F.conv2d(normalised, vgg_weights["features.0.weight"], padding=1)
    torch.testing.assert_close(net.features[0](normalised), first)


def test_weights_of_another_network_are_refused(vgg_weights, tmp_path):
    path = tmp_path / "vgg.pth"
    torch.save({k: v for k, v in vgg_weights.items() if not k.startswith("features.28.")}, path)
    with pytest.raises(
        CheckpointError,
        match="is not a VGG-19: expected a tensor 'features.28.weight'.*it is missing",
    ):
        load_vgg19(path)
    torch.save({**vgg_weights, "features.0.weight": torch.zeros(64, 1, 3, 3)}, path)
    with pytest.raises(
        CheckpointError, match=r"'features.0.weight' of \(64, 3, 3, 3\); it is \(64, 1, 3, 3\)"
    ):
        load_vgg19(path)
    with pytest.raises(InputError, match="there is no file"):
        load_vgg19(tmp_path / "none.pth")


def test_the_substitute_is_deterministic_and_distinguishes_blur_from_detail():
    torch.manual_seed(5)
    a = RandomFeatures()
    torch.manual_seed(6)
    b = RandomFeatures()
    sharp = torch.rand(1, 3, 64, 64)
    blurred = F.avg_pool2d(sharp, 5, 1, 2)
    assert torch.equal(a(sharp), b(sharp)) and a(sharp).shape == (1, 64, 4, 4)
    seen = [a(x).mean(dim=(2, 3)) for x in (sharp, 0.98 * sharp, blurred)]
    assert F.cosine_similarity(seen[0], seen[1]) > F.cosine_similarity(seen[0], seen[2])


def test_the_projector_is_a_perceptron_of_two_layers():
    net = Projector(64)
    assert [type(m).__name__ for m in net.layers] == ["Linear", "ReLU", "Linear"]
    features = torch.rand(2, 64, 3, 5)
    assert net(features).shape == (2, 128)
    torch.testing.assert_close(net(features), net.layers(features.flatten(2).sum(2) / 15))
