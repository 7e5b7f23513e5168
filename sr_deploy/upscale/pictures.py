"""Picture files: reading, upscaling by an `Upscaler`, and writing.

- Grey stays grey: the luma of the network's result. Palettes become colours, one bit becomes grey.
- Alpha is upscaled separately, bicubically. Before that, invisible colours are replaced by those
  around them, so that they do not bleed into visible ones.
- 8 and 16 bits per channel are kept. Float pictures, animations and files of several pages are
  refused.
- EXIF, XMP and ICC profiles are kept if the output format can hold them. So is EXIF's orientation,
  with the pixels as stored. It is applied where it cannot be kept, and always for AVIF. OpenCV
  applies TIFF's when reading. OpenCV before 4.12 cannot read EXIF: then nothing is kept, and a JPEG
  file's orientation is applied.
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
from sr_deploy.core.files import native_path
from sr_deploy.core.sizes import hw_text
from sr_deploy.upscale.formats import Format, content_format, find_damage, format_of_name
from sr_deploy.upscale.metadata import (
    ASSOCIATED,
    CMYK,
    UNASSOCIATED,
    TiffFacts,
    avif_orientation,
    complete_tiff,
    exif_of_jpeg,
    read_orientation,
    read_tiff_facts,
    resize_exif,
    transparent_grey,
    unscaled_maximum,
    with_upright_orientation,
)
from sr_deploy.upscale.upscaler import Upscaler

JPEG_QUALITY = 95
_EXIF, _XMP, _ICC = 0, 1, 2  # OpenCV's numbers
_ANIMATED = ("GIF", "WebP", "PNG", "TIFF", "AVIF")
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_STRIP = 256
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
Metadata = Dict[int, bytes]
"""OpenCV's number of the kind -> content."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    rgb: np.ndarray  # (H, W, 3) uint8 or uint16
    alpha: Optional[np.ndarray] = None  # (H, W) of the same dtype
    grey: bool = False
    metadata: Optional[Metadata] = None  # None if this OpenCV cannot read it
    notes: Tuple[str, ...] = ()  # remarks for the user


def read_picture(path: Path) -> Picture:
    """Read a picture, in the format of its content. Raises InputError if it cannot be used."""
    cv2 = opencv()
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read the picture {path}: {e.strerror or e}") from e
    kind = content_format(content)
    tiff = read_tiff_facts(content) if kind == "TIFF" else TiffFacts()
    _check_content(path, content, kind, tiff)
    if tiff.extra == UNASSOCIATED:
        # libtiff would multiply the colours by alpha. An unspecified channel is left alone.
        content = content[: tiff.extra_at] + b"\0\0" + content[tiff.extra_at + 2 :]
    image, metadata = _decode(cv2, np.frombuffer(content, np.uint8))
    if image is None:
        raise InputError(
            f"{path} is not a picture that can be read, or it is damaged"
            + (f" ({kind})" if kind else "")
        )
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"{path} has {image.dtype} values; expected 8 or 16 bits per channel",
            hint="convert it first",
        )
    notes: List[str] = []
    named = format_of_name(path)
    netpbm = {"PPM", "PGM", "PBM"}
    if named and kind and named.name != kind and not {named.name, kind} <= netpbm:
        notes.append(f"it is a {kind} file in spite of its name")
    if tiff.extra and image.ndim == 2:
        notes.append("the transparency of a grey TIFF file cannot be read: it is lost")
    image = _orient(image, metadata, kind, content)
    picture = _correct_pixels(_picture_of(image), kind, tiff, content)
    notes += _correct_metadata(metadata, kind, tiff)
    return replace(picture, metadata=metadata, notes=tuple(notes))


def _check_content(path: Path, content: bytes, kind: str, tiff: TiffFacts) -> None:
    """Raise InputError if a file is damaged, of several pages, or in CMYK."""
    damage = find_damage(content) if content else "it is empty"
    if damage:
        raise InputError(f"{path} is damaged: {damage}", hint="download or copy it again")
    if tiff.photometric == CMYK:
        raise InputError(f"{path} has CMYK colours", hint="convert it to RGB first")
    pages = _count_pages(path) if kind in _ANIMATED else 1
    if pages > 1:
        raise InputError(
            f"{path} has {pages} frames or pages; expected one",
            hint="give them one by one, or as a video",
        )


def _count_pages(path: Path) -> int:
    cv2 = opencv()
    if not hasattr(cv2, "imcount"):
        return 1
    with native_path(path) as name:
        return int(cv2.imcount(name))


def _orient(
    image: np.ndarray, metadata: Optional[Metadata], kind: str, content: bytes
) -> np.ndarray:
    """Apply the orientation where the result's metadata cannot state it."""
    if kind == "AVIF":
        return _apply_orientation(image, avif_orientation(content))
    if kind == "JPEG" and metadata is None:
        return _apply_orientation(image, read_orientation(exif_of_jpeg(content)))
    return image


def _correct_metadata(metadata: Optional[Metadata], kind: str, tiff: TiffFacts) -> List[str]:
    """Correct what OpenCV has read, in place, and return notes on what is lost."""
    if metadata is None:
        return ["this OpenCV cannot read EXIF and colour profiles: they are lost (4.12 can)"]
    if tiff.icc:
        metadata[_ICC] = tiff.icc
    if kind == "AVIF" and _EXIF in metadata:
        metadata[_EXIF] = with_upright_orientation(metadata[_EXIF])
    if kind == "JPEG" and metadata.get(_ICC, b"")[16:20] == b"CMYK":
        del metadata[_ICC]
        return ["its CMYK colours became RGB without their profile"]
    return []


def _correct_pixels(picture: Picture, kind: str, tiff: TiffFacts, content: bytes) -> Picture:
    """Apply what OpenCV ignores: a transparent grey, PPM's and PGM's white, associated alpha."""
    dtype = picture.rgb.dtype
    white = np.iinfo(dtype).max
    if kind == "PNG" and picture.alpha is None and picture.grey:
        key = transparent_grey(content)
        if key is not None:
            alpha = np.where(picture.rgb[:, :, 0] == key, 0, white).astype(dtype)
            return replace(picture, alpha=alpha)
    elif kind in ("PPM", "PGM"):
        maximum = unscaled_maximum(content)
        if maximum is not None and maximum != white:
            scaled = np.minimum(picture.rgb / np.float32(maximum), 1) * white
            return replace(picture, rgb=np.rint(scaled).astype(dtype))
    elif tiff.extra == ASSOCIATED and picture.alpha is not None:
        return replace(picture, rgb=_divide_by_alpha(picture.rgb, picture.alpha))
    return picture


def upscale_pixels(picture: Picture, upscaler: Upscaler, target: Format) -> Picture:
    """Upscale a picture. Raises InputError if the format `target` cannot hold the result."""
    h, w = picture.rgb.shape[:2]
    s = upscaler.scale
    problem = ""
    if max(h, w) * s > target.side:
        problem = f"has {hw_text((h * s, w * s))} pixels, more than {target.side} a side"
    elif picture.alpha is not None and not target.alpha:
        problem = "has transparent parts"
    elif picture.rgb.dtype == np.uint16 and not target.deep:
        problem = "has 16 bits per channel"
    if problem:
        problem = f"the result {problem}, which {target.name} cannot hold"
        raise InputError(problem, hint="write PNG or TIFF")
    picture = _fit_metadata(picture, target)
    if picture.alpha is None:
        out, alpha = upscaler(picture.rgb), None
    else:
        # More memory: alpha, its result, and both together with the colours in OpenCV's order.
        visible = _fill_invisible(picture.rgb, picture.alpha)
        out = upscaler(visible, more_per_px=6 * visible.itemsize)
        size = (out.shape[1], out.shape[0])
        alpha = opencv().resize(picture.alpha, size, interpolation=opencv().INTER_CUBIC)
    metadata = dict(picture.metadata or {})
    if _EXIF in metadata:
        metadata[_EXIF] = resize_exif(metadata[_EXIF], (out.shape[0], out.shape[1]))
    return replace(picture, rgb=out, alpha=alpha, metadata=metadata)


def write_picture(path: Path, picture: Picture, target: Format) -> Picture:
    """Write a picture, overwriting its pixels. Return it with further notes. Raises OSError."""
    pixels = _to_opencv(picture, target)
    metadata = dict(picture.metadata or {})
    profile = metadata.pop(_ICC, b"")
    tiff = target.name == "TIFF"
    embedded = {**metadata, _ICC: profile} if profile and not tiff else metadata
    if _encode(path, pixels, embedded, target):
        alpha = picture.alpha is not None
        if tiff and (profile or alpha):
            complete_tiff(path, icc=profile, alpha=alpha)
        return picture
    if shutil.disk_usage(path.parent).free < pixels.nbytes:  # OpenCV does not give the reason
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if not profile or tiff or not _encode(path, pixels, metadata, target):
        raise OSError(errno.EIO, f"OpenCV could not write it as {target.name}")
    note = f"its colour profile is not valid in {target.name} files: it is lost"
    return replace(picture, notes=(*picture.notes, note))


def _encode(path: Path, pixels: np.ndarray, metadata: Metadata, target: Format) -> bool:
    """Write a file by OpenCV. Return whether it is complete."""
    cv2 = opencv()
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.name == "JPEG" else []
    try:
        with native_path(path) as name:
            if metadata:
                values = [np.frombuffer(value, np.uint8) for value in metadata.values()]
                done = cv2.imwriteWithMetadata(name, pixels, list(metadata), values, options)
            else:
                done = cv2.imwrite(name, pixels, options)
    except cv2.error:
        return False
    return done and _tail(path).endswith(_ENDS.get(target.name, b""))


def opencv() -> Any:
    """Return OpenCV with its own messages switched off. Raises MissingPackageError."""
    try:
        import cv2
    except ImportError as e:
        raise MissingPackageError(
            "opencv-python-headless", needed_for="upscaling pictures", extra="upscale", cause=e
        ) from e
    if hasattr(cv2, "utils") and hasattr(cv2.utils, "logging"):  # not in every version
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def _tail(path: Path) -> bytes:
    with open(path, "rb") as f:
        f.seek(-min(12, f.seek(0, 2)), 2)
        return f.read()


def _decode(cv2: Any, data: np.ndarray) -> Tuple[Optional[np.ndarray], Optional[Metadata]]:
    try:
        if not hasattr(cv2, "imdecodeWithMetadata"):
            return cv2.imdecode(data, cv2.IMREAD_UNCHANGED), None
        image, kinds, values = cv2.imdecodeWithMetadata(data, flags=cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None, None
    metadata = {int(kind): np.asarray(value).tobytes() for kind, value in zip(kinds, values)}
    if metadata.get(_EXIF, b"").startswith(b"Exif\0\0"):  # AVIF's has the prefix of JPEG files
        metadata[_EXIF] = metadata[_EXIF][6:]
    return image, metadata


def _picture_of(image: np.ndarray) -> Picture:
    """Convert OpenCV's (H, W[, 1|3|4])."""
    if image.ndim == 2 or image.shape[2] == 1:
        return Picture(np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2), grey=True)
    rgb = np.ascontiguousarray(image[:, :, 2::-1])
    if image.shape[2] == 3:
        return Picture(rgb)
    grey = bool((rgb[:, :, 0] == rgb[:, :, 1]).all() and (rgb[:, :, 1] == rgb[:, :, 2]).all())
    return Picture(rgb, np.ascontiguousarray(image[:, :, 3]), grey)


def _fit_metadata(picture: Picture, target: Format) -> Picture:
    """Remove metadata that `target` cannot hold, with notes, and apply such an orientation."""
    metadata = dict(picture.metadata or {})
    notes = list(picture.notes)
    if not target.exif:
        orientation = read_orientation(metadata.get(_EXIF, b""))
        kinds = ((_EXIF, "EXIF"), (_XMP, "XMP"))
        dropped = [name for kind, name in kinds if metadata.pop(kind, None) is not None]
        if dropped:
            applied = "; its orientation was applied" if orientation != 1 else ""
            notes.append(f"{target.name} files get no {' and '.join(dropped)}{applied}")
        alpha = picture.alpha
        picture = replace(
            picture,
            rgb=_apply_orientation(picture.rgb, orientation),
            alpha=None if alpha is None else _apply_orientation(alpha, orientation),
        )
    if not target.icc and metadata.pop(_ICC, None) is not None:
        notes.append(f"{target.name} files get no colour profile: the colours may look different")
    if target.name != "PNG":
        metadata = {kind: value for kind, value in metadata.items() if kind in (_EXIF, _XMP, _ICC)}
    return replace(picture, metadata=metadata, notes=tuple(notes))


def _apply_orientation(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W[, C]) upright, given its EXIF orientation of 1 to 8."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    steps = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
    rows, columns = steps.get(orientation, (1, 1))
    return np.ascontiguousarray(image[::rows, ::columns])


def _divide_by_alpha(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the colours of pixels that are stored multiplied by their alpha."""
    white = np.float32(np.iinfo(rgb.dtype).max)
    out = np.empty_like(rgb)
    factor = white / np.maximum(alpha, 1).astype(np.float32)
    for channel in range(3):
        out[:, :, channel] = np.rint(np.minimum(rgb[:, :, channel] * factor, white))
    return out


def _fill_invisible(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give pixels of alpha 0 approximately the colours of the nearest visible ones."""
    visible = (alpha > 0).astype(np.float32)
    if visible.all() or not visible.any():
        return rgb
    filled = _fill_from_smaller(rgb.astype(np.float32), visible)
    return np.where(visible[:, :, None] > 0, rgb, np.rint(filled).astype(rgb.dtype))


def _fill_from_smaller(colours: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fill pixels of weight 0 from the picture at half the size, recursively."""
    if weight.all():
        return colours
    cv2 = opencv()
    h, w = weight.shape
    half = (max(w // 2, 1), max(h // 2, 1))
    weights = weight[:, :, None]
    half_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(colours * weights, half, interpolation=cv2.INTER_AREA)
    mean /= np.maximum(half_weight, 1e-6)[:, :, None]
    smaller = _fill_from_smaller(mean, (half_weight > 0).astype(np.float32))
    enlarged = cv2.resize(smaller, (w, h), interpolation=cv2.INTER_LINEAR)
    return np.where(weights > 0, colours, enlarged)


def _to_opencv(picture: Picture, target: Format) -> np.ndarray:
    """Convert the pixels to OpenCV's order, in place and strip by strip, to save memory."""
    rgb = picture.rgb
    strips = [slice(top, top + _STRIP) for top in range(0, rgb.shape[0], _STRIP)]
    if picture.grey and picture.alpha is None and target.grey:
        grey = np.empty(rgb.shape[:2], rgb.dtype)
        for strip in strips:
            grey[strip] = np.rint(rgb[strip] @ _LUMA)
        return grey
    for strip in strips:
        if picture.grey:
            rgb[strip] = np.rint(rgb[strip] @ _LUMA)[:, :, None]
        else:
            rgb[strip] = rgb[strip][:, :, ::-1].copy()
    return rgb if picture.alpha is None else np.dstack([rgb, picture.alpha])
