from __future__ import annotations

import dataclasses

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed; it makes the networks")

from doubles.networks import SIZES, SMALLEST, agree, network, of_different_networks  # noqa: E402

from sr_deploy.core.errors import TargetError  # noqa: E402
from sr_deploy.core.target import load_target, target_names  # noqa: E402
from sr_deploy.export import blocks  # noqa: E402
from sr_deploy.export.forms import FORMS, apply_form, default_form, list_forms  # noqa: E402
from sr_deploy.export.whole_pixels import PixelwiseNLA  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.checkpoint import load_checkpoint  # noqa: E402
from sr_deploy.nets.imdeception import BlockNLA  # noqa: E402

POINTS = [(arch, SMALLEST[arch]) for arch in ARCHITECTURES] + [
    pytest.param("imdeception", f"c{c}-nla", marks=pytest.mark.slow) for c in (8, 12, 16)
]


@pytest.mark.parametrize("arch, variant", POINTS)
def test_every_form_is_the_same_function(arch, variant):
    net = network(arch, ARCHITECTURES[arch].scales[0], variant)
    exact = network(arch, ARCHITECTURES[arch].scales[0], variant).double()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for form in list_forms(net):
        other, more_exact = apply_form(net, form)[0], apply_form(exact, form)[0]
        for hw in SIZES:
            if min(hw) >= max(ARCHITECTURES[arch].min_hw):
                agree(exact, more_exact, hw, torch.float64, 1e-9)
                agree(net, other, hw, torch.float32, 1e-5)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), (
        "the network given is left as it is"
    )


@pytest.mark.parametrize("name", [p.stem for p in of_different_networks()])
def test_shipped_networks_in_every_form(name):
    checkpoint = load_checkpoint(name)
    net = checkpoint.network()
    for form in list_forms(net):
        agree(net, apply_form(net, form)[0], (33, 40), torch.float32, 1e-5)


def test_forms_of_each_network():
    blocks = ["blocks-8", "blocks-16", "blocks-32"]
    assert list_forms(network("asrn", 4, "d2")) == ["plain", *blocks]
    assert list_forms(network("imdeception", 4, "c4-nla")) == list(FORMS)
    channels_last = {"channels-last", "channels-last-16"}
    assert set(FORMS) - set(list_forms(network("imdeception", 4, "c4"))) == channels_last
    assert list_forms(network("srn", 4, "b1")) == ["plain"]


def test_the_report_shows_the_costs_of_a_form():
    net = network("imdeception", 4, "c4")
    (done,) = apply_form(net, "dense")[1]
    assert (
        done["pass"] == "dense"
        and done["convs"][0] == done["convs"][1]
        and done["macs_per_px"][1] > done["macs_per_px"][0]
    )
    (done,) = apply_form(net, "split")[1]
    assert (
        done["convs"][1] == done["convs"][0] + 3 * 24
        and done["macs_per_px"][0] == done["macs_per_px"][1]
    )
    assert apply_form(net, "literal") == (net, [])


@pytest.mark.parametrize(
    "core, block, width, groups",
    [
        (16, 16, 64, 4),
        (8, 16, 32, 2),
        (4, 16, 16, 1),
        (12, 16, 64, 4),
        (12, 8, 64, 4),
        (4, 8, 16, 2),
    ],
)
def test_groups_take_whole_blocks(core, block, width, groups):
    layout = blocks.split_layout(core, 3 * core, block)
    assert (layout.width, layout.groups) == (width, groups)
    assert width // groups % block == 0 and len(set(layout.places.tolist())) == 4 * core
    # The deep channels that a group's convolution reads lie in its own part.
    share = 3 * core // groups
    assert all(
        int(p) // (width // groups) == j // share for j, p in enumerate(layout.places[core:])
    )


def test_no_split_and_no_concat_of_maps_is_left():
    net, _ = apply_form(network("imdeception", 4, "c8"), "blocks-16")
    with torch.no_grad():
        graph = torch.jit.trace(net, torch.rand(1, 3, 32, 32)).inlined_graph
    assert not {"aten::split_with_sizes", "aten::cat"} & {node.kind() for node in graph.nodes()}


def test_targets_name_their_form():
    cpu = load_target("cpu")
    assert (
        default_form(cpu, "imdeception", "c16-nla", "fp32") == "blocks-16"
        and default_form(cpu, "imdeception", "c12", "fp32") == "plain"
    )
    assert (
        default_form(None, "asrn", "d5", "fp32")
        == default_form(cpu, "srn", "b4", "fp32")
        == "plain"
    )
    for target in map(load_target, target_names()):
        assert set(target.forms.values()) <= set(FORMS)
    with pytest.raises(
        TargetError, match="unknown form 'blocks-17' in its forms; expected one of plain"
    ):
        default_form(dataclasses.replace(cpu, forms={"asrn": "blocks-17"}), "asrn", "d5", "fp32")


def test_a_form_can_be_for_one_precision():
    forms = {"asrn": "plain", "asrn.int8": "blocks-8", "asrn.d1": "blocks-16"}
    target = dataclasses.replace(load_target("cpu-openvino"), forms=forms)
    assert default_form(target, "asrn", "d5", "int8") == "blocks-8"
    assert default_form(target, "asrn", "d1", "bf16") == "blocks-16"
    assert default_form(target, "asrn", "d5", "bf16") == "plain"


@pytest.mark.parametrize("form", ["channels-last", "channels-last-16"])
def test_channels_last_attends_to_whole_pixels(form):
    net, _ = apply_form(network("imdeception", 4, "c4-nla"), form)
    kinds = [type(module) for module in net.modules()]
    assert kinds.count(PixelwiseNLA) == 2 and BlockNLA not in kinds
