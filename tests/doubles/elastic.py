"""A small elastic network with a gains head: untrained, but all depths are chosen."""

from __future__ import annotations

DEPTHS = ("d1", "d2", "d4")


def small_gains(folder):
    """Write an ASRN of four blocks and a gains head of three depths; return the loaded head."""
    import torch

    from sr_deploy.core.gains import GainsSpec
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
    from sr_deploy.nets.gains import GainsHead, load_gains, save_gains

    torch.manual_seed(0)
    architecture, largest = ARCHITECTURES["asrn"], Variant("d", 4)
    spec = architecture.spec(2, largest, elastic=True)
    path = save_checkpoint(folder, "deep_x2", spec, architecture.build(2, largest).state_dict())
    card = GainsSpec(
        model="deep_x2",
        model_sha256=load_checkpoint(path).spec.weights_sha256,
        scale=2,
        variants=DEPTHS,
        price=1e-9,
        config={"hidden": 8},
    )
    head = GainsHead(depths=2, hidden=8)
    return load_gains(save_gains(folder, "small_x2", card, head.state_dict()))


def open_in_torch(gains, **options):
    """Return an ElasticSession that torch runs on the CPU."""
    from sr_deploy.core.parts import OpenParts
    from sr_deploy.nets.elastic import elastic_modules
    from sr_deploy.runtime.adaptive.elastic import ElasticSession
    from sr_deploy.runtime.torch_device import torch_device
    from sr_deploy.runtime.torch_module import tensor_part

    plan, modules = elastic_modules(gains)
    device = torch_device()
    parts = {role: tensor_part(module, device) for role, module in modules.items()}
    return ElasticSession(plan, OpenParts(parts, device.info()), **options)
