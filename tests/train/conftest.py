"""Small images, and recipes that take a second."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import save_checkpoint
from sr_deploy.train.options import TrainOptions
from sr_deploy.train.recipe import Recipe, RouterRecipe
from sr_deploy.train.router_trainer import router_from_images
from sr_deploy.train.trainer import checkpoint_from_images

TINY = Recipe(
    arch="asrn",
    scale=2,
    variant="d2",
    method="deep-supervision",
    psd=0.1,
    elastic=True,
    steps=6,
    patch_hr=12,
    batch_size=4,
    lr=1e-3,
    schedule="one-cycle",
    ema=0.9,
    clip_norm=1.0,
    valid_every=2,
)

TINY_ROUTER = RouterRecipe(
    stage="router", scale=2, steps=4, patch_hr=16, batch_size=4, lr=1e-3, schedule="constant"
)


def write_images(folder, sizes, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i, (h, w) in enumerate(sizes):
        small = rng.integers(0, 256, (h // 4 + 1, w // 4 + 1, 3), dtype=np.uint8)
        cv2.imwrite(
            str(folder / f"{i}.png"), cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)
        )
    return folder


def train_network(recipe, folders, output, teacher=None, judge=None, **options):
    run_options = TrainOptions(folders, output, **options)
    return checkpoint_from_images(recipe, run_options, teacher=teacher, judge=judge)


def train_router(recipe, folders, output, branches=(), vgg=None, **options):
    run_options = TrainOptions(folders, output, **options)
    return router_from_images(recipe, run_options, branches=branches, vgg=vgg)


def untrained(folder, arch, width, name=None):
    """Save a network of a width at x2 with random weights, and return its path."""
    architecture, variant = ARCHITECTURES[arch], Variant.parse(width)
    spec = architecture.spec(2, variant, elastic=False)
    weights = architecture.build(2, variant).state_dict()
    return str(save_checkpoint(folder, name or f"{arch}-{width}", spec, weights))


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder of three HR images."""
    return write_images(tmp_path_factory.mktemp("train") / "hr", [(64, 61), (33, 64), (40, 40)])


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache of decoded images for all runs."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture()
def train(images, cache, tmp_path):
    def run(recipe=TINY, output=tmp_path, **options):
        defaults = {"folders": [images], "name": "net", "cache": cache}
        return train_network(recipe, output=output, **{**defaults, **options})

    return run


@pytest.fixture(scope="session")
def whole(images, cache, tmp_path_factory):
    """A run without interruption: its folder and the checkpoint's path."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train_network(
        TINY, [images], folder, name="net", cache=cache, licence="CC0", trained_on="noise"
    )
