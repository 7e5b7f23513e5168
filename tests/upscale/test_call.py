"""`sr_deploy.upscale(...)`, and the models that it keeps open."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

import sr_deploy
from sr_deploy.core.errors import InputError
from sr_deploy.core.images import read_rgb
from sr_deploy.upscale import call

MODEL = "fsrcnn-w16_x4"
upscale = functools.partial(sr_deploy.upscale, runtime="torch")  # at once, without an export
needs_torch = pytest.mark.usefixtures("torch_and_opencv")


@pytest.fixture(scope="module")
def torch_and_opencv():
    for package in ("torch", "safetensors", "cv2"):
        pytest.importorskip(package, reason=f"{package} is not installed; it runs checkpoints")


@pytest.fixture()
def photo(tmp_path, monkeypatch):
    """The picture `photo.png` of 16x12 pixels in the current folder."""
    import cv2

    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8))
    return Path("photo.png")


@pytest.fixture(autouse=True)
def nothing_kept():
    yield
    while call._kept:
        call._kept.popitem()[1].close()


@pytest.mark.parametrize(
    "first",
    [
        "import sr_deploy",
        "import sr_deploy.upscale",
        "from sr_deploy.upscale.upscaler import Upscaler",
        "import sr_deploy.upscale.upscaler as upscaler; upscaler.Upscaler",
        "import sr_deploy; from sr_deploy import upscale; assert upscale is sr_deploy.upscale",
        "import sr_deploy; sr_deploy.Upscaler",
    ],
)
def test_it_can_be_called_whatever_is_imported_first(run_python, first):
    code = (
        f"{first}\nimport inspect, sr_deploy\n"
        "assert 'output' in inspect.signature(sr_deploy.upscale).parameters\n"
        "from sr_deploy.upscale.upscaler import Upscaler\nimport sr_deploy.upscale.options\n"
        "assert sr_deploy.Upscaler is Upscaler\n"
        "try:\n    sr_deploy.upscale(3, scale=0.5)\n"
        "except sr_deploy.SrDeployError as e:\n    print(e)\n"
    )
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert "expected 1 to 64" in result.stdout


@needs_torch
def test_a_model_stays_open(photo):
    first = upscale(photo, MODEL)
    [upscaler] = call._kept.values()
    assert first.shape == (48, 64, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(upscale(str(photo), MODEL, scale=4), first)
    assert list(call._kept.values()) == [upscaler]


@needs_torch
def test_the_models_used_last_stay_open_and_others_are_closed(photo, monkeypatch):
    monkeypatch.setattr(call, "_MOST_KEPT", 2)
    models = ["fsrcnn-w16_x4", "fsrcnn-w36_x4", "fsrcnn-w16_x4", "fsrcnn-w56_x4"]
    opened = []
    for model in models:
        upscale(photo, model)
        opened.append(next(reversed(call._kept.values())))
    assert opened[0] is opened[2] and list(call._kept.values()) == opened[2:]
    with pytest.raises(InputError, match="session is closed"):
        opened[1](np.zeros((9, 9), np.uint8))


@needs_torch
def test_a_model_that_changed_is_opened_again(photo, tmp_path):
    import shutil

    from sr_deploy.core.shipped import shipped_checkpoints

    files = {path.stem: path for path in shipped_checkpoints()}

    def put(name):
        for suffix in (".safetensors", ".json"):
            shutil.copy(files[name].with_suffix(suffix), tmp_path / f"net{suffix}")

    put("fsrcnn-w16_x4")
    first = upscale(photo, tmp_path / "net.safetensors")
    put("fsrcnn-w36_x4")
    second = upscale(photo, tmp_path / "net.safetensors")
    np.testing.assert_array_equal(second, upscale(photo, "fsrcnn-w36_x4"))
    assert (first != second).any()


@needs_torch
def test_output_writes_the_result_of_a_path(photo):
    written = upscale(photo, MODEL, output="large.png")
    assert written == Path("large.png")
    np.testing.assert_array_equal(read_rgb(written), upscale(photo, MODEL))
    with pytest.raises(InputError, match="already exists"):
        upscale(photo, MODEL, output="large.png")
    assert upscale(photo, MODEL, output="large.png", force=True) == written
    assert upscale([photo], MODEL, output=Path("large.jpg")) == [Path("large.jpg")]


@needs_torch
def test_a_folder_gives_the_paths_of_its_results(photo, tmp_path):
    (tmp_path / "in").mkdir()
    photo.rename("in/a.png")
    assert upscale("in", MODEL, output="out") == [Path("out/a.png")]


@needs_torch
@pytest.mark.parametrize("scale, shape", [(3, (36, 48, 3)), (1.5, (18, 24, 3)), (5, (60, 80, 3))])
def test_other_scales_are_resampled(photo, scale, shape):
    image = read_rgb(photo)
    assert upscale(image, MODEL, scale=scale).shape == shape
    assert upscale(image[..., 0] / 255, MODEL, scale=scale).max() <= 1
    written = upscale(photo, MODEL, scale=scale, output="a.png")
    assert read_rgb(written).shape == shape


@needs_torch
def test_the_scale_chooses_the_default_model(photo):
    assert upscale(read_rgb(photo), scale=2).shape == (24, 32, 3)
    assert [upscaler.session.name for upscaler in call._kept.values()] == ["asrn_x2.d5"]


def test_output_is_for_paths_only():
    with pytest.raises(InputError, match="no path but ndarray"):
        upscale(np.zeros((9, 9), np.uint8), MODEL, output="a.png")


def test_options_are_checked_as_the_command_checks_them():
    image = np.zeros((9, 9), np.uint8)
    with pytest.raises(InputError, match="not an amount of memory"):
        upscale(image, MODEL, max_memory="much")
    with pytest.raises(InputError, match="unknown device"):
        upscale(image, MODEL, device="moon")


@needs_torch
def test_a_name_that_is_no_model_is_told():
    with pytest.raises(InputError, match="no-such-model"):
        upscale(np.zeros((9, 9), np.uint8), "no-such-model")
