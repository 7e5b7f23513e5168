from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")

from sr_deploy.bench import paper_sets  # noqa: E402
from sr_deploy.bench.evaluate import Bicubic, evaluate, image_set  # noqa: E402
from sr_deploy.bench.paper_sets import PAPER_SETS, notes_of, prepare_set  # noqa: E402
from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.images import imresize, read_rgb, write_png  # noqa: E402


def picture(hw, seed):
    rng = np.random.default_rng(seed)
    return imresize(rng.integers(0, 256, (hw[0] // 8, hw[1] // 8, 3), dtype=np.uint8), scale=8)


@pytest.fixture()
def small_sets(monkeypatch):
    """The sets with three images each, an eighth as large."""
    for kind, one in PAPER_SETS.items():
        small = replace(one, last=one.first + 2, longer_side=one.longer_side // 48)
        monkeypatch.setitem(PAPER_SETS, kind, small)
    monkeypatch.setattr(paper_sets, "_LEAST_SIDE", 160)


@pytest.fixture()
def div8k(tmp_path, small_sets):
    folder = tmp_path / "DIV8K"
    folder.mkdir()
    for number in (1200, 1201, 1202, 1203, 1301, 1302, 1303, 1401, 1402, 1403):
        write_png(folder / f"{number}.png", picture((120 + 8 * (number % 2), 160), number))
    return folder


def test_the_sets_are_those_of_the_papers():
    facts = {
        one.name: (one.numbers[0], len(one.numbers), one.reduction) for one in PAPER_SETS.values()
    }
    assert facts == {"Test2K": (1201, 100, 4), "Test4K": (1301, 100, 2), "Test8K": (1401, 100, 1)}


@pytest.mark.parametrize("kind, name, by", [("test2k", "Test2K", 4), ("test8k", "Test8K", 1)])
def test_a_set_of_div8k_is_reduced_and_can_be_scored(div8k, tmp_path, kind, name, by):
    folder = prepare_set(kind, div8k, tmp_path / "sets")
    first = PAPER_SETS[kind].first
    assert folder == tmp_path / "sets" / name
    assert [p.name for p in sorted((folder / "HR").iterdir())] == [
        f"{first + i}.png" for i in range(3)
    ]
    hr, lr = (read_rgb(folder / sub / f"{first}.png") for sub in ("HR", "LR_x4"))
    whole = imresize(read_rgb(div8k / f"{first}.png"), scale=1 / by)
    np.testing.assert_array_equal(hr, whole[: whole.shape[0] // 4 * 4, : whole.shape[1] // 4 * 4])
    np.testing.assert_array_equal(lr, imresize(hr, scale=0.25))
    quality = evaluate(
        Bicubic(4), image_set(str(folder / "HR"), str(folder / "LR_x4")), metric="rgb"
    )
    assert (quality.set, len(quality.images), quality.degradation) == (name, 3, "given")
    assert any(f"reduced by {by}" in note for note in notes_of(folder))


def test_a_stopped_run_is_continued_and_a_whole_set_is_kept(div8k, tmp_path, monkeypatch):
    written, lines, real = [], [], paper_sets._prepare

    def stop_at_the_second(path, folder, name, *rest, **more):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(name)
        real(path, folder, name, *rest, **more)

    monkeypatch.setattr(paper_sets, "_prepare", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare_set("test4k", div8k, tmp_path)
    assert (
        not (tmp_path / "Test4K").exists()
        and (tmp_path / "Test4K.part" / "HR" / "1301.png").exists()
    )
    monkeypatch.setattr(
        paper_sets, "_prepare", lambda *a, **k: written.append(a[2]) or real(*a, **k)
    )
    folder = prepare_set("test4k", div8k, tmp_path, progress=lines.append)
    assert (
        written == ["1301.png", "1302.png", "1303.png"] and not (tmp_path / "Test4K.part").exists()
    )
    assert "1 of 3 images are done already" in lines[0]
    assert prepare_set("test4k", div8k, tmp_path, progress=lines.append) == folder
    assert lines[-1].endswith("is complete already") and len(written) == 3
    write_png(div8k / "1302.png", picture((160, 240), 5))
    with pytest.raises(InputError, match="Test4K exists, and was not made from these images"):
        prepare_set("test4k", div8k, tmp_path)


def test_missing_and_doubled_and_small_images_are_listed(div8k, tmp_path):
    (div8k / "1302.png").unlink()
    with pytest.raises(InputError, match="lacks 1 of DIV8K's images 1301 to 1303: 1302.png") as e:
        prepare_set("test4k", div8k, tmp_path / "sets")
    assert "--any-images" in e.value.hint
    (div8k / "LR").mkdir()
    write_png(div8k / "LR" / "1201.png", picture((16, 16), 1))
    with pytest.raises(InputError, match="has image 1201 of DIV8K twice"):
        prepare_set("test2k", div8k, tmp_path / "sets")
    write_png(div8k / "1402.png", picture((80, 96), 1))
    with pytest.raises(InputError, match=r"1 of 3 images are too small .*: 1402.png \(80x96\)"):
        prepare_set("test8k", div8k, tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


def test_other_photographs_make_a_set_of_another_name(small_sets, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, hw in (("a.png", (80, 104)), ("b c.png", (96, 80))):
        write_png(photos / name, picture(hw, 3))
    folder = prepare_set("test4k", photos, tmp_path / "sets", any_images=True)
    assert folder.name == "photos-4K"
    sizes = [read_rgb(folder / "HR" / name).shape[:2] for name in ("a.png", "b c.png")]
    assert sizes == [(60, 80), (80, 64)]
    with pytest.raises(InputError, match=r"2 of 2 images are too small .*: a.png \(80x104\), b c"):
        prepare_set("test8k", photos, tmp_path / "sets", any_images=True)
    (photos / "a.jpg").write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(InputError, match="would have the same name"):
        prepare_set("test4k", photos, tmp_path / "sets", any_images=True)
