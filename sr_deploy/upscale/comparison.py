"""A page that shows a picture before and after: one HTML file, which loads nothing."""

from __future__ import annotations

import base64
import html
import string
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Tuple

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
        lr_hw, hw = _shown_hw(self.before), _shown_hw(self.after)
        before, after = map(_as_shown, _middle(self.before, self.after))
        shown = (after.shape[0], after.shape[1])
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


def _shown_hw(picture: Picture) -> HW:
    h, w = picture.rgb.shape[:2]
    return (w, h) if picture.turned else (h, w)


def _as_shown(picture: Picture) -> np.ndarray:
    """Return (H, W, 3 or 4), BGR or BGRA, uint8, upright."""
    rgb = np.repeat(grey_of(picture.rgb)[:, :, None], 3, axis=2) if picture.grey else picture.rgb
    parts = [rgb[:, :, ::-1]] + ([] if picture.alpha is None else [picture.alpha[:, :, None]])
    image = np.concatenate(parts, axis=2)
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return apply_orientation(image, read_orientation(picture.metadata.get(EXIF, b"")))


def _middle(before: Picture, after: Picture) -> Tuple[Picture, Picture]:
    """Cut the same part out of both where the result is larger than LARGEST_SIDE."""
    if before.turned != after.turned:  # the result has the orientation applied
        before = replace(before, **_upright(before))
    small, large = [], []
    for axis in (0, 1):
        n, made = before.rgb.shape[axis], after.rgb.shape[axis]
        factor = made / n
        kept = n if made <= LARGEST_SIDE else max(int(LARGEST_SIDE / factor), 1)
        start = (n - kept) // 2
        small.append(slice(start, start + kept))
        large.append(slice(round(start * factor), round((start + kept) * factor)))
    return _cut(before, tuple(small)), _cut(after, tuple(large))


def _cut(picture: Picture, where: Tuple[slice, ...]) -> Picture:
    alpha = None if picture.alpha is None else picture.alpha[where]
    return replace(picture, rgb=picture.rgb[where], alpha=alpha)


def _upright(picture: Picture) -> Dict[str, Any]:
    """Return the fields of a picture whose orientation is applied."""
    orientation = read_orientation(picture.metadata.get(EXIF, b""))
    alpha = None if picture.alpha is None else apply_orientation(picture.alpha, orientation)
    kept = {kind: value for kind, value in picture.metadata.items() if kind != EXIF}
    rgb = apply_orientation(picture.rgb, orientation)
    return {"rgb": rgb, "alpha": alpha, "metadata": kept}


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
