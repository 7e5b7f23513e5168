"""Images as a user of Python has them: files, arrays and PIL images, and lists of them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Union

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.pictures.formats import Format, is_picture
from sr_deploy.core.pictures.metadata import resize_exif
from sr_deploy.upscale.output_size import NETWORK_SIZE, OutputSize
from sr_deploy.upscale.pictures import Picture, grey_of, read_picture, upscale_pixels

if TYPE_CHECKING:
    from sr_deploy.upscale.upscaler import Upscaler

_ARRAY = Format("an array", (), alpha=True, deep=True)
_EXPECTED = (
    "expected a path, a PIL image or an array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of "
    "uint8, uint16 or float in 0..1"
)
_FAR = 0.5
"""Floats may leave 0..1 by this, as those of resized images do."""
_EXIF_HEADER = b"Exif\0\0"


@dataclass(frozen=True)
class _Given:
    """An image, and how its result becomes what the user gave."""

    picture: Picture
    returned: Callable[[Picture], Any]


def upscale_any(image: Any, upscaler: Upscaler, size: OutputSize = NETWORK_SIZE) -> Any:
    """Upscale an image or a list of them; see `sr_deploy.upscale` for what is returned."""
    if isinstance(image, (list, tuple)):
        return [upscale_any(one, upscaler, size) for one in image]
    given = _given(image)
    return given.returned(upscale_pixels(given.picture, upscaler, _ARRAY, size))


def _given(image: Any) -> _Given:
    """Read an image of any kind. Raises InputError if it cannot be used."""
    if isinstance(image, (str, os.PathLike)):
        return _Given(_read_file(Path(image)), _array_of)
    if isinstance(image, np.ndarray):
        return _given_array(image)
    pil: Any = sys.modules.get("PIL.Image")  # loaded, if the image is one of PIL's
    if pil is not None and isinstance(image, pil.Image):
        return _given_pil(image, pil)
    hint = "give array(image), with the channels last, such as x.permute(1, 2, 0).numpy()"
    raise InputError(
        f"an image of type {type(image).__name__}; {_EXPECTED}",
        hint=hint if hasattr(image, "__array__") else "",
    )


def _read_file(path: Path) -> Picture:
    if path.is_dir() or (path.is_file() and not is_picture(path)):
        what = "a folder" if path.is_dir() else "not a picture"
        hint = "name the result: output=FOLDER of a folder of pictures, output=FILE of a video"
        raise InputError(f"{path} is {what}, which cannot become an array", hint=hint)
    return read_picture(path)


def _given_array(image: np.ndarray) -> _Given:
    channels = image.shape[2] if image.ndim == 3 else 0
    known = image.dtype in (np.uint8, np.uint16) or image.dtype.kind == "f"
    if image.ndim not in (2, 3) or channels not in (0, 1, 3, 4) or not known or not image.size:
        raise InputError(f"an array {image.shape} {image.dtype}; {_EXPECTED}", hint=_hint(image))
    pixels = image if image.dtype.kind == "u" else _checked_floats(image)

    def returned(picture: Picture) -> np.ndarray:
        array = _array_of(picture)
        if image.dtype.kind == "f":
            array = array.clip(0, 1).astype(image.dtype, copy=False)
        return array[:, :, None] if channels == 1 else array

    return _Given(_picture_of(pixels), returned)


def _checked_floats(image: np.ndarray) -> np.ndarray:
    low, high = float(image.min()), float(image.max())
    if not (-_FAR <= low and high <= 1 + _FAR):  # also for NaN
        raise InputError(
            f"an array {image.dtype} with values of {low:g} to {high:g}; expected 0 to 1",
            hint="divide by 255, or convert it to uint8",
        )
    return image.astype(np.float32, copy=False)


def _hint(image: np.ndarray) -> str:
    if image.ndim == 4:
        return "give list(images): an array for each image"
    if image.ndim == 3 and image.shape[0] in (1, 3, 4):
        return "the channels come last: give image.transpose(1, 2, 0)"
    return "convert it, for example by image.astype('uint8')" if image.ndim in (2, 3) else ""


def _picture_of(pixels: np.ndarray) -> Picture:
    """Convert (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4)."""
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    channels = pixels.shape[2]
    grey, alpha = channels < 3, pixels[:, :, -1] if channels in (2, 4) else None
    rgb = np.repeat(pixels[:, :, :1], 3, axis=2) if grey else pixels[:, :, :3]
    return Picture(
        np.ascontiguousarray(rgb), None if alpha is None else np.ascontiguousarray(alpha), grey
    )


def _array_of(picture: Picture) -> np.ndarray:
    """Return (H, W) of a grey picture, else (H, W, 3), with alpha (H, W, 2) and (H, W, 4)."""
    pixels = grey_of(picture.rgb) if picture.grey else picture.rgb
    return pixels if picture.alpha is None else np.dstack([pixels, picture.alpha])


def _given_pil(image: Any, pil: Any) -> _Given:
    """Convert a PIL image. The result keeps the colour profile, the EXIF data and the resolution.

    As PIL does, EXIF's orientation is kept and not applied.
    """
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(
            f"a PIL image of {image.n_frames} frames; expected one", hint="give image.copy()"
        )
    info = {key: image.info[key] for key in ("icc_profile", "dpi", "exif") if key in image.info}
    if "transparency" in image.info or image.mode in ("P", "1", "PA"):
        alpha = "transparency" in image.info or image.mode == "PA"
        grey = image.mode in ("L", "1")
        image = image.convert(("L" if grey else "RGB") + ("A" if alpha else ""))
    if image.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
        raise InputError(
            f"a PIL image of mode {image.mode}; expected L, LA, RGB, RGBA, P, 1 or I;16",
            hint="give image.convert('RGB')",
        )

    def returned(picture: Picture) -> Any:
        result = pil.fromarray(_array_of(picture))
        exif: Union[bytes, None] = info.get("exif")
        if exif is not None:
            bare = exif[len(_EXIF_HEADER) :] if exif.startswith(_EXIF_HEADER) else exif
            header = exif[: len(exif) - len(bare)]
            info["exif"] = header + resize_exif(bare, (result.height, result.width))
        result.info.update(info)
        return result

    picture = _picture_of(np.asarray(image))
    return _Given(replace(picture, grey=image.mode in ("L", "LA", "I;16")), returned)
