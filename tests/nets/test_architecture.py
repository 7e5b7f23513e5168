"""The contract of every registered network."""

import functools

import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError, VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.architecture import ElasticNetwork
from sr_deploy.nets.checkpoint import Checkpoint
from sr_deploy.runtime.torch_module import TorchSession

ARCH_AND_SCALE = [(name, scale) for name in ARCHITECTURES for scale in ARCHITECTURES[name].scales]

# Desired depths share all weights, so the published ones are enough.
DESIRED_DEPTH = [name for name in ARCHITECTURES if ARCHITECTURES[name].backbone]
ARCH_AND_POINT = [
    (a, p)
    for a in ARCHITECTURES
    for p in (
        ARCHITECTURES[a].published
        if a in DESIRED_DEPTH
        else ARCHITECTURES[a].points(ARCHITECTURES[a].parse(None))
    )
]

# Slices with fewer weights than the largest network.
ELASTIC = [
    (a, p)
    for a, p in ARCH_AND_POINT
    if p != ARCHITECTURES[a].default_variant and a not in DESIRED_DEPTH
]


@functools.lru_cache(maxsize=None)
def super_network(name):
    torch.manual_seed(2)
    return ElasticNetwork(ARCHITECTURES[name], 2, ARCHITECTURES[name].parse(None)).eval()


@pytest.mark.parametrize("name, scale", ARCH_AND_SCALE)
def test_runs_on_its_smallest_legal_size(name, scale):
    architecture = ARCHITECTURES[name]
    variant = Variant.parse(architecture.points(architecture.parse(None))[0])
    net = architecture.build(scale, variant)
    h, w = architecture.min_hw
    with torch.no_grad():
        y = net(torch.rand(2, 3, h, w + 2))
    assert y.shape == (2, 3, scale * h, scale * (w + 2))
    assert y.isfinite().all()
    assert not net.training


@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if ARCHITECTURES[n].min_hw != (1, 1)])
@pytest.mark.parametrize("smaller", [(1, 0), (0, 1)])
def test_smaller_sizes_are_refused(name, smaller):
    architecture = ARCHITECTURES[name]
    h, w = (n - d for n, d in zip(architecture.min_hw, smaller))
    net = architecture.build(4, architecture.parse(None))
    session = TorchSession(net, scale=4, min_hw=architecture.min_hw)
    with pytest.raises(
        InputError,
        match=f"{h}x{w} pixels is too small.*{architecture.min_hw[0]}x{architecture.min_hw[1]}",
    ):
        session.run(torch.rand(1, 3, h, w).numpy())


@pytest.mark.parametrize("name, point", ARCH_AND_POINT)
def test_sliced_network_equals_the_super_network_and_holds_only_its_own_weights(name, point):
    architecture = ARCHITECTURES[name]
    largest = architecture.parse(None)
    elastic = super_network(name)
    checkpoint = Checkpoint(
        "net", architecture.spec(2, largest, elastic=True), elastic.net.state_dict()
    )
    net = checkpoint.network(point)
    x = torch.rand(1, 3, max(architecture.min_hw[0], 5), max(architecture.min_hw[1], 7))
    with torch.no_grad():
        torch.testing.assert_close(net(x), elastic(x, point), rtol=0, atol=1e-6)
    own = architecture.build(2, Variant.parse(point)).state_dict()
    assert {k: v.shape for k, v in net.state_dict().items()} == {k: v.shape for k, v in own.items()}
    stored = sum(v.untyped_storage().nbytes() for v in net.state_dict().values())
    assert stored == sum(v.element_size() * v.numel() for v in own.values()), (
        "a slice keeps the large network's memory alive"
    )
    before = {k: v.detach().clone() for k, v in elastic.net.named_parameters()}
    with torch.no_grad():
        for value in net.parameters():
            value.add_(1)
    assert all(torch.equal(v, before[k]) for k, v in elastic.net.named_parameters()), (
        "a slice shares memory with the checkpoint"
    )


@pytest.mark.parametrize("name, point", ARCH_AND_POINT)
def test_size_of_reads_the_variant_from_a_state_dict(name, point):
    with torch.device("meta"):
        weights = ARCHITECTURES[name].build(2, Variant.parse(point)).state_dict()
        found = ARCHITECTURES[name].build(2, ARCHITECTURES[name].size_of(weights)).state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in weights.items()}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_points_and_published_points_are_variants_of_it(name):
    architecture = ARCHITECTURES[name]
    points = architecture.points(architecture.parse(None))
    assert points[-1] == architecture.default_variant
    assert set(architecture.published) <= set(points)
    assert [str(architecture.parse(p)) for p in points] == list(points)
    assert architecture.name == name


@pytest.mark.parametrize("name, point", ELASTIC)
def test_every_point_trains_the_weights_it_uses(name, point):
    elastic = super_network(name)
    elastic.zero_grad(set_to_none=True)
    elastic(torch.rand(1, 3, 9, 8), point).sum().backward()
    reached = sum(int((p.grad != 0).sum()) for p in elastic.net.parameters() if p.grad is not None)
    own = sum(p.numel() for p in ARCHITECTURES[name].build(2, Variant.parse(point)).parameters())
    assert 0.5 * own < reached <= own


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_unknown_scale_variant_and_configuration_are_refused(name):
    architecture = ARCHITECTURES[name]
    variant = architecture.parse(None)
    with pytest.raises(InputError, match="does not support scale x7; expected one of x"):
        architecture.build(7, variant)
    with pytest.raises(VariantError, match="'z3' is not a variant"):
        architecture.parse("z3")
    with pytest.raises(VariantError, match="is not a variant"):
        architecture.parse(architecture.default_variant + "-quick")
    with pytest.raises(CheckpointError, match="unknown configuration key 'speed'"):
        architecture.build(architecture.scales[0], variant, {"speed": 1})


@pytest.mark.parametrize("text", ["c16-nla-nla", "c5", "c20", "c6-nla"])
def test_imdeception_has_no_other_cores(text):
    with pytest.raises(VariantError, match="variant"):
        ARCHITECTURES["imdeception"].parse(text)


def reach_px(net, hw, at, scale):
    """Return how far the output of the LR pixel `at` depends on its surroundings, in LR pixels.

    (up, left, down, right)
    """
    net = net.double()
    x = torch.rand(1, 3, *hw, dtype=torch.float64, requires_grad=True)
    r, c = at
    cell = net(x)[:, :, scale * r : scale * (r + 1), scale * c : scale * (c + 1)]
    (cell * torch.randn_like(cell)).sum().backward()
    rows, columns = (x.grad[0].abs().sum((0, dim)).nonzero().flatten() for dim in (2, 1))
    return r - int(rows[0]), c - int(columns[0]), int(rows[-1]) - r, int(columns[-1]) - c


@pytest.mark.parametrize(
    "name, variant, scale",
    [("asrn", f"d{n}", scale) for n in range(1, 6) for scale in (2, 3, 4) if n < 3 or scale == 2]
    + [
        ("edsr", "b1", 2),
        ("edsr", "b2", 3),
        ("edsr", "b1", 4),
        ("imdeception", "c4", 2),
        ("imdeception", "c8", 3),
    ]
    + [("fsrcnn", "w4", 2), ("span", "w4", 3), ("spanv2", "w4", 2), ("dscf", "w4", 4)],
)
def test_the_halo_is_the_exact_reach_of_an_output_pixel(name, variant, scale):
    architecture = ARCHITECTURES[name]
    halo = architecture.halo_px(Variant.parse(variant))
    net = architecture.build(
        scale, Variant.parse(variant), {"channels": 8} if name == "edsr" else None
    )
    side = 2 * halo + 5
    assert reach_px(net, (side, side), (halo + 2, halo + 2), scale) == (halo,) * 4
    assert architecture.align_px(Variant.parse(variant)) == 1


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name, variant", [("fsrcnn", "w4"), ("carn-m", "w4"), ("msrresnet", "w2")])
def test_halo_of_the_branches_of_a_router_is_enough_at_every_scale(name, variant, scale):
    halo = ARCHITECTURES[name].halo_px(Variant.parse(variant))
    net = ARCHITECTURES[name].build(scale, Variant.parse(variant))
    x = torch.rand(1, 3, 3, 2 * halo + 9)
    x[..., halo + 4] = torch.nan  # not gradients: few channels, whose ReLUs would stop them
    with torch.no_grad():
        touched = net(x).isnan().any(2).any(1)[0].nonzero().flatten() // scale
    reach = max(halo + 4 - int(touched[0]), int(touched[-1]) - (halo + 4))
    assert reach <= halo <= reach + 1


@pytest.mark.parametrize(
    "name, variant",
    [("asrn", "d2"), ("edsr", "b1"), ("imdeception", "c4"), ("span", "w4"), ("dscf", "w4")],
)
def test_a_changed_pixel_changes_nothing_beyond_the_halo(name, variant):
    halo = ARCHITECTURES[name].halo_px(Variant.parse(variant))
    net = (
        ARCHITECTURES[name]
        .build(2, Variant.parse(variant), {"channels": 8} if name == "edsr" else None)
        .double()
    )
    x = torch.rand(1, 3, 5, 2 * halo + 9, dtype=torch.float64)
    changed = x.clone()
    changed[..., halo + 4] = torch.nan
    with torch.no_grad():
        touched = net(changed).isnan().any(2).any(1)[0].nonzero().flatten()
    assert (int(touched[0]) // 2, int(touched[-1]) // 2) == (4, 2 * halo + 4)


def test_architectures_with_global_pooling_or_resizing_have_no_halo():
    # SRN's attention is resized from a sixth of the size: its samples depend on the image's size.
    assert ARCHITECTURES["srn"].halo_px(Variant("b", 4)) is None
    assert all(
        ARCHITECTURES[n].halo_px(ARCHITECTURES[n].parse(None)) is None for n in ("rlfn", "efdn")
    )


@pytest.mark.parametrize("axis", [2, 3])
def test_attention_tiles_on_windows_are_exact_inside_the_halo_and_not_a_pixel_further(axis):
    architecture, variant = ARCHITECTURES["imdeception"], Variant.parse("c4-nla")
    halo, align = architecture.halo_px(variant), architecture.align_px(variant)
    net = architecture.build(2, variant).double()
    x = torch.rand(1, 3, 4, 9 * align + 5, dtype=torch.float64)
    start, end = 2 * align, 8 * align
    x[..., :start] = x[..., end:] = torch.nan  # all that depends on the outside becomes NaN
    with torch.no_grad():
        whole = net(x if axis == 3 else x.transpose(2, 3).contiguous())
    finite = whole.isfinite()
    inside = finite.narrow(axis, 2 * (start + halo), 2 * (end - start - 2 * halo))
    assert inside.all(), "inside the halo the tile still depends on its surroundings"
    assert (
        not finite.select(axis, 2 * (start + halo) - 1).any()
        and not finite.select(axis, 2 * (end - halo)).any()
    ), "it is too large"
