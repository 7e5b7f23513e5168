"""Picture files: reading, upscaling by an `Upscaler`, and writing.

- Grey stays grey: the luma of the network's result. Palettes become colours, one bit becomes grey.
- Alpha is upscaled separately, bicubically. Before that, invisible colours are replaced by those
  around them, so that they do not bleed into visible ones.
- 8 and 16 bits per channel are kept. Float and HDR pictures, animations, files of several pages and
  raw photographs are refused, and what OpenCV would misread.
- OpenCV reads and writes pixels only. Metadata are kept if the output format can hold them (see
  `formats.py`); the others are named in a note. So is EXIF's orientation kept, with the pixels as
  stored. It is applied where it cannot be kept, and always for AVIF. OpenCV applies TIFF's when
  reading.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import native_path
from sr_deploy.core.interface import LUMA
from sr_deploy.core.pictures.containers import (
    bmff,
    count_pages,
    embed,
    png,
    read_metadata,
    simple,
    tiff,
)
from sr_deploy.core.pictures.damage import find_damage, find_hidden_damage
from sr_deploy.core.pictures.formats import (
    EXIF,
    ICC,
    RAW,
    THUMBNAIL,
    Format,
    Metadata,
    content_format,
    format_of_name,
)
from sr_deploy.core.pictures.metadata import (
    hdr_transfer,
    profile_problem,
    read_orientation,
    resize_exif,
    with_upright_orientation,
)
from sr_deploy.core.sizes import HW
from sr_deploy.upscale.opencv import opencv
from sr_deploy.upscale.output_size import NETWORK_SIZE, OutputSize, resample, wh_text
from sr_deploy.upscale.upscaler import Upscaler

JPEG_QUALITY = 95
_ENDS = {"PNG": b"IEND\xaeB`\x82", "JPEG": b"\xff\xd9"}
_STRIP = 256
_LUMA = np.array(LUMA, np.float32)


@dataclass(frozen=True)
class Picture:
    """A decoded picture."""

    rgb: np.ndarray  # (H, W, 3) uint8 or uint16; of an array also float32 in 0..1
    alpha: Optional[np.ndarray] = None  # (H, W) of the same dtype
    grey: bool = False
    metadata: Metadata = field(default_factory=dict)
    notes: Tuple[str, ...] = ()  # remarks for the user

    @property
    def turned(self) -> bool:
        """Whether viewers swap the sides, by EXIF's orientation."""
        return read_orientation(self.metadata.get(EXIF, b"")) >= 5


def read_picture(path: Path) -> Picture:
    """Read a picture, in the format of its content. Raises InputError if it cannot be used."""
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot read the picture {path}: {e.strerror or e}") from e
    kind = content_format(content[:64])
    facts = tiff.read_facts(content) if kind == "TIFF" else tiff.Facts()
    metadata = read_metadata(content, kind)
    _check_content(path, content, kind, facts)
    transfer = hdr_transfer(metadata)
    if transfer is not None:
        raise InputError(
            f"{path} is HDR, {transfer}; the networks work on SDR", hint="convert it to SDR first"
        )
    pixels = content
    if facts.extra == (tiff.UNASSOCIATED,):
        # libtiff would multiply the colours by alpha. An unspecified channel is left alone.
        pixels = content[: facts.extra_at] + b"\0\0" + content[facts.extra_at + 2 :]
    image = _decode(pixels)
    if image is None:
        raise InputError(
            f"{path} is not a picture that can be read, or it is damaged"
            + (f" ({kind})" if kind else "")
        )
    _raise_for_damage(path, find_hidden_damage(pixels, image, _decode))
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
    if kind == "AVIF":
        image = apply_orientation(image, bmff.avif_orientation(content))
    picture = _correct_pixels(_picture_of(image), kind, facts, content)
    notes += _correct_metadata(metadata, kind)
    return replace(picture, metadata=metadata, notes=tuple(notes))


def _check_content(path: Path, content: bytes, kind: str, facts: tiff.Facts) -> None:
    """Raise InputError if a file is damaged, of several pages, or of a kind OpenCV misreads."""
    _raise_for_damage(path, find_damage(content) if content else "it is empty")
    problem, hint = facts.problem, "convert it to RGB first"
    try:
        if kind == "AVIF":
            problem = bmff.avif_problem(content)
        elif kind == "JPEG 2000":
            problem = bmff.jp2_problem(content)
    except (struct.error, ValueError, IndexError):
        _raise_for_damage(path, "its boxes cannot be read")
    if kind == RAW:
        problem = f"is a {RAW}"
    if kind in ("HEIF", "JPEG XL"):
        problem, hint = f"is a {kind} picture, which OpenCV cannot read", "convert it to PNG first"
    if RAW in problem or "thumbnail" in problem:
        hint = "develop it first, for example to a TIFF file of 16 bits"
    if problem:
        raise InputError(f"{path} {problem}", hint=hint)
    pages = count_pages(content, kind)
    if pages > 1:
        as_video = ", or an output ending in .mp4 to make it a video"
        raise InputError(
            f"{path} has {pages} frames or pages; expected one",
            hint="give them one by one" + (as_video if kind in ("GIF", "PNG") else ""),
        )


def _raise_for_damage(path: Path, damage: str) -> None:
    if damage:
        raise InputError(f"{path} is damaged: {damage}", hint="download or copy it again")


def _correct_metadata(metadata: Metadata, kind: str) -> List[str]:
    """Remove what does not belong to the result, in place, and return notes on it."""
    metadata.pop(THUMBNAIL, None)  # as EXIF's: of the small picture
    if kind in ("AVIF", "TIFF") and EXIF in metadata:
        metadata[EXIF] = with_upright_orientation(metadata[EXIF])
    profile = metadata.get(ICC)
    if profile is None:
        return []
    if kind == "JPEG" and profile[16:20] == b"CMYK":
        del metadata[ICC]
        return ["its CMYK colours became RGB without their profile"]
    problem = profile_problem(profile)
    if problem:
        del metadata[ICC]
        metadata[problem] = True
    return []


def _correct_pixels(picture: Picture, kind: str, facts: tiff.Facts, content: bytes) -> Picture:
    """Apply what OpenCV ignores: a transparent grey, the values of white, associated alpha."""
    dtype = picture.rgb.dtype
    white = np.iinfo(dtype).max
    if kind == "PNG" and picture.alpha is None and picture.grey:
        key = png.transparent_grey(content)
        if key is not None:
            alpha = np.where(picture.rgb[:, :, 0] == key, 0, white).astype(dtype)
            return replace(picture, alpha=alpha)
    elif kind in ("PPM", "PGM"):
        maximum = simple.unscaled_maximum(content)
        return _scaled(picture, maximum or white)
    elif kind == "AVIF" and dtype == np.uint16:
        return _scaled(picture, (1 << bmff.avif_depth(content)) - 1)
    elif kind == "JPEG 2000":
        return _scaled(picture, (1 << bmff.jp2_depth(content)) - 1)
    elif kind == "BMP":
        return _correct_bmp(picture, content)
    elif kind == "TIFF" and facts.photometric == 0 and facts.bits == 16:
        return replace(picture, rgb=white - picture.rgb)
    elif facts.extra == (tiff.ASSOCIATED,) and picture.alpha is not None:
        return replace(picture, rgb=_divide_by_alpha(picture.rgb, picture.alpha))
    return picture


def _scaled(picture: Picture, maximum: int) -> Picture:
    """Scale values of 0..`maximum` to the dtype's range."""
    white = np.iinfo(picture.rgb.dtype).max
    if maximum == white:
        return picture

    def scale(values: np.ndarray) -> np.ndarray:
        scaled = np.minimum(values / np.float32(maximum), 1) * white
        return np.rint(scaled).astype(values.dtype)

    alpha = None if picture.alpha is None else scale(picture.alpha)
    return replace(picture, rgb=scale(picture.rgb), alpha=alpha)


def _correct_bmp(picture: Picture, content: bytes) -> Picture:
    """Drop alpha that no mask names, and fill the low bits of 5 or 6 bits per channel."""
    if picture.alpha is not None and not simple.bmp_has_alpha(content):
        picture = replace(picture, alpha=None)
    green = simple.bmp_green_bits(content)
    if green is not None:
        rgb = picture.rgb
        picture = replace(picture, rgb=rgb | rgb >> np.array([5, green, 5], np.uint8))
    return picture


def result_hw(picture: Picture, scale: int, target: Format, size: OutputSize) -> HW:
    """Return the (h, w) of a picture's result.

    Raises InputError if the format `target` cannot hold it, or if it does not fit `size`.
    """
    hw = size.of((picture.rgb.shape[0], picture.rgb.shape[1]), scale, turned=picture.turned)
    problem = ""
    if max(hw) > target.side:
        problem = f"has {wh_text(hw)} pixels, more than {target.side} a side"
    elif picture.alpha is not None and not target.alpha:
        problem = "has transparent parts"
    elif picture.rgb.dtype == np.uint16 and not target.deep:
        problem = "has 16 bits per channel"
    elif not picture.grey and not target.colour:
        problem = "has colours"
    if problem:
        problem = f"the result {problem}, which {target.name} cannot hold"
        raise InputError(problem, hint="write PNG or TIFF")
    return hw


def more_per_px(picture: Picture, hw: HW, scale: int) -> int:
    """Return the bytes that a result of (h, w) takes a second time, per pixel of the network's.

    It is resampled, and with alpha it is in OpenCV's order, too.
    """
    itemsize = picture.rgb.itemsize
    made = picture.rgb.shape[0] * picture.rgb.shape[1] * scale**2
    more = 0 if hw[0] * hw[1] == made else -(-3 * itemsize * hw[0] * hw[1] // made)
    if picture.alpha is not None:
        more += 6 * itemsize * max(1, -(-hw[0] * hw[1] // made))
    return more


def upscale_pixels(
    picture: Picture, upscaler: Upscaler, target: Format, size: OutputSize = NETWORK_SIZE
) -> Picture:
    """Upscale a picture to `size`. Raises InputError if the format `target` cannot hold it."""
    hw = result_hw(picture, upscaler.scale, target, size)
    stored = picture.rgb.shape[:2]
    picture = _fit_metadata(picture, target)
    if picture.rgb.shape[:2] != stored:  # turned upright
        hw = (hw[1], hw[0])
    more = more_per_px(picture, hw, upscaler.scale)
    rgb, alpha = picture.rgb, picture.alpha
    if alpha is not None:
        rgb = _fill_invisible(rgb, alpha)
    out = resample(upscaler.upscale_rgb(rgb, more_per_px=more), hw)
    if alpha is not None:
        alpha = opencv().resize(alpha, (hw[1], hw[0]), interpolation=opencv().INTER_CUBIC)
    metadata = dict(picture.metadata)
    if EXIF in metadata:
        metadata[EXIF] = resize_exif(metadata[EXIF], hw)
    return replace(picture, rgb=out, alpha=alpha, metadata=metadata)


def write_picture(path: Path, picture: Picture, target: Format) -> Picture:
    """Write a picture, overwriting its pixels. Return it with further notes. Raises OSError."""
    pixels = _to_opencv(picture, target)
    metadata = dict(picture.metadata)
    if target.name == "TIFF" and picture.alpha is not None:
        metadata[tiff.ALPHA] = True
    # A file of its own, not memory: encoded pixels may take as much as the result, and more.
    plain = path.with_suffix(".pixels" + target.suffixes[0])  # OpenCV goes by the suffix
    try:
        if not _encode(plain, pixels, target):
            if shutil.disk_usage(path.parent).free < pixels.nbytes:  # OpenCV gives no reason
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise OSError(errno.EIO, f"OpenCV could not write it as {target.name}")
        lost = _add_metadata(plain, path, target.name, metadata)
    finally:
        with contextlib.suppress(OSError):
            plain.unlink()
    if lost:
        note = f"not kept, as it does not fit into this {target.name} file: {', '.join(lost)}"
        picture = replace(picture, notes=(*picture.notes, note))
    return picture


def _encode(path: Path, pixels: np.ndarray, target: Format) -> bool:
    """Write pixels by OpenCV. Return whether the file is complete."""
    cv2 = opencv()
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if target.name == "JPEG" else []
    try:
        with native_path(path) as name:
            done: bool = cv2.imwrite(name, pixels, options)
    except cv2.error:
        return False
    if done:
        with open(path, "rb") as f:
            f.seek(-min(12, f.seek(0, os.SEEK_END)), os.SEEK_END)
            done = f.read().endswith(_ENDS.get(target.name, b""))
    return done


def _add_metadata(source: Path, path: Path, name: str, metadata: Metadata) -> List[str]:
    """Write a file of the format `name` again, with metadata. Return the kinds left out."""
    if not metadata:
        os.replace(str(source), str(path))
        return []
    pieces, lost = embed(np.memmap(source, np.uint8, "r").data, name, metadata)
    with open(path, "wb") as f:
        for piece in pieces:
            f.write(piece)
    return lost


def _decode(data: bytes) -> Optional[np.ndarray]:
    """Return OpenCV's pixels of a file, or None if it cannot be read."""
    cv2 = opencv()
    try:
        image: Optional[np.ndarray] = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
        )
    except cv2.error:
        return None
    return image


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
    """Remove metadata that `target` cannot hold, with a note, and apply such an orientation."""
    lost = [name for name in picture.metadata if name not in target.holds]
    if not lost:
        return picture
    kept = {kind: value for kind, value in picture.metadata.items() if kind in target.holds}
    note = f"not kept in {target.name}: {', '.join(lost)}"
    if ICC in lost:
        note += "; the colours may look different"
    rgb, alpha = picture.rgb, picture.alpha
    if EXIF in lost:
        orientation = read_orientation(picture.metadata[EXIF])
        rgb = apply_orientation(rgb, orientation)
        alpha = None if alpha is None else apply_orientation(alpha, orientation)
        note += "; its orientation was applied" if orientation != 1 else ""
    return replace(picture, rgb=rgb, alpha=alpha, metadata=kept, notes=(*picture.notes, note))


def apply_orientation(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (H, W[, C]) upright, given its EXIF orientation of 1 to 8."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    steps = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
    rows, columns = steps.get(orientation, (1, 1))
    return np.ascontiguousarray(image[::rows, ::columns])


def grey_of(rgb: np.ndarray) -> np.ndarray:
    """Return the luma of (H, W, 3) as (H, W) of the same dtype."""
    luma = rgb @ _LUMA
    return (np.rint(luma) if rgb.dtype.kind == "u" else luma).astype(rgb.dtype, copy=False)


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
    filled = np.rint(filled) if rgb.dtype.kind == "u" else filled
    return np.where(visible[:, :, None] > 0, rgb, filled.astype(rgb.dtype))


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
            grey[strip] = grey_of(rgb[strip])
        return grey
    for strip in strips:
        if picture.grey:
            rgb[strip] = grey_of(rgb[strip])[:, :, None]
        else:
            rgb[strip] = rgb[strip][:, :, ::-1].copy()
    return rgb if picture.alpha is None else np.dstack([rgb, picture.alpha])
