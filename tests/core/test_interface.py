from __future__ import annotations

import json
from dataclasses import replace

import pytest
from doubles.graphs import tiny_manifest

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.interface import STUDIO, ImageEnd, Interface, values_text
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import manifest_path, parse_manifest

PLAIN = Interface(ImageEnd("in"), ImageEnd("out"))
LUMA = Interface(ImageEnd("in", "nhwc", "uint8", (16, 235)), ImageEnd("out", values=STUDIO), "y")


def test_ends_know_their_axes():
    assert (LUMA.channels, LUMA.input.axes_hw) == (1, (1, 2))
    assert ImageEnd("x", "chw").axes_hw == (1, 2)
    assert (values_text(STUDIO), values_text((0.0, 255.0))) == ("16/255..235/255", "0..255")


def test_sessions_take_some_files_as_they_are():
    assert PLAIN.is_standard and replace(PLAIN, input=ImageEnd("in", dtype="fp16")).is_standard
    for other in (
        LUMA,
        replace(PLAIN, colours="bgr"),
        replace(PLAIN, other_outputs=("features",)),
        replace(PLAIN, output=ImageEnd("out", values=(0, 255))),
        replace(PLAIN, input=ImageEnd("in", "chw")),
        replace(PLAIN, input=ImageEnd("in", dtype="uint8")),
    ):
        assert not other.is_standard


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, ""),
        ({"colours": "cmyk"}, "the colours 'cmyk'"),
        ({"input": {"name": ""}}, "an input without a name"),
        ({"input": {"name": "x", "layout": "nwhc"}}, "the layout 'nwhc' of the input"),
        ({"output": {"name": "y", "dtype": "bf16"}}, "the type 'bf16' of the output"),
        ({"output": {"name": "y", "values": [1, 0]}}, r"the values \(1, 0\) of the output"),
        ({"output": {"name": "y", "values": [0, 1e9]}}, "the values"),
        ({"output": {"title": "y"}}, "unknown key 'title'"),
        ({"output": 3}, "key 'output': expected an object, found 3"),
        ({"other_outputs": [1]}, "key 'other_outputs': expected str, found 1"),
    ],
)
def test_a_manifest_keeps_it_and_is_refused_where_it_is_invalid(tmp_path, change, words):
    data = json.loads(to_json(replace(tiny_manifest(), interface=LUMA)))
    data["interface"].update(change)
    path = manifest_path(tmp_path / "net.onnx")
    path.write_text(json.dumps(data))
    if not words:
        assert parse_manifest(path).interface == LUMA
        return
    with pytest.raises(ArtifactError, match=words):
        parse_manifest(path)
