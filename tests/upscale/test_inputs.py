from __future__ import annotations

import os
import re

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.folder_log import PictureTask
from sr_deploy.upscale.inputs import (
    PicturesJob,
    VideoJob,
    find_inputs,
    names_of,
    plan_jobs,
    results_of,
)

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to be in. Returns a function that makes files there."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"" if name.endswith((".mp4", ".txt", ".heic")) else PNG)
        return tmp_path

    return make


def plan(*texts, output=None, suffix=None, label="x4"):
    return plan_jobs(find_inputs(texts), names_of(output, label=label, suffix=suffix))


def pairs(*texts, **given):
    return {str(s): str(o).replace(os.sep, "/") for s, o in results_of(plan(*texts, **given))}


@pytest.mark.parametrize(
    "source, output, result",
    [
        ("photo.jpg", None, "photo_x4.png"),
        ("a b.c.jpg", None, "a b.c_x4.png"),
        ("sub/ü.png", None, "sub/ü_x4.png"),
        ("film.mp4", None, "film_x4.mp4"),
        ("photo.jpg", "b.webp", "b.webp"),
        ("photo.jpg", "new/", "new/photo.jpg"),
        ("photo.gif", "new/", "new/photo.png"),
        ("photo.jpg", "there", "there/photo.jpg"),
        ("film.mp4", "new/", "new/film.mp4"),
    ],
)
def test_the_name_of_a_single_result(place, source, output, result):
    place(source, "there/x.png")
    assert pairs(source, output=output) == {source.replace("/", os.sep): result}


def test_the_names_of_a_folder_without_an_output(place, monkeypatch):
    folder = place("in/a.jpg", "in/sub/b.gif")
    job = plan("in")[0]
    assert str(job.folder) == "in_x4"
    assert pairs("in") == {
        os.path.join("in", "a.jpg"): "in_x4/a.jpg",
        os.path.join("in", "sub", "b.gif"): "in_x4/sub/b.png",
    }
    monkeypatch.chdir(folder / "in")
    assert plan(".")[0].folder == folder / "in_x4"


def test_formats_and_sizes_in_names(place):
    place("a.jpg")
    assert pairs("a.jpg", suffix=".webp", label="3840x2160") == {"a.jpg": "a_3840x2160.webp"}


def test_pictures_folders_and_videos_together(place):
    place("a.jpg", "in/a.jpg", "in/film.mp4", "film.mp4", "notes.txt", "old.heic")
    jobs = plan("a.jpg", "in", "film.mp4", "notes.txt", "old.heic")
    loose, folder, video = jobs
    assert isinstance(loose, PicturesJob) and loose.folder is None and len(loose.tasks) == 1
    assert {str(p) for p in loose.passed_over} == {"notes.txt", "old.heic"}
    assert "neither a picture nor a video" in " ".join(loose.passed_over.values())
    assert str(folder.folder) == "in_x4" and [p.name for p in folder.videos] == ["film.mp4"]
    assert isinstance(video, VideoJob) and str(video.output) == "film_x4.mp4"
    one, video = plan("a.jpg", "in", "film.mp4", output="new")
    assert str(one.folder) == "new"
    assert [task.output.as_posix() for task in one.tasks] == ["new/a.jpg", "new/in/a.jpg"]
    assert video.output.as_posix() == "new/film.mp4"


def test_patterns(place):
    place("a1.jpg", "a2.jpg", "sub/deep/b.jpg", "st[1].jpg")
    assert [p.name for p in find_inputs(["a?.jpg", "a1.jpg"])] == ["a1.jpg", "a2.jpg"]
    assert [p.name for p in find_inputs(["**/b.jpg"])] == ["b.jpg"]
    assert [p.name for p in find_inputs(["st[1].jpg"])] == ["st[1].jpg"], "a file of that name"


@pytest.mark.parametrize(
    "text, words, hint",
    [
        ("none*.jpg", "no file matches none*.jpg", "ending"),
        ("A.JPG", "there is no file or folder A.JPG", "there is a.jpg"),
        ("a.png", "there is no file or folder a.png", "there is a.jpg"),
        ("no/a.png", "there is no file or folder no/a.png", "there is no folder no"),
        ("", "an input is empty", ""),
    ],
)
def test_inputs_that_are_not_there(place, text, words, hint):
    place("a.jpg")
    if text == "A.JPG" and os.path.exists(text):
        pytest.skip("the file system does not tell A from a")
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        find_inputs([text])
    assert hint in caught.value.hint


def test_results_of_earlier_runs_are_left_out_beside_their_sources(place):
    place("a.jpg", "a_x4.png", "a_x4_x4.png", "a_3840x2160.png", "b_x2.png", "in/c.png")
    place("in_x4/c.png")
    job = plan("*")[0]
    assert [t.source.name for t in job.tasks] == ["a.jpg", "b_x2.png"]
    assert {p.name: s.name for p, s in job.results.items()} == {
        "a_x4.png": "a.jpg",
        "a_x4_x4.png": "a_x4.png",
        "a_3840x2160.png": "a.jpg",
        "in_x4": "in",
    }
    assert len(plan("*.png", output="new")[0].tasks) == 4, "elsewhere, they are pictures"
    assert pairs("a_x4.png") == {"a_x4.png": "a_x4_x4.png"}, "and also alone"
    with pytest.raises(InputError, match="all inputs are results of earlier runs"):
        plan("a_x4.png", "a_x4_x4.png")


@pytest.mark.parametrize(
    "texts, output, words",
    [
        (("A/a.png", "B/a.png"), "new/", "would both become"),
        (("b.gif", "b.png"), None, "would both become b_x4.png"),
        (("b.gif", "b.png"), "new", "would both become"),
        (("b.png", "A/a.png"), ".", "b.png would replace an input"),
        (("b.png", "A/a.png"), "b.png", "b.png is a file, but there are 2 inputs"),
        (("A", "A/a.png"), "A", "would replace an input"),
    ],
)
def test_results_that_would_meet_are_refused(place, texts, output, words):
    place("A/a.png", "B/a.png", "b.gif", "b.png")
    with pytest.raises(InputError, match=re.escape(words)):
        plan(*texts, output=output)


def test_two_folders_keep_files_of_one_name_apart(place):
    place("A/a.png", "B/a.png")
    assert sorted(pairs("A", "B", output="new").values()) == ["new/A/a.png", "new/B/a.png"]


def test_a_single_picture_is_a_task(place):
    place("a.png")
    assert isinstance(plan("a.png")[0], PictureTask)
