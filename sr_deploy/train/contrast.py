"""CDNSR's knowledge distillation between its branches: eqs. 7-9 of the paper, and the losses its Table V compares with.

Larger networks teach smaller ones. The paper's eqs. 7 and 8 count the other way round (its j, the smaller index, is called the
teacher); its text and its gradients are clear. Teachers are detached: they learn from the pixels alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_deploy.core.errors import CheckpointError
from sr_deploy.nets.importers import read_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG19 = (
    64,
    64,
    "pool",
    128,
    128,
    "pool",
    256,
    256,
    256,
    256,
    "pool",
    512,
    512,
    512,
    512,
    "pool",
    512,
    512,
    512,
    512,
)
"""Channels of its 3x3 convolutions up to the fifth stage's last, with a ReLU after each, and its poolings."""
SUBSTITUTE = "random-64"
"""What a card names the features by where no VGG weights were given."""
EMBEDDING = 128


class VGG19Features(nn.Module):
    """VGG-19 up to the ReLU of conv5_4, its tensors named as torchvision's (features.N.weight). x: 0..1, RGB -> (N, 512, H/16, W/16)."""

    channels = 512

    def __init__(self) -> None:
        super().__init__()
        layers: List[nn.Module] = []
        width = 3
        for item in VGG19:
            if item == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(width, int(item), 3, padding=1), nn.ReLU()]
                width = int(item)
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        return self.features((x - mean) / std)


class RandomFeatures(nn.Module):
    """The substitute where there are no VGG weights: four 3x3 of stride 2 with ReLU, random, from a fixed seed, never trained.

    Such features know no objects, but tell textures and blur apart. x: 0..1, RGB -> (N, 64, H/16, W/16).
    """

    channels = 64

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 64, 64)
        generator = torch.Generator().manual_seed(0)
        layers: List[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:]):
            conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
            with torch.no_grad():  # He's variance keeps the features' size from layer to layer
                conv.weight.copy_(
                    torch.randn(conv.weight.shape, generator=generator) * (2 / (9 * inputs)) ** 0.5
                )
                conv.bias.zero_()
            layers += [conv, nn.ReLU()]
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x - 0.5)


def vgg19_from_file(path: Path) -> VGG19Features:
    """Load the features from torchvision's VGG-19 weights, a .pth state dict or a safetensors file.

    Layers after conv5_4 are left out. Raises InputError when there is no file, CheckpointError when it is none of that layout.
    """
    net = VGG19Features()
    weights = read_weights(path)
    expected = net.state_dict()
    for name, value in expected.items():
        if name not in weights or weights[name].shape != value.shape:
            found = (
                "there is none" if name not in weights else f"it is {tuple(weights[name].shape)}"
            )
            raise CheckpointError(
                f"{path} is no VGG-19: expected a tensor '{name}' of {tuple(value.shape)}; {found}",
                hint="give torchvision's vgg19 weights, the network without batch normalisation",
            )
    net.load_state_dict({name: weights[name] for name in expected})
    return net


class Projector(nn.Module):
    """From feature maps to the space that samples are compared in: their mean, then a two-layer perceptron. -> (N, 128)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, EMBEDDING)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.mean(dim=(2, 3)))


def negatives(lr: Tensor, hw: Sequence[int], count: int) -> Tensor:
    """Return (count, N, 3, H, W): for each patch `count` others of the batch, enlarged by bicubic interpolation to hw."""
    blurred = F.interpolate(lr, size=tuple(hw), mode="bicubic", align_corners=False)
    return torch.stack([blurred.roll(shift, dims=0) for shift in range(1, count + 1)])


Embed = Callable[[Tensor], Tensor]


def student_teacher_pairs(outputs: Tensor) -> List[Tuple[Tensor, Tensor]]:
    """Return every (student, teacher) of outputs (N, M, 3, H, W), smallest first: each learns from all larger ones, detached."""
    m = outputs.shape[1]
    return [(outputs[:, s], outputs[:, t].detach()) for s in range(m) for t in range(s + 1, m)]


def contrastive(outputs: Tensor, others: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return eq. 8: minus the log of exp cos(student, teacher) over the sum of exp cos(student, negative), mean over N.

    others: (S, N, 3, H, W), as `negatives` gives them. As printed, the denominator has the negatives alone.
    """

    def embedded(x: Tensor) -> Tensor:
        return F.normalize(project(features(x)), dim=-1)

    anchors = [embedded(outputs[:, j]) for j in range(outputs.shape[1])]
    away = torch.stack([embedded(x) for x in others])  # (S, N, E)
    total = outputs.new_zeros(())
    for s, anchor in enumerate(anchors):
        for teacher in anchors[s + 1 :]:
            near = (anchor * teacher.detach()).sum(dim=-1)
            far = torch.logsumexp((anchor * away).sum(dim=-1), dim=0)
            total = total + (far - near).mean()
    return total


def pixel(outputs: Tensor, others: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return the sum of eq. 7: L1 between each student's pixels and each of its teachers'."""
    return sum((F.l1_loss(s, t) for s, t in student_teacher_pairs(outputs)), outputs.new_zeros(()))


def perceptual(outputs: Tensor, others: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return the mean squared distance of students' and teachers' features, summed over the pairs."""
    pairs = student_teacher_pairs(outputs)
    return sum((F.mse_loss(features(s), features(t)) for s, t in pairs), outputs.new_zeros(()))


def csd(outputs: Tensor, others: Tensor, features: Embed, project: Embed) -> Tensor:
    """Return CSD's loss: the L1 distance of features to the teacher's over that to the negatives', summed over the pairs."""
    total = outputs.new_zeros(())
    away = [features(x).detach() for x in others]
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
"""By name; `none` trains without."""
