"""AdaEDSR: EDSR with a depth for each pixel, predicted by an adapter (AdaDSR, section 3).

Its variants are desired depths: `d8` asks for eight blocks on average. All share all weights.
"""

from __future__ import annotations

from typing import Tuple, cast

from torch import Tensor

from sr_deploy.core.spec import Variant, check_desired_depth
from sr_deploy.nets.adapter import Adapter, mask
from sr_deploy.nets.architecture import (
    Architecture,
    Weights,
    all_sizes,
    check_axis,
    check_config_int,
    count_blocks,
)
from sr_deploy.nets.edsr import EDSR, EDSRBase, ResidualBlock

BLOCKS = 16
"""As in EDSR's baseline; the paper's large network has 32, with 256 channels."""


class AdaEDSR(EDSRBase):
    """The masked network, which computes every block at every pixel: for training and reference.

    x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W). depth: the desired depth of
    `forward`, 0..blocks.
    """

    def __init__(
        self,
        *,
        scale: int,
        depth: float,
        blocks: int = BLOCKS,
        channels: int = 64,
        scaled: str = "weight",
        adapter: int = 0,
    ) -> None:
        super().__init__(scale=scale, blocks=blocks, channels=channels, original=True)
        self.depth = depth
        self.adapter = Adapter(channels, blocks=blocks, scaled=scaled, width=adapter)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_at(x, x.new_full((x.shape[0],), self.depth))[0]

    def forward_at(self, x: Tensor, depth: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the image at desired depths (N,), and the depth map, (N, 1, H, W), 0..blocks."""
        features = self.features(x)  # (N, channels, H, W)
        depth_map = self.adapter(features, depth)  # (N, 1, H, W)
        y = features
        for number, block in enumerate(self.blocks, 1):
            y = y + mask(depth_map, number) * cast(ResidualBlock, block).residual(y)
        return self.image(y, features), depth_map

    def backbone(self) -> EDSR:
        """Return the dense network, every block at every pixel, with shared weights."""
        net = EDSR(scale=self.scale, blocks=len(self.blocks), channels=self.channels, original=True)
        weights = {k: v for k, v in self.state_dict().items() if not k.startswith("adapter.")}
        net.load_state_dict(weights, assign=True)
        return net.eval()


def _network(
    *, scale: int, variant: Variant, channels: int, blocks: int, scaled: str, adapter: int
) -> AdaEDSR:
    check_config_int("AdaEDSR", "channels", channels)
    check_config_int("AdaEDSR", "blocks", blocks)
    check_config_int("AdaEDSR", "adapter", adapter, 0)
    check_desired_depth(variant.size, blocks)
    return AdaEDSR(
        scale=scale,
        depth=variant.size,
        blocks=blocks,
        channels=channels,
        scaled=scaled,
        adapter=adapter,
    )


def _config_of(weights: Weights) -> dict:
    config = {"blocks": count_blocks(weights, "blocks")} if weights else {}
    if "head.bias" in weights:
        config["channels"] = weights["head.bias"].shape[0]
        adapter = weights.get("adapter.first.bias")
        if adapter is not None and adapter.shape[0] != config["channels"] // 2:
            config["adapter"] = adapter.shape[0]
    return config


ADAEDSR_ARCHITECTURE = Architecture(
    name="adaedsr",
    default_variant=f"d{BLOCKS}",
    network=_network,
    check=lambda variant: check_axis(variant, f"d{BLOCKS}"),
    points=all_sizes,
    size_of=lambda weights: Variant("d", count_blocks(weights, "blocks")),
    config={"channels": 64, "blocks": BLOCKS, "scaled": "weight", "adapter": 0},
    config_of=_config_of,
    published=("d4", "d8", "d12", "d16"),  # the quarters of Table 3
    backbone="edsr-original",
)
