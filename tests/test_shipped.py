"""Every variant of every shipped checkpoint beats bicubic; its card records its training."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("torch", reason="shipped checkpoints run by torch")
pytest.importorskip("cv2", reason="reading images needs OpenCV")

from doubles.networks import of_different_networks  # noqa: E402

from sr_deploy.bench.evaluate import Bicubic, ImageSet, evaluate, image_set  # noqa: E402
from sr_deploy.core.manifest import read_manifest  # noqa: E402
from sr_deploy.core.routers import ROUTERS  # noqa: E402
from sr_deploy.core.shipped import read_card, shipped_checkpoints  # noqa: E402
from sr_deploy.nets.checkpoint import load_checkpoint  # noqa: E402
from sr_deploy.nets.fuse import fuse_network  # noqa: E402
from sr_deploy.runtime.torch_module import TorchSession  # noqa: E402

# asrn_ss_x4 is shipped for comparison. Its smaller variants are worse than bicubic (see its card).
POINTS = [
    (path.stem, variant)
    for path in shipped_checkpoints()
    for variant in read_card(path).variants
    if (path.stem, variant) not in [("asrn_ss_x4", f"d{n}") for n in range(1, 5)]
]


@pytest.fixture(scope="module")
def bicubic():
    @functools.lru_cache(maxsize=None)
    def scores(images: ImageSet, scale: int, degradation: str):
        return evaluate(Bicubic(scale), images, metric="y", degradation=degradation).images

    return scores


def beats(name: str, variant: str, images: ImageSet, bicubic) -> None:
    checkpoint = load_checkpoint(name)
    network, _ = fuse_network(checkpoint.network(variant))  # takes half of ASRN's time
    session = TorchSession(network, scale=checkpoint.spec.scale, min_hw=checkpoint.spec.min_hw)
    made_by = checkpoint.spec.degradation
    ours = evaluate(session, images, metric="y", degradation=made_by).images
    theirs = bicubic(images, session.scale, made_by)
    gains = {a.image: a.psnr_db - b.psnr_db for a, b in zip(ours, theirs)}
    assert all(gain > 0 for gain in gains.values()), gains


@pytest.mark.parametrize("name, variant", POINTS)
def test_every_variant_beats_bicubic_on_every_photograph(name, variant, bicubic):
    beats(name, variant, image_set(), bicubic)


@pytest.mark.parametrize("name, variant", POINTS)
def test_every_variant_beats_bicubic_on_every_image_of_set5(name, variant, bicubic, shared_dir):
    beats(name, variant, image_set(str(shared_dir / "data" / "Set5" / "HR")), bicubic)


@pytest.mark.parametrize("path", shipped_checkpoints(), ids=lambda p: p.stem)
def test_cards_say_how_and_from_what_they_were_made(path):
    card = read_card(path)
    assert card.licence and card.trained_on
    assert {"method", "steps_done", "batch_size", "images", "hours", "device", "history"} <= set(
        card.training
    )
    at_its_end_or_its_best(card.training)


def at_its_end_or_its_best(training) -> None:
    """A run ships its last weights, or those that validated best (`NAME-best`) late in it."""
    steps, done = training["steps"], training["steps_done"]
    assert 0.8 * steps <= done <= steps
    if done < steps:
        validated = [row["valid_psnr_db"] for row in training["history"] if "valid_psnr_db" in row]
        assert training["best_valid_psnr_db"] >= max(validated, default=0.0)


@pytest.mark.parametrize("path", ROUTERS.shipped(), ids=ROUTERS.name_of)
def test_every_router_saves_work_and_loses_little(path):
    """Compared with the largest branch on the whole photographs."""
    from sr_deploy.nets.router import load_router
    from sr_deploy.runtime.opener import open_session

    router = load_router(path)
    assert (
        router.spec.licence
        and router.spec.trained_on
        and router.spec.training["steps_done"] == router.spec.training["steps"]
    )
    photographs = ImageSet("photographs", image_set().files[:3])
    with open_session(path) as session:
        ours = evaluate(session, photographs, metric="y")
    largest = TorchSession(router.branch_networks()[-1], scale=router.spec.scale)
    best = evaluate(largest, photographs, metric="y").psnr_db
    pixels, macs = ours.work.pixels.values(), router.spec.macs
    share = sum(n * m for n, m in zip(pixels, macs)) / (sum(pixels) * macs[-1])
    assert share < 0.95 and ours.psnr_db > best - 0.1, (share, ours, best)


@pytest.mark.slow
@pytest.mark.parametrize("path", of_different_networks(), ids=lambda p: p.stem)
def test_every_checkpoint_builds_for_rtx(path, tmp_path):
    """Builds the largest variant with the real library, which needs no GPU."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from sr_deploy import BuildOptions, ExportOptions, engine_from_onnx, onnx_from_checkpoint

    variant = read_card(path).variants[-1]
    graphs = onnx_from_checkpoint(
        path, tmp_path, ExportOptions(variants=variant, sizes=["32x32"], target="rtx")
    )
    (engine,) = engine_from_onnx(
        graphs, tmp_path, target="rtx", options=BuildOptions(compute_capabilities=(86,))
    )
    manifest = read_manifest(engine)
    assert manifest.precision_obtained == "fp16" and manifest.variant == variant


@pytest.mark.slow
def test_every_form_of_a_network_is_read_by_the_parsers(tmp_path):
    """TensorRT for RTX builds each form; the graphs for TensorRT 8.5 are of opset 17."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    import onnx

    from sr_deploy import BuildOptions, ExportOptions, engine_from_onnx, onnx_from_checkpoint

    graphs = onnx_from_checkpoint(
        "imdeception_x4",
        tmp_path / "rtx",
        ExportOptions(variants="c4", sizes=["32x32"], target="rtx", candidates=True),
    )
    engines = engine_from_onnx(
        graphs, tmp_path, target="rtx", options=BuildOptions(compute_capabilities=(86,))
    )
    assert len(engines) == len(graphs) == 7 and len({e.name for e in engines}) == 7
    for graph in onnx_from_checkpoint(
        "asrn_x4",
        tmp_path / "xavier",
        ExportOptions(variants="d1", sizes=["32x32"], target="xavier", candidates=True),
    ):
        assert read_manifest(graph).opset == onnx.load(str(graph)).opset_import[0].version == 17
