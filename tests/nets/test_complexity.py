"""Counters compared with closed forms, numbers of the papers, and fvcore."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from doubles.networks import SMALLEST, network
from torch import nn

from sr_deploy.core.errors import InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.complexity import COUNTERS, NTIRE_HW, count

# arch, scale, variant: params, multiply-accumulates in G, activations in M, convolutions.
# None: not printed.
PRINTED = [
    ("asrn", 2, "d5", 227_715, "18.4036", "125.5670", 35),
    ("asrn", 3, "d5", 248_195, "36.4181", "147.5215", 35),
    ("asrn", 4, "d5", 244_163, "36.9424", "195.0351", 36),
    ("asrn", 4, "d1", 86_339, "26.6496", "119.5377", 12),
    ("asrn", 3, "d25", 1_037_315, None, None, None),
    ("asrn", 4, "d45", 1_822_403, None, None, None),
    ("imdeception", 4, "c16-nla", 316_552, "20.7052", "206.0452", 62),
    ("imdeception", 4, "c12", 198_236, "12.9677", "149.1599", 58),
    ("imdeception", 4, "c8", 113_352, "7.4103", "103.2847", 58),
    ("imdeception", 4, "c4", 57_124, "3.7308", "57.4095", 58),
    ("imdeception", 4, "c4-nla", 57_454, "3.7497", "60.1620", 62),
    ("srn-s", 4, "b4", 351_984, "21.9703", "63.0058", 26),
    ("srn-s", 4, "b6", 513_232, None, None, None),
    ("srn", 4, "b6", 550_160, None, None, None),
    ("srn-s", 2, "b6", 492_460, None, None, None),
    ("srn", 2, "b6", 529_388, None, None, None),
]

# As NTIRE's results.txt since 2024 prints them: params in M, FLOPs in G by fvcore, activations in
# M, convolutions. SPANV2's printed FLOPs, activations and convolutions are a slip: see test_slips.
NTIRE = {
    "rlfn": ("0.317", "19.67", "80.05", 39),
    "efdn": ("0.276", "16.70", "111.12", 65),
    "span": ("0.151", "9.83", "41.68", 22),
    "spanv2": ("0.139", "9.11", "51.38", 22),
    "dscf": ("0.126", "8.22", "38.93", 22),
}


@pytest.mark.smoke
@pytest.mark.parametrize("arch", NTIRE)
def test_baselines_of_ntire_have_the_printed_counts(arch):
    with torch.device("meta"):
        net = ARCHITECTURES[arch].build(4, ARCHITECTURES[arch].parse(None))
    counts = count(net, NTIRE_HW, counter="fvcore")
    assert NTIRE[arch] == (
        f"{counts.params / 1e6:.3f}",
        f"{counts.macs / 1e9:.2f}",
        f"{counts.acts / 1e6:.2f}",
        counts.convs,
    )


@pytest.mark.parametrize("arch, scale, variant, params, macs_g, acts_m, convs", PRINTED)
def test_counts_are_the_printed_ones(arch, scale, variant, params, macs_g, acts_m, convs):
    with torch.device("meta"):
        net = ARCHITECTURES[arch].build(scale, Variant.parse(variant))
    counts = count(net, NTIRE_HW, counter="hooks")
    assert counts.params == params
    if macs_g is not None:
        assert (f"{counts.macs / 1e9:.4f}", f"{counts.acts / 1e6:.4f}", counts.convs) == (
            macs_g,
            acts_m,
            convs,
        )


def test_every_point_that_is_published_has_printed_counts():
    printed = {(arch, variant) for arch, _, variant, *_ in PRINTED}
    # A desired depth saves nothing unless blocks are skipped.
    for arch in (a for a in ARCHITECTURES if not ARCHITECTURES[a].backbone):
        for variant in ARCHITECTURES[arch].published:
            assert (arch, variant) in printed


CLOSED = [
    # A layer on (1, 3, 10, 12): multiply-accumulates by hooks and by fvcore, and activations and
    # convolutions by both.
    (lambda: nn.Conv2d(3, 8, 3, padding=1), 120 * 8 * 27, 120 * 8 * 27, 960, 1),
    (lambda: nn.Conv2d(3, 8, 3, stride=2), 4 * 5 * 8 * 27, 4 * 5 * 8 * 27, 160, 1),
    (lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), 120 * 6 * 9, 120 * 6 * 9, 720, 1),
    (lambda: nn.ConvTranspose2d(3, 5, 2, stride=2), 480 * 5 * 4 * 3, 120 * 5 * 4 * 3, 2400, 1),
    (
        lambda: nn.ConvTranspose2d(3, 6, 3, stride=3, groups=3),
        1080 * 6 * 9,
        120 * 3 * 2 * 9,
        6480,
        1,
    ),
    (lambda: nn.Linear(12, 7), 30 * 7 * 12, 30 * 7 * 12, 0, 0),
    (lambda: nn.ReLU(), 360, 0, 0, 0),
    (lambda: nn.LeakyReLU(0.1), 360, 0, 0, 0),
    (lambda: nn.PReLU(), 360, 0, 0, 0),
    (lambda: nn.ReLU6(), 360, 0, 0, 0),
    (lambda: nn.ELU(), 360, 0, 0, 0),
    (lambda: nn.BatchNorm2d(3), 720, 720, 0, 0),
    (lambda: nn.BatchNorm2d(3, affine=False), 360, 360, 0, 0),
    (lambda: nn.Sigmoid(), 0, 0, 0, 0),
    (lambda: nn.AdaptiveAvgPool2d(1), 0, 360, 0, 0),
    (lambda: nn.AdaptiveAvgPool2d((2, 3)), 0, 360, 0, 0),
    (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), 0, 4 * 1440, 0, 0),
]


@pytest.mark.smoke
@pytest.mark.parametrize("layer, hooks, fvcore, acts, convs", CLOSED)
def test_single_layers_in_closed_form(layer, hooks, fvcore, acts, convs):
    net = layer()
    for counter, macs in (("hooks", hooks), ("fvcore", fvcore)):
        counts = count(net, (10, 12), counter=counter)
        assert (counts.macs, counts.acts, counts.convs) == (macs, acts, convs), counter
        assert counts.counter == counter
        assert counts.params == sum(p.numel() for p in net.parameters())


def fvcore_macs(net, hw):
    nn_flops = pytest.importorskip(
        "fvcore.nn", reason="fvcore is not installed: it is the oracle of the fvcore counter"
    )
    analysis = nn_flops.FlopCountAnalysis(net.eval(), torch.rand(1, 3, *hw))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return int(analysis.total())


EVERY = pytest.mark.parametrize(
    "arch, variant, scale",
    [
        (a, v, s)
        for a, v in [*SMALLEST.items(), ("imdeception", "c4")]
        # Of NTIRE's networks, the scale changes one layer.
        for s in ARCHITECTURES[a].scales[-1 if a in NTIRE else 0 :]
    ],
)


def test_every_architecture_is_compared_with_fvcore():
    assert set(SMALLEST) == set(ARCHITECTURES)


@EVERY
@pytest.mark.parametrize("hw", [(32, 32), (17, 21)])
def test_fvcore_counter_equals_fvcore(arch, variant, scale, hw):
    net = network(arch, scale, variant)
    assert count(net, hw, counter="fvcore").macs == fvcore_macs(net, hw)


@EVERY
def test_activations_and_uncounted_operators_equal_fvcore(arch, variant, scale):
    fvcore = pytest.importorskip(
        "fvcore.nn", reason="fvcore is not installed: it is the oracle of the fvcore counter"
    )
    net = network(arch, scale, variant).eval()
    ours = count(net, (32, 32), counter="fvcore")
    acts = fvcore.ActivationCountAnalysis(net, torch.rand(1, 3, 32, 32)).unsupported_ops_warnings(
        False
    )
    # Its total includes the outputs of matrix products, which NTIRE's tables do not count.
    assert ours.acts == acts.by_operator()["conv"]
    assert ours.params == fvcore.parameter_count(net)[""]
    flops = (
        fvcore.FlopCountAnalysis(net, torch.rand(1, 3, 32, 32))
        .unsupported_ops_warnings(False)
        .uncalled_modules_warnings(False)
    )
    assert flops.total() == ours.macs
    # It also lists operators that move data, and arithmetic on sizes, but not ReLU and PReLU.
    computing = {
        "aten::add",
        "aten::leaky_relu",
        "aten::max_pool2d",
        "aten::sigmoid",
        "aten::softmax",
    }
    named = {name: calls for name, calls in flops.unsupported_ops().items() if name in computing}
    assert named == {name: calls for name, calls in ours.uncounted.items() if name in computing}


@EVERY
def test_hook_counter_equals_plain_hooks(arch, variant, scale):
    """Compare with the hooks of the public counters on a real run."""
    net = network(arch, scale, variant).eval()
    ours = count(net, (32, 32), counter="hooks")
    convs, acts, macs = [], [], []

    def of_conv(module, inputs, output):
        convs.append(module)
        acts.append(output.numel())
        macs.append(output.numel() * module.weight[0].numel() if not module.transposed else None)

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(of_conv)
    with torch.no_grad():
        net(torch.rand(1, 3, 32, 32))
    assert (ours.convs, ours.acts, ours.params) == (
        len(convs),
        sum(acts),
        sum(p.numel() for p in net.parameters()),
    )
    assert ours.macs >= sum(m for m in macs if m is not None) > 0
    unseen = {name.partition("::")[2] for name in ours.uncounted} & {
        "convolution",
        "conv2d",
        "relu",
        "leaky_relu",
    }
    assert bool(unseen) == arch.startswith("ada"), (
        "modules see all but an adapter's scaled convolution"
    )


@pytest.mark.parametrize(
    "arch, variant, hooks, fvcore",
    [
        ("asrn", "d2", {"aten::add"}, {"aten::add", "aten::relu"}),
        ("imdeception", "c4", {"aten::add"}, {"aten::add", "aten::relu", "aten::leaky_relu"}),
        (
            "imdeception",
            "c4-nla",
            {"aten::add", "aten::matmul", "aten::softmax"},
            {"aten::softmax"},
        ),
        (
            "srn",
            "b1",
            {
                "aten::max_pool2d",
                "aten::upsample_bilinear2d",
                "aten::sigmoid",
                "aten::mul",
                "aten::add",
            },
            {"aten::max_pool2d"},
        ),
    ],
)
def test_uncounted_operators_of_our_networks_are_named(arch, variant, hooks, fvcore):
    net = ARCHITECTURES[arch].build(4, Variant.parse(variant))
    by_hooks, by_fvcore = (set(count(net, (32, 32), counter=c).uncounted) for c in COUNTERS)
    assert by_hooks == hooks and fvcore <= by_fvcore


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))
        self.function = function

    def forward(self, x):
        return self.function(x, self.weight)


@torch.library.custom_op("srdeploy_test::sharpen", mutates_args=())
def sharpen(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@sharpen.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.parametrize(
    "function, hooks, fvcore",
    [
        (lambda x, w: F.conv2d(x, w), {"aten::conv2d": 1}, {}),
        (lambda x, w: F.relu(F.relu(x)), {"aten::relu": 2}, {"aten::relu": 2}),
        (lambda x, w: x @ x.transpose(2, 3), {"aten::matmul": 1}, {}),
        (lambda x, w: torch.softmax(x, 1), {"aten::softmax": 1}, {"aten::softmax": 1}),
        (lambda x, w: x + x, {"aten::add": 1}, {"aten::add": 1}),
        (lambda x, w: sharpen(x), {"srdeploy_test::sharpen": 1}, {"srdeploy_test::sharpen": 1}),
        (
            lambda x, w: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2).permute(0, 2, 3, 1).contiguous(),
            {},
            {},
        ),
    ],
    ids=["conv2d", "relu", "matmul", "softmax", "add", "custom", "moves"],
)
def test_uncounted_operators_are_named(function, hooks, fvcore):
    net = Functional(function)
    assert count(net, (8, 8), counter="hooks").uncounted == hooks
    assert count(net, (8, 8), counter="fvcore").uncounted == fvcore


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: F.conv2d(x, w, groups=1, stride=2),
        lambda x, w: F.conv_transpose2d(x, w.transpose(0, 1)),
        lambda x, w: x @ x.transpose(2, 3),
        lambda x, w: torch.einsum("nchw,ndhw->ncd", x, x),
        lambda x, w: F.linear(x, w.flatten()[:8].view(1, 8)),
        lambda x, w: F.layer_norm(x, (8,)),
        lambda x, w: F.group_norm(x, 3),
        lambda x, w: F.interpolate(x, scale_factor=2, mode="nearest"),
        lambda x, w: F.interpolate(x, size=(5, 9), mode="bilinear"),
        lambda x, w: F.adaptive_avg_pool2d(x, (2, 2)),
        lambda x, w: F.adaptive_avg_pool2d(x, 1),
        lambda x, w: x.mean((2, 3), keepdim=True),
    ],
    ids=[
        "conv",
        "deconv",
        "matmul",
        "einsum",
        "linear",
        "layer_norm",
        "group_norm",
        "nearest",
        "bilinear",
        "pool2",
        "pool1",
        "mean",
    ],
)
def test_fvcore_counter_equals_fvcore_on_functional_operators(function):
    net = Functional(function)
    assert count(net, (8, 8), counter="fvcore").macs == fvcore_macs(net, (8, 8))


def test_attention_matrix_products_are_named_by_hooks_and_counted_by_fvcore():
    net = ARCHITECTURES["imdeception"].build(4, Variant.parse("c4-nla"))
    hooks, fvcore = (count(net, (64, 32), counter=c) for c in COUNTERS)
    assert hooks.uncounted["aten::matmul"] == 4
    assert "aten::matmul" not in fvcore.uncounted
    # Two attentions, two products, two windows of 64 tokens of 16*d = 48 values.
    products = 2 * 2 * (2 * 64 * 64 * 48)
    without = fvcore.macs - products
    activations = hooks.macs - without
    assert 0 < activations < 0.05 * without


@EVERY
@pytest.mark.parametrize("counter", COUNTERS)
def test_inference_mode_changes_no_count(arch, variant, scale, counter):
    net = network(arch, scale, variant)
    expected = count(net, (32, 32), counter=counter)
    with torch.inference_mode():
        assert count(net, (32, 32), counter=counter) == expected
        built_inside = network(arch, scale, variant)
        assert count(built_inside, (32, 32), counter=counter) == expected
    assert count(built_inside, (32, 32), counter=counter) == expected
    assert expected.macs > 0


def test_counting_does_not_change_the_network():
    net = ARCHITECTURES["asrn"].build(2, Variant("d", 1)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    count(net, (8, 8), counter="hooks")
    assert net.training and not any(m._forward_hooks for m in net.modules())
    assert all(
        v.device.type == "cpu" and torch.equal(v, before[k]) for k, v in net.state_dict().items()
    )


def test_unknown_counter():
    with pytest.raises(InputError, match="unknown counter 'thop'; expected hooks or fvcore"):
        count(nn.Identity(), (8, 8), counter="thop")


class Applied(nn.Module):
    """A function of an image, x: (1, 3, 10, 12), and of parameters of given shapes."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.weights = nn.ParameterList([torch.ones(shape) for shape in shapes])
        self.function = function

    def forward(self, x):
        return self.function(x, *self.weights)


# fvcore's own count, and the products that it misses, by operator.
FVCORE = {
    "same": (nn.Conv2d(3, 8, 3, padding="same"), 0, {"_convolution_mode": 25920}),
    "valid": (nn.Conv2d(3, 8, 3, padding="valid"), 0, {"_convolution_mode": 17280}),
    "depthwise same": (
        nn.Conv2d(3, 6, 3, groups=3, padding="same"),
        0,
        {"_convolution_mode": 6480},
    ),
    "reflected same": (
        nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect"),
        25920,
        {},
    ),
    "1d same": (
        Applied(lambda x, w: F.conv1d(x.flatten(2), w, padding="same"), (5, 3, 3)),
        0,
        {"_convolution_mode": 5400},
    ),
    "3d": (Applied(lambda x, w: F.conv3d(x[None], w, padding=1), (5, 1, 3, 3, 3)), None, {}),
    "unbatched": (Applied(lambda x, w: F.conv2d(x[0], w, padding=1), (4, 3, 3, 3)), 12960, {}),
    "matmul": (Applied(lambda x, w: x @ w, (12, 5)), 1800, {}),
    "matmul, broadcast": (Applied(lambda x, w: w @ x, (10, 10)), 1200, {"matmul": 2400}),
    "baddbmm": (
        Applied(lambda x, w: torch.baddbmm(x[0, :, :, :5], x[0], w), (3, 12, 5)),
        0,
        {"baddbmm": 1800},
    ),
    "einsum": (Applied(lambda x, w: torch.einsum("bchw,cd->bdhw", x, w), (3, 5)), 1800, {}),
    "einsum of three": (
        Applied(lambda x, w, v: torch.einsum("bchw,cd,de->behw", x, w, v), (3, 5), (5, 2)),
        750,
        {"einsum": 2250},
    ),
    "einsum without products": (
        Applied(lambda x: torch.einsum("bchw,bchw->bchw", x, x)),
        180,
        {},
    ),
    "attention": (
        Applied(lambda x: F.scaled_dot_product_attention(x, x, x)),
        0,
        {"scaled_dot_product_attention": 7200},
    ),
    "instance norm": (nn.InstanceNorm2d(3, affine=True), 1800, {}),
    "batch norm by its own batch": (nn.BatchNorm2d(3, track_running_stats=False), 1800, {}),
    "layer norm": (nn.LayerNorm(12, elementwise_affine=False), 1440, {}),
    "group norm": (nn.GroupNorm(3, 3), 1800, {}),
    "grid": (Applied(lambda x, w: F.grid_sample(x, w, align_corners=False), (1, 5, 6, 2)), 360, {}),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), 0, {}),
    "nearest": (nn.Upsample(scale_factor=2), 1440, {}),
    "area": (Applied(lambda x: F.interpolate(x, size=(5, 6), mode="area")), 360, {}),
    "pooling 1d": (Applied(lambda x: F.adaptive_avg_pool1d(x.flatten(2), 2)), 0, {}),
    "lstm": (
        Applied(
            lambda x, *w: torch.lstm(
                x[0], (x[0, :1, :3, :5] * 0,) * 2, list(w), True, 1, 0.0, False, False, True
            )[0],
            (20, 12),
            (20, 5),
            (20,),
            (20,),
        ),
        0,
        {"lstm": 10200},
    ),
}


@pytest.mark.parametrize("name", FVCORE)
def test_fvcores_number_is_given_beside_what_it_misses(name):
    net, fvcore, missing = FVCORE[name]
    counts = count(net, (10, 12), counter="fvcore")
    fvcore = counts.macs if fvcore is None else fvcore
    assert (counts.macs, counts.uncounted_macs) == (
        fvcore,
        {f"aten::{operator}": macs for operator, macs in missing.items()},
    )
    assert set(counts.uncounted_macs) <= set(counts.uncounted)
    if importlib.util.find_spec("fvcore") is not None:
        assert fvcore_macs(net, (10, 12)) == fvcore


def test_convolutions_with_a_text_as_padding_are_activations_and_convolutions():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.Conv2d(4, 4, 1))
    by_hooks, by_fvcore = (count(net, (10, 12), counter=c) for c in COUNTERS)
    assert (by_hooks.acts, by_hooks.convs) == (by_fvcore.acts, by_fvcore.convs) == (960, 2)
    assert by_hooks.macs == by_fvcore.macs + sum(by_fvcore.uncounted_macs.values())
    assert by_hooks.uncounted_macs == {}
