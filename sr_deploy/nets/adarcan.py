"""AdaRCAN: RCAN with a depth map for each of its residual groups (AdaDSR, section 3.4). Its variants are desired depths, of a group."""

from __future__ import annotations

from typing import Tuple

from torch import Tensor

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant, check_desired_depth
from sr_deploy.nets.adapter import Adapter, mask
from sr_deploy.nets.architecture import Architecture, Weights, blocks_in, check_axis
from sr_deploy.nets.rcan import BLOCKS, GROUPS, RCAN, REDUCTION


class AdaRCAN(RCAN):
    """The masked network, which computes every block everywhere. depth: the desired depth of `forward`, 0..blocks of a group."""

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
        self.depth = depth
        self.adapter = Adapter(width, blocks=blocks, maps=groups, scaled=scaled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_at(x, x.new_full((x.shape[0],), self.depth))[0]

    def forward_at(self, x: Tensor, depth: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the image of x at the desired depths (N,), and the depth maps, (N, groups, H, W), 0..blocks."""
        features = self.features(x)  # (N, width, H, W)
        depth_maps = self.adapter(features, depth)
        deep = features
        for group, depth_map in zip(self.groups, depth_maps.split(1, dim=1)):
            y = deep
            for number, block in enumerate(group.blocks, 1):
                added = mask(depth_map, number) * block.conv2(block.act(block.conv1(y)))
                y = y + added * block.attention(
                    added
                )  # it averages what is left, as a sparse network could: the public code's way
            deep = deep + group.last(y)
        return self.image(deep, features), depth_maps


def _network(
    *, scale: int, variant: Variant, width: int, groups: int, blocks: int, scaled: str
) -> AdaRCAN:
    for name, value, least in (
        ("width", width, REDUCTION),
        ("groups", groups, 1),
        ("blocks", blocks, 1),
    ):
        if not isinstance(value, int) or not least <= value <= 1024:
            raise CheckpointError(
                f"AdaRCAN's {name} is a whole number from {least} to 1024, not {value!r}"
            )
    check_desired_depth(variant.size, blocks)
    return AdaRCAN(
        scale=scale, depth=variant.size, width=width, groups=groups, blocks=blocks, scaled=scaled
    )


def _config_of(weights: Weights) -> dict:
    if "head.bias" not in weights:
        return {}
    return {
        "width": weights["head.bias"].shape[0],
        "groups": blocks_in(weights, "groups"),
        "blocks": blocks_in(weights, "groups.0.blocks"),
    }


ADARCAN_ARCHITECTURE = Architecture(
    name="adarcan",
    scales=(2, 3, 4),
    default_variant=f"d{BLOCKS}",
    network=_network,
    check=lambda variant: check_axis(variant, "d", f"d{BLOCKS}"),
    slice=lambda weights, held, wanted: dict(weights),
    points=lambda largest: tuple(f"d{n}" for n in range(1, largest.size + 1)),
    size_of=lambda weights: Variant("d", blocks_in(weights, "groups.0.blocks")),
    config={"width": 64, "groups": GROUPS, "blocks": BLOCKS, "scaled": "weight"},
    config_of=_config_of,
    published=("d5", "d10", "d15", "d20"),  # Figure 5
    backbone="rcan",
)
