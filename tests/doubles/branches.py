"""A small router between widths of FSRCNN, whose patches are not blended. All branches occur."""

from __future__ import annotations

WIDTHS = ("w2", "w4", "w8")


def small_branches(folder, *, patch=32, arch="fsrcnn", **card):
    """Write checkpoints and a router of random weights to `folder`; return the loaded router.

    card: its other fields.
    """
    import torch

    from sr_deploy.core.routers import RouterSpec
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
    from sr_deploy.nets.router import ModuleCL, load_router, save_router

    torch.manual_seed(0)
    architecture, digests = ARCHITECTURES[arch], []
    for text in WIDTHS:
        variant = Variant.parse(text)
        net = architecture.build(2, variant)
        for parameter in net.parameters():
            if parameter.dim() == 1:  # large biases, so that wrong borders show
                torch.nn.init.uniform_(parameter, -1, 1)
        spec = architecture.spec(2, variant, elastic=False)
        path = save_checkpoint(folder, f"{arch}-{text}_x2", spec, net.state_dict())
        digests.append(load_checkpoint(path).spec.weights_sha256)
    router = ModuleCL(classes=3, convs=2)
    blending = {"overlap": 0, "blend": "none", **card}
    spec = RouterSpec(
        scale=2,
        models=tuple(f"{arch}-{width}_x2" for width in WIDTHS),
        variants=WIDTHS,
        weights_sha256s=tuple(digests),
        macs=(1, 2, 3),
        router_macs=2048 * (patch // 32) ** 2,
        patch_hw=(patch, patch),
        config={"convs": 2},
        **blending,
    )
    return load_router(save_router(folder, "branches_x2", spec, router.state_dict()))
