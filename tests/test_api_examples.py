"""The example of every name of the Python API, as its docstring shows it."""

from __future__ import annotations

import doctest
import inspect
import json

import numpy as np
import pytest

import sr_deploy
from sr_deploy.core.images import write_png
from sr_deploy.core.samples import shipped_crops

for package in ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "cv2"):
    pytest.importorskip(package, reason=f"{package} is not installed; the examples need it")

NAMES = [name for name in sr_deploy.__all__ if name != "__version__"]
SLOW = {"checkpoint_from_images"}  # loads Lightning


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples find in the current folder; they share their graphs."""
    import cv2
    from doubles.foreign_graphs import save_foreign

    folder = tmp_path_factory.mktemp("examples")
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    (folder / "photos").mkdir()
    write_png(folder / "photos" / "photo.png", np.load(shipped_crops()[0])[:128, :160])
    cv2.imwrite(str(folder / "photo.png"), pixels)
    save_foreign("torch_opset11", folder).rename(folder / "network.onnx")
    recipe = {"extends": "asrn-x4-small", "variant": "d2", "steps": 2}
    recipe = {**recipe, "batch_size": 2, "patch_hr": 32, "valid_every": 2}
    (folder / "tiny.json").write_text(json.dumps(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SRDEPLOY_CACHE", str(folder / "cache"))
        yield folder


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES]
)
def test_its_example_gives_what_it_shows(folder, name):
    if name in SLOW:
        pytest.importorskip("lightning", reason="lightning is not installed; it trains")
    item = getattr(sr_deploy, name)
    text = inspect.getdoc(item.__call__ if inspect.ismodule(item) else item) or ""
    example = doctest.DocTestParser().get_doctest(text, {"sr_deploy": sr_deploy}, name, "", 0)
    assert example.examples, "it has no example"
    report = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert not result.failed, "".join(report)
