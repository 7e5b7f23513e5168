"""PNG: chunks of (size, name, content, checksum)."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Iterator, List, Optional, Tuple

from sr_deploy.core.pictures.formats import (
    CICP,
    COMMENTS,
    CREDENTIALS,
    EXIF,
    GAMMA,
    ICC,
    RESOLUTION,
    TEXT,
    XMP,
    Metadata,
)

_XMP_KEY = "XML:com.adobe.xmp"
_COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB")
_OTHERS = {
    b"sBIT": "significant bits",
    b"bKGD": "background colour",
    b"mDCV": "HDR mastering data",
    b"cLLI": "HDR mastering data",
    b"caBX": CREDENTIALS,
    b"tIME": "time of change",
}
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT", b"hIST", b"iDOT")
_INCH = 0.0254


def chunks(data: bytes) -> Iterator[Tuple[bytes, int, int]]:
    """Yield (name, start, end) of each chunk's content. Raises struct.error."""
    position = 8
    while position < len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        yield name, position + 8, position + 8 + size
        position += 12 + size


def find_damage(data: bytes) -> str:
    """Return the evidence of damage, or an empty string. Raises struct.error."""
    for name, start, end in chunks(data):
        (checksum,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(memoryview(data)[start - 4 : end]) != checksum:
            return f"the checksum of its chunk {name.decode('latin-1')} is wrong"
        if name == b"IEND":
            return ""
    return "it ends before its last chunk"


def count_frames(data: bytes) -> int:
    """Return the number of an animation's frames; 1 for a still picture."""
    for name, start, _ in chunks(data):
        if name == b"acTL":
            return max(int(struct.unpack_from(">I", data, start)[0]), 1)
        if name == b"IDAT":
            break
    return 1


def transparent_grey(data: bytes) -> Optional[int]:
    """Return the grey value that is transparent, as OpenCV scales it, or None."""
    depth, colours = data[24], data[25]
    for name, start, _ in chunks(data):
        if name == b"tRNS" and colours == 0:
            scale = 255 // (2**depth - 1) if depth < 8 else 1
            return int(struct.unpack_from(">H", data, start)[0]) * scale
        if name == b"IDAT":
            break
    return None


def read_metadata(data: bytes) -> Metadata:
    """Return kind -> value."""
    found: Metadata = {}
    texts: List[Tuple[str, str]] = []
    for name, start, end in chunks(data):
        content = data[start:end] if name != b"IDAT" else b""
        if name == b"eXIf":
            found[EXIF] = content[6:] if content.startswith(b"Exif\0\0") else content
        elif name == b"iCCP":
            found[ICC] = zlib.decompress(content[content.index(b"\0") + 2 :])
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            texts.append(_text(name, content))
        elif name == b"pHYs":
            x, y, unit = struct.unpack(">IIB", content)
            inch = _INCH if unit else 1
            found[RESOLUTION] = (x * inch, y * inch, "inch" if unit else "")
        elif name == b"cICP":
            found[CICP] = content
        elif name in _COLOUR_CHUNKS:
            found.setdefault(GAMMA, {})[name] = content
        elif name in _OTHERS:
            found[_OTHERS[name]] = True
        elif name not in _PIXELS:
            found[f"chunk {name.decode('latin-1')}"] = True
    for key, value in texts:
        if key == _XMP_KEY:
            found[XMP] = value.encode("utf-8")
        elif key == "Comment":
            found[COMMENTS] = (*found.get(COMMENTS, ()), value)
        else:
            found[TEXT] = (*found.get(TEXT, ()), (key, value))
    return found


def _text(name: bytes, content: bytes) -> Tuple[str, str]:
    raw_key, rest = content.split(b"\0", 1)
    key = raw_key.decode("latin-1")
    if name == b"tEXt":
        return key, rest.decode("latin-1")
    if name == b"zTXt":
        return key, zlib.decompress(rest[1:]).decode("latin-1")
    value = rest[2:].split(b"\0", 2)[2]  # after the language and the translated key
    return key, (zlib.decompress(value) if rest[0] else value).decode("utf-8", "replace")


def embed(data: memoryview, metadata: Metadata) -> Tuple[List[Any], List[str]]:
    """Insert chunks after the header. Return the file in pieces, and the kinds left out."""
    lost: List[str] = []
    new: List[bytes] = []
    if CICP in metadata:
        new.append(_chunk(b"cICP", metadata[CICP]))
    if ICC in metadata:
        # By the standard, a profile is for as many colours as the pixels have.
        if (metadata[ICC][16:20] == b"GRAY") == (data[25] in (0, 4)):
            new.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata[ICC])))
        else:
            lost.append(ICC)
    new += [_chunk(name, value) for name, value in metadata.get(GAMMA, {}).items()]
    if RESOLUTION in metadata:
        x, y, unit = metadata[RESOLUTION]
        inch = _INCH if unit else 1
        new.append(
            _chunk(b"pHYs", struct.pack(">IIB", round(x / inch), round(y / inch), bool(unit)))
        )
    if EXIF in metadata:
        new.append(_chunk(b"eXIf", metadata[EXIF]))
    if XMP in metadata:
        new.append(_chunk(b"iTXt", _XMP_KEY.encode() + b"\0" * 5 + metadata[XMP]))
    texts = [("Comment", value) for value in metadata.get(COMMENTS, ())]
    new += [_text_chunk(key, value) for key, value in (*texts, *metadata.get(TEXT, ()))]
    return [data[:33], *new, data[33:]], lost


def _text_chunk(key: str, value: str) -> bytes:
    head = key.encode("latin-1") + b"\0"
    try:
        return _chunk(b"tEXt", head + value.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", head + b"\0" * 4 + value.encode("utf-8", "replace"))


def _chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))
