import json
import shutil

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, InputError, VariantError
from sr_deploy.runtime.adaptive.models import Adaptive, adaptive_session, is_adaptive, opened


@pytest.fixture(scope="module")
def routed_plan(small_router, tmp_path_factory):
    export = pytest.importorskip("sr_deploy.export.plans", reason="needs torch and onnx")
    return export.plan_from_router(small_router, tmp_path_factory.mktemp("routed"))


def test_what_is_adaptive(small_router, routed_plan, plans):
    for given in (
        small_router.path,
        routed_plan,
        plans["rows"],
        plans["tiles"],
        "cdnsr-fsrcnn_x4",
        "elastic-asrn_x4",
    ):
        assert is_adaptive(str(given))
    for given in ("asrn_x4", "model.onnx", "folder"):
        assert not is_adaptive(given)


@pytest.mark.parametrize("kind", ["cdnsr", "elastic"])
def test_each_kind_that_routes_has_a_shipped_default(kind):
    pytest.importorskip("torch", reason="torch runs checkpoints")
    session = adaptive_session(Adaptive(kind, max_flops="95%"))
    session.begin()
    assert session.run(np.full((1, 3, 20, 33), 0.5, np.float32)).shape == (1, 3, 80, 132)
    assert 0 < session.spent().share <= 0.95


def test_a_folder_of_both_ways_gives_the_one_that_was_faster(plans, tmp_path):
    for way in ("rows", "tiles"):
        for file in plans[way].parent.iterdir():
            shutil.copy(file, tmp_path)
    for way, ms in (("rows", 9.0), ("tiles", 5.0)):
        plan = tmp_path / plans[way].name
        plan.write_text(json.dumps({**json.loads(plan.read_text()), "timed_ms": ms}))
    assert adaptive_session(Adaptive("adadsr", depth=2), str(tmp_path)).plan.way == "tiles"


def test_half_of_all_blocks_where_no_depth_is_asked(plans):
    assert (
        opened(str(plans["rows"])).depth
        == adaptive_session(Adaptive("adadsr"), str(plans["rows"])).depth
        == 1.5
    )


def test_a_checkpoint_skips_in_torch_as_its_plan_does(checkpoint, plans, tmp_path):
    from sr_deploy.nets.checkpoint import save_checkpoint

    path = save_checkpoint(tmp_path, "ada", checkpoint.spec, checkpoint.weights)
    x = np.random.default_rng(0).random((1, 3, 12, 20), dtype=np.float32)
    deployed, torch = (
        adaptive_session(Adaptive("adadsr", depth=2), str(given)) for given in (plans["rows"], path)
    )
    np.testing.assert_allclose(deployed.run(x), torch.run(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "asked, given, error, match",
    [
        (
            Adaptive("edsr"),
            None,
            InputError,
            "unknown kind 'edsr'; expected cdnsr, elastic, adadsr",
        ),
        (Adaptive("adadsr", max_flops="50%"), None, InputError, "AdaDSR has a desired depth"),
        (
            Adaptive("elastic", depth=3),
            None,
            InputError,
            "a desired depth is AdaDSR's; 'elastic' routes patches",
        ),
        (Adaptive("adadsr", depth=4), "rows", VariantError, "desired depth 4; expected 0 to 3"),
        (Adaptive("cdnsr"), "routed", InputError, "that is elastic, not cdnsr"),
        (
            Adaptive("elastic", max_flops="40%"),
            "routed",
            InputError,
            "below the smallest: 'tiny_x4.d1' everywhere",
        ),
        (Adaptive("elastic", max_flops="much"), "routed", InputError, "is no share"),
        (Adaptive("elastic"), "rows", InputError, "is the plan of an AdaDSR, not of a router"),
        (Adaptive("adadsr"), "routed", InputError, "routes patches; it is no AdaDSR"),
        (Adaptive("adadsr"), "empty", InputError, "holds no plan of an adaptive network"),
    ],
)
def test_what_cannot_be_is_refused(asked, given, error, match, plans, routed_plan, tmp_path):
    paths = {
        None: None,
        "rows": str(plans["rows"]),
        "routed": str(routed_plan),
        "empty": str(tmp_path),
    }
    with pytest.raises(error, match=match):
        adaptive_session(asked, paths[given])


def test_a_checkpoint_without_a_depth_map_is_no_adadsr():
    pytest.importorskip("torch", reason="torch reads checkpoints")
    with pytest.raises(
        InputError, match="'asrn_x4' is of the architecture asrn: only AdaEDSR can skip blocks"
    ):
        adaptive_session(Adaptive("adadsr"), "asrn_x4")


def test_a_plan_with_a_changed_graph_is_refused(routed_plan, tmp_path):
    for file in routed_plan.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "small_x4.router.onnx").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="was changed after its plan was written"):
        adaptive_session(Adaptive("elastic"), str(tmp_path / routed_plan.name))
