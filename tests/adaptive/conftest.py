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
    return Checkpoint("ada", architecture.spec(4, Variant("d", BLOCKS), elastic=True, config=CONFIG), net.state_dict())


@pytest.fixture(scope="session")
def plans(checkpoint, tmp_path_factory):
    """The paths of its plans by way."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graphs")
    from sr_deploy.export.adadsr import plan_from_checkpoint

    folder = tmp_path_factory.mktemp("plans")
    return {
        "rows": plan_from_checkpoint(checkpoint, folder, way="rows", dense_above=0.7),
        "tiles": plan_from_checkpoint(checkpoint, folder, way="tiles", tile=7, depths=(1, 3)),
    }
