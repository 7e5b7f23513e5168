import json
import re
from dataclasses import replace

import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError
from sr_deploy.core.routers import RouterSpec
from sr_deploy.nets.mobilenetv2 import MobileNetV2
from sr_deploy.nets.router import ModuleCL, load_router, save_router

SPEC = RouterSpec(
    scale=4,
    models=("a", "b", "c"),
    variants=("w16", "w36", "w56"),
    weights_sha256s=("0", "1", "2"),
    macs=(1, 2, 3),
    router_macs=1,
)


def macs(convs):
    """Multiply-accumulates on a patch of 32x32, with biases and activations, as in the paper."""
    first, between, last = 64 * 128 * 48, 64 * 128 * 128, 64 * 128 * 32
    biases_and_activations = 64 * 2 * 128 * (convs - 1) + 64 * 32
    return first + (convs - 2) * between + last + biases_and_activations + 32 * 3 + 3


def test_parameters_and_flops_of_module_cl():
    assert sum(p.numel() for p in ModuleCL().parameters()) == 60_035
    printed = {
        3: 1.739,
        4: 2.804,
        5: 3.869,
    }  # Table III, whose number for 6 convolutions, 5.934, is one million too large
    assert {convs: round(macs(convs) / 1e6, 3) for convs in printed} == printed


def test_it_tells_classes_of_any_number_and_patches_of_any_size_from_4x4():
    net = ModuleCL(classes=5, convs=3)
    for h, w in ((4, 4), (32, 32), (7, 9)):
        assert net(torch.rand(2, 3, h, w)).shape == (2, 5)


def saved(folder, spec=SPEC, net=None):
    torch.manual_seed(0)
    return save_router(folder, "r_x4", spec, (net or ModuleCL()).state_dict())


def test_a_saved_router_is_loaded(tmp_path):
    path = saved(tmp_path)
    assert path.name == "r_x4.router.safetensors"
    router = load_router(path)
    assert router.name == "r_x4" and replace(router.spec, weights_sha256="") == SPEC
    assert load_router(tmp_path / "r_x4.router.json").spec == router.spec
    assert [b.variant for b in router.spec.branches] == ["w16", "w36", "w56"]
    torch.manual_seed(0)
    net = ModuleCL()
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(router.network()(x), net(x))


def test_mobilenetv2_is_loaded_with_its_running_means(tmp_path):
    net = MobileNetV2()
    x = torch.rand(4, 3, 32, 32)
    net(x)  # in training mode
    path = saved(tmp_path, replace(SPEC, config={"network": "mobilenetv2"}), net)
    router = load_router(path).network()
    torch.testing.assert_close(router(x), net.eval()(x))


def test_a_router_for_another_number_of_classes(tmp_path):
    two = replace(
        SPEC, models=("a", "b"), variants=("w1", "w2"), weights_sha256s=("0", "1"), macs=(1, 2)
    )
    with pytest.raises(CheckpointError, match="predicts 3 classes, but its card names 2 branches"):
        load_router(saved(tmp_path, two))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"config": {"convs": 1}}, "'convs' of a router must be an integer from 2 to 100, got 1"),
        ({"config": {"hidden": 32}}, "takes cells of 32x32 without blending"),
        ({"config": {"depth": 1}}, "unknown configuration key 'depth'"),
        ({"config": {"network": "vgg"}}, "must be mobilenetv2 and the only key, got .*'vgg'"),
        ({"config": {"network": "mobilenetv2", "convs": 5}}, "mobilenetv2 and the only key"),
        (
            {"config": {"network": "mobilenetv2"}, "blend": "none", "overlap": 0},
            "mobilenetv2 takes patches that are blended",
        ),
        ({"config": {"network": "mobilenetv2"}}, "does not fit its network"),
        ({"config": {"convs": 4}}, "does not fit its network"),
        ({"weights_sha256": "0"}, "does not match its card"),
    ],
)
def test_cards_that_cannot_be(tmp_path, change, message):
    path = saved(tmp_path)
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_router(path)


def test_unknown_and_missing_routers(tmp_path):
    with pytest.raises(InputError, match="'asrn_x4' is not a router"):
        load_router("asrn_x4")
    with pytest.raises(
        InputError, match="there is no router " + re.escape(str(tmp_path / "no.router.safetensors"))
    ):
        load_router(tmp_path / "no.router.safetensors")
    path = saved(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match="has no card"):
        load_router(path)
