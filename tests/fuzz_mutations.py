"""Mutations of files for tests/fuzz.py. All take a `random.Random`, so that a seed repeats them."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import struct
import tarfile
import zlib

TEXTS = (
    "", " ", "\0", "../../outside", "/", "-o", "é", "\ud800", "\u202e", "😀", "x" * 5000, "a\nb",
    "%s{}", "NaN", "d0", "d9999", "0x0", "1x1", "99999999x99999999", "16x16:8x8:4x4", "ssh://",
    "fp16", "C:\\x", ".", "'", '"><script>', "٣", "1e9",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 3, 7, 255, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, 1e308, 5e-324, 1e-9,
)  # fmt: skip
RAW = ("NaN", "Infinity", "-Infinity", "1e400", "1" * 5000, "[" * 100000, "[" * 400 + "]" * 400)
"""Values that only text can hold."""
_MARK = "@raw@"


def mutated_bytes(rng, content, other=b""):
    """Flip, cut, repeat, insert or splice bytes, one to three times. other: a file to splice."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        # Headers decide more than the bytes behind them.
        at = min(at, rng.randrange(256)) if rng.random() < 0.4 else at
        length = rng.choice((1, 2, 4, 16, 64, 256, max(1, len(data) // 4)))
        way = rng.randrange(8)
        if way == 0:
            for _ in range(rng.choice((1, 2, 8, 32))):
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif way == 1:
            del data[at:]
        elif way == 2:
            del data[at : at + length]
        elif way == 3:
            data[at:at] = data[at : at + length]
        elif way == 4:
            data[at:at] = bytes(rng.randrange(256) for _ in range(min(length, 64)))
        elif way == 5:
            numbers = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
            value = struct.pack(rng.choice("<>") + "I", rng.choice(numbers))
            data[at : at + 4] = value
        elif way == 6 and other:
            start = rng.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        else:
            data[at : at + length] = bytes(len(data[at : at + length]))
    return bytes(data)


def mutated_json(rng, content, other=b""):
    """Change values, types and keys of a JSON object, or its bytes."""
    if rng.random() < 0.15:
        return mutated_bytes(rng, content, other)
    try:
        data = json.loads(content)
    except ValueError:
        return mutated_bytes(rng, content, other)
    raw = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _changed(rng, data, raw)
    text = json.dumps(data, indent=rng.choice((None, 2)), ensure_ascii=True)
    for number, value in enumerate(raw):
        text = text.replace(f'"{_MARK}{number}"', value)
    if rng.random() < 0.05 and '"' in text:  # the same key twice
        text = text.replace("{", '{"scale": 2, "scale": 3, ', 1)
    if rng.random() < 0.05:
        return ("\ufeff" + text).encode(rng.choice(("utf-8", "utf-16", "utf-16-be")))
    return text.encode()


def _changed(rng, data, raw):
    """Return JSON data with one change, at a place chosen at random."""
    places = []

    def walk(value):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in list(keys)[:50]:
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    if isinstance(data, (dict, list)):
        walk(data)
    if not places or rng.random() < 0.03:
        return _any_value(rng, raw)
    holder, key = rng.choice(places)
    way = rng.randrange(10)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        name = key[:-1] if rng.random() < 0.5 else rng.choice(TEXTS)
        holder[name] = holder[key]
    elif way == 2 and isinstance(holder[key], list):
        holder[key] = rng.choice(([], holder[key] * 2, holder[key][:-1], holder[key][::-1]))
    elif way == 3:
        other, other_key = rng.choice(places)
        with contextlib.suppress(KeyError, IndexError):
            holder[key] = json.loads(json.dumps(other[other_key]))
    elif way == 4 and isinstance(holder[key], str):
        holder[key] = mutated_bytes(rng, holder[key].encode()).decode("utf-8", "replace")
    elif way in (5, 6) and isinstance(holder[key], (int, float)):
        holder[key] = rng.choice((holder[key] + 1, -holder[key], holder[key] * 1000, 0))
    else:
        holder[key] = _any_value(rng, raw)
    return data


def _any_value(rng, raw):
    way = rng.randrange(5)
    if way == 0:
        return rng.choice(TEXTS)
    if way == 1:
        return rng.choice(NUMBERS)
    if way == 2:
        return rng.choice((None, True, False, [], {}, [[]], [None], {"": None}, [1, "a"]))
    if way == 3:
        raw.append(rng.choice(RAW))
        return f"{_MARK}{len(raw) - 1}"
    return [rng.choice(NUMBERS + TEXTS) for _ in range(rng.randrange(4))]


def mutated_lines(rng, content, other=b""):
    """Change a line of a JSONL file as JSON, or the order and number of its lines."""
    if rng.random() < 0.15:
        return mutated_bytes(rng, content, other)
    lines = content.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    way = rng.randrange(10)
    if way == 0:
        lines[at:at] = [rng.choice((b"\n", b"{}\n", b"null\n", b"[]\n", b"1\n", lines[at]))]
    elif way == 1:
        lines[at] = lines[at].rstrip(b"\n")
    else:
        lines[at] = mutated_json(rng, lines[at]).replace(b"\n", b" ") + b"\n"
    return b"".join(lines)


def mutated_png(rng, content, other=b""):
    """Change a chunk of a PNG, with the right checksum; or its bytes."""
    if rng.random() < 0.3:
        return mutated_bytes(rng, content, other)
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.choice((1, 1, 2))):
        number = rng.randrange(len(chunks))
        name, data = chunks[number]
        way = rng.randrange(6)
        if way == 0:
            chunks.insert(rng.randrange(len(chunks)), (name, data))
        elif way == 1:
            del chunks[number]
        elif way == 2:
            names = b"tRNS gAMA cICP iCCP eXIf iTXt zTXt tEXt PLTE acTL fcTL IDAT IEND mDCV sBIT"
            chunks[number] = (rng.choice(names.split()), data)
        elif way == 3 and name == b"IDAT":
            with contextlib.suppress(zlib.error):
                plain = mutated_bytes(rng, zlib.decompress(data))
                chunks[number] = (name, zlib.compress(plain))
        else:
            chunks[number] = (name, mutated_bytes(rng, data))
        chunks = chunks or [(name, data)]
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def mutated_onnx(rng, content, other=b""):
    """Change a field of an ONNX graph: sizes, types, names, operators, attributes, edges."""
    import onnx

    if rng.random() < 0.25:
        return mutated_bytes(rng, content, other)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:  # the file beside a graph
        return mutated_bytes(rng, content, other)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change_message(rng, model)
    return model.SerializeToString()


def _change_message(rng, message):
    """Change one field of a protobuf message or, mostly, of a message in it."""
    while True:
        fields = message.ListFields()
        if not fields:
            return
        field, value = rng.choice(fields)
        repeated = hasattr(value, "append") and not isinstance(value, (str, bytes))
        if field.message_type is None:
            break
        if repeated and rng.random() < 0.25:
            _change_repeated(rng, value)
            return
        message = rng.choice(value) if repeated else value
    if repeated:
        number = rng.randrange(len(value))
        if rng.random() < 0.3:
            del value[number]
        else:
            value[number] = _scalar(rng, field, value[number])
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    else:
        with contextlib.suppress(ValueError):  # an enumeration's value that protobuf refuses
            setattr(message, field.name, _scalar(rng, field, value))


def _change_repeated(rng, values):
    number = rng.randrange(len(values))
    way = rng.randrange(3)
    if way == 0:
        del values[number]
    elif way == 1:
        values.add().CopyFrom(values[number])
    else:
        values.add().CopyFrom(values[number])
        values[number].CopyFrom(values[0])


def _scalar(rng, field, value):
    """Return another value of a field's type."""
    if isinstance(value, bytes):
        return mutated_bytes(rng, value)
    if isinstance(value, str):
        names = ("x", "y", "", "a", "Conv", "Loop", "If", "Resize", "Cast", "Relu", "Shape", "Neg")
        return rng.choice((*names, "com.example", "é" * 300, value + value))
    if isinstance(value, float):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), value * 2))
    if field.enum_type is not None:
        return rng.choice(field.enum_type.values).number
    wide = (2**31 - 1, -(2**31)) if field.cpp_type == field.CPPTYPE_INT32 else (2**62, -(2**63))
    return rng.choice((0, -1, 1, 2, 3, 4, 7, 16, value + 1, 65536, *wide))


def mutated_safetensors(rng, content, other=b""):
    """Change the header of a safetensors file as JSON, with its right length; or its bytes."""
    if rng.random() < 0.4:
        return mutated_bytes(rng, content, other)
    (length,) = struct.unpack("<Q", content[:8])
    header = mutated_json(rng, content[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def mutated_pickle(rng, content, other=b""):
    """Change tensors and values that `torch.save` wrote; or its bytes."""
    import torch

    if rng.random() < 0.4:
        return mutated_bytes(rng, content, other)
    data = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(rng.choice((1, 2, 5))):
        holder = data
        while True:
            key = rng.choice(list(holder)) if isinstance(holder, dict) and holder else None
            inner = None if key is None else holder[key]
            if not isinstance(inner, dict) or not inner or rng.random() < 0.2:
                break
            holder = inner
        if key is not None:
            _change_entry(rng, holder, key)
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def _change_entry(rng, holder, key):
    import torch

    value, way = holder[key], rng.randrange(5)
    if torch.is_tensor(value) and value.is_sparse:  # by an earlier change
        value = value.to_dense()
    if way == 0:
        del holder[key]
    elif way == 1:
        holder[rng.choice((*TEXTS, 3, None, str(key) + ".weight"))] = value
    elif way == 2 and torch.is_tensor(value):
        holder[key] = rng.choice(
            (
                value.double(), value.half(), value.to(torch.int8), value.reshape(-1), value[None],
                value * float("nan"), value.sum(), value.to_sparse(), value[:0],
                value.to(torch.complex64), value.to("meta"),
            )
        )  # fmt: skip
    elif way == 3 and torch.is_tensor(value) and value.dim():
        holder[key] = torch.cat([value, value], rng.randrange(value.dim()))
    else:
        holder[key] = rng.choice((None, 1, -1, 2**70, float("nan"), "x", [], {}, [value], {1: 2}))


def mutated_board_tar(rng, content, other=b""):
    """Change a file of a board's result, mostly with the right checksums."""
    return _mutated_tar(rng, content, ("out/", ""))


def mutated_selftest_tar(rng, content, other=b""):
    """Change a file of a self-test's archive, mostly with the right checksums."""
    return _mutated_tar(rng, content, ("",))


def _mutated_tar(rng, content, summed):
    """Change a member. summed: the folders with checksums."""
    if rng.random() < 0.25:
        return mutated_bytes(rng, content)
    packed = content[:2] == b"\x1f\x8b"
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    name = rng.choice([n for n in sorted(files) if not n.endswith("SHA256SUMS")])
    if rng.random() < 0.1:
        files[rng.choice((name + "x", "../" + name, "/x", "out/x"))] = files.pop(name)
    else:
        by_end = ((".json", mutated_json), (".jsonl", mutated_lines), (".onnx", mutated_onnx))
        change = next((m for end, m in by_end if name.endswith(end)), mutated_bytes)
        if name.endswith(".gz"):
            files[name] = gzip.compress(change(rng, gzip.decompress(files[name])))
        else:
            files[name] = change(rng, files[name])
    if rng.random() < 0.9:
        for folder in summed:
            files[folder + "SHA256SUMS"] = _sums(files, folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if packed else "w") as archive:
        for name, member in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(member)
            archive.addfile(info, io.BytesIO(member))
    return buffer.getvalue()


def _sums(files, folder):
    """Return the SHA256SUMS of a folder; those of the whole tar leave out the folder `out`."""
    return "".join(
        f"{hashlib.sha256(content).hexdigest()}  {name[len(folder) :]}\n"
        for name, content in files.items()
        if name.startswith(folder or "")
        and not name.endswith("SHA256SUMS")
        and (folder or "out/SHA256SUMS" not in files or not name.startswith("out/"))
    ).encode()
