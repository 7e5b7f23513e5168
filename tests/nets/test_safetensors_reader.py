from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save

from sr_deploy.nets.safetensors_reader import tensors_from_bytes


def content(header, data=b""):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_it_reads_what_the_library_writes():
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
    dtypes += [torch.int16, torch.int8, torch.uint8, torch.bool]
    tensors = {f"t{i}": torch.arange(6).reshape(2, 3).to(t) for i, t in enumerate(dtypes)}
    tensors.update(empty=torch.zeros(0, 3), scalar=torch.tensor(2.5))
    read = tensors_from_bytes(save(tensors, {"key": "value"}))
    assert read.keys() == tensors.keys()
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "damaged, words",
    [
        (b"", "header cannot have"),
        (b"\x80\x02}q\x00." * 9, "header cannot have"),
        (content("[1]"), "no JSON object"),
        (content("{x}"), "Expecting"),
        (content("[" * 100_000), "nested too deeply|Expecting"),
        (content({"a": 1}), "tensor 'a' is malformed"),
        (content({"a": {**ENTRY, "dtype": "F8"}}, b"0" * 8), "unknown type"),
        (content({"a": {**ENTRY, "shape": [-2]}}, b"0" * 8), "tensor 'a' is malformed"),
        (content({"a": {**ENTRY, "shape": [True]}}, b"0" * 8), "tensor 'a' is malformed"),
        (content({"a": {**ENTRY, "data_offsets": [0]}}, b"0" * 8), "tensor 'a' is malformed"),
        (content({"a": {**ENTRY, "shape": [3]}}, b"0" * 8), "has 8 bytes, not 12"),
        (content({"a": ENTRY}, b"0" * 7), "has 7 bytes, not 8"),
        (content({"a": ENTRY}, b"0" * 9), "9 bytes of tensors; expected 8"),
        (content({"a": ENTRY, "b": ENTRY}, b"0" * 8), "before tensor 'b'"),
        (content({"a": {**ENTRY, "data_offsets": [1, 9]}}, b"0" * 9), "before tensor 'a'"),
    ],
)
def test_damage_is_refused(damaged, words):
    with pytest.raises(ValueError, match=words):
        tensors_from_bytes(damaged)
