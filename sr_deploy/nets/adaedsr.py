"""AdaEDSR: EDSR whose pixels leave after as many blocks as an adapter says (AdaDSR, section 3).

Its variants are desired depths: `d8` asks for eight blocks on average of all it has. All of them share all weights.
"""

from __future__ import annotations

from typing import Tuple

from torch import Tensor

from sr_deploy.core.errors import CheckpointError
from sr_deploy.core.spec import Variant, check_desired_depth
from sr_deploy.nets.adapter import Adapter, mask
from sr_deploy.nets.architecture import Architecture, Weights, blocks_in, check_axis
from sr_deploy.nets.edsr import EDSR, EDSRParts, check_channels

BLOCKS = 16
"""Of EDSR-baseline; the paper's own is 32, of 256 channels."""


class AdaEDSR(EDSRParts):
    """The masked network, which computes every block everywhere: for training, and to compare with what skips.

    depth: the desired depth of `forward`, 0..blocks.
    """

    def __init__(
        self,
        *,
        scale: int,
        depth: float,
        blocks: int = BLOCKS,
        channels: int = 64,
        scaled: str = "weight",
    ) -> None:
        super().__init__(scale=scale, blocks=blocks, channels=channels, original=True)
        self.depth = depth
        self.adapter = Adapter(channels, blocks=blocks, scaled=scaled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_at(x, x.new_full((x.shape[0],), self.depth))[0]

    def forward_at(self, x: Tensor, depth: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the image of x at the desired depths (N,), and the depth map, (N, 1, H, W), 0..blocks."""
        features = self.features(x)  # (N, channels, H, W)
        depth_map = self.adapter(features, depth)
        y = features
        for number, block in enumerate(self.blocks, 1):
            y = y + mask(depth_map, number) * block.residual(y)
        return self.image(y, features), depth_map

    def backbone(self) -> EDSR:
        """Return the dense network inside, every block everywhere, sharing its weights."""
        net = EDSR(scale=self.scale, blocks=len(self.blocks), channels=self.channels, original=True)
        net.load_state_dict(
            {k: v for k, v in self.state_dict().items() if not k.startswith("adapter.")},
            assign=True,
        )
        return net.eval()


def _network(*, scale: int, variant: Variant, channels: int, blocks: int, scaled: str) -> AdaEDSR:
    check_channels(channels)
    if not isinstance(blocks, int) or not 1 <= blocks <= 1024:
        raise CheckpointError(f"AdaEDSR's blocks are a whole number from 1 to 1024, not {blocks!r}")
    check_desired_depth(variant.size, blocks)
    return AdaEDSR(scale=scale, depth=variant.size, blocks=blocks, channels=channels, scaled=scaled)


def _config_of(weights: Weights) -> dict:
    found = {"blocks": blocks_in(weights, "blocks")} if weights else {}
    return {**found, "channels": weights["head.bias"].shape[0]} if "head.bias" in weights else found


ADAEDSR_ARCHITECTURE = Architecture(
    name="adaedsr",
    scales=(2, 3, 4),
    default_variant=f"d{BLOCKS}",
    network=_network,
    check=lambda variant: check_axis(variant, "d", f"d{BLOCKS}"),
    slice=lambda weights, held, wanted: dict(weights),
    points=lambda largest: tuple(f"d{n}" for n in range(1, largest.size + 1)),
    size_of=lambda weights: Variant("d", blocks_in(weights, "blocks")),
    config={"channels": 64, "blocks": BLOCKS, "scaled": "weight"},
    config_of=_config_of,
    published=("d4", "d8", "d12", "d16"),  # Table 3's quarters
    backbone="edsr-original",
)
