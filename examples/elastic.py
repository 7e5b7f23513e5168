"""An elastic network of one's own: one training, and networks of several depths.

    python examples/elastic.py -o elastic_x4.pth
    srdeploy bench examples/elastic.py:Elastic --weights elastic_x4.pth        # d1, d2 and d4
    srdeploy export examples/elastic.py:Elastic --weights elastic_x4.pth --target cpu -o out
    srdeploy upscale photo.png -m examples/elastic.py:Elastic.d2 --weights elastic_x4.pth -o x4.png

It is elastic for srdeploy because it has `variants()`, the names of its variants, smallest first,
and `slice(variant)`, which returns the network of one of them as a plain module.
"""

import random

import torch
import torch.nn.functional as F
from espcn import load_images, options, train
from torch import nn


class Elastic(nn.Module):
    """Residual convolutions, of which the first `depth` are run."""

    def __init__(self, scale=4, depth=4, width=24):
        super().__init__()
        self.scale, self.width = scale, width
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        self.tail = nn.Conv2d(width, 3 * scale**2, 3, padding=1)

    def forward(self, x, depth=None):
        y = self.head(x)
        for layer in self.body[:depth]:
            y = y + F.relu(layer(y))
        pixels = x.repeat_interleave(self.scale**2, dim=1)
        return F.pixel_shuffle(self.tail(y) + pixels, self.scale)

    def variants(self):
        return ["d1", "d2", "d4"]

    def slice(self, variant):
        net = Elastic(self.scale, int(variant[1:]), self.width)
        weights = self.state_dict()
        net.load_state_dict({name: weights[name] for name in net.state_dict()})
        return net


def main():
    args = options(steps=500)
    net = Elastic(args.scale)
    # Every step trains a depth; all depths share the weights.
    train(
        net,
        load_images(args.images),
        args.scale,
        args.steps,
        run=lambda lr: net(lr, depth=random.choice([1, 2, 4])),
    )
    torch.save(net.state_dict(), args.output)


if __name__ == "__main__":
    main()
