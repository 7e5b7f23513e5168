from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="OpenCV encodes the pictures")

from sr_deploy.core.pictures.formats import EXIF, ICC  # noqa: E402
from sr_deploy.upscale import comparison  # noqa: E402
from sr_deploy.upscale.comparison import BeforeAfter  # noqa: E402
from sr_deploy.upscale.pictures import Picture, read_picture  # noqa: E402

HOSTILE = "<img src=x onerror=alert(1)> & $name.png"


def noise(h, w, channels=3, dtype=np.uint8):
    high = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, high, (h, w, channels), dtype=dtype)


def page(before, after, name="a.png"):
    return BeforeAfter(Path(name), Path("large.png"), before, after, "net_x4.d1").html()


def shown(text, name):
    """Return the pixels of a picture on the page, and its format."""
    kind, data = re.search(rf'id="{name}"[^>]*src="data:image/(\w+);base64,([^"]*)"', text).groups()
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels, kind


def test_the_page_has_both_pictures_and_loads_nothing():
    before, after = Picture(noise(6, 7)), Picture(noise(24, 28))
    text = page(before, after, HOSTILE)
    np.testing.assert_array_equal(shown(text, "after")[0][:, :, ::-1], after.rgb)
    np.testing.assert_array_equal(shown(text, "nearest")[0][:, :, ::-1], before.rgb)
    bicubic = cv2.resize(before.rgb, (28, 24), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(shown(text, "bicubic")[0][:, :, ::-1], bicubic)
    assert "7x6 to 28x24 pixels (width x height), by net_x4.d1" in text
    assert "<img src=x" not in text and "&lt;img src=x" in text
    assert "http:" not in text and "https:" not in text


def test_16_bit_grey_and_transparent_pictures():
    def deep(h, w):
        grey = np.repeat(noise(h, w, 1, np.uint16), 3, axis=2)
        return Picture(grey, noise(h, w, 1, np.uint16)[:, :, 0], grey=True)

    after = deep(8, 12)
    text = page(deep(4, 6), after)
    pixels, kind = shown(text, "after")
    assert pixels.shape == (8, 12, 4) and pixels.dtype == np.uint8 and kind == "png"
    np.testing.assert_allclose(pixels[:, :, 3], after.alpha / 257, atol=0.51)
    assert "The file has 16 bits per channel" in text


def test_large_results_show_their_middle_as_jpeg(monkeypatch):
    monkeypatch.setattr(comparison, "LARGEST_SIDE", 40)
    monkeypatch.setattr(comparison, "_PNG_PX", 100)
    before = Picture(cv2.resize(noise(2, 3), (30, 20), interpolation=cv2.INTER_LINEAR))
    after = Picture(cv2.resize(before.rgb, (120, 80), interpolation=cv2.INTER_LINEAR))
    text = page(before, after)
    pixels, kind = shown(text, "after")
    assert kind == "jpeg" and pixels.shape == (40, 40, 3)
    expected = after.rgb[20:60, 40:80, ::-1].astype(int)
    assert np.abs(pixels - expected).mean() < 4
    np.testing.assert_array_equal(shown(text, "nearest")[0][:, :, ::-1], before.rgb[5:15, 10:20])
    assert "the middle of the picture, 40x40 pixels" in text and "JPEG of quality 95" in text


def saved_upright(folder, picture):
    """Write the picture as formats without an orientation get it."""
    cv2.imwrite(str(folder / "b.png"), np.rot90(picture.rgb, -1)[:, :, ::-1])
    return folder / "b.png"


def test_pictures_are_upright_and_keep_their_profile(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow writes the picture")
    cms = pytest.importorskip("PIL.ImageCms", reason="Pillow makes the profile")
    profile = cms.ImageCmsProfile(cms.createProfile("sRGB")).tobytes()
    exif = image.Exif()
    exif[0x112] = 6
    image.fromarray(noise(4, 6)).save(tmp_path / "a.png", exif=exif, icc_profile=profile)
    picture = read_picture(tmp_path / "a.png")
    assert {EXIF, ICC} <= set(picture.metadata)
    text = page(picture, picture)
    assert shown(text, "after")[0].shape == (6, 4, 3) and "4x6 to 4x6" in text
    upright = page(picture, read_picture(saved_upright(tmp_path, picture)))
    np.testing.assert_array_equal(shown(upright, "nearest")[0], shown(text, "nearest")[0])
    data = re.search(r'id="after"[^>]*base64,([^"]*)"', text).group(1)
    assert b"iCCP" in base64.b64decode(data)


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; it drives the browser"
    )
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("no chromium here (Debian: apt install chromium)")
    with api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.mark.parametrize("phone", [False, True])
def test_the_divider_follows_mouse_finger_and_keys(chromium, tmp_path, phone):
    black, white = (np.full((h, h, 3), v, np.uint8) for h, v in ((20, 0), (80, 255)))
    (tmp_path / "a.html").write_text(page(Picture(black), Picture(white)), encoding="utf-8")
    size = {"width": 390, "height": 780} if phone else {"width": 1280, "height": 800}
    context = chromium.new_context(viewport=size, has_touch=phone, is_mobile=phone)
    tab, said = context.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto((tmp_path / "a.html").as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= size["width"]

    def share_before():
        box = tab.locator("#stage").bounding_box()
        pixels = cv2.imdecode(
            np.frombuffer(tab.locator("#stage").screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE
        )
        assert box["width"] >= 300
        return (pixels[len(pixels) * 3 // 4] < 128).mean()  # below the labels and the grip

    assert share_before() == pytest.approx(0.5, abs=0.02)
    if phone:
        box = tab.locator("#divider").bounding_box()
        tab.touchscreen.tap(box["x"] + 5, box["y"] + 50)
        assert 0.4 < share_before() < 0.48
    else:
        box = tab.locator("#stage").bounding_box()
        tab.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 60, steps=3)
        tab.mouse.up()
        assert share_before() == pytest.approx(0.25, abs=0.02)
    before = share_before()
    tab.locator("#stage").focus()
    for _ in range(5):
        tab.keyboard.press("ArrowRight")
    assert share_before() == pytest.approx(before + 0.1, abs=0.03)
    tab.keyboard.press("4")
    assert tab.evaluate("picture.offsetWidth") == 320
    tab.keyboard.press("b")
    assert tab.locator("#nearest").is_visible() and not tab.locator("#bicubic").is_visible()
    assert said == []
    context.close()
