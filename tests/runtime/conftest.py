"""A tiny handmade super-resolution graph: one convolution and a pixel shuffle, x2."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from doubles.graphs import quantised_model, tiny_manifest, tiny_model

from sr_deploy.core.manifest import write_artifact
from sr_deploy.runtime import build


@pytest.fixture()
def tiny(tmp_path):
    """Write a tiny graph with its manifest and return its path."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")

    def make(
        name="tiny_x2.d1",
        *,
        hw=(16, 24),
        high=None,
        precision="fp32",
        asked=None,
        extra=None,
        repeats=False,
        opset=17,
    ):
        model = tiny_model(
            None if high else hw, precision=precision, extra=extra, repeats=repeats, opset=opset
        )

        def write(temporary):
            onnx.save(model, str(temporary))
            return tiny_manifest(hw, high, precision=precision, asked=asked, opset=opset)

        path = tmp_path / "onnx" / f"{name}.onnx"
        write_artifact(path, write)
        return path

    return make


@pytest.fixture()
def quantised(tmp_path):
    """Write a tiny quantised graph with its manifest and return its path."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")

    def make(**kwargs):
        def write(temporary):
            onnx.save(quantised_model((16, 24), **kwargs), str(temporary))
            return replace(tiny_manifest(asked="int8"), precision_obtained="int8")

        path = tmp_path / "onnx" / "tiny_x2.d1.int8.onnx"
        write_artifact(path, write)
        return path

    return make


@pytest.fixture()
def any_graph(tmp_path, monkeypatch):
    """Write a file that is accepted as a graph where none is parsed: works without onnx."""
    monkeypatch.setattr(build, "preflight", lambda *args, **kwargs: [])

    def make(name="tiny_x2.d1", **kwargs):
        def write(temporary):
            temporary.write_bytes(b"\x08\x08")  # ModelProto.ir_version = 8
            return tiny_manifest(**kwargs)

        path = tmp_path / "onnx" / f"{name}.onnx"
        write_artifact(path, write)
        return path

    return make


@pytest.fixture()
def stand_in(monkeypatch):
    """Install the stand-in for trtexec (a test double: tests/doubles/trtexec) here."""

    def put(version="8.5.2", *, misbehave="", sm="7.2", scale=2):
        for name, value in (
            ("VERSION", version),
            ("MISBEHAVE", misbehave),
            ("SM", sm),
            ("SCALE", str(scale)),
        ):
            monkeypatch.setenv(f"STAND_IN_TRTEXEC_{name}", value)
        monkeypatch.setenv(
            "TRTEXEC", str(Path(__file__).resolve().parents[1] / "doubles" / "trtexec")
        )

    return put


@pytest.fixture()
def repeating(tiny):
    """Make graphs that the stand-in's engines compute correctly. Skips without a reference."""
    for package in ("onnxruntime", "skimage", "cv2"):
        pytest.importorskip(package, reason=f"{package} is not installed; it makes the reference")

    def make(name="tiny_x2.d1", **kwargs):
        return tiny(name, repeats=True, **{"asked": "fp16", **kwargs})

    return make


@pytest.fixture()
def repeating_int8(tiny_int8):
    """As `repeating`, of INT8 graphs."""
    for package in ("onnxruntime", "skimage", "cv2"):
        pytest.importorskip(package, reason=f"{package} is not installed; it makes the reference")

    def make(name="tiny_x2.d1", **form):
        return tiny_int8(name, repeats=True, **form)

    return make


BLOCKS = 3
CONFIG = {"channels": 8, "blocks": BLOCKS}


@pytest.fixture(scope="session")
def checkpoint():
    """Return a small AdaEDSR whose depth map has all values."""
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
def depth_plan_path(checkpoint, made_once):
    """Return the path of its plan."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graphs")
    from sr_deploy.export.plans import plan_from_checkpoint

    folder = made_once("plans", lambda folder: plan_from_checkpoint(checkpoint, folder))
    return folder / "ada.adadsr.json"


@pytest.fixture(scope="session")
def small_adarcan():
    """Return a function that makes an AdaRCAN of two blocks a group, whose maps differ."""
    torch = pytest.importorskip("torch", reason="torch is not installed; it makes the networks")
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import Checkpoint

    def make(groups):
        torch.manual_seed(0)
        architecture = ARCHITECTURES["adarcan"]
        config = {"width": 16, "groups": groups, "blocks": 2}
        net = architecture.build(2, Variant("d", 2), config)
        with torch.no_grad():
            net.adapter.rest[-1].weight.mul_(2).abs_()
            net.adapter.rest[-1].bias.copy_(torch.tensor([-1.0, -0.6])[:groups])
            for name, weight in net.named_parameters():
                if ".conv2.weight" in name or ".attention.3.weight" in name:
                    weight.mul_(10)  # so that the blocks, and their attention, show in the image
        spec = architecture.spec(2, Variant("d", 2), elastic=True, config=config)
        return Checkpoint("adar_x2", spec, net.state_dict())

    return make


@pytest.fixture(scope="session")
def adarcan_plan_path(small_adarcan, made_once):
    """Return the path of the plan of one with a single group."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; it runs the graphs")
    from sr_deploy.export.plans import plan_from_checkpoint

    made = made_once("adarcan", lambda folder: plan_from_checkpoint(small_adarcan(1), folder))
    return made / "adar_x2.adadsr.json"


@pytest.fixture(scope="session")
def small_router(tmp_path_factory):
    """Write a router between two depths of an untrained ASRN; both classes occur."""
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


@pytest.fixture()
def tiny_int8(tmp_path):
    """Write a small INT8 graph with its manifest and return its path; see doubles.int8_graphs."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")
    from doubles.int8_graphs import int8_manifest, int8_model

    def make(name="tiny_x2.d1", *, half=False, edit=None, **form):
        model = int8_model(half=half, **form)
        if edit is not None:
            edit(model)

        def write(temporary):
            onnx.save(model, str(temporary))
            return int8_manifest(half=half)

        path = tmp_path / "onnx" / f"{name}.onnx"
        write_artifact(path, write)
        return path

    return make
