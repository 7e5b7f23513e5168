"""A user's file of networks, good and bad ones, for tests. Tests run it by its path."""

import torch
import torch.nn.functional as F
from torch import nn

print("a line that the file prints")


class Net(nn.Module):
    """3x3 convolutions and a pixel shuffle; the mean is a plain tensor, as in SwinIR's code."""

    def __init__(self, scale=2, blocks=1):
        super().__init__()
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(blocks)))
        self.tail = nn.Sequential(nn.Conv2d(4, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        self.mean = torch.Tensor([0.4, 0.4, 0.4]).view(1, 3, 1, 1)

    def forward(self, x):
        self.mean = self.mean.type_as(x)
        return self.tail(self.body(F.relu(self.head(x - self.mean)))) + 0.4


class Elastic(Net):
    """Its variants are its first blocks."""

    def __init__(self):
        super().__init__(blocks=3)

    def variants(self):
        return ["b1", "b3"]

    def slice(self, variant):
        net = Net(blocks=int(variant[1:]))
        net.load_state_dict(self.state_dict(), strict=False)
        return net


class Merged(nn.Module):
    """A convolution that merges its paths in every run, as SPAN's do."""

    def __init__(self):
        super().__init__()
        self.conv, self.skip = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.merged, self.weight = nn.Conv2d(3, 12, 3, padding=1), None

    def forward(self, x):
        if self.training:
            return F.pixel_shuffle(self.conv(x) + self.skip(x), 2)
        self.weight = self.conv.weight.data.clone() + F.pad(self.skip.weight.data, [1, 1, 1, 1])
        self.merged.weight.data = self.weight
        self.merged.bias.data = self.conv.bias.data + self.skip.bias.data
        return F.pixel_shuffle(self.merged(x), 2)


class Unshuffled(Net):
    """Takes multiples of 2."""

    def forward(self, x):
        y = F.pixel_unshuffle(x, 2)[:, :3]
        return F.interpolate(super().forward(y), scale_factor=2.0)


class Range255(nn.Module):
    def forward(self, x):
        return F.interpolate(x.clamp(0, 255).round(), scale_factor=2.0)


def function(upscale):
    return Net(upscale)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))

    def forward(self, x):
        return self.layers(x)


class Half(nn.Module):
    def forward(self, x):
        return F.interpolate(x, scale_factor=1.5)


class Pair(Net):
    def forward(self, x):
        return super().forward(x), x


class Noisy(Net):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)


class Trains(Net):
    def forward(self, x):
        self.train()
        return super().forward(x)


class Fails(Net):
    def forward(self, x):
        raise ValueError("not today")


class Large(Net):
    """Fails above 64 pixels, as no probe shows."""

    def forward(self, x):
        if x.shape[-1] == 65:
            raise ValueError("65 is too many")
        return super().forward(x)


class Arguments(nn.Module):
    def __init__(self, width, depth, scale, act="relu"):
        super().__init__()


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.LazyConv2d(12, 3)


class BadNames(Elastic):
    def variants(self):
        return ["small", "large"]


class BadSlices(Elastic):
    def slice(self, variant):
        return 3


def exits():
    raise SystemExit(3)


def recurses():
    return recurses()


def none():
    return None


NUMBER = 3
instance = Net(3)
