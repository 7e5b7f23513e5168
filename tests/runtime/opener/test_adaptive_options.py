import shutil

import numpy as np
import pytest

from sr_deploy.core.errors import ArtifactError, CannotRunHereError, InputError, VariantError
from sr_deploy.core.run_options import RunOptions
from sr_deploy.runtime.opener import kind_of, open_session
from sr_deploy.runtime.opener.adaptive import AdaptiveOptions, describe_adaptive


@pytest.fixture(scope="module")
def routed_plan(small_router, tmp_path_factory):
    export = pytest.importorskip("sr_deploy.export.plans", reason="needs torch and onnx")
    return export.plan_from_router(small_router, tmp_path_factory.mktemp("routed"))


def open_adaptive(kind, text=None, **options):
    return describe_adaptive(
        AdaptiveOptions(kind, **options), None if text is None else str(text)
    ).open()


def test_adaptive_networks_are_told_from_others(small_router, routed_plan, depth_plan_path):
    assert [kind_of(str(plan)) for plan in (routed_plan, depth_plan_path)] == ["plan"] * 2
    routers = (str(small_router.path), "cdnsr-fsrcnn_x4")
    assert [kind_of(router) for router in routers] == ["router"] * 2
    assert kind_of("elastic-asrn_x4") == "gains"
    others = {kind_of(text) for text in ("asrn_x4", "model.onnx", "folder")}
    assert others == {"checkpoint", "artifact"}


@pytest.mark.parametrize("kind", ["cdnsr", "elastic"])
def test_each_kind_that_routes_has_a_shipped_default(kind):
    pytest.importorskip("torch", reason="torch runs checkpoints")
    session = open_adaptive(kind, max_flops="160%")
    session.reset_work()
    assert session.run(np.full((1, 3, 20, 33), 0.5, np.float32)).shape == (1, 3, 80, 132)
    assert 0 < session.executed_work().share <= 1.6


def test_other_graphs_in_the_folder_of_a_plan_do_not_matter(depth_plan_path, tmp_path):
    for file in depth_plan_path.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "another.onnx").write_bytes(b"no graph")
    assert open_adaptive("adadsr", str(tmp_path), depth=2).plan.kind == "adadsr"


def test_a_folder_with_plans_of_several_networks_is_refused(depth_plan_path, routed_plan, tmp_path):
    for plan in (depth_plan_path, routed_plan):
        shutil.copy(plan, tmp_path)
    with pytest.raises(InputError, match="contains plans of several networks: "):
        open_adaptive("adadsr", str(tmp_path))


def test_half_of_all_blocks_where_no_depth_is_asked(depth_plan_path):
    assert (
        open_session(depth_plan_path).depth
        == open_adaptive("adadsr", str(depth_plan_path)).depth
        == 1.5
    )


def test_a_checkpoint_skips_in_torch_as_its_plan_does(checkpoint, depth_plan_path, tmp_path):
    from sr_deploy.nets.checkpoint import save_checkpoint

    path = save_checkpoint(tmp_path, "ada", checkpoint.spec, checkpoint.weights)
    x = np.random.default_rng(0).random((1, 3, 12, 20), dtype=np.float32)
    deployed, torch = (
        open_adaptive("adadsr", str(given), depth=2) for given in (depth_plan_path, path)
    )
    np.testing.assert_allclose(deployed.run(x), torch.run(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "asked, given, error, match",
    [
        (
            {"kind": "edsr"},
            None,
            InputError,
            "unknown kind 'edsr'; expected cdnsr, elastic, adadsr",
        ),
        ({"kind": "adadsr", "max_flops": "50%"}, None, InputError, "AdaDSR has a desired depth"),
        (
            {"kind": "elastic", "depth": 3},
            None,
            InputError,
            "a desired depth is for AdaDSR; 'elastic' takes a budget",
        ),
        (
            {"kind": "adadsr", "depth": 4},
            "adadsr",
            VariantError,
            "desired depth 4; expected 0 to 3",
        ),
        ({"kind": "cdnsr"}, "routed", InputError, "that is elastic, not cdnsr"),
        (
            {"kind": "elastic", "max_flops": "40%"},
            "routed",
            InputError,
            "is too small: the router and 'tiny_x4.d1' everywhere",
        ),
        ({"kind": "elastic", "max_flops": "much"}, "routed", InputError, "is not a valid share"),
        ({"kind": "elastic"}, "adadsr", InputError, "is the plan of an AdaDSR, not of a router"),
        ({"kind": "adadsr"}, "routed", InputError, "is no AdaDSR"),
        ({"kind": "adadsr"}, "empty", InputError, "contains no plan of an adaptive network"),
        ({"kind": "adadsr"}, "graphs", InputError, "contains no plan of an adaptive network"),
    ],
)
def test_what_cannot_be_is_refused(
    asked, given, error, match, depth_plan_path, routed_plan, tmp_path
):
    paths = {
        None: None,
        "adadsr": str(depth_plan_path),
        "routed": str(routed_plan),
        "empty": str(tmp_path),
        "graphs": str(tmp_path / "graphs"),
    }
    (tmp_path / "graphs").mkdir()
    shutil.copy(depth_plan_path.parent / "ada.end.onnx", tmp_path / "graphs")
    with pytest.raises(error, match=match):
        open_adaptive(text=paths[given], **asked)


def test_a_checkpoint_without_a_depth_map_is_no_adadsr():
    pytest.importorskip("torch", reason="torch reads checkpoints")
    with pytest.raises(
        InputError,
        match="'asrn_x4' is of the architecture asrn: only AdaEDSR and AdaRCAN can skip blocks",
    ):
        open_adaptive("adadsr", "asrn_x4")


def test_a_plan_with_a_changed_graph_is_refused(routed_plan, tmp_path):
    for file in routed_plan.parent.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "small_x4.router.onnx").write_bytes(b"another")
    with pytest.raises(ArtifactError, match="was changed after its plan was written"):
        open_adaptive("elastic", str(tmp_path / routed_plan.name))


@pytest.mark.parametrize("harness", [False, True])
@pytest.mark.parametrize(("kind", "text"), [("cdnsr", "cdnsr-fsrcnn_x4"), ("adadsr", "adaedsr_x4")])
def test_on_a_gpu_torch_runs_them_as_on_a_cpu(monkeypatch, kind, text, harness):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from doubles.torch_cuda import StandInTorchCuda

    description = describe_adaptive(AdaptiveOptions(kind), text)
    x = np.random.default_rng(0).random((1, 3, 16, 20), dtype=np.float32)
    x[..., 10:] = 0.4
    with description.open(RunOptions(device="cpu")) as session:
        expected = session.run(x)
        assert session.settings == "" and session.device == ""
    gpu = StandInTorchCuda(monkeypatch)
    session = description.open(RunOptions(harness=harness))
    assert (session.device, session.place) == ("a stand-in GPU", "cuda:0")
    assert session.settings.startswith("eager, NCHW, copies timed with it, ")
    np.testing.assert_array_equal(session.run(x), expected)
    session.run_all_paths((16, 20))
    assert session.peak_memory().mib == 3 and not torch.is_inference_mode_enabled()
    assert "reset peak" in gpu.calls  # what ran before is not counted
    session.close()
    assert gpu.calls[-1] == "empty cache"
    with description.open(RunOptions(device="cpu")) as again:
        np.testing.assert_array_equal(again.run(x), expected)


def test_settings_of_torch_are_refused():
    pytest.importorskip("torch", reason="torch is not installed")
    description = describe_adaptive(AdaptiveOptions("cdnsr"))
    with pytest.raises(CannotRunHereError, match="--channels-last is not available for adaptive"):
        description.open(RunOptions(channels_last=True))


def test_a_network_that_does_not_choose_is_refused_with_the_name_of_one_that_does():
    with pytest.raises(InputError, match="'asrn_x4' is neither a router nor a gains head") as e:
        describe_adaptive(AdaptiveOptions("elastic"), "asrn_x4")
    assert e.value.hint == "did you mean 'elastic-asrn_x4'?"
