"""A small AdaEDSR whose depth map has all values, and its plans."""

from __future__ import annotations

import pytest

BLOCKS = 3
CONFIG = {"channels": 8, "blocks": BLOCKS}


@pytest.fixture(scope="session")
def checkpoint():
    torch = pytest.importorskip("torch", reason="torch is not installed; it makes the networks")
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import Checkpoint

    torch.manual_seed(0)
    architecture = ARCHITECTURES["adaedsr"]
    net = architecture.build(4, Variant("d", BLOCKS), CONFIG)
    with torch.no_grad():
        net.adapter.rest[-1].weight.mul_(2).abs_()
        net.adapter.rest[-1].bias.fill_(-1)
    return Checkpoint(
        "ada",
        architecture.spec(4, Variant("d", BLOCKS), elastic=True, config=CONFIG),
        net.state_dict(),
    )


@pytest.fixture(scope="session")
def plans(checkpoint, tmp_path_factory):
    """The paths of its plans by way."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graphs")
    from sr_deploy.export.plans import plan_from_checkpoint

    folder = tmp_path_factory.mktemp("plans")
    return {
        "rows": plan_from_checkpoint(checkpoint, folder, way="rows", dense_above=0.7),
        "tiles": plan_from_checkpoint(checkpoint, folder, way="tiles", tile=7, dense_above=1.0),
    }


@pytest.fixture(scope="session")
def small_router(tmp_path_factory):
    """A router between two depths of an untrained ASRN, whose classes both occur; its files lie beside each other."""
    torch = pytest.importorskip("torch", reason="torch is not installed; it makes the networks")
    from sr_deploy.core.routers import RouterSpec
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import load_checkpoint, save_checkpoint
    from sr_deploy.nets.router import ModuleCL, load_router, save_router

    folder = tmp_path_factory.mktemp("router")
    torch.manual_seed(0)
    architecture = ARCHITECTURES["asrn"]
    net = architecture.build(4, Variant("d", 2))
    weights = save_checkpoint(
        folder, "tiny_x4", architecture.spec(4, Variant("d", 2), elastic=True), net.state_dict()
    )
    spec = load_checkpoint(weights).spec
    card = RouterSpec(
        scale=4,
        models=("tiny_x4",) * 2,
        variants=("d1", "d2"),
        weights_sha256s=(spec.weights_sha256,) * 2,
        macs=(100, 180),
        router_macs=10,
        patch_hw=(16, 16),
    )
    router = ModuleCL(classes=2)
    with torch.no_grad():  # bright patches are of the second class
        for p in router.parameters():
            p.zero_()
        router.features[0].weight[:3, range(3), 1, 1] = 1
        for conv in [m for m in router.features[2:] if isinstance(m, torch.nn.Conv2d)]:
            conv.weight[range(3), range(3)] = 1
        router.classify.weight[1, :3] = 1
        router.classify.bias[1] = -0.8
    return load_router(save_router(folder, "small_x4", card, router.state_dict()))
