from __future__ import annotations

import os

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
