"""Knowledge distillation between CDNSR's branches (eqs. 7-9), with the losses of its Table V.

Larger branches teach smaller ones. In the paper's eqs. 7 and 8 the smaller index j is called the
teacher, but its text and gradients are clear. Teachers are detached: they learn from the pixels
only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.nets.weight_files import read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG19_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""(channels, number of 3x3 convolutions with ReLU) of each stage; a pooling follows each stage."""
SUBSTITUTE = "random-64"
"""The name of RandomFeatures on a card."""
EMBEDDING = 128


class VGG19Features(nn.Module):
    """VGG-19 up to the ReLU of conv5_4. x: 0..1, RGB -> (N, 512, H/16, W/16).

    The tensors have torchvision's names (features.N.weight).
    """

    channels = 512

    def __init__(self) -> None:
        super().__init__()
        layers: List[nn.Module] = []
        inputs = 3
        for channels, convs in VGG19_STAGES:
            for _ in range(convs):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return self.features((x - mean) / std)


class RandomFeatures(nn.Module):
    """The substitute without VGG weights: four random 3x3 convolutions of stride 2 with ReLU.

    They have a fixed seed and are never trained. Such features do not know objects, but they
    distinguish textures and blur.
    x: 0..1, RGB -> (N, 64, H/16, W/16).
    """

    channels = 64

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 64, 64)
        generator = torch.Generator().manual_seed(0)
        layers: List[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:]):
            conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
            # He's variance keeps the scale of the features.
            weight = torch.randn(conv.weight.shape, generator=generator) * (2 / (9 * inputs)) ** 0.5
            conv.load_state_dict({"weight": weight, "bias": torch.zeros(outputs)})
            layers += [conv, nn.ReLU()]
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x - 0.5)


def load_vgg19(path: Path) -> VGG19Features:
    """Load the features from torchvision's VGG-19 weights, a .pth state dict or a safetensors file.

    Layers after conv5_4 are ignored. Raises InputError when there is no file, CheckpointError for
    another network.
    """
    net = VGG19Features()
    weights = read_weights(path)
    expected = net.state_dict()
    for name, value in expected.items():
        if name not in weights or weights[name].shape != value.shape:
            actual = f"it is {tuple(weights[name].shape)}" if name in weights else "it is missing"
            raise CheckpointError(
                f"{path} is not a VGG-19: expected a tensor '{name}' of {tuple(value.shape)}; "
                f"{actual}",
                hint="give torchvision's vgg19 weights, without batch normalisation",
            )
    net.load_state_dict({name: weights[name] for name in expected})
    return net


class Projector(nn.Module):
    """From feature maps to the space of comparison: spatial mean and perceptron -> (N, 128)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, EMBEDDING)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.mean(dim=(2, 3)))


def negative_samples(lr: Tensor, hw: Sequence[int], count: int) -> Tensor:
    """Return `count` other patches of the batch for each, upsampled to hw: (count, N, 3, H, W)."""
    blurred = F.interpolate(lr, size=tuple(hw), mode="bicubic", align_corners=False)
    return torch.stack([blurred.roll(shift, dims=0) for shift in range(1, count + 1)])


Embed = Callable[[Tensor], Tensor]


def student_teacher_pairs(outputs: Tensor) -> List[Tuple[Tensor, Tensor]]:
    """Return all (student, detached teacher) of outputs (N, M, 3, H, W): larger branches teach."""
    m = outputs.shape[1]
    return [(outputs[:, s], outputs[:, t].detach()) for s in range(m) for t in range(s + 1, m)]


def contrastive(outputs: Tensor, negatives: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return eq. 8, mean over N: -log(exp cos(student, teacher) / sum exp cos(student, negative)).

    negatives: (S, N, 3, H, W), see `negative_samples`. As printed, the denominator has the
    negatives alone.
    """

    def embed(x: Tensor) -> Tensor:
        return F.normalize(project(features(x)), dim=-1)

    anchors = [embed(outputs[:, j]) for j in range(outputs.shape[1])]
    away = torch.stack([embed(x) for x in negatives])  # (S, N, E)
    total = outputs.new_zeros(())
    for s, anchor in enumerate(anchors):
        for teacher in anchors[s + 1 :]:
            near = (anchor * teacher.detach()).sum(dim=-1)
            far = torch.logsumexp((anchor * away).sum(dim=-1), dim=0)
            total = total + (far - near).mean()
    return total


def pixel(outputs: Tensor, negatives: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return the sum of eq. 7: L1 between the pixels of each student and each of its teachers."""
    return sum((F.l1_loss(s, t) for s, t in student_teacher_pairs(outputs)), outputs.new_zeros(()))


def perceptual(outputs: Tensor, negatives: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return the mean squared distance of students' and teachers' features, summed over pairs."""
    pairs = student_teacher_pairs(outputs)
    return sum((F.mse_loss(features(s), features(t)) for s, t in pairs), outputs.new_zeros(()))


def csd(outputs: Tensor, negatives: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return CSD's loss: L1 of features to the teacher's over that to the negatives', summed."""
    total = outputs.new_zeros(())
    away = [features(x).detach() for x in negatives]
    for student, teacher in student_teacher_pairs(outputs):
        at = features(student)
        far = sum((F.l1_loss(at, x) for x in away), outputs.new_zeros(())) / len(away)
        total = total + F.l1_loss(at, features(teacher)) / (far + 1e-7)
    return total


DISTILLATION: Dict[str, Callable[[Tensor, Tensor, Embed, Embed], Tensor]] = {
    "contrastive": contrastive,
    "pixel": pixel,
    "perceptual": perceptual,
    "csd": csd,
}
