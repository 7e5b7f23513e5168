"""Picture formats: what they can hold, and the detection of a file's format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, FrozenSet, Optional, Tuple

from sr_deploy.core.errors import InputError

Metadata = Dict[str, Any]
"""Kind -> value. The kinds that can be written, with the form of the value in every container:

- EXIF: bytes, a TIFF structure
- XMP: bytes, the bare packet, UTF-8
- ICC: bytes, the profile
- IPTC: bytes, the datasets
- TEXT: ((key, value), ...); COMMENTS: (text, ...)
- RESOLUTION: (x, y, unit), in pixels per "inch", or "" for the ratio of a pixel's sides
- GAMMA: the content of PNG's chunks gAMA, cHRM and sRGB, by name
- CICP: bytes, ITU-T H.273's primaries, transfer, matrix and range; those of HDR are refused

Any other kind is the name of something that no format gets; its value is True.
"""
EXIF, XMP, ICC, IPTC, TEXT, COMMENTS, RESOLUTION, GAMMA, CICP = (
    "EXIF", "XMP", "colour profile", "IPTC", "text", "comments", "resolution",
    "gamma and primaries", "colour tag (cICP)",
)  # fmt: skip
GAIN_MAP, CREDENTIALS, THUMBNAIL = "gain map", "content credentials (C2PA)", "thumbnail"


@dataclass(frozen=True)
class Format:
    """A format that can be written, and what it can hold."""

    name: str
    suffixes: Tuple[str, ...]
    alpha: bool = False
    deep: bool = False  # 16 bits per channel
    grey: bool = True  # one channel
    colour: bool = True
    side: int = 1 << 20  # the largest height and width
    holds: FrozenSet[str] = frozenset()  # kinds of metadata


def _holds(*kinds: str) -> FrozenSet[str]:
    return frozenset(kinds)


FORMATS = (
    Format(
        "PNG",
        (".png",),
        alpha=True,
        deep=True,
        holds=_holds(EXIF, XMP, ICC, TEXT, COMMENTS, RESOLUTION, GAMMA, CICP),
    ),
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe"),
        side=65500,
        holds=_holds(EXIF, XMP, ICC, IPTC, COMMENTS, RESOLUTION),
    ),
    Format(
        "TIFF",
        (".tif", ".tiff"),
        alpha=True,
        deep=True,
        holds=_holds(EXIF, XMP, ICC, IPTC, RESOLUTION),
    ),
    Format("WebP", (".webp",), alpha=True, grey=False, side=16383, holds=_holds(EXIF, XMP, ICC)),
    Format("BMP", (".bmp", ".dib"), alpha=True, holds=_holds(RESOLUTION)),
    Format("PPM", (".ppm", ".pnm"), deep=True, grey=False),
    Format("PGM", (".pgm",), deep=True, colour=False),
)
PNG = FORMATS[0]
PICTURE_SUFFIXES = tuple(s for f in FORMATS for s in f.suffixes) + (".pbm", ".gif", ".jp2", ".avif")
"""The suffixes of pictures in a folder. Results of formats that are not written become PNG."""
UNREAD_SUFFIXES = frozenset(
    # HEIF, JPEG XL, JPEG 2000 and JPEG XR
    ".heic .heif .hif .heics .avci .jxl .j2k .j2c .jpc .jpf .jpx .jpm .jxr .wdp .hdp"
    # raw photographs
    " .3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf"
    " .pef .raf .raw .rw2 .rwl .sr2 .srf .srw .x3f"
    # editors, drawings, and the rest
    " .psd .psb .xcf .kra .ora .svg .svgz .eps .ai .wmf .emf .tga .exr .hdr .pic .pfm .pam .ico"
    " .cur .icns .pcx .qoi .sgi .ras .sr .dds .bpg .fits .dcm .xpm .xbm".split()
)
"""The suffixes of pictures that are not read."""

RAW = "raw photograph"
_MAGIC = (
    (rb"II\*\0....CR\x02|II(RO|RS|U\0)|MMOR|FUJIFILMCCD|FOVb|....ftypcrx |II\x1a\0..\0\0HEAP", RAW),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM", "BMP"),
    (rb"P[36]\s", "PPM"),
    (rb"P[25]\s", "PGM"),
    (rb"P[14]\s", "PBM"),
    (rb"GIF8[79]a", "GIF"),
    (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"....ftyp(avi[fs]|m[is]f1.{4,44}avif)", "AVIF"),
    (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "HEIF"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
)


def format_of_name(path: Path) -> Optional[Format]:
    """Return the format of a name's suffix. None if it cannot be written."""
    return next((f for f in FORMATS if path.suffix.lower() in f.suffixes), None)


def format_for(path: Path) -> Format:
    """Return the format of a result by its name. Raises InputError if it cannot be written."""
    target = format_of_name(path)
    if target is None:
        suffixes = ", ".join(f.suffixes[0] for f in FORMATS)
        problem = (
            f"the format '{path.suffix}' is not supported"
            if path.suffix
            else "its name has no suffix, and there is no such folder"
        )
        raise InputError(f"cannot write {path}: {problem}", hint=f"use one of {suffixes}")
    return target


def content_format(head: bytes) -> str:
    """Return the name of a file's format by its first bytes, such as `PNG`. Empty if unknown."""
    return next((name for magic, name in _MAGIC if re.match(magic, head, re.DOTALL)), "")


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture, by its content or name. Raises InputError."""
    try:
        with open(path, "rb") as f:
            return bool(content_format(f.read(64))) or path.suffix.lower() in PICTURE_SUFFIXES
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from e
