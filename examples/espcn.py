"""A small network of one's own, and its training in plain PyTorch: about a minute on a CPU.

    python examples/espcn.py -o espcn_x4.pth                # or --images DIV2K/HR --steps 20000
    srdeploy bench examples/espcn.py:ESPCN --weights espcn_x4.pth --scale 4
    srdeploy export examples/espcn.py:ESPCN --weights espcn_x4.pth --scale 4 --target cpu -o out
    srdeploy build-engine out --target cpu -o engines
    srdeploy upscale photo.png -m engines -o photo_x4.png

srdeploy needs nothing of this file but the class: a `torch.nn.Module` that is made with a scale
and maps (N, 3, H, W) RGB in 0..1 to (N, 3, scale*H, scale*W).
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class ESPCN(nn.Module):
    """The network of Shi et al., 2016, on top of the repeated pixels of the input."""

    def __init__(self, scale=4, width=32):
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 3 * scale**2, 3, padding=1),
        )

    def forward(self, x):
        pixels = x.repeat_interleave(self.scale**2, dim=1)  # (N, 3 * scale**2, H, W)
        return F.pixel_shuffle(self.layers(x) + pixels, self.scale)


def load_images(folder):
    """Return the images of a folder, or photographs of scikit-image: (3, H, W) float, 0..1."""
    if folder is None:
        from skimage import data

        photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    else:
        from skimage import io

        files = sorted(p for p in Path(folder).iterdir() if p.suffix in (".png", ".jpg"))
        photos = [io.imread(file)[..., :3] for file in files]
    return [torch.from_numpy(np.moveaxis(photo, 2, 0) / np.float32(255)) for photo in photos]


def random_batch(images, scale, size=24, n=16):
    """Return LR and HR crops: (n, 3, size, size) and (n, 3, scale*size, scale*size)."""
    side, crops = scale * size, []
    for image in random.choices(images, k=n):
        top, left = (random.randint(0, length - side) for length in image.shape[1:])
        crop = image[:, top : top + side, left : left + side]
        crops.append(crop.flip(2) if random.random() < 0.5 else crop)
    hr = torch.stack(crops)
    lr = F.interpolate(hr, scale_factor=1 / scale, mode="bicubic", antialias=True)
    return (lr * 255).round().clamp(0, 255) / 255, hr


def train(net, images, scale, steps, run=None):
    """Train `net`. run: computes the output of a step; by default the network does."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(1, steps + 1):
        lr, hr = random_batch(images, scale)
        loss = F.l1_loss((run or net)(lr), hr)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.4f}")


def options(steps):
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", help="folder of HR images [default: scikit-image's]")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("-o", "--output", required=True, help="file for the weights")
    return parser.parse_args()


def main():
    args = options(steps=500)
    net = ESPCN(args.scale)
    train(net, load_images(args.images), args.scale, args.steps)
    torch.save(net.state_dict(), args.output)


if __name__ == "__main__":
    main()
