"""Checks of whole pictures and of a short video."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from sr_deploy.core.errors import BuildError, MissingPackageError
from sr_deploy.core.images import read_rgb
from sr_deploy.core.samples import mirrored_crop, shipped_crops
from sr_deploy.runtime.opener import describe
from sr_deploy.selftest.checks import Check
from sr_deploy.selftest.networks import run_of, sources
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.run import upscale_paths
from sr_deploy.upscale.upscaler import Upscaler

PICTURE_HW = {True: (1080, 1920), False: (270, 480)}
"""LR pixels on a GPU, and on a CPU."""
TILE = {True: 540, False: 192}
MAX_DIFFERENCE = 1
"""Of 255, between tiles and the whole, where tiles are exact: convolutions may sum otherwise."""
FRAMES, FRAME_HW = 8, (64, 96)


def check_tiles(check: Check, folder: Path) -> Dict[str, Any]:
    """Upscale a picture whole and in tiles, and compare them. The second run of each is timed."""
    way = check.on
    network = describe(sources(check, folder)[0])[0]
    hw = PICTURE_HW[way.device]
    picture = mirrored_crop(read_rgb(shipped_crops()[2]), hw)
    results: List[np.ndarray] = []
    ms: Dict[str, float] = {}
    with network.open(run_of(way)) as session:
        for name, tile in (("whole", None), ("tiles", TILE[way.device])):
            if session.fixed_hw is not None and tile is None:
                continue
            upscaler = Upscaler(session, tile=None if session.fixed_hw else tile)
            upscaler(picture)
            start = time.perf_counter()
            results.append(upscaler(picture))
            ms[name] = round((time.perf_counter() - start) * 1000, 1)
        exact = session.halo_px is not None
        description = upscaler.describe()
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in ms.items())
    found = f"{hw[0]}x{hw[1]}: {times}"
    if len(results) < 2:
        return {"found": f"{found}; one size, so no whole to compare with", "ms": ms}
    difference = int(np.abs(results[0].astype(np.int16) - results[1]).max())
    if exact and difference > MAX_DIFFERENCE:
        raise BuildError(f"tiles and the whole differ by up to {difference} of 255 ({description})")
    return {"found": f"{found}, at most {difference} of 255 apart", "ms": ms}


def check_video(check: Check, folder: Path) -> Dict[str, Any]:
    """Make a video of a few frames and upscale it."""
    try:
        import av
    except ImportError as e:
        raise MissingPackageError("av", needed_for="a video", cause=e) from e
    source, output = folder / "pictures" / "short.mp4", folder / "pictures" / "upscaled.mp4"
    source.parent.mkdir(parents=True, exist_ok=True)
    for path in (source, output):
        path.unlink() if path.exists() else None
    _make_video(source)
    start = time.perf_counter()
    options = UpscaleOptions(model=check.model, run=run_of(check.on))
    upscale_paths([str(source)], str(output), options, Reporter())
    seconds = time.perf_counter() - start
    with av.open(str(output)) as container:
        frames = [frame.to_ndarray(format="rgb24").shape for frame in container.decode(video=0)]
    expected = [(4 * FRAME_HW[0], 4 * FRAME_HW[1], 3)] * FRAMES
    if frames != expected:
        raise BuildError(
            f"the video has {len(frames)} frames of {frames[:1]}, not {FRAMES} of {expected[0]}"
        )
    return {"found": f"{FRAMES} frames to {expected[0][0]}x{expected[0][1]} in {seconds:.1f} s"}


def _make_video(path: Path) -> None:
    """Write a video that moves over a photograph."""
    import av

    rgb = read_rgb(shipped_crops()[1])
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25))
        stream.height, stream.width, stream.pix_fmt = *FRAME_HW, "yuv420p"
        for number in range(FRAMES):
            part = rgb[number : number + FRAME_HW[0], number : number + FRAME_HW[1]]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(part), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
