import os

import numpy as np
import pytest

from sr_deploy.bench.evaluate import (
    Bicubic,
    check_images,
    evaluate,
    image_set,
    upscale_fitting,
)
from sr_deploy.core.errors import InputError
from sr_deploy.core.images import imresize, modcrop, read_rgb, write_png
from sr_deploy.core.metrics import psnr_db, ssim
from sr_deploy.core.session import ExecutedWork, Session, TimedOutput
from sr_deploy.runtime.tiling import plan_tiles


class Nearest(Session):
    """Every output pixel depends on one input pixel, so tiles cannot be told from the whole."""

    backend, backend_version, precision = "nearest", "1", "fp32"

    def __init__(self, hw=None, scale=2):
        self.scale, self.calls = scale, []
        if hw is not None:
            self.min_hw = self.max_hw = hw

    def _run(self, x):
        self.calls.append(x.shape[2:])
        return x.repeat(self.scale, 2).repeat(self.scale, 3)


@pytest.fixture()
def cv2():
    return pytest.importorskip("cv2", reason="opencv is not installed; it reads the images")


def picture(h, w, seed=0):
    """Smooth colours with some edges, (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    waves = [
        127 + 80 * np.sin(x / a + y / b) + 40 * ((x + y) // 7 % 2)
        for a, b in rng.uniform(3, 12, (3, 2))
    ]
    return np.clip(np.stack(waves, 2), 0, 255).astype(np.uint8)


@pytest.fixture()
def folder(tmp_path, cv2):
    (tmp_path / "Tiny" / "HR").mkdir(parents=True)
    for i, hw in enumerate([(48, 60), (51, 47)]):
        write_png(tmp_path / "Tiny" / "HR" / f"{i}.png", picture(*hw, seed=i))
    return tmp_path / "Tiny" / "HR"


@pytest.mark.parametrize(
    "metric, scale, border", [("y", 2, 2), ("y", 3, 3), ("y", 4, 4), ("rgb", 2, 4), ("rgb", 4, 4)]
)
def test_scores_are_those_of_the_images_by_hand(folder, metric, scale, border):
    quality = evaluate(Bicubic(scale), image_set(str(folder)), metric=metric)
    psnrs, ssims = [], []
    for path in sorted(folder.iterdir()):
        hr = modcrop(read_rgb(path), scale)
        sr = imresize(imresize(hr, scale=1 / scale), scale=scale)
        psnrs.append(psnr_db(sr, hr, metric=metric, border=border))
        ssims.append(ssim(sr, hr, metric=metric, border=border))
    assert [s.psnr_db for s in quality.images] == pytest.approx(psnrs, abs=1e-9)
    assert (quality.psnr_db, quality.ssim) == pytest.approx(
        (np.mean(psnrs), np.mean(ssims)), abs=1e-9
    )
    assert (quality.set, quality.metric, quality.border_px, quality.tiling) == (
        "Tiny",
        metric,
        border,
        "whole",
    )
    assert [s.image for s in quality.images] == ["0.png", "1.png"]


@pytest.mark.parametrize("scale, known", [(2, 33.673), (3, 30.403), (4, 28.429)])
def test_bicubic_on_set5(shared_dir, cv2, scale, known):
    quality = evaluate(
        Bicubic(scale), image_set(str(shared_dir / "data" / "Set5" / "HR")), metric="y"
    )
    assert quality.psnr_db == pytest.approx(known, abs=6e-4)


@pytest.mark.parametrize(
    "degradation, known, within", [("bi", 30.403, 6e-4), ("bd", 28.791, 6e-4), ("dn", 24.06, 0.06)]
)
def test_bicubic_on_degraded_set5(shared_dir, cv2, degradation, known, within):
    quality = evaluate(
        Bicubic(3),
        image_set(str(shared_dir / "data" / "Set5" / "HR")),
        metric="y",
        degradation=degradation,
    )
    assert quality.psnr_db == pytest.approx(known, abs=within)
    assert quality.degradation == degradation


def test_the_noise_of_an_image_depends_on_its_name_only(folder, tmp_path):
    """An image scores the same alone and among others. Another name gives other noise."""
    among = evaluate(Bicubic(3), image_set(str(folder)), metric="y", degradation="dn").images[1]
    (tmp_path / "Alone").mkdir()
    alone = tmp_path / "Alone" / "1.png"
    alone.write_bytes((folder / "1.png").read_bytes())
    again = evaluate(Bicubic(3), image_set(str(alone.parent)), metric="y", degradation="dn").images[
        0
    ]
    assert again == among
    alone.rename(alone.with_name("renamed.png"))
    assert (
        evaluate(Bicubic(3), image_set(str(alone.parent)), metric="y", degradation="dn")
        .images[0]
        .psnr_db
        != among.psnr_db
    )


def test_a_degradation_not_defined_at_the_scale(folder):
    with pytest.raises(InputError, match="'bd' is defined at x3, not at x2"):
        evaluate(Bicubic(2), image_set(str(folder)), metric="y", degradation="bd")


def test_sets_are_named_by_their_folder(folder):
    assert image_set(str(folder)).name == "Tiny"
    assert image_set(str(folder.parent)).name == "Tiny"
    assert image_set("").name == "scikit-image photographs" and len(image_set("").files) >= 3


def test_an_image_too_small_to_score_is_named(folder):
    write_png(folder / "2.png", picture(16, 40))
    with pytest.raises(InputError, match="2.png is too small to be scored: 16x40 pixels"):
        evaluate(Bicubic(4), image_set(str(folder)), metric="y")


def test_a_damaged_image_is_named(folder):
    (folder / "9.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="9.png is not an image"):
        evaluate(Bicubic(2), image_set(str(folder)), metric="y")


def test_an_empty_folder(tmp_path):
    with pytest.raises(InputError, match="contains no images"):
        image_set(str(tmp_path))


def enlarged(rgb, scale=2):
    """What `Nearest` makes of an image, (scale*h, scale*w, 3) uint8."""
    return rgb.repeat(scale, 0).repeat(scale, 1)


def test_the_size_a_static_graph_takes_is_not_tiled():
    session, image = Nearest((20, 30)), picture(20, 30)
    done = upscale_fitting(session, image)
    assert done.tiling == "whole" and session.calls == [(20, 30)]
    np.testing.assert_array_equal(done.rgb, enlarged(image))


@pytest.mark.parametrize(
    "hw", [(50, 70), (97, 41), (40, 41), (41, 40), (10, 90), (90, 10), (3, 3), (1, 1), (39, 200)]
)
@pytest.mark.parametrize("tile", [(40, 40), (37, 64), (5, 8)])
def test_tiles_of_a_pointwise_network_are_the_whole_image(hw, tile):
    session, image = Nearest(tile), picture(*hw, seed=1)
    done = upscale_fitting(session, image)
    np.testing.assert_array_equal(done.rgb, enlarged(image))
    assert set(session.calls) == {tile}
    assert done.tiling.startswith(
        f"tiled {tile[0]}x{tile[1]}, overlap {min(16, min(tile) // 4)} px"
    )


def test_times_are_summed_over_the_tiles(monkeypatch):
    session = Nearest((20, 30))
    monkeypatch.setattr(
        session,
        "_run_timed",
        lambda x: TimedOutput(session._run(x), 2.0, copies_ms=0.5, timer="events"),
    )
    done = upscale_fitting(session, picture(30, 50))
    assert (done.ms, done.copies_ms, done.timer) == (2.0 * 6, 0.5 * 6, "events")
    assert len(session.calls) == 6


def test_what_was_tiled_says_so(folder):
    quality = evaluate(Nearest((24, 24)), image_set(str(folder)), metric="y")
    assert quality.tiling.startswith("tiled 24x24")
    assert quality.psnr_db == pytest.approx(
        evaluate(Nearest(), image_set(str(folder)), metric="y").psnr_db, abs=1e-9
    )


def test_tiles_that_overlap_by_the_reach_are_the_whole_image_where_it_is_larger():
    """A 3x3 box filter reaches one pixel, so tiles that overlap by one pixel are exact."""

    class Box(Nearest):
        halo_px = 1

        def _run(self, x_nchw):
            padded = np.pad(x_nchw, ((0, 0), (0, 0), (1, 1), (1, 1)))
            h, w = x_nchw.shape[2:]
            box = sum(padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3))
            return super()._run(box)

    image = picture(50, 71, seed=2)
    whole = upscale_fitting(Box(), image)
    static = upscale_fitting(Box((24, 32)), image)
    bounded = upscale_fitting(Box(), image, lambda hw: plan_tiles(hw, Box(), max_px=600))
    assert [d.tiling for d in (whole, static, bounded)] == [
        "whole",
        "exact tiles of 24x32",
        "exact tiles",
    ]
    np.testing.assert_array_equal(static.rgb, whole.rgb)
    np.testing.assert_array_equal(bounded.rgb, whole.rgb)


def test_the_work_of_an_adaptive_network_is_that_of_each_image_and_of_all(folder):
    class Adaptive(Nearest):
        halo_px, work = 0, ExecutedWork()

        def reset_work(self, *, own=1.0, fed_px=None, budget=True):
            self.own, self.work = own, ExecutedWork()

        def executed_work(self):
            return self.work

        def _run(self, x):
            px = x.shape[2] * x.shape[3]
            self.work += ExecutedWork(10 * px, 20 * px * self.own, {}, {"all": px})
            return super()._run(x)

    quality = evaluate(Adaptive(), image_set(str(folder)), metric="y")
    assert [score.macs for score in quality.images] == [10 * 24 * 30, 10 * 25 * 23]
    assert quality.work.share == 0.5 and quality.work.macs == sum(s.macs for s in quality.images)
    # Of a static one, the tiles' overlaps are executed, but not part of the plain network's work.
    tiled = evaluate(Adaptive((24, 24)), image_set(str(folder)), metric="y")
    assert tiled.work.plain_macs == pytest.approx(quality.work.plain_macs)
    assert tiled.work.share > 0.5


def test_images_can_be_checked_before_they_are_scored(folder):
    check_images(image_set(str(folder)), metrics=["y"], scales=[2])
    write_png(folder / "small.png", picture(14, 40))
    with pytest.raises(InputError, match="small.png is too small to be scored: 14x40 pixels"):
        check_images(image_set(str(folder)), metrics=["y"], scales=[2])


def test_a_name_that_is_no_text_is_written_as_one(folder):
    try:
        (folder / "0.png").rename(folder / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this system's file names are text")
    quality = evaluate(Bicubic(2), image_set(str(folder)), metric="y", degradation="bi")
    assert [s.image for s in quality.images] == ["1.png", "\\xff.png"]


def test_pixels_that_are_no_numbers_are_told_and_scored(folder):
    class Broken(Nearest):
        def _run(self, x):
            y = super()._run(x)
            y[0, 0, 5, 5] = np.nan if x.shape[2] == 24 else 0.5
            return y

    first, second = evaluate(Broken(), image_set(str(folder)), metric="y").images
    assert (first.finite, second.finite) == (False, True) and np.isfinite(first.psnr_db)
