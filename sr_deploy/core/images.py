"""Images as networks and metrics take them: (H, W, 3) uint8 RGB. OpenCV reads and writes the files.

A `.npy` file with such an array needs no OpenCV.

`read_rgb` converts what a file may contain:
- grey: the channel is repeated three times
- alpha: dropped; the stored colours are used, nothing is composited
- 16 bits per channel: rounded to 8 bits, v / 257; float images are refused
- palette: expanded to RGB
EXIF orientation is not applied: pixels stay in the order in which they are stored.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Container, List, Optional, Tuple

import numpy as np

from sr_deploy.core.errors import InputError, MissingPackageError
from sr_deploy.core.pictures.damage import find_damage, find_hidden_damage

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".npy")
_HIDDEN = (".", "__MACOSX")
_PART_VALUES = 2**20
"""The float64 values of a part of an image that are computed at once."""


def read_rgb(path: Path) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB.

    Raises InputError if it is missing, damaged (also where OpenCV fills in what is missing) or a
    float image.
    """
    if path.suffix.lower() == ".npy":
        return _read_array(path)
    cv2 = _opencv("reading images")
    try:
        content = path.read_bytes()  # cv2.imread cannot open every name
    except OSError as e:
        raise InputError(f"cannot read the image {path}: {e.strerror or e}") from e

    def decode(data: bytes) -> Optional[np.ndarray]:
        try:
            image: Optional[np.ndarray] = cv2.imdecode(
                np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED
            )
            return image
        except cv2.error:
            return None

    image = decode(content) if content else None
    if image is None:
        raise InputError(
            f"{path} is not an image, or it is damaged",
            hint="supported formats are PNG, JPEG, BMP, TIFF, WebP and NumPy arrays",
        )
    damage = find_damage(content) or find_hidden_damage(content, image, decode)
    if damage:
        raise InputError(f"{path} is damaged: {damage}", hint="download or copy it again")
    return rgb_from_decoded(image, source=str(path))


def _read_array(path: Path) -> np.ndarray:
    try:
        image = load_array(path)
    except (OSError, ValueError) as e:
        raise InputError(f"cannot read the image {path}: {e}") from e
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"{path}: expected (H, W, 3) uint8 RGB, found {image.shape} {image.dtype}")
    return np.ascontiguousarray(image)


def load_array(path: Path, *, mapped: bool = False) -> np.ndarray:
    """Read a .npy file. Raises OSError if it cannot be read, ValueError if it is damaged."""
    try:
        with open(path, "rb") as f:
            if f.read(6) != b"\x93NUMPY":
                raise ValueError("it is not a NumPy array")
        array = np.load(str(path), mmap_mode="r" if mapped else None, allow_pickle=False)
    except OSError:
        raise
    except Exception as e:  # NumPy reads the header as Python, with all errors of a parser
        raise ValueError(str(e).splitlines()[0] if str(e) else "it is damaged") from e
    return np.asarray(array)


def rgb_from_decoded(image: np.ndarray, *, source: str) -> np.ndarray:
    """Convert OpenCV's (H, W[, 1|3|4]) BGR(A) uint8 or uint16 to (H, W, 3) uint8 RGB.

    Raises InputError for other types.
    """
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(
            f"{source} contains {image.dtype} values; expected 8 or 16 bits per channel",
            hint="convert it first",
        )
    if image.ndim == 2:
        image = image[:, :, None]
    if image.shape[2] in (1, 2):
        return np.ascontiguousarray(np.repeat(image[:, :, :1], 3, axis=2))
    return np.ascontiguousarray(image[:, :, 2::-1])


def write_png(path: Path, rgb: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB as a PNG file."""
    path.write_bytes(png_bytes(rgb))


def png_bytes(rgb: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 RGB encoded as PNG."""
    cv2 = _opencv("writing images")
    return bytes(cv2.imencode(".png", np.ascontiguousarray(rgb[:, :, ::-1]))[1])


def image_hw(path: Path) -> Tuple[int, int]:
    """Return the (h, w) of an image file; of PNG and .npy without decoding it.

    Raises InputError if it is missing or damaged.
    """
    with contextlib.suppress(OSError, ValueError):
        if path.suffix.lower() == ".npy":
            h, w = load_array(path, mapped=True).shape[:2]
            return int(h), int(w)
        with open(path, "rb") as f:
            head = f.read(24)
        if head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR":
            return int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")
    rgb = read_rgb(path)
    return rgb.shape[0], rgb.shape[1]


def image_files(folder: Path) -> List[Path]:
    """Return the image files below a folder and its subfolders, sorted.

    Hidden ones are no images: systems keep thumbnails and `._0001.png` of theirs there. Raises
    InputError if there are none.
    """
    if not folder.is_dir():
        problem = f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}"
        raise InputError(problem, hint="give a folder of images")
    files = files_below(folder, IMAGE_SUFFIXES)
    if not files:
        raise InputError(
            f"the folder {folder} contains no images ({', '.join(IMAGE_SUFFIXES)})",
            hint="give a folder of images",
        )
    return files


def files_below(folder: Path, suffixes: Container[str]) -> List[Path]:
    """Return the files of these suffixes below a folder, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(_HIDDEN) for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def modcrop(image: np.ndarray, scale: int) -> np.ndarray:
    """Crop (H, W[, C]) at the bottom and right to multiples of `scale`."""
    h, w = image.shape[:2]
    return image[: h - h % scale, : w - w % scale]


def nchw_from_rgb(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32, 0..1."""
    x = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], dtype=np.float32)
    y: np.ndarray = x / np.float32(255)
    return y


def rgb_from_nchw(y: np.ndarray) -> np.ndarray:
    """(1, 3, H, W) float, nominally 0..1 -> (H, W, 3) uint8, clipped and rounded. NaN becomes 0."""
    _, channels, h, w = y.shape
    rgb = np.empty((h, w, channels), np.uint8)
    step = max(1, _PART_VALUES // (channels * w))
    for top in range(0, h, step):
        part = np.asarray(y[0, :, top : top + step], dtype=np.float64) * 255.0
        scaled = np.nan_to_num(part, nan=0.0, posinf=255.0, neginf=0.0)
        rgb[top : top + step] = np.rint(np.clip(scaled, 0, 255)).transpose(1, 2, 0)
    return rgb


def imresize(image: np.ndarray, *, scale: float) -> np.ndarray:
    """Resize by MATLAB's bicubic `imresize`: antialiased when shrinking, symmetric border.

    image: (H, W) or (H, W, C), uint8 or float. The result has ceil(H*scale) x ceil(W*scale) pixels
    and the same dtype. Rows are resized first. For uint8 each of the two passes is rounded to
    uint8, as MATLAB does.
    """
    for axis in (0, 1):
        image = _resize_axis(image, scale, axis)
    return image


def _resize_axis(image: np.ndarray, scale: float, axis: int) -> np.ndarray:
    size_in = image.shape[axis]
    size_out = int(np.ceil(size_in * scale))
    support = 4.0 if scale >= 1 else 4.0 / scale
    # Positions of the output pixels in the input, counted from 1 as in MATLAB.
    centres = np.arange(1, size_out + 1) / scale + 0.5 * (1 - 1 / scale)
    left = np.floor(centres - support / 2)
    indices = left[:, None] + np.arange(int(np.ceil(support)) + 2)  # (out, taps)
    distance = centres[:, None] - indices
    weights = cubic_kernel(distance) if scale >= 1 else scale * cubic_kernel(scale * distance)
    weights /= weights.sum(axis=1, keepdims=True)
    mirror = np.concatenate([np.arange(size_in), np.arange(size_in)[::-1]])
    indices = mirror[np.mod(indices.astype(np.int64) - 1, 2 * size_in)]
    result = np.empty(image.shape[:axis] + (size_out,) + image.shape[axis + 1 :], image.dtype)
    moved, out = np.moveaxis(image, axis, 0), np.moveaxis(result, axis, 0)  # (in, ...), (out, ...)
    # In parts: a whole 8K image in float64 would take gigabytes.
    step = max(1, _PART_VALUES * moved.shape[1] // out.size)
    for start in range(0, moved.shape[1], step):
        part = moved[:, start : start + step].astype(np.float64)
        total = np.zeros((size_out,) + part.shape[1:])
        for tap in range(weights.shape[1]):
            weight = weights[:, tap].reshape((-1,) + (1,) * (part.ndim - 1))
            total += weight * part[indices[:, tap]]
        if image.dtype == np.uint8:
            total = np.clip(np.floor(total + 0.5), 0, 255)
        out[:, start : start + step] = total
    return result


def cubic_kernel(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel, a = -0.5."""
    a = np.abs(x)
    near = 1.5 * a**3 - 2.5 * a**2 + 1
    far = -0.5 * a**3 + 2.5 * a**2 - 4 * a + 2
    return np.where(a <= 1, near, np.where(a <= 2, far, 0.0))


def _opencv(task: str) -> Any:
    try:
        import cv2
    except ImportError as e:
        raise MissingPackageError("opencv-python-headless", needed_for=task, cause=e) from e
    with contextlib.suppress(AttributeError):  # not in every version
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2
