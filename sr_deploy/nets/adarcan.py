"""AdaRCAN: RCAN with a depth map for each of its residual groups (AdaDSR, section 3.4).

Its variants are desired depths, in blocks of a group.
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
from sr_deploy.nets.rcan import BLOCKS, GROUPS, RCAN, REDUCTION, AttentionBlock, ResidualGroup


class AdaRCAN(RCAN):
    """The masked network, which computes every block at every pixel.

    x: (N, 3, H, W) float, 0..1, RGB -> (N, 3, scale*H, scale*W). depth: the desired depth of
    `forward`, 0..blocks of a group.
    """

    def __init__(
        self,
        *,
        scale: int,
        depth: float,
        width: int = 64,
        groups: int = GROUPS,
        blocks: int = BLOCKS,
        scaled: str = "weight",
    ) -> None:
        super().__init__(scale=scale, width=width, groups=groups, blocks=blocks)
        self.scale, self.depth = scale, depth
        self.adapter = Adapter(width, blocks=blocks, maps=groups, scaled=scaled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_at(x, x.new_full((x.shape[0],), self.depth))[0]

    def forward_at(self, x: Tensor, depth: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the image at desired depths (N,) and the depth maps, (N, groups, H, W)."""
        features = self.features(x)  # (N, width, H, W)
        depth_maps = self.adapter(features, depth)  # (N, groups, H, W), 0..blocks
        deep = features
        for group, depth_map in zip(self.groups, depth_maps.split(1, dim=1)):
            group = cast(ResidualGroup, group)
            y = deep
            for number, module in enumerate(group.blocks, 1):
                block = cast(AttentionBlock, module)
                masked = mask(depth_map, number) * block.conv2(block.act(block.conv1(y)))
                # As in the public code, attention averages the masked map: all that a sparse
                # network computes.
                y = y + masked * block.attention(masked)
            deep = deep + group.last(y)
        return self.image(deep, features), depth_maps

    def backbone(self) -> RCAN:
        """Return the dense network, every block at every pixel, with shared weights."""
        width, blocks = self.head.out_channels, self.adapter.blocks
        net = RCAN(scale=self.scale, width=width, groups=len(self.groups), blocks=blocks)
        weights = {k: v for k, v in self.state_dict().items() if not k.startswith("adapter.")}
        net.load_state_dict(weights, assign=True)
        return net.eval()


def _network(*, scale: int, variant: Variant, scaled: str, **sizes: int) -> AdaRCAN:
    for key, value in sizes.items():  # width, groups, blocks
        check_config_int("AdaRCAN", key, value, REDUCTION if key == "width" else 1)
    check_desired_depth(variant.size, sizes["blocks"])
    return AdaRCAN(scale=scale, depth=variant.size, scaled=scaled, **sizes)


def _config_of(weights: Weights) -> dict:
    if "head.bias" not in weights:
        return {}
    return {
        "width": weights["head.bias"].shape[0],
        "groups": count_blocks(weights, "groups"),
        "blocks": count_blocks(weights, "groups.0.blocks"),
    }


ADARCAN_ARCHITECTURE = Architecture(
    name="adarcan",
    default_variant=f"d{BLOCKS}",
    network=_network,
    check=lambda variant: check_axis(variant, f"d{BLOCKS}"),
    points=all_sizes,
    size_of=lambda weights: Variant("d", count_blocks(weights, "groups.0.blocks")),
    config={"width": 64, "groups": GROUPS, "blocks": BLOCKS, "scaled": "weight"},
    config_of=_config_of,
    published=("d5", "d10", "d15", "d20"),  # Figure 5
    backbone="rcan",
)
