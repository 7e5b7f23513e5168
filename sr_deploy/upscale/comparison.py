"""A page that shows a picture before and after: one HTML file, which loads nothing."""

from __future__ import annotations

import base64
import html
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import numpy as np

from sr_deploy.core.files import printable_name
from sr_deploy.core.pictures.containers import embed
from sr_deploy.core.pictures.formats import EXIF, ICC
from sr_deploy.core.pictures.metadata import read_orientation
from sr_deploy.core.sizes import HW
from sr_deploy.upscale.opencv import opencv
from sr_deploy.upscale.output_size import wh_text
from sr_deploy.upscale.pictures import Picture, apply_orientation, grey_of

LARGEST_SIDE = 4096
"""Of what is shown of a result. Larger ones show their middle."""
_PNG_PX = 2**21
"""Results of more pixels are shown as JPEG."""
_QUALITY = 95


def page_of(output: Path) -> Path:
    """Return the path of the page beside a result.

    >>> page_of(Path("photo_x4.png")).name
    'photo_x4.html'
    """
    return output.with_suffix(".html")


@dataclass(frozen=True)
class BeforeAfter:
    """A picture before and after it was upscaled."""

    source: Path
    output: Path
    before: Picture
    after: Picture
    by: str  # the network's name

    def html(self) -> str:
        """Return the page."""
        before, after = _as_shown(self.before), _as_shown(self.after)
        lr_hw, hw = _hw(before), _hw(after)
        before, after = _middle(before, after)
        shown = _hw(after)
        size = (shown[1], shown[0])
        bicubic = opencv().resize(before, size, interpolation=opencv().INTER_CUBIC)
        lossless = shown[0] * shown[1] <= _PNG_PX
        notes = []
        if shown != hw:
            notes.append(f"Shown is the middle of the picture, {wh_text(shown)} pixels.")
        if not lossless and after.shape[2] == 3:
            notes.append(f"Both sides are shown as JPEG of quality {_QUALITY}.")
        if self.after.rgb.dtype == np.uint16:
            notes.append("The file has 16 bits per channel; the page shows 8.")
        icc = self.after.metadata.get(ICC, b"")
        facts = (
            f"{wh_text(lr_hw)} to {wh_text(hw)} pixels (width x height), by {self.by}; "
            f"the result: {printable_name(self.output)}"
        )
        template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
        return template.substitute(
            name=html.escape(printable_name(self.source)),
            result=html.escape(printable_name(self.output)),
            facts=html.escape(facts),
            note=html.escape(" ".join(notes)),
            width=shown[1],
            height=shown[0],
            after=_data_url(after, icc, lossless=lossless),
            bicubic=_data_url(bicubic, icc, lossless=lossless),
            nearest=_data_url(before, icc, lossless=True),
        )


_TEMPLATE = Path(__file__).with_name("comparison.html")


def _hw(image: np.ndarray) -> HW:
    return image.shape[0], image.shape[1]


def _as_shown(picture: Picture) -> np.ndarray:
    """Return (H, W, 3 or 4), BGR or BGRA, uint8, upright."""
    rgb = np.repeat(grey_of(picture.rgb)[:, :, None], 3, axis=2) if picture.grey else picture.rgb
    parts = [rgb[:, :, ::-1]] + ([] if picture.alpha is None else [picture.alpha[:, :, None]])
    image = np.concatenate(parts, axis=2)
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return apply_orientation(image, read_orientation(picture.metadata.get(EXIF, b"")))


def _middle(before: np.ndarray, after: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Cut the same part out of both where the result is larger than LARGEST_SIDE."""
    for axis in (0, 1):
        n, large = before.shape[axis], after.shape[axis]
        if large > LARGEST_SIDE:
            factor = large / n
            kept = max(int(LARGEST_SIDE / factor), 1)
            start = (n - kept) // 2
            before = np.take(before, range(start, start + kept), axis)
            first, last = round(start * factor), round((start + kept) * factor)
            after = np.take(after, range(first, last), axis)
    return before, after


def _data_url(bgr: np.ndarray, icc: bytes, *, lossless: bool) -> str:
    cv2 = opencv()
    jpeg = not lossless and bgr.shape[2] == 3
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if jpeg else []
    done, encoded = cv2.imencode(".jpg" if jpeg else ".png", np.ascontiguousarray(bgr), options)
    assert done
    data = bytes(encoded)
    if icc:
        pieces, _ = embed(memoryview(data), "JPEG" if jpeg else "PNG", {ICC: icc})
        data = b"".join(pieces)
    kind = "jpeg" if jpeg else "png"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
