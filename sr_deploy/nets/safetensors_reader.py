"""Reads the safetensors format: the header's length in 8 bytes, a JSON header, and raw tensors.

https://huggingface.co/docs/safetensors describes it. With this reader, checkpoints need torch only.
"""

from __future__ import annotations

import json
import math
from typing import Any, Dict

import torch

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MAX_HEADER = 100_000_000
"""The limit of the format."""


def tensors_from_bytes(content: bytes) -> Dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by name. Raises ValueError if it is damaged."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 2 <= length <= min(_MAX_HEADER, len(content) - 8):
        raise ValueError(f"its header cannot have {length} bytes")
    try:
        header = json.loads(content[8 : 8 + length].decode("utf-8"))
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    data = memoryview(content)[8 + length :]
    tensors: Dict[str, torch.Tensor] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(*item)):
        if _begin(name, entry) != end:
            raise ValueError(f"the data before tensor '{name}' does not end where it begins")
        end = entry["data_offsets"][1]
        tensors[name] = _tensor(name, entry, data)
    if end != len(data):
        raise ValueError(f"it has {len(data)} bytes of tensors; expected {end}")
    return tensors


def _begin(name: str, entry: Any) -> int:
    """Return the offset of a tensor. Raises ValueError for a malformed entry of the header."""
    fields = entry if isinstance(entry, dict) else {}
    numbers = fields.get("shape"), fields.get("data_offsets")
    are_counts = all(
        isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
        for value in numbers
    )
    known = fields.get("dtype") in list(_TYPES)  # which may be no text
    if not known or not are_counts or len(fields["data_offsets"]) != 2:
        raise ValueError(f"the entry of tensor '{name}' is malformed, or of an unknown type")
    return int(fields["data_offsets"][0])


def _tensor(name: str, entry: Dict[str, Any], data: memoryview) -> torch.Tensor:
    dtype, shape = _TYPES[entry["dtype"]], entry["shape"]
    begin, end = entry["data_offsets"]
    expected = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    if end - begin != expected or end > len(data):
        raise ValueError(f"tensor '{name}' has {min(end, len(data)) - begin} bytes, not {expected}")
    if not expected:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(data[begin:end]), dtype=dtype).reshape(shape)
