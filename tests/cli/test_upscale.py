from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("torch")

import cv2  # noqa: E402

MODEL = ("-m", "imdeception_x2", "--variant", "c4")


@pytest.fixture()
def picture(tmp_path):
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    return path


@pytest.mark.smoke
def test_a_picture_the_file_on_stdout_the_rest_on_stderr(run_cli, picture, tmp_path):
    result = run_cli("upscale", picture, *MODEL, "-o", tmp_path / "b.png")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'b.png'}\n"
    assert (
        "30x20 whole" in result.stderr
        and "imdeception_x2.c4" in result.stderr
        and "memory: " in result.stderr
    )
    assert cv2.imread(str(tmp_path / "b.png")).shape == (60, 40, 3)


def test_a_picture_into_a_folder_keeps_its_name(run_cli, picture, tmp_path):
    (tmp_path / "out").mkdir()
    assert run_cli("upscale", picture, *MODEL, "-o", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "a.png").is_file()


def test_tiles_give_the_same_file_and_are_reported(run_cli, picture, tmp_path):
    cv2.imwrite(
        str(picture), np.random.default_rng(0).integers(0, 256, (90, 85, 3), dtype=np.uint8)
    )
    run_cli("upscale", picture, *MODEL, "-o", tmp_path / "whole.png")
    result = run_cli("upscale", picture, *MODEL, "--tile", 70, "-o", tmp_path / "tiled.png")
    assert (
        "tiles of at most" in result.stderr and "equal to the whole image's result" in result.stderr
    )
    difference = cv2.imread(str(tmp_path / "whole.png")).astype(int) - cv2.imread(
        str(tmp_path / "tiled.png")
    )
    assert np.abs(difference).max() <= 1, "a value on the edge between two may round differently"


def test_a_folder_with_one_bad_file_does_the_rest_and_ends_with_1(run_cli, picture, tmp_path):
    (picture.parent / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    result = run_cli("upscale", picture.parent, *MODEL, "-o", tmp_path / "out")
    assert result.exit_code == 1 and result.stdout == f"{tmp_path / 'out' / 'a.png'}\n"
    assert "bad.jpg is damaged" in result.stderr and "1 upscaled, 1 failed" in result.stderr
    (picture.parent / "bad.jpg").unlink()
    result = run_cli("upscale", picture.parent, *MODEL, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, "") and "1 finished before" in result.stderr


def test_formats_of_a_folder(run_cli, picture, tmp_path):
    assert (
        run_cli(
            "upscale", picture.parent, *MODEL, "--format", "webp", "-o", tmp_path / "out"
        ).exit_code
        == 0
    )
    assert (tmp_path / "out" / "a.webp").read_bytes()[8:12] == b"WEBP"


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ("--tile", 54),
            "tiles of 54 are too small for this network: the smallest is 55, "
            "for 27 pixels around each output",
        ),
        (("--max-memory", "1MiB"), "cannot be upscaled within 1 MiB"),
        (("--max-memory", "much"), "not an amount of memory"),
        (("--fps", 24), "are for videos"),
        (("--governor",), "are for videos"),
        (("--crf", 20), "--codec, --crf and --drop are for videos"),
        (("--workers", 2), "is for several pictures"),
        (("--format", "png"), "the name after -o has an ending too"),
        (("--variant", "c5"), "no variant 'c5'"),
    ],
)
def test_refused_options_leave_no_files(run_cli, picture, tmp_path, options, words):
    cv2.imwrite(str(picture), np.zeros((90, 85, 3), np.uint8))
    result = run_cli("upscale", picture, *MODEL, *options, "-o", tmp_path / "out" / "b.png")
    assert result.exit_code == 1 and words in result.stderr and result.stdout == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("zero.png", b"", "it is empty"),
        ("text.jpg", b"some words", "not a picture"),
        ("none.png", None, "there is no file"),
    ],
)
def test_bad_input(run_cli, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = run_cli("upscale", tmp_path / name, *MODEL, "-o", tmp_path / "out" / "b.png")
    assert result.exit_code == 1 and words in result.stderr and not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with a name")
def test_a_pipe_is_refused_without_waiting(run_cli, tmp_path):
    os.mkfifo(str(tmp_path / "pipe.png"))
    result = run_cli("upscale", tmp_path / "pipe.png", *MODEL, "-o", tmp_path / "b.png")
    assert result.exit_code == 1 and "neither a file nor a folder" in result.stderr


def test_an_unknown_kind_of_picture_is_not_called_a_video(run_cli, tmp_path):
    (tmp_path / "a.tga").write_bytes(b"\0\0\2")
    result = run_cli("upscale", tmp_path / "a.tga", *MODEL, "-o", tmp_path / "b.png")
    assert result.exit_code == 1
    assert "a.tga: .tga files cannot be read; convert it to PNG or TIFF first" in result.stderr


def test_a_folder_names_what_it_passes_over(run_cli, picture, tmp_path):
    (picture.parent / "IMG_1.HEIC").write_bytes(b"")
    (picture.parent / "b.mp4").write_bytes(b"")
    (picture.parent / "notes.txt").write_text("no picture")
    result = run_cli("upscale", picture.parent, *MODEL, "-o", tmp_path / "out")
    assert result.exit_code == 1 and result.stdout == f"{tmp_path / 'out' / 'a.png'}\n"
    assert f"passed over: {picture.parent / 'IMG_1.HEIC'}: .heic files cannot" in result.stderr
    assert "b.mp4: it is a video" in result.stderr and "notes" not in result.stderr
    assert "1 upscaled, 1 passed over, 1 left out (video), 0 failed" in result.stderr


def test_the_result_may_not_replace_its_source_nor_be_of_another_kind(run_cli, picture, tmp_path):
    assert (
        "would replace itself" in run_cli("upscale", picture, *MODEL, "-o", picture.parent).stderr
    )
    assert (
        "would replace itself"
        in run_cli("upscale", picture.parent, *MODEL, "-o", picture.parent).stderr
    )
    assert (
        "not read as a video"
        in run_cli("upscale", picture, *MODEL, "-o", tmp_path / "b.mkv").stderr
    )
    assert "cannot write" in run_cli("upscale", picture.parent, *MODEL, "-o", picture).stderr


def test_the_function(picture):
    import sr_deploy

    session = sr_deploy.session_of("imdeception_x2", "c4")
    image = np.zeros((5, 6, 3), np.uint16)
    result = sr_deploy.upscale_image(image, session)
    assert result.shape == (10, 12, 3) and result.dtype == np.uint16
    assert [frame.shape for frame in sr_deploy.Upscaler(session).frames([image[:, :5], image])] == [
        (10, 10, 3),
        (10, 12, 3),
    ]


SMALL = ("-m", "fsrcnn-w16_x4")


@pytest.fixture()
def here(tmp_path, monkeypatch):
    """A folder to be in, with two pictures."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a.jpg", "b.png")):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        cv2.imwrite(name, pixels)
    return tmp_path


def test_a_failure_in_one_of_several_jobs_does_not_stop_the_others_and_is_an_error(run_cli, here):
    for name in ("first", "second"):
        (here / name).mkdir()
        shutil.copy("b.png", name)
    (here / "first" / "bad.png").write_bytes(b"no picture")
    result = run_cli("upscale", "first", "second", *SMALL)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["first_x4/b.png", "second_x4/b.png"]
    assert "error: not everything was upscaled: 1 of the pictures" in result.stderr


def test_without_an_output_the_result_is_beside_and_a_second_run_says_so(run_cli, here):
    result = run_cli("upscale", "a.jpg", *SMALL)
    assert (result.exit_code, result.stdout) == (0, "a_x4.png\n"), result.stderr
    assert result.stderr.splitlines()[0] == "a.jpg -> a_x4.png"
    assert "a_x4.png: 64 wide, 48 high, from 12x16 whole" in result.stderr
    before = (here / "a_x4.png").read_bytes()
    result = run_cli("upscale", "a.jpg", *SMALL)
    assert result.exit_code == 1 and "a_x4.png already exists" in result.stderr
    assert "--force" in result.stderr and (here / "a_x4.png").read_bytes() == before
    result = run_cli("upscale", "*", *SMALL)
    assert (result.exit_code, result.stdout) == (1, "b_x4.png\n")
    assert "left out: a_x4.png: it is the result of a.jpg" in result.stderr
    assert "failed: a.jpg: a_x4.png already exists" in result.stderr
    assert not (here / ".srdeploy.jsonl").exists(), "no log beside a user's pictures"


def test_the_default_model_goes_by_the_size_asked_for(run_cli, here, monkeypatch):
    from sr_deploy.upscale import run

    asked = []
    monkeypatch.setattr(run, "_run_job", lambda job, options, reporter: asked.append(options))
    for options in (
        (),
        ("--outscale", 1.5),
        ("--outscale", 2),
        ("--outscale", 2.5),
        ("--outscale", 6),
        ("--outsize", "32x999"),
        ("--outsize", "40x999"),
        ("-m", "imdeception_x4", "--outscale", 2),
    ):
        result = run_cli("upscale", "a.jpg", *options)
        assert result.exit_code == 0, result.stderr
    names = ["asrn_x4", "asrn_x2", "asrn_x2", "asrn_x3", "asrn_x4", "asrn_x2", "asrn_x3"]
    assert [o.model for o in asked] == [*names, "imdeception_x4"]


def test_several_pictures_into_a_new_folder_of_another_size_with_pages(run_cli, here):
    options = (*SMALL, "--outscale", 2.5, "--compare", "-o", "new/")
    result = run_cli("upscale", "a.jpg", "b.png", *options)
    assert result.exit_code == 0, result.stderr
    names = ["a.html", "a.jpg", "b.html", "b.png"]
    assert sorted(result.stdout.split()) == [os.path.join("new", name) for name in names]
    assert cv2.imread("new/a.jpg").shape == (30, 40, 3)
    again = run_cli("upscale", "a.jpg", "b.png", *options)
    assert again.exit_code == 0 and "2 finished before" in again.stderr
    (here / "new" / "a.html").unlink()
    again = run_cli("upscale", "a.jpg", "b.png", *options)
    assert "1 upscaled, 1 finished before" in again.stderr and (here / "new/a.html").exists()
    other = run_cli("upscale", "a.jpg", "b.png", *SMALL, "--outscale", 3, "-o", "new/")
    assert "2 upscaled" in other.stderr, "another size is another result"


def test_a_dry_run_tells_all_and_writes_nothing(run_cli, here):
    (here / "bad.png").write_bytes(b"no picture")
    before = sorted(here.rglob("*"))
    result = run_cli("upscale", "a.jpg", "b.png", *SMALL, "--outsize", "48x48", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == ["a_48x48.png", "b_48x48.png"]
    for words in (
        "dry run, nothing is written: 2 results",
        "fsrcnn-w16_x4.w16, x4, by ",
        "a.jpg: 16x12 -> 48x36 (width x height), 12x16 whole, about ",
        "time: about",
        "memory: ",
    ):
        assert words in result.stderr
    result = run_cli("upscale", "bad.png", *SMALL, "--dry-run", "-o", "new/")
    assert result.exit_code == 1 and "would fail: bad.png" in result.stderr
    assert sorted(here.rglob("*")) == before


def test_an_impossible_picture_is_refused_before_a_network_is_opened(run_cli, here, monkeypatch):
    from sr_deploy.upscale.options import UpscaleOptions

    monkeypatch.setattr(UpscaleOptions, "network", lambda *given: pytest.fail("it was opened"))
    cv2.imwrite("alpha.png", np.zeros((3, 4, 4), np.uint8))
    for arguments, words in (
        (("alpha.png", "-o", "b.jpg"), "transparent parts, which JPEG cannot hold"),
        (("a.jpg", "--outsize", "9x9"), "16x12 pixels (width x height), which do not fit"),
        (("a.jpg", "-o", "a.jpg"), "would replace itself"),
    ):
        result = run_cli("upscale", *arguments)
        assert result.exit_code == 1 and words in result.stderr


def test_a_dry_run_does_not_prepare_a_network(run_cli, here, monkeypatch):
    pytest.importorskip("onnxruntime", reason="onnxruntime runs the prepared network")
    monkeypatch.setenv("SRDEPLOY_CACHE", str(here / "cache"))
    result = run_cli("upscale", "a.jpg", "--device", "cpu", "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "a_x4.png\n"), result.stderr
    assert "a.jpg: 16x12 -> 64x48 (width x height)\n" in result.stderr
    assert "The first run prepares asrn_x4 for onnxruntime, once" in result.stderr
    assert sorted(path.name for path in here.iterdir()) == ["a.jpg", "b.png"]


def test_who_asks_for_a_scale_is_told_the_option(run_cli, here):
    result = run_cli("upscale", "a.jpg", "--scale", 2)
    assert result.exit_code == 1 and "upscale makes another size by --outscale" in result.stderr
