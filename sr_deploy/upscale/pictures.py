"""Pictures as files hold them, through an `Upscaler` and back: what becomes of grey, alpha, 16 bit, profiles and orientation.

- Grey stays grey, by the luma of what the network makes of it. A palette becomes colours, one bit grey.
- Alpha is upscaled apart, bicubically; before that, colours that cannot be seen are filled with those around them, so that
  they do not bleed into the ones that can.
- 8 and 16 bit per channel stay so; float pictures are refused, and so are animations and files of several pages.
- EXIF, XMP and ICC profile are kept where the result's format holds them. So is EXIF's orientation, the pixels staying as they
  are stored; where it cannot be kept, it is applied, and AVIF's always. TIFF's is applied by OpenCV as it reads. OpenCV before
  4.12 cannot tell EXIF: nothing is kept then, and a JPEG file's orientation is applied.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.core.sizes import hw_text
from sr_deploy.upscale.formats import Format, content_of, damage, format_of_name
from sr_deploy.upscale.metadata import (
    ASSOCIATED,
    CMYK,
    UNASSOCIATED,
    TiffFacts,
    complete_tiff,
    exif_of_jpeg,
    orientation,
    resized,
    tiff_facts,
    transparent_grey,
    turn_of_avif,
    unscaled_maximum,
    upright,
)

JPEG_QUALITY = 95
_EXIF, _XMP, _ICC = 0, 1, 2  # OpenCV's numbers
_ANIMATED = ("GIF", "WebP", "PNG", "TIFF", "AVIF")
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_STRIP = 256
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    rgb: np.ndarray
    """(H, W, 3) uint8 or uint16."""
    alpha: Optional[np.ndarray] = None
    """(H, W) of the same dtype."""
    grey: bool = False
    metadata: Optional[Dict[int, bytes]] = None
    """OpenCV's kind -> what the file said; None where this OpenCV cannot tell."""
    notes: Tuple[str, ...] = ()
    """What a user should know of it."""


def read_picture(path: Path) -> Picture:
    """Read a picture; its content decides what it is, not its name. Raises InputError where it is damaged or of no kind we take."""
    cv2 = opencv()
    try:
        data = np.fromfile(
            str(path), dtype=np.uint8
        )  # imread cannot open every Unicode path on Windows
    except OSError as e:
        raise InputError(f"cannot read the picture {path}: {e.strerror or e}") from e
    kind, raw = content_of(data[:64].tobytes()), data.data
    problem = "it is empty" if not data.size else damage(raw)
    if problem:
        raise InputError(f"{path} is damaged: {problem}", hint="fetch or copy it again")
    tiff = tiff_facts(raw) if kind == "TIFF" else TiffFacts()
    if tiff.photometric == CMYK:
        raise InputError(f"{path} holds CMYK colours", hint="convert it to RGB first")
    pages = cv2.imcount(str(path)) if kind in _ANIMATED and hasattr(cv2, "imcount") else 1
    if pages > 1:
        raise InputError(
            f"{path} holds {pages} frames or pages; expected one",
            hint="give them one by one, or as a video",
        )
    if (
        tiff.extra == UNASSOCIATED
    ):  # libtiff multiplies the colours by alpha, unless that is said to be done
        data[tiff.extra_at] = data[tiff.extra_at + 1] = 0
    image, metadata = _decoded(cv2, data)
    if image is None:
        raise InputError(
            f"{path} is not a picture that can be read, or it is damaged"
            + (f" ({kind})" if kind else "")
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{path} holds {image.dtype} values; expected 8 or 16 bit per channel",
            hint="convert it first",
        )
    notes: List[str] = []
    named = format_of_name(path)
    if (
        named is not None
        and kind
        and named.name != kind
        and not {named.name, kind} <= {"PPM", "PGM", "PBM"}
    ):
        notes.append(f"it is a {kind} file in spite of its name")
    if metadata is None:
        turn = orientation(exif_of_jpeg(raw)) if kind == "JPEG" else 1
        image = image if turn == 1 else _turned(image, turn)
        notes.append(
            "this OpenCV cannot read EXIF and colour profiles: none are kept (4.12 and newer can)"
        )
    elif tiff.icc:
        metadata[_ICC] = tiff.icc
    if kind == "AVIF":
        image = _turned(image, turn_of_avif(raw))
        if metadata and _EXIF in metadata:
            metadata[_EXIF] = upright(metadata[_EXIF])
    if tiff.extra and image.ndim == 2:
        notes.append("the transparency of a grey TIFF file cannot be read: it is not kept")
    if metadata and kind == "JPEG" and _ICC in metadata and metadata[_ICC][16:20] == b"CMYK":
        del metadata[_ICC]
        notes.append("its CMYK colours became RGB without their profile")
    picture = _picture(image)
    largest = np.iinfo(image.dtype).max
    if kind == "PNG" and picture.alpha is None and picture.grey:
        key = transparent_grey(raw)
        if key is not None:
            picture = replace(
                picture, alpha=np.where(picture.rgb[:, :, 0] == key, 0, largest).astype(image.dtype)
            )
    elif kind in ("PPM", "PGM"):
        white = unscaled_maximum(raw)
        if white is not None and white != largest:
            picture = replace(
                picture,
                rgb=np.rint(np.minimum(picture.rgb / np.float32(white), 1) * largest).astype(
                    image.dtype
                ),
            )
    elif tiff.extra == ASSOCIATED and picture.alpha is not None:
        picture = replace(picture, rgb=_divided(picture.rgb, picture.alpha))
    return replace(picture, metadata=metadata, notes=tuple(notes))


def upscaled(picture: Picture, upscaler: Any, wanted: Format) -> Picture:
    """Upscale a picture to be written as `wanted`. Raises InputError where that format cannot hold it."""
    h, w = picture.rgb.shape[:2]
    s = upscaler.scale
    problem = (
        f"holds {hw_text((h * s, w * s))} pixels, more than {wanted.side} a side"
        if max(h, w) * s > wanted.side
        else "has transparent parts"
        if picture.alpha is not None and not wanted.alpha
        else "has 16 bit per channel"
        if picture.rgb.dtype == np.uint16 and not wanted.deep
        else ""
    )
    if problem:
        raise InputError(
            f"the result {problem}, and {wanted.name} cannot hold that", hint="write PNG or TIFF"
        )
    picture, notes = _kept(picture, wanted)
    rgb = picture.rgb if picture.alpha is None else _filled(picture.rgb, picture.alpha)
    alpha = None
    # Alpha, its own result, and both with the colours as OpenCV takes them.
    out = upscaler(rgb) if picture.alpha is None else upscaler(rgb, more_per_px=6 * rgb.itemsize)
    if picture.alpha is not None:
        alpha = opencv().resize(
            picture.alpha, (out.shape[1], out.shape[0]), interpolation=opencv().INTER_CUBIC
        )
    metadata = dict(picture.metadata or {})
    if _EXIF in metadata:
        metadata[_EXIF] = resized(metadata[_EXIF], (out.shape[0], out.shape[1]))
    return Picture(out, alpha, picture.grey, metadata, (*picture.notes, *notes))


def write_picture(path: Path, picture: Picture, wanted: Format) -> Picture:
    """Write a picture to a file ending in a suffix of `wanted`; return it with what must be noted. Its pixels change. Raises OSError."""
    pixels = _for_opencv(picture, wanted)
    metadata = dict(picture.metadata or {})
    profile = metadata.pop(_ICC, b"")
    tiff = wanted.name == "TIFF"
    if _written(
        path, pixels, {**metadata, _ICC: profile} if profile and not tiff else metadata, wanted
    ):
        alpha = picture.alpha is not None
        if tiff and (profile or alpha):
            complete_tiff(path, icc=profile, alpha=alpha)
        return picture
    if shutil.disk_usage(path.parent).free < pixels.nbytes:  # OpenCV does not say why
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not profile or tiff or not _written(path, pixels, metadata, wanted):
        raise OSError(errno.EIO, f"OpenCV could not write it as {wanted.name}")
    return replace(
        picture,
        notes=(
            *picture.notes,
            f"its colour profile is not one that {wanted.name} files may hold: it is not kept",
        ),
    )


def _written(path: Path, pixels: np.ndarray, metadata: Dict[int, bytes], wanted: Format) -> bool:
    cv2 = opencv()
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if wanted.name == "JPEG" else []
    try:
        if metadata:
            values = [np.frombuffer(value, np.uint8) for value in metadata.values()]
            done = cv2.imwriteWithMetadata(str(path), pixels, list(metadata), values, options)
        else:
            done = cv2.imwrite(str(path), pixels, options)
    except cv2.error:
        return False
    return done and _tail(path).endswith(_ENDS.get(wanted.name, b""))


def opencv() -> Any:
    """Return OpenCV, quiet. Raises MissingPackageError."""
    try:
        import cv2
    except ImportError as e:
        raise MissingPackageError(
            "opencv-python-headless", needed_for="upscaling pictures", extra="upscale", cause=e
        ) from e
    if hasattr(cv2, "utils") and hasattr(
        cv2.utils, "logging"
    ):  # its own lines beside our errors; not in every version
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _tail(path: Path) -> bytes:
    with open(path, "rb") as f:
        f.seek(-min(12, f.seek(0, 2)), 2)
        return f.read()


def _decoded(cv2: Any, data: np.ndarray) -> Tuple[Optional[np.ndarray], Optional[Dict[int, bytes]]]:
    try:
        if not hasattr(cv2, "imdecodeWithMetadata"):
            return cv2.imdecode(data, cv2.IMREAD_UNCHANGED), None
        image, kinds, values = cv2.imdecodeWithMetadata(data, flags=cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None, None
    metadata = {int(kind): np.asarray(value).tobytes() for kind, value in zip(kinds, values)}
    if metadata.get(_EXIF, b"").startswith(
        b"Exif\0\0"
    ):  # AVIF's has the header that belongs to JPEG
        metadata[_EXIF] = metadata[_EXIF][6:]
    return image, metadata


def _picture(image: np.ndarray) -> Picture:
    """OpenCV's (H, W[, 1|3|4]) as a Picture."""
    if image.ndim == 2 or image.shape[2] == 1:
        return Picture(np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2), grey=True)
    rgb = np.ascontiguousarray(image[:, :, 2::-1])
    if image.shape[2] == 3:
        return Picture(rgb)
    grey = bool((rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 1] == rgb[:, :, 2]).all())
    return Picture(rgb, np.ascontiguousarray(image[:, :, 3]), grey)


def _kept(picture: Picture, wanted: Format) -> Tuple[Picture, List[str]]:
    """The picture with what `wanted` can hold beside pixels; an orientation that it cannot is applied."""
    metadata = dict(picture.metadata or {})
    notes = []
    if not wanted.exif:
        turn = orientation(metadata.get(_EXIF, b""))
        dropped = [
            name
            for kind, name in ((_EXIF, "EXIF"), (_XMP, "XMP"))
            if metadata.pop(kind, None) is not None
        ]
        if dropped:
            notes.append(
                f"{wanted.name} files get no {' and '.join(dropped)}"
                + ("; its orientation was applied" if turn != 1 else "")
            )
        if turn != 1:
            alpha = None if picture.alpha is None else _turned(picture.alpha, turn)
            picture = replace(picture, rgb=_turned(picture.rgb, turn), alpha=alpha)
    if not wanted.icc and metadata.pop(_ICC, None) is not None:
        notes.append(f"{wanted.name} files get no colour profile: the colours may look different")
    if wanted.name != "PNG":
        metadata = {kind: value for kind, value in metadata.items() if kind in (_EXIF, _XMP, _ICC)}
    return replace(picture, metadata=metadata), notes


def _turned(image: np.ndarray, turn: int) -> np.ndarray:
    """Bring (H, W[, C]) upright from an EXIF orientation of 1 to 8."""
    if turn >= 5:
        image = image.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        turn, (1, 1)
    )
    return np.ascontiguousarray(image[::rows, ::columns])


def _divided(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The colours of pixels that were multiplied by their alpha."""
    largest = np.float32(np.iinfo(rgb.dtype).max)
    out = np.empty_like(rgb)
    factor = largest / np.maximum(alpha, 1).astype(np.float32)
    for channel in range(3):
        out[:, :, channel] = np.rint(np.minimum(rgb[:, :, channel] * factor, largest))
    return out


def _filled(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give pixels of alpha 0 the colours of the nearest seen ones, roughly: from ever smaller pictures."""
    seen = (alpha > 0).astype(np.float32)
    if seen.all() or not seen.any():
        return rgb
    filled = _from_smaller(rgb.astype(np.float32), seen)
    return np.where(seen[:, :, None] > 0, rgb, np.rint(filled).astype(rgb.dtype))


def _from_smaller(colours: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if weight.all():
        return colours
    cv2 = opencv()
    h, w = weight.shape
    half = (max(w // 2, 1), max(h // 2, 1))
    less = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    mean = (
        cv2.resize(colours * weight[:, :, None], half, interpolation=cv2.INTER_AREA)
        / np.maximum(less, 1e-6)[:, :, None]
    )
    smaller = _from_smaller(mean, (less > 0).astype(np.float32))
    return np.where(
        weight[:, :, None] > 0, colours, cv2.resize(smaller, (w, h), interpolation=cv2.INTER_LINEAR)
    )


def _for_opencv(picture: Picture, wanted: Format) -> np.ndarray:
    """The pixels in OpenCV's order: strip by strip in place, for there may be no room for a second picture."""
    rgb = picture.rgb
    if picture.grey and picture.alpha is None and wanted.grey:
        grey = np.empty(rgb.shape[:2], rgb.dtype)
        for top in range(0, rgb.shape[0], _STRIP):
            grey[top : top + _STRIP] = np.rint(rgb[top : top + _STRIP] @ _LUMA).astype(rgb.dtype)
        return grey
    for top in range(0, rgb.shape[0], _STRIP):
        strip = rgb[top : top + _STRIP]
        strip[...] = (
            np.rint(strip @ _LUMA).astype(rgb.dtype)[:, :, None]
            if picture.grey
            else strip[:, :, ::-1].copy()
        )
    return rgb if picture.alpha is None else np.dstack([rgb, picture.alpha])
