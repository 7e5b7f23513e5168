"""Recounts of what papers print."""

from __future__ import annotations

import pytest

from sr_deploy.results.slips import SLIPS, slips_in, slips_of


def text_of(paper, place):
    (text,) = [s.text for s in SLIPS if s.paper == paper and s.text.startswith(place)]
    return text


def net(arch, scale, variant, config=None):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES

    with torch.device("meta"):
        return ARCHITECTURES[arch].build(scale, Variant.parse(variant), config or {})


def counted(network, hw, counter):
    from sr_deploy.nets.complexity import count

    return count(network, hw, counter=counter)


def test_every_slip_is_about_a_paper_and_networks():
    nets = pytest.importorskip("sr_deploy.nets", reason="torch is not installed")
    assert {name for slip in SLIPS for name in slip.architectures} <= set(nets.ARCHITECTURES)
    assert {slip.paper for slip in slips_in({"ASRN"})} == {"ASRN"}
    assert [slip.paper for slip in slips_of("imdeception")] == ["IMDeception"]
    assert slips_of("srn") == []


def test_asrns_flops():
    macs = [counted(net("asrn", 4, v), (256, 256), "fvcore").macs / 1e9 for v in ("d5", "d25")]
    assert "{:.1f} G and {:.1f} G (fvcore)".format(*macs) in text_of("ASRN", "Table 7")


def test_imdeceptions_activations():
    acts = counted(net("imdeception", 4, "c4-nla"), (256, 256), "hooks").acts
    assert f"they are {acts / 1e6:.1f} M" in text_of("IMDeception", "Table 2")


def test_cdnsrs_flops():
    """Of Module-CL, the paper counts multiply-accumulates, biases and activations."""
    router = pytest.importorskip("sr_deploy.nets.router", reason="torch is not installed")
    flops = {}
    for convs in (5, 6):
        macs = counted(router.ModuleCL(convs=convs), (32, 32), "hooks").macs
        flops[convs] = (macs + (convs - 1) * 64 * 128 + 64 * 32 + 3) / 1e6
    assert f"{flops[5]:.3f}" == "3.869"  # as printed
    assert f"they are {flops[6]:.3f} M" in text_of("CDNSR", "Table III")
    assert f"they are {119 / 468:.0%} and {360 / 468:.0%}".replace("%", " %") in text_of(
        "CDNSR", "Table I prints"
    )


def test_adadsrs_pixels():
    implied = []
    for scale, printed_g in ((2, 1338.8), (3, 699.1), (4, 501.9)):
        edsr = net("edsr-original", scale, "b32", {"channels": 256})
        implied.append(printed_g * 1e9 / (counted(edsr, (32, 32), "fvcore").macs / 1024))
    assert "imply {:,.0f}, {:,.0f} and {:,.0f} LR pixels".format(*implied) in text_of(
        "AdaDSR", "Table 2"
    )


def test_spanv2s_counts():
    text = text_of("NTIRE 2026", "results.txt")
    spanv2 = net("spanv2", 4, "w32")
    counts = counted(spanv2, (256, 256), "fvcore")
    assert f"{counts.macs / 1e9:.2f} G, {counts.acts / 1e6:.2f} M and {counts.convs}" in text
    seen = [spanv2.first, spanv2.near, spanv2.depthwise, spanv2.pointwise]
    macs = 256 * 256 * sum(p.numel() for layer in seen for p in layer.parameters())
    guides = [block.guide.out_channels for block in spanv2.blocks]
    acts, convs = counts.acts - 256 * 256 * sum(guides), counts.convs - len(guides)
    assert f"{macs / 1e9:.2f} G FLOPs, {acts / 1e6:.2f} M activations and {convs}" in text
