"""Every kind of metadata of every source, into every format: found again, or named in a note."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")
ImageCms = pytest.importorskip("PIL.ImageCms")
features = pytest.importorskip("PIL.features")

from reports import Reports  # noqa: E402

from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.pictures.containers import read_metadata  # noqa: E402
from sr_deploy.core.pictures.formats import (  # noqa: E402
    CICP,
    COMMENTS,
    CREDENTIALS,
    EXIF,
    FORMATS,
    GAIN_MAP,
    GAMMA,
    ICC,
    IPTC,
    RESOLUTION,
    TEXT,
    XMP,
)
from sr_deploy.core.pictures.metadata import Structure  # noqa: E402
from sr_deploy.upscale.folder import ResultOptions, upscale_picture  # noqa: E402
from sr_deploy.upscale.folder_log import PictureTask  # noqa: E402
from sr_deploy.upscale.pictures import read_picture  # noqa: E402

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PACKET = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-'
    'syntax-ns#"><rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'dc:title="Köln, 写真"/></rdf:RDF></x:xmpmeta>'
).encode()
DATASETS = b"\x1c\x02\x78\x00\x05Hello"
NAME = "Köln"
GREY = np.full((6, 8), 77, np.uint8)
RGB = np.dstack([GREY, GREY + 20, GREY + 40])


class Nearest:
    scale = 2

    def upscale_rgb(self, rgb, *, more_per_px=0):
        return rgb.repeat(2, axis=0).repeat(2, axis=1)

    def describe(self):
        return "whole"


def exif_block():
    data = Image.Exif()
    data[0x010E], data[0x0132] = "a picture", "2026:01:02 03:04:05"
    data.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    data.get_ifd(0x8825)[1] = "N"
    return data.tobytes()[6:]  # without the prefix


def encoded(form, image=RGB, **options):
    data = io.BytesIO()
    Image.fromarray(image).save(data, form, **options)
    return data.getvalue()


def with_segments(*segments):
    data = encoded("JPEG")
    new = b"".join(struct.pack(">BBH", 255, m, len(c) + 2) + c for m, c in segments)
    return data[:2] + new + data[2:]


def with_chunks(*chunks):
    data = encoded("PNG")
    new = b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )
    return data[:33] + new + data[33:]


def with_riff_chunk(name, content):
    data = encoded("WEBP", lossless=True)
    head = struct.pack("<4sIIHBHB", b"VP8X", 10, 0, 7, 0, 5, 0)
    tail = struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2)
    body = b"WEBP" + head + data[12:] + tail
    return b"RIFF" + struct.pack("<I", len(body)) + body


def with_comment():
    data = encoded("GIF")
    at = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1))
    text = NAME.encode()
    return data[:at] + b"\x21\xfe" + bytes([len(text)]) + text + b"\0" + data[at:]


BIM = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(DATASETS)) + DATASETS
SOURCES = {
    EXIF: {
        "PNG": encoded("PNG", exif=b"Exif\0\0" + exif_block()),
        "JPEG": encoded("JPEG", exif=b"Exif\0\0" + exif_block()),
        "WebP": encoded("WEBP", exif=b"Exif\0\0" + exif_block()),
        "TIFF": encoded("TIFF", exif=b"Exif\0\0" + exif_block()),
    },
    XMP: {
        "PNG": with_chunks((b"iTXt", b"XML:com.adobe.xmp" + b"\0" * 5 + PACKET)),
        "JPEG": with_segments((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + PACKET)),
        "WebP": with_riff_chunk(b"XMP ", PACKET),
        "TIFF": encoded("TIFF", tiffinfo={700: PACKET}),
    },
    ICC: {
        form: encoded("WEBP" if form == "WebP" else form, icc_profile=PROFILE)
        for form in ("PNG", "JPEG", "WebP", "TIFF")
    },
    IPTC: {"JPEG": with_segments((0xED, BIM)), "TIFF": encoded("TIFF", tiffinfo={33723: DATASETS})},
    TEXT: {
        "PNG": with_chunks(
            (b"tEXt", b"parameters\0a cat, Steps: 20"),
            (b"iTXt", b"workflow\0\0\0\0\0" + NAME.encode()),
            (b"zTXt", b"long\0\0" + zlib.compress(b"x" * 999)),
        )
    },
    COMMENTS: {
        "PNG": with_chunks((b"tEXt", b"Comment\0" + NAME.encode("latin-1"))),
        "JPEG": with_segments((0xFE, NAME.encode())),
        "GIF": with_comment(),
        "PPM": b"P6\n# " + NAME.encode() + b"\n1 1\n255\n\1\2\3",
    },
    RESOLUTION: {
        "PNG": encoded("PNG", dpi=(300, 200)),
        "JPEG": encoded("JPEG", dpi=(300, 200)),
        "TIFF": encoded("TIFF", dpi=(300, 200)),
        "BMP": encoded("BMP", dpi=(300, 200)),
    },
    GAMMA: {"PNG": with_chunks((b"gAMA", struct.pack(">I", 100000)))},
    CICP: {"PNG": with_chunks((b"cICP", b"\x0c\x0d\0\1"))},
    GAIN_MAP: {
        "JPEG": with_segments((0xE2, b"urn:iso:std:iso:ts:21496:-1\0...")),
    },
    CREDENTIALS: {
        "JPEG": with_segments((0xEB, b"JP\0\1jumb")),
        "PNG": with_chunks((b"caBX", b"jumb")),
        "WebP": with_riff_chunk(b"C2PA", b"jumb"),
    },
    "further pictures": {"JPEG": with_segments((0xE2, b"MPF\0MM\0*"))},
    "FlashPix data": {"JPEG": with_segments((0xE2, b"FPXR\0\0\1"))},
    "significant bits": {"PNG": with_chunks((b"sBIT", b"\5\6\5"))},
    "background colour": {"PNG": with_chunks((b"bKGD", b"\0\1\0\2\0\3"))},
    "HDR mastering data": {"PNG": with_chunks((b"cLLI", b"\0" * 8))},
    "application data (APP5)": {"JPEG": with_segments((0xE5, b"RMETA"))},
    "data behind its end": {"JPEG": encoded("JPEG") + b"\0\0\0\x18ftypmp42"},
    "chunk prVt": {"PNG": with_chunks((b"prVt", b"own"))},
    "TIFF tag 65000": {"TIFF": encoded("TIFF", tiffinfo={65000: "own"})},
    "place on the earth": {"TIFF": encoded("TIFF", tiffinfo={34737: "WGS 84|"})},
    "damaged colour profile": {"JPEG": encoded("JPEG", icc_profile=PROFILE[:99])},
}
if features.check("avif"):
    blocks = {EXIF: b"Exif\0\0" + exif_block(), XMP: PACKET, ICC: PROFILE}
    names = {EXIF: "exif", XMP: "xmp", ICC: "icc_profile"}
    for block, content in blocks.items():
        SOURCES[block]["AVIF"] = encoded("AVIF", **{names[block]: content})
JP2 = encoded("JPEG2000")
UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
SOURCES[XMP]["JPEG 2000"] = JP2 + struct.pack(">I4s", 24 + len(PACKET), b"uuid") + UUID + PACKET
SOURCES[XMP]["GIF"] = (
    encoded("GIF")[:-1] + b"\x21\xff\x0bXMP DataXMP" + PACKET + b"\1"
    + bytes(range(255, -1, -1)) + b"\0;"
)  # fmt: skip
CASES = [(kind, form) for kind, forms in SOURCES.items() for form in forms]


def through(data, tmp_path, target):
    source, output = tmp_path / "a", tmp_path / f"b{target.suffixes[0]}"
    source.write_bytes(data)
    reports = Reports()
    upscale_picture(
        PictureTask(source, output), Nearest(), reports.reporter, ResultOptions(force=True)
    )
    return output.read_bytes(), "\n".join(reports.lines)


def comparable(kind, value):
    """What must be the same in every container."""
    if kind == RESOLUTION:
        return [round(value[0]), round(value[1]), value[2]]
    if kind == EXIF:
        structure = Structure(value)
        tree = structure.tree(structure.entries(structure.first)[0])
        text, camera, place = (tree[tag] for tag in (0x010E, 0x8769, 0x8825))
        return text[1].rstrip(b"\0"), camera[0x9003][1].rstrip(b"\0"), place[1][1].rstrip(b"\0")
    return value


EXPECTED = {
    XMP: PACKET,
    ICC: PROFILE,
    IPTC: DATASETS,
    COMMENTS: (NAME,),
    TEXT: (("parameters", "a cat, Steps: 20"), ("workflow", NAME), ("long", "x" * 999)),
    RESOLUTION: [300, 200, "inch"],
    EXIF: (b"a picture", b"2026:01:02 03:04:05", b"N"),
    GAMMA: {b"gAMA": struct.pack(">I", 100000)},
    CICP: b"\x0c\x0d\0\1",
}


def test_the_table_is_walked_whole():
    kinds = {kind for form in FORMATS for kind in form.holds}
    assert kinds == set(EXPECTED) and kinds <= set(SOURCES)
    for kind in kinds:
        assert {form.name for form in FORMATS if kind in form.holds} <= set(SOURCES[kind])


@pytest.mark.parametrize("kind, form", CASES)
def test_a_kind_is_found_again_or_named(tmp_path, kind, form):
    for target in FORMATS:
        if not target.colour:
            continue
        written, log = through(SOURCES[kind][form], tmp_path, target)
        if kind in target.holds:
            found = read_metadata(written, target.name)
            assert comparable(kind, found[kind]) == EXPECTED[kind] and "not kept" not in log
            assert set(found) <= {kind, RESOLUTION}
        else:
            assert f"not kept in {target.name}: " in log and kind in log
        assert Image.open(io.BytesIO(written)).size in ((16, 12), (2, 2))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WebP", "TIFF"])
def test_another_reader_finds_them(tmp_path, form):
    """Pillow, so that our writers and readers are not wrong together."""
    target = next(f for f in FORMATS if f.name == form)

    def opened(data):
        return Image.open(io.BytesIO(through(data, tmp_path, target)[0]))

    for source in SOURCES[XMP].values():
        packet = opened(source).info.get("xmp")
        assert packet == PACKET or form == "TIFF" and opened(source).tag_v2[700] == PACKET
    for source in SOURCES[ICC].values():
        assert opened(source).info["icc_profile"] == PROFILE
    for source in SOURCES[EXIF].values():
        exif = opened(source).getexif()
        assert exif[0x010E] == "a picture" and exif.get_ifd(0x8825)[1] == "N"
        assert exif.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    if RESOLUTION in target.holds:
        for source in SOURCES[RESOLUTION].values():
            assert [round(float(n)) for n in opened(source).info["dpi"]] == [300, 200]
    if form == "PNG":
        assert opened(SOURCES[TEXT]["PNG"]).text["workflow"] == NAME


def test_a_profile_in_pieces_of_any_order_between_others(tmp_path):
    pieces = [(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 2]) + p)
              for i, p in enumerate((PROFILE[:200], PROFILE[200:]))]  # fmt: skip
    data = with_segments((0xE2, b"MPF\0MM\0*"), pieces[1], (0xE2, b"FPXR\0"), pieces[0])
    written, log = through(data, tmp_path, FORMATS[0])
    assert read_metadata(written, "PNG")[ICC] == PROFILE
    assert "not kept in PNG: further pictures, FlashPix data" in log


def test_xmp_of_more_than_a_segment(tmp_path):
    packet = PACKET.replace(b"K\xc3\xb6ln", b"K\xc3\xb6ln" * 20000)
    jpeg, png = FORMATS[1], FORMATS[0]
    written, _ = through(
        with_chunks((b"iTXt", b"XML:com.adobe.xmp" + b"\0" * 5 + packet)), tmp_path, jpeg
    )
    assert written.count(b"http://ns.adobe.com/xmp/extension/\0") == 2
    again, log = through(written, tmp_path, png)
    assert read_metadata(again, "PNG")[XMP] == packet and "not kept" not in log


def test_both_parts_of_extended_xmp_are_merged(tmp_path):
    main = PACKET.replace(
        b" dc:title", b' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" '
        b'xmpNote:HasExtendedXMP="' + b"A" * 32 + b'" dc:title'
    )  # fmt: skip
    rest = PACKET.replace(b"dc:title", b"dc:rights")
    head = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32
    data = with_segments(
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + main),
        (0xE1, head + struct.pack(">II", len(rest), 50) + rest[50:]),
        (0xE1, head + struct.pack(">II", len(rest), 0) + rest[:50]),
    )
    written, _ = through(data, tmp_path, FORMATS[0])
    packet = read_metadata(written, "PNG")[XMP]
    assert b"dc:title" in packet and b"dc:rights" in packet and b"HasExtended" not in packet


@pytest.mark.parametrize("where", ["tag", "profile"])
@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused(tmp_path, where, transfer, name):
    tag = bytes([9, transfer, 0, 1])
    data = with_chunks((b"cICP", tag))
    if where == "profile":
        (count,) = struct.unpack_from(">I", PROFILE, 128)
        entry = struct.pack(">4sII", b"cicp", len(PROFILE) + 12, 12)
        profile = bytearray(PROFILE[:132] + entry + PROFILE[132:] + b"cicp\0\0\0\0" + tag)
        struct.pack_into(">I", profile, 128, count + 1)
        struct.pack_into(">I", profile, 0, len(profile))
        data = encoded("JPEG", icc_profile=bytes(profile))
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match=f"is HDR, {name}") as caught:
        read_picture(tmp_path / "a")
    assert "SDR" in caught.value.hint


def test_a_grey_profile_of_grey_pictures(tmp_path):
    grey = PROFILE[:16] + b"GRAY" + PROFILE[20:]
    written, log = through(encoded("PNG", GREY, icc_profile=grey), tmp_path, FORMATS[0])
    assert read_metadata(written, "PNG")[ICC] == grey and "not kept" not in log
    written, log = through(encoded("JPEG", GREY, icc_profile=PROFILE), tmp_path, FORMATS[0])
    assert "does not fit into this PNG file: colour profile" in log


def test_a_makers_note_is_kept_where_its_offsets_stay_right(tmp_path):
    data = Image.Exif()
    data.get_ifd(0x8769)[0x927C] = b"Maker note"
    source = encoded("JPEG", exif=data)
    for target in FORMATS[:4]:
        written, log = through(source, tmp_path, target)
        exif = read_metadata(written, target.name)[EXIF]
        assert (b"Maker note" in exif) == (target.name != "TIFF")
        assert ("does not fit into this TIFF file: the maker's note" in log) == (
            target.name == "TIFF"
        )
