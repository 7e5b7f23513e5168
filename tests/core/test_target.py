from __future__ import annotations

import json

import pytest

from sr_deploy.core.errors import TargetError
from sr_deploy.core.files import data_folder
from sr_deploy.core.sizes import parse_sizes
from sr_deploy.core.target import load_target, read_target, target_names
from sr_deploy.runtime import BACKENDS


def test_the_issue_s_targets_are_there():
    assert {"rtx", "cpu", "xavier"} <= set(target_names())


@pytest.mark.smoke
@pytest.mark.parametrize("name", target_names())
def test_every_profile_is_whole_and_means_something(name):
    profile = load_target(name)
    assert profile.name == name and profile.title and profile.runtime in BACKENDS
    assert 13 <= profile.opset <= 19
    assert profile.check_precision(None) == profile.precisions[0]
    for shape in profile.shapes:
        parse_sizes(shape)
    # Weak typing (TensorRT 8): an FP32 graph and a flag. Strong typing (10+, RTX): an FP16 graph.
    weak = profile.runtime == "tensorrt" and profile.runtime_versions.startswith(">=8")
    if profile.runtime.startswith("tensorrt"):
        assert profile.fp16_graph == ("fp32" if weak else "fp16")
        assert profile.opset <= (17 if weak else 19)
        assert profile.int8 is not None and profile.int8.rest == profile.fp16_graph


@pytest.mark.parametrize(
    "asked, meant",
    [
        ("xavir", "xavier"),
        ("rtxx", "rtx"),
        ("orin-nan", "orin-nano"),
        ("CPU", ""),
        ("../targets/cpu", None),
    ],
)
def test_an_unknown_name_is_refused_and_the_nearest_suggested(asked, meant):
    with pytest.raises(
        TargetError, match=f"unknown target '{asked}'; expected one of .*cpu.*xavier"
    ) as e:
        load_target(asked)
    if meant == "":
        assert "./NAME.json" in e.value.hint
    if meant:
        assert e.value.hint == f"did you mean '{meant}'?"


@pytest.mark.parametrize("name, asked", [("rtx", "fp32"), ("cpu", "fp16"), ("xavier", "bf16")])
def test_a_precision_the_target_has_not_is_refused_not_replaced(name, asked):
    with pytest.raises(TargetError, match=f"target '{name}' builds fp.*, not {asked}"):
        load_target(name).check_precision(asked)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"workspace_mb": 1}, "unknown key 'workspace_mb'"),
        ({"opset": "17"}, "key 'opset': expected int"),
        ({"name": "other"}, "its name is 'other'; expected .*'cpu'"),
        ({"runtime": "ncnn"}, "unknown runtime 'ncnn'; expected onnxruntime"),
        ({"precisions": ["int4"]}, "precisions contains 'int4'"),
        ({"precisions": ["fp32"]}, "the rules of INT8 graphs are given if and only if"),
        ({"precisions": [], "int8": None}, "must not be empty"),
        ({"shapes": []}, "must not be empty"),
        ({"shapes": ["banana"]}, "banana"),
        ({"shapes": [256]}, "shapes"),
        ({"compute_capabilities": ["86"]}, "compute_capabilities"),
        ({"fp16_graph": "int8"}, "fp16_graph contains 'int8'"),
        ({"io_dtype": "half"}, "io_dtype contains 'half'"),
        ({"title": None}, "key 'title': expected str"),
        ({"title": "two\nlines"}, "title must be one line"),
        ({"runtime_versions": ">= 8.5"}, "expected for example >=8.5,<8.6"),
        ({"runtime_versions": ">=" + "9" * 5000}, "expected for example >=8.5,<8.6"),
        ({"runtime_versions": ">=9,<8"}, "the range '>=9,<8' is empty"),
        ({"compute_capabilities": [-72]}, "expected for example 72 for SM 7.2"),
        ({"workspace_mib": 10**15}, "workspace_mib .*; expected 0 to"),
        ({"dla_cores": -1}, "dla_cores -1; expected 0 to 8"),
        ({"power_modes": {"\u00b2": "x"}}, "expected a number of nvpmodel and a name"),
        ({"power_modes": {"0": 5}}, "expected a number of nvpmodel and a name"),
        ({"shapes": ["\uff11\uff16x16"]}, "is not a size"),
        ({"opset": 3}, "opset 3; expected 7 to 30"),
        ({"opset": 16}, "'cpu' is a shipped target, and differs from this"),
        (
            {"precisions": ["fp16", "int8"]},
            "ONNX Runtime's CPU provider computes in FP32 and INT8 only",
        ),
    ],
)
def test_a_malformed_profile_is_refused_with_its_file_and_what_is_wrong(tmp_path, change, words):
    data = json.loads((data_folder("engines/targets") / "cpu.json").read_text())
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(data))
    read_target(path)
    changed = {
        key: value for key, value in {**data, **change}.items() if (key, value) != ("int8", None)
    }
    path.write_text(json.dumps(changed, indent=2))
    with pytest.raises(TargetError, match="cpu.json, line [0-9]+: .*" + words):
        read_target(path)


@pytest.mark.parametrize(
    "target, change, words",
    [
        (
            "xavier",
            {"activations": "uint8"},
            "TensorRT quantises symmetrically, to signed integers",
        ),
        (
            "rtx",
            {"symmetric": False},
            "expected activations int8, symmetric, and no quantised_bias",
        ),
        ("rtx", {"quantised_bias": True}, "and no quantised_bias"),
        ("rtx", {"rest": "fp32"}, "rest is fp32; expected fp16_graph, fp16"),
        ("xavier", {"rest": "fp16"}, "rest is fp16; expected fp16_graph, fp32"),
        ("xavier", {"weights": "fp16"}, "weights is 'fp16'; expected int8 or float"),
        ("xavier", {"placement": "all"}, "placement is 'all'; expected operators or convolutions"),
        ("xavier", {"group_multiple": 0}, "group_multiple is 0; expected 1 to 1024"),
        ("rtx", None, "are given if and only if precisions has int8"),
        ("rtx", 18, "Q/DQ pairs of FP16 values need opset 19"),
    ],
)
def test_rules_of_int8_that_tensorrt_cannot_follow(tmp_path, target, change, words):
    data = json.loads((data_folder("engines/targets") / f"{target}.json").read_text())
    more = {"opset": change} if isinstance(change, int) else {}
    rules = {**data["int8"], **(change if isinstance(change, dict) else {})}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**data, "name": "mine", "int8": rules if change else None, **more}))
    with pytest.raises(TargetError, match=words):
        read_target(path)


def test_a_profile_of_one_s_own_is_given_by_its_path(tmp_path):
    data = json.loads((data_folder("engines/targets") / "cpu.json").read_text())
    (tmp_path / "mycam.json").write_text(json.dumps({**data, "name": "mycam"}))
    profile = load_target(str(tmp_path / "mycam.json"))
    assert (profile.name, profile.shipped, profile.option) == ("mycam", False, "mycam.json")
    cpu = load_target("cpu")
    assert (cpu.shipped, cpu.option) == (True, "cpu")
    with pytest.raises(TargetError, match="missing.json"):
        load_target(str(tmp_path / "missing.json"))


def test_a_missing_key_and_the_line_of_broken_json(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"name": "mine"}')
    with pytest.raises(TargetError, match="mine.json: the key 'title' is missing"):
        read_target(path)
    path.write_text('{\n  "name": "mine",\n  "opset": 17,\n  "opset": 18\n}')
    with pytest.raises(TargetError, match="mine.json, line 4: the key 'opset' appears twice"):
        read_target(path)
    path.write_text('{\n  "name": "mine",\n  "title": oops\n}')
    with pytest.raises(TargetError, match="mine.json, line 3: not valid JSON"):
        read_target(path)


@pytest.mark.parametrize(
    "version, takes",
    [
        ("8.5.2.2", True),
        ("8.5", True),
        ("8.6.0", False),
        ("8.4.9", False),
        ("10.3", False),
        ("8.5.3rc1", True),
    ],
)
def test_a_profile_takes_the_versions_it_names(version, takes):
    assert load_target("xavier").supports_version(version) == takes


def test_a_refused_precision_lists_those_of_the_target():
    with pytest.raises(TargetError, match="builds fp16, fp32 and int8 engines, not bf16"):
        load_target("xavier").check_precision("bf16")
