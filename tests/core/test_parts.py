import json
from dataclasses import replace

import pytest
from doubles.plans import with_parts

from sr_deploy.core.errors import ArtifactError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.parts import PlanEngine, PlanPart, check_part_files
from sr_deploy.core.routers import RoutedPlan, read_routed_plan

PLAN = with_parts(RoutedPlan("r_x4", 4, ("a", "b"), (1, 2), 1, 8, "0"))
TILES = PlanPart(
    "d5.onnx",
    "0",
    {"features": ("N", 96, "H", "W"), "inside": ("N", 1, "H", "W")},
    {"sr": ("N", 3, "4*H", "4*W")},
    {"N": (1, 8, 16), "H": (2, 66, 514), "W": (2, 66, 1026)},
)


def written(folder, **changes):
    path = folder / PLAN.file_name
    path.write_text(json.dumps({**json.loads(to_json(PLAN)), **changes}))
    return path


def test_names_of_files_tell_model_precision_kind_and_role():
    assert (PLAN.file_name, PLAN.graph_name("a")) == ("r_x4.routed.json", "r_x4.a.onnx")
    half = replace(PLAN, precision="fp16")
    assert half.file_name == "r_x4.fp16.routed.json"
    assert half.engine_name("router") == "r_x4.fp16.routed.router.engine"
    assert list(TILES.problems()) == [] and TILES.shapes(1) == {
        "features": (8, 96, 66, 66),
        "inside": (8, 1, 66, 66),
    }


def test_an_engine_is_read_as_it_was_written(tmp_path):
    engine = PlanEngine("cpu", "onnxruntime", "fp32", {"onnxruntime": "1"}, "srdeploy", {"a": "0"})
    plan = replace(PLAN, engine=engine, parts={**PLAN.parts, "a": TILES})
    path = written(tmp_path, **json.loads(to_json(plan)))
    assert read_routed_plan(path) == plan and plan.runtime == "onnxruntime"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"file": "../up.onnx"}, r"the file name '\.\./up.onnx'"),
        ({"inputs": {}}, "has no inputs or no outputs"),
        ({"sizes": {}}, "has sizes for none, expected H, N, W"),
        ({"sizes": {**TILES.sizes, "H": (5, 2, 9)}}, r"has the sizes \[5, 2, 9\] of 'H'"),
        ({"outputs": {"sr": ("N", 0)}}, "the shape of 'sr'"),
        ({"outputs": {"sr": ("H-1", 3)}}, "the shape of 'sr'"),
        ({"dtypes": {"sr": "int8"}}, "the type of 'sr'"),
        ({"speed": 1}, "unknown key 'speed'"),
        ({"file": 5}, "key 'file': expected str"),
    ],
)
def test_parts_that_cannot_be_are_refused(tmp_path, change, words):
    parts = json.loads(to_json(PLAN))["parts"]
    parts["a"] = {**json.loads(to_json(TILES)), **change}
    with pytest.raises(
        ArtifactError, match=words.replace(r"\[", r"[\[(]").replace(r"\]", r"[\])]")
    ):
        read_routed_plan(written(tmp_path, parts=parts))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"parts": {}}, "its parts are none; expected a, b, router"),
        ({"parts": {"router": 5}}, "key 'parts': expected an object, found 5"),
        ({"parts": dict.fromkeys(PLAN.parts, PLAN.parts["a"].__dict__)}, "are the same file"),
        ({"precision": "int4"}, "the precision 'int4'"),
        ({"graphs": {"r_x4.a.onnx": "0"}}, "was written by an older version"),
        ({"engine": []}, "key 'engine': expected an object"),
    ],
)
def test_plans_of_no_such_parts_are_refused_and_old_ones_exported_again(tmp_path, change, words):
    with pytest.raises(ArtifactError, match=words) as caught:
        read_routed_plan(written(tmp_path, **change))
    assert "older" not in words or caught.value.hint.startswith("export it again: srdeploy export")


def test_files_that_are_missing_or_were_changed_are_refused(tmp_path):
    path = written(tmp_path)
    for part in PLAN.parts.values():
        (tmp_path / part.file).write_bytes(b"graph")
    digest = sha256_of(tmp_path / "r_x4.a.onnx")
    parts = {role: replace(part, sha256=digest) for role, part in PLAN.parts.items()}
    plan = replace(PLAN, parts=parts)
    check_part_files(path, plan)
    (tmp_path / "r_x4.b.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError, match="was changed after its plan was written"):
        check_part_files(path, plan)
    (tmp_path / "r_x4.b.onnx").unlink()
    with pytest.raises(ArtifactError, match="names r_x4.b.onnx, which does not exist"):
        check_part_files(path, plan)
