"""Tiny checkpoints with random weights."""

from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.manifest import Manifest, write_artifact


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    """Run each test in an empty folder: commands write to `engines/` where no folder is given."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


def save(folder, arch, scale, variant):
    torch = pytest.importorskip("torch", reason="torch is not installed; it makes the checkpoint")
    pytest.importorskip(
        "safetensors", reason="safetensors is not installed; it writes the checkpoint"
    )
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES
    from sr_deploy.nets.checkpoint import save_checkpoint

    torch.manual_seed(0)
    architecture, largest = ARCHITECTURES[arch], Variant.parse(variant)
    weights = architecture.build(scale, largest).state_dict()
    return save_checkpoint(
        folder, f"tiny-{arch}_x{scale}", architecture.spec(scale, largest, elastic=True), weights
    )


@pytest.fixture(scope="session")
def asrn(tmp_path_factory):
    """An elastic ASRN x2 with d1 and d2."""
    return save(tmp_path_factory.mktemp("asrn"), "asrn", 2, "d2")


@pytest.fixture(scope="session")
def srn(tmp_path_factory):
    """A one-block SRN-S x2, which takes 15x15 and larger."""
    return save(tmp_path_factory.mktemp("srn"), "srn-s", 2, "b1")


@pytest.fixture(scope="session")
def exporter():
    """Skip where the packages that exporting needs are not installed."""
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "cv2", "skimage"):
        pytest.importorskip(name, reason=f"{name} is not installed; exporting needs it")


@pytest.fixture()
def rtx_engine(tmp_path):
    """What passes for an RTX engine: nothing here can run it."""

    def write(temporary):
        temporary.write_bytes(b"vtrt")
        return Manifest(
            kind="engine",
            model="m_x2",
            variant="d1",
            arch="asrn",
            scale=2,
            min_shape=(8, 8),
            opt_shape=(8, 8),
            max_shape=(8, 8),
            input_dtype="fp16",
            output_dtype="fp16",
            precision_asked="fp16",
            precision_obtained="fp16",
            target="rtx",
            parent_sha256="ab" * 32,
            command="",
            versions={},
        )

    path = tmp_path / "m_x2.d1.8x8.fp16.engine"
    write_artifact(path, write)
    return path


@pytest.fixture()
def fails(run_cli):
    """Run a command that must fail with exit code 1 and no traceback; return its stderr."""

    def check(*args):
        result = run_cli(*args)
        assert result.exit_code == 1, (
            result.exit_code,
            result.stdout,
            result.stderr,
            result.exception,
        )
        assert isinstance(result.exception, SystemExit)
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        return result.stderr

    return check


@pytest.fixture()
def perfect(tmp_path):
    """Return a graph, and a folder of one flat image that it upscales without an error."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed; it makes the graph")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")
    from sr_deploy.core.images import write_png

    info = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, s, s])
        for n, s in (("lr", 16), ("sr", 32))
    ]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    node = onnx.helper.make_node("Resize", ["lr", "", "scales"], ["sr"], mode="nearest")
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:], [scales])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, str(tmp_path / "nearest.onnx"))
    (tmp_path / "grey").mkdir()
    write_png(tmp_path / "grey" / "flat.png", np.full((32, 32, 3), 128, np.uint8))
    return tmp_path / "nearest.onnx", tmp_path / "grey"


@pytest.fixture()
def data(tmp_path):
    """A folder with one small photograph-like image."""
    pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")
    from sr_deploy.core.images import imresize, write_png

    folder = tmp_path / "Tiny" / "HR"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    write_png(folder / "one.png", imresize(noise, scale=6))
    return folder
