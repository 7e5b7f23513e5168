"""Small networks of spandrel's architectures with random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Mapping

import torch

from sr_deploy.nets.spandrel import import_spandrel


@dataclass(frozen=True)
class Small:
    """A small configuration: a class of the module `spandrel.architectures.ID`, its arguments."""

    arch: str
    network: str
    arguments: Mapping[str, object] = field(default_factory=dict)


_SWIN = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "mlp_ratio": 2.0}
_PIXELS = {"upscale": 2, "upsampler": "pixelshuffle"}
_UNET = {"enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1], "middle_blk_num": 1}

SMALL: Dict[str, Small] = {
    "ATD": Small(
        "ATD",
        "ATD",
        {
            "embed_dim": 12,
            "depths": (2,),
            "num_heads": (2,),
            "num_tokens": 8,
            **_PIXELS,
        },
    ),
    "AuraSR": Small(
        "AuraSR",
        "AuraSR",
        {
            "dim": 8,
            "image_size": None,
            "input_image_size": None,
            "style_network": {"dim_in": 8, "dim_out": 32, "depth": 2},
            "up_dim_mults": (1, 1, 1, 1, 1),
            "down_dim_mults": (1, 1, 1),
            "attn_depths": (1, 1, 1, 1, 1),
            "mid_attn_depth": 1,
            "self_attn_dim_head": 4,
            "skip_connect_scale": 0.4,
        },
    ),
    "Compact": Small("Compact", "Compact", {"num_feat": 8, "num_conv": 2}),
    "CRAFT": Small(
        "CRAFT", "CRAFT", {"embed_dim": 32, "depths": [2], "num_heads": [2], "upscale": 2}
    ),
    "DAT": Small(
        "DAT",
        "DAT",
        {
            "embed_dim": 32,
            "split_size": [8, 8],
            "depth": [2],
            "num_heads": [2],
            "expansion_factor": 2.0,
            **_PIXELS,
        },
    ),
    "DCTLSA": Small("DCTLSA", "DCTLSA", {"nf": 20, "upscale": 2}),
    "DITN": Small(
        "DITN",
        "DITN",
        {"dim": 12, "ITL_blocks": 1, "SAL_blocks": 1, "UFONE_blocks": 1, "upscale": 2},
    ),
    "DnCNN": Small("DnCNN", "DnCNN", {"in_nc": 3, "out_nc": 3, "nc": 8, "nb": 4}),
    "DRCT": Small(
        "DRCT",
        "DRCT",
        {"embed_dim": 12, "depths": (6,), "num_heads": (2,), "gc": 4, **_PIXELS},
    ),
    "DRUNet": Small("DRUNet", "DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [8, 8, 16, 16], "nb": 2}),
    "ESRGAN": Small("ESRGAN", "ESRGAN", {"num_filters": 8, "num_blocks": 1}),
    "ESRGAN unshuffle": Small(
        "ESRGAN",
        "ESRGAN",
        {"in_nc": 12, "num_filters": 8, "num_blocks": 1, "scale": 4, "shuffle_factor": 2},
    ),
    "FBCNN": Small("FBCNN", "FBCNN", {"nc": [8, 8, 16, 512], "nb": 2}),
    "FDAT": Small(
        "FDAT",
        "FDAT",
        {
            "embed_dim": 16,
            "num_groups": 1,
            "depth_per_group": 2,
            "num_heads": 2,
            "mid_dim": 16,
            "scale": 2,
            "upsampler_type": "pixelshuffle",
        },
    ),
    "FFTformer": Small(
        "FFTformer", "FFTformer", {"dim": 8, "num_blocks": [1, 1, 1], "num_refinement_blocks": 1}
    ),
    "GRL": Small(
        "GRL",
        "GRL",
        {
            "embed_dim": 16,
            "depths": [2],
            "num_heads_window": [2],
            "num_heads_stripe": [2],
            "mlp_ratio": 2.0,
            **_PIXELS,
        },
    ),
    "HAT": Small(
        "HAT",
        "HAT",
        {
            "embed_dim": 16,
            "depths": (2,),
            "num_heads": (2,),
            "window_size": 8,
            "squeeze_factor": 4,
            "compress_ratio": 4,
            **_PIXELS,
        },
    ),
    "HVICIDNet": Small(
        "HVICIDNet", "HVICIDNet", {"channels": [8, 8, 16, 32], "heads": [1, 2, 2, 4]}
    ),
    "IPT": Small(
        "IPT",
        "IPT",
        {"patch_size": 24, "n_feats": 4, "scale": [2], "num_layers": 1, "num_heads": 12},
    ),
    "KBNet": Small("KBNet", "KBNet_s", {"width": 8, **_UNET}),
    "LaMa": Small("LaMa", "LaMa", {"in_nc": 4}),
    "MixDehazeNet": Small(
        "MixDehazeNet", "MixDehazeNet", {"embed_dims": [8, 16, 32, 16, 8], "depths": [1] * 5}
    ),
    "MMRealSR": Small(
        "MMRealSR",
        "MMRealSR",
        {
            "num_in_ch": 3,
            "num_out_ch": 3,
            "num_feat": 16,
            "num_block": 1,
            "num_grow_ch": 8,
            "num_feats": [8, 8, 8, 16],
            "num_blocks": [1, 1, 1, 1],
        },
    ),
    "MoESR": Small("MoESR", "MoESR", {"scale": 2, "dim": 16, "n_blocks": 1, "n_block": 1}),
    "MoSR": Small("MoSR", "MoSR", {"upscale": 2, "n_block": 2, "dim": 16}),
    "NAFNet": Small("NAFNet", "NAFNet", {"width": 8, **_UNET}),
    "OmniSR": Small("OmniSR", "OmniSR", {"num_feat": 16, "up_scale": 2}),
    "PLKSR": Small("PLKSR", "PLKSR", {"dim": 16, "n_blocks": 2, "kernel_size": 5}),
    "RealPLKSR": Small("PLKSR", "RealPLKSR", {"dim": 16, "n_blocks": 2, "kernel_size": 5}),
    "RealPLKSR dysample": Small(
        "PLKSR",
        "RealPLKSR",
        {"dim": 16, "n_blocks": 2, "kernel_size": 5, "dysample": True, "layer_norm": True},
    ),
    "RCAN": Small(
        "RCAN",
        "RCAN",
        {"scale": 2, "n_resgroups": 1, "n_resblocks": 1, "n_feats": 16, "reduction": 4},
    ),
    "RealCUGAN": Small("RealCUGAN", "UpCunet2x"),
    "RetinexFormer": Small("RetinexFormer", "RetinexFormer", {"n_feat": 8, "stage": 1}),
    "RGT": Small(
        "RGT",
        "RGT",
        {"embed_dim": 32, "depth": [2], "num_heads": [2], "mlp_ratio": 2.0},
    ),
    "SAFMN": Small("SAFMN", "SAFMN", {"dim": 16, "n_blocks": 2}),
    "SAFMNBCIE": Small("SAFMNBCIE", "SAFMNBCIE", {"dim": 16, "n_blocks": 1, "num_layers": 1}),
    "SCUNet": Small("SCUNet", "SCUNet", {"config": [1] * 7, "dim": 64}),
    "SeemoRe": Small(
        "SeemoRe", "SeemoRe", {"scale": 2, "num_experts": 3, "num_layers": 2, "embedding_dim": 16}
    ),
    "SPAN": Small("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8}),
    "SwiftSRGAN": Small("SwiftSRGAN", "SwiftSRGAN", {"num_channels": 8, "num_blocks": 2}),
    "Swin2SR": Small("Swin2SR", "Swin2SR", {**_SWIN, **_PIXELS}),
    "SwinIR": Small("SwinIR", "SwinIR", {**_SWIN, **_PIXELS}),
    "Uformer": Small(
        "Uformer",
        "Uformer",
        {"embed_dim": 8, "depths": [1] * 9, "num_heads": [1, 1, 2, 2, 4, 4, 2, 2, 1]},
    ),
}


def weights_of(name: str, seed: int = 0) -> dict:
    """Return the state dict of the small configuration `name`, with random weights."""
    small = SMALL[name]
    spandrel = import_spandrel()
    module = getattr(spandrel.architectures, small.arch)
    torch.manual_seed(seed)
    return getattr(module, small.network)(**small.arguments).state_dict()
