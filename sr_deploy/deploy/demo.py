"""The pictures and the clip of `srdeploy demo`, and the commands that it runs on them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Iterator, List, Sequence, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.core.files import make_output_folder
from sr_deploy.core.images import imresize, modcrop, read_rgb, write_png
from sr_deploy.core.samples import sample_files
from sr_deploy.core.sizes import HW, hw_text
from sr_deploy.core.workspace import BUILT, ROWS, engines_folder, graphs_folder

MODEL, VARIANTS, SCALE = "asrn_x4", "d1,d3,d5", 4
_HR_HW = (300, 400)
_RATE, _FRAMES = 24, 48
_CLIP_HW = (72, 96)
_BT601 = "colorprim=smpte170m:transfer=smpte170m:colormatrix=smpte170m:range=tv"
_ENCODING = {"crf": "12", "x264-params": _BT601}


@dataclass(frozen=True)
class DemoStep:
    """One command of the demo, that is run in its folder."""

    title: str
    words: Tuple[str, ...]
    """The command's name and its arguments."""
    needs: str = ""
    """A file or folder that an earlier step makes; without it, the step is left out."""

    def __str__(self) -> str:
        return "srdeploy " + " ".join(map(shlex.quote, self.words))


@dataclass(frozen=True)
class DemoMedia:
    """What the demo works on, in its folder."""

    size: HW
    """LR pixels of the pictures."""
    no_clip: str
    """Why there is no clip; empty: there is one."""


def make_media(folder: Path) -> DemoMedia:
    """Write small pictures, their originals and a clip of two seconds to a new folder.

    Raises InputError if there is something in the folder, MissingPackageError without OpenCV.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists", hint="remove it, or give another by -o")
    photographs = [read_rgb(path) for path in sample_files()]
    h, w = (min(n, *(rgb.shape[axis] for rgb in photographs)) for axis, n in enumerate(_HR_HW))
    for name in ("originals", "photos"):
        make_output_folder(folder / name)
    for path, rgb in zip(sample_files(), photographs):
        top, left = (rgb.shape[0] - h) // 4, (rgb.shape[1] - w) // 2
        hr = modcrop(rgb[top : top + h, left : left + w], SCALE)
        write_png(folder / "originals" / f"{path.stem}.png", hr)
        lr = imresize(hr, scale=1 / SCALE)
        write_png(folder / "photos" / f"{path.stem}.png", lr)
        if path.stem == "chelsea":
            write_png(folder / "photo.png", lr)
    no_clip = ""
    try:
        _write_clip(folder / "clip.mp4", imresize(photographs[2], scale=1 / SCALE))
    except MissingPackageError as e:
        no_clip = f"{e.message}; {e.hint}"
    return DemoMedia((lr.shape[0], lr.shape[1]), no_clip)


def demo_steps(media: DemoMedia, targets: Sequence[str]) -> List[DemoStep]:
    """Return the commands of the demo. targets: the names of those that this machine builds for."""
    rows = (ROWS / "rows.jsonl").as_posix()
    steps = [
        DemoStep(
            "A picture, four times as large, and a page that compares the two",
            ("upscale", "photo.png", "--compare"),
        ),
        DemoStep(
            "A folder of pictures, twice as large",
            ("upscale", "photos", "-o", "photos_x2", "--outscale", "2"),
        ),
    ]
    if not media.no_clip:
        steps += [
            DemoStep("A clip, four times as large", ("upscale", "clip.mp4")),
            DemoStep("The clip, twice as large", ("upscale", "clip.mp4", "--outscale", "2")),
        ]
    size = hw_text(media.size)
    steps.append(
        DemoStep(
            "One checkpoint of an elastic network is sliced into three; each becomes a graph",
            ("export", MODEL, "--variants", VARIANTS, "--size", size),
        )
    )
    command: Tuple[str, ...]
    for name in targets:
        graphs = graphs_folder(name).as_posix()
        command = ("build-engine", graphs, "--target", name)
        title = f"Engines of these graphs, for the target {name}"
        steps.append(DemoStep(title, command, needs=graphs))
    command = ("bench", "--data", "originals", "--runs", "10")
    title = "Their speed, memory and quality on this machine"
    steps.append(DemoStep(title, command, needs=BUILT.as_posix()))
    crops: Tuple[str, ...] = ()
    if "cpu" in targets:
        command = ("select", rows, "--target", "cpu", "--fps", "10")
        steps.append(DemoStep("The best that holds 10 frames per second", command, needs=rows))
        crops = ("--crops", engines_folder("cpu").as_posix(), "--data", "originals")
    command = ("report", rows, "-o", "report.html", *crops)
    steps.append(DemoStep("A page with charts of all that was measured", command, needs=rows))
    return steps


def demo_results(folder: Path) -> Iterator[Tuple[Path, str]]:
    """Yield what the demo leaves in its folder, and what each is."""
    for name, what in (
        ("photo_x4.png", "photo.png, four times as large"),
        ("photo_x4.html", "before and after, to open in a browser"),
        ("photos_x2", "the pictures of photos, twice as large"),
        ("clip_x4.mp4", "clip.mp4, four times as large"),
        ("clip_x2.mp4", "clip.mp4, twice as large"),
        ("engines/graphs", "ONNX graphs, for each target"),
        ("engines/built", "engines, for each target"),
        ("engines/rows/rows.jsonl", "what was measured"),
        ("report.html", "tables, charts and crops, to open in a browser"),
    ):
        if (folder / name).exists():
            yield folder / name, what


def _write_clip(path: Path, rgb: np.ndarray) -> None:
    """Write two seconds of a camera that moves over a picture and back. Raises MissingPackageError.

    rgb: (H, W, 3), of which at most 72x96 are seen at a time.
    """
    try:
        import av
    except ImportError as e:
        raise MissingPackageError("av", needed_for="the clip", cause=e) from e
    h, w = (min(n, size * 2 // 3 // 2 * 2) for n, size in zip(_CLIP_HW, rgb.shape))
    top, way = (rgb.shape[0] - h) // 2, rgb.shape[1] - w
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(_RATE), options=_ENCODING)
        stream.height, stream.width, stream.pix_fmt = h, w, "yuv420p"
        for number in range(_FRAMES):
            left = min(number, _FRAMES - number) % (way + 1)
            part = np.ascontiguousarray(rgb[top : top + h, left : left + w])
            for packet in stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
