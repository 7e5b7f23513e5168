"""The meaning of a source video's samples, what is refused, and what is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, Set, Tuple

from sr_deploy.core.errors import InputError
from sr_deploy.upscale.video_colour import KR_KB, Colour
from sr_deploy.upscale.video_file import BrokenOffError

_HDR = {16: "PQ (SMPTE 2084)", 18: "HLG (ARIB STD-B67)"}
_HDR_DATA = {
    "DOVI_RPU_BUFFER": "Dolby Vision",
    "DOVI_METADATA": "Dolby Vision",
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
}
_DISPLAY_DATA = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
_MATRICES = {  # fmt: skip
    0: "RGB", 8: "YCgCo", 10: "BT.2020 constant luminance", 11: "SMPTE 2085",
    12: "chroma-derived", 13: "chroma-derived", 14: "ICtCp",
}  # fmt: skip
_CENTRED = ("mjpeg", "mpeg1video", "theora")
"""Codecs with chroma between the luma columns. PyAV does not expose the stream's own value."""
_COMPUTED = re.compile(r"(?:yuvj?(420|422|444)p|(gray)|(gbrp))(?:(9|10|12|14|16)le)?$")
_PACKED = ("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr")
ANIMATIONS = ("gif", "apng")
"""Codecs whose frames often have an alpha channel without any transparent pixel."""
_ANIMATION_FORMATS = ("bgra", "rgba", "argb", "pal8")

_UNSAID = {  # fmt: skip
    "DISPLAYMATRIX",  # kept
    "SEI_UNREGISTERED", "MOTION_VECTORS", "VIDEO_ENC_PARAMS", "SKIP_SAMPLES", "PANSCAN",
    "FILM_GRAIN_PARAMS", "REGIONS_OF_INTEREST", "VIDEO_HINT",  # about the old encoding
}  # fmt: skip
_DATA_NAMES = {
    "A53_CC": "closed captions inside the pictures (CEA-608 and 708)",
    "STEREO3D": "the mark of a stereo video (3D)",
    "SPHERICAL": "the mark of a spherical video (360 degrees)",
    "ICC_PROFILE": "the ICC profile",
    "S12M_TIMECODE": "the timecode inside the pictures",
    "GOP_TIMECODE": "the timecode inside the pictures",
    "AFD": "the active format description",
    "MASTERING_DISPLAY_METADATA": "the mastering display's properties",
    "CONTENT_LIGHT_LEVEL": "the content light level",
}


def side_data(frame: Any) -> Dict[str, Any]:
    """Return the data beside a frame's samples, by FFmpeg's name of its kind."""
    try:
        return {getattr(d.type, "name", str(d.type)): d for d in frame.side_data}
    except (ValueError, KeyError):  # a kind that PyAV does not know hides all of them
        return {"of a kind that PyAV does not know": b""}


def lost_data(frame: Any) -> Set[str]:
    """Return what is lost of a frame, in words."""
    kinds = set(side_data(frame)) - _UNSAID
    return {_DATA_NAMES.get(kind, f"the pictures' side data {kind}") for kind in kinds}


def check_dynamic_range(path: Path, frame: Any, coder: Any) -> None:
    """Raise InputError if the video is HDR."""
    data = side_data(frame)
    transfers = {coder.color_trc, getattr(frame, "color_trc", 2)}
    found = [name for number, name in _HDR.items() if number in transfers]
    found += [name for kind, name in _HDR_DATA.items() if kind in data]
    if not found and transfers <= {0, 2} and any(kind in data for kind in _DISPLAY_DATA):
        found = ["by its mastering display or light level, without a transfer function"]
    if found:
        raise InputError(
            f"{path} is HDR, {found[0]}: networks trained on SDR pictures would "
            "change its brightness",
            hint="tone-map it to SDR first",
        )


def check_progressive(path: Path, frame: Any, time_s: float) -> None:
    """Raise BrokenOffError if a frame is interlaced."""
    if frame.interlaced_frame:
        raise BrokenOffError(
            f"{path} is interlaced (at {time_s:.2f} s): its two fields are not one picture",
            hint="deinterlace it first: ffmpeg -i IN -vf bwdif OUT",
        )


def check_opaque(path: Path, frame: Any, time_s: float) -> None:
    """Raise BrokenOffError if a frame of an animation has transparent pixels."""
    if not _has_alpha(frame):
        return
    if frame.to_ndarray(format="rgba")[..., 3].min() < 255:
        raise BrokenOffError(
            f"{path} has transparent pixels (at {time_s:.2f} s): alpha would be lost",
            hint="put it on a background first, or take its frames as PNG files: "
            "ffmpeg -i IN %05d.png",
        )


def check_layers(path: Path, stream: Any, packet: Any) -> None:
    """Raise BrokenOffError if a packet has alpha or another view that the decoder ignores."""
    alpha = stream.metadata.get("alpha_mode") == "1"
    if hasattr(packet, "has_sidedata") and packet.has_sidedata("matroska_block_additional"):
        extra = bytes(packet.get_sidedata("matroska_block_additional"))
        alpha = alpha or int.from_bytes(extra[:8], "big") == 1
    if alpha:
        raise BrokenOffError(
            f"{path} has an alpha channel ({stream.codec_context.name}), which would be lost",
            hint="remove it first: ffmpeg -i IN -vf format=yuv420p OUT",
        )
    if stream.codec_context.name == "hevc" and any(
        ((nal[0] & 1) << 5) | nal[1] >> 3 for nal in _nal_units(packet, stream) if len(nal) > 1
    ):
        raise BrokenOffError(
            f"{path} has a second layer, such as alpha or another view, which would be lost",
            hint="take the first one: ffmpeg -i IN -c:v libx264 OUT",
        )


def _nal_units(packet: Any, stream: Any) -> Iterator[bytes]:
    """Yield the first bytes of each NAL unit of an HEVC packet."""
    data, extra = bytes(packet), stream.codec_context.extradata or b""
    if extra[:1] != b"\1":  # start codes
        for match in re.finditer(rb"\x00\x00\x01(..)", data, re.DOTALL):
            yield match.group(1)
        return
    width, position = (extra[21] & 3) + 1 if len(extra) > 21 else 4, 0
    while position + width < len(data):
        start = position + width
        yield data[start : start + 2]
        position = start + int.from_bytes(data[position:start], "big")


def find_colour(path: Path, frame: Any, coder: Any) -> Tuple[Colour, str]:
    """Return the colour properties, and which of them were guessed. Raises InputError."""
    name = frame.format.name
    if coder.name in ANIMATIONS and name in _ANIMATION_FORMATS:
        return Colour("rgb", 8, full=True), ""
    if _has_alpha(frame):
        raise InputError(
            f"{path} has an alpha channel ({name}), which would be lost",
            hint="remove it first: ffmpeg -i IN -vf format=yuv444p OUT",
        )
    if name in _PACKED:
        return Colour("rgb", 8, full=True), ""
    match = _COMPUTED.match(name)
    if match is None:
        raise InputError(
            f"{path} has the unsupported pixel format {name}",
            hint="convert it first: ffmpeg -i IN -vf format=yuv420p OUT",
        )
    subsampling, grey, planar_rgb, bits = match.groups()
    depth = int(bits or 8)
    if planar_rgb:
        return Colour("rgb", depth, full=True), ""
    guessed = []
    matrix, full = frame.colorspace, name.startswith("yuvj") or frame.color_range == 2
    if not full and frame.color_range == 0:
        guessed.append("limited range")
    if grey and matrix not in KR_KB:
        matrix = 1  # grey has no matrix
    if matrix in (2, 3):
        # As players do. The output states it, for its height would suggest another matrix.
        matrix = 1 if frame.height >= 720 else 6
        guessed.append(f"{'BT.709' if matrix == 1 else 'BT.601'} by its {frame.height} lines")
    if matrix not in KR_KB:
        raise InputError(
            f"{path} has the unsupported colour matrix {_MATRICES.get(matrix, matrix)}",
            hint="convert it to BT.709 first",
        )
    centred = coder.name in _CENTRED
    return Colour(subsampling or "gray", depth, matrix, full, centred), ", ".join(guessed)


def _has_alpha(frame: Any) -> bool:
    return any(c.is_alpha for c in frame.format.components)
