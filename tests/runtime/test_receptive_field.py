from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.core.session import SizeContract
from sr_deploy.runtime.receptive_field import measure_field
from tests.tiny_sessions import Blur, Unshuffled, Whole, Windows, box

AGES_S = 1e6
"""So that a busy machine changes nothing."""


def doubled(function):
    """Return the x2 network of a function of (1, 3, H, W)."""

    def run(x):
        assert x.dtype == np.float32 and x.flags.c_contiguous
        return function(x).repeat(2, axis=2).repeat(2, axis=3).astype(np.float32)

    return run


def measured(function, budget_s=AGES_S, **sizes):
    return measure_field(doubled(function), scale=2, sizes=SizeContract(**sizes), budget_s=budget_s)


def windows(height, width):
    """Return a network whose pixels depend on their window, which starts at the image's corner."""

    def run(x):
        h, w = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (0, -h % height), (0, -w % width)))
        cells = padded.reshape(
            1, 3, padded.shape[2] // height, height, padded.shape[3] // width, width
        )
        means = np.broadcast_to(cells.mean(axis=(3, 5), keepdims=True), cells.shape)
        return (x + means.reshape(padded.shape)[:, :, :h, :w]).astype(np.float32)

    return run


def padded_to_eights(x):
    h, w = x.shape[2:]
    return box(np.pad(x, ((0, 0), (0, 0), (0, -h % 8), (0, -w % 8)), mode="edge"), 3)[:, :, :h, :w]


def closed_relu(x):
    return np.maximum(box(x, 4) - np.float32(0.62), 0)


def faint(x):
    return x + np.float32(1e-9) * box(x, 5)


def far(weight):
    """Return a network whose pixels depend on those 150 to the left and above."""

    def run(x):
        y = x.copy()
        y[:, :, 150:] += np.float32(weight) * x[:, :, :-150]
        y[:, :, :, 150:] += np.float32(weight) * x[:, :, :, :-150]
        return y

    return run


def eight_bits(x):
    return np.rint(box(x, 2) * 255) / np.float32(255)


def half(x):
    with np.errstate(over="ignore"):
        return box(x, 2).astype(np.float16)


@pytest.mark.parametrize(
    "function, sizes, halo, align",
    [
        (lambda x: x * 2, {}, 0, 1),
        (np.zeros_like, {}, 0, 1),
        (Blur().network, {}, 3, 1),
        (Blur().network, {"min_hw": (20, 9)}, 3, 1),
        (Blur().network, {"max_hw": (24, 500)}, 3, 1),
        (Blur().network, {"min_hw": (24, 32), "max_hw": (24, 32)}, 3, 1),
        (Blur().network, {"min_hw": (24, 1), "max_hw": (24, 500)}, 3, 1),
        (Blur().network, {"multiple": 4}, 3, 4),
        (Windows().network, {}, 10, 8),
        (Windows().network, {"min_hw": (64, 64), "max_hw": (64, 64)}, 10, 8),
        (windows(8, 12), {}, 0, 24),
        (windows(5, 1), {}, 0, 5),
        (Unshuffled().network, {"multiple": 4}, 4, 4),
        (padded_to_eights, {}, 3, 8),
        (lambda x: box(x, 40), {}, 40, 1),
        (far(0.1), {}, 150, 1),
        (far(1e-6), {}, 112, 1),
        (closed_relu, {}, 4, 1),
        (faint, {}, 5, 1),
        (eight_bits, {}, 2, 1),
        (half, {}, 2, 1),
    ],
)
def test_halo_and_alignment_are_found(function, sizes, halo, align):
    report = measured(function, **sizes)
    assert (report.halo_px, report.align_px) == (halo, align), report
    assert report.exact and report.difference < 1e-2 and "measured at" in str(report)


@pytest.mark.parametrize(
    "function, sizes, words",
    [
        (Whole().network, {}, "outputs depend on the whole image"),
        (Blur().network, {"min_hw": (6, 6), "max_hw": (6, 6)}, "at 6x6, its largest size"),
        (
            Windows().network,
            {"min_hw": (32, 32), "max_hw": (32, 32)},
            "too little to compare",
        ),
        (
            lambda x: x + np.linspace(0, 1, x.shape[3], dtype=np.float32),
            {},
            "differ from the whole image, by .* of the range, wherever they start",
        ),
        (lambda x: x + np.random.random(x.shape), {}, "two runs of the same image differ"),
        (lambda x: x[:, :, 1:], {}, r"at 64x64 the output is \(1, 3, 126, 128\), expected"),
        (lambda x: x * np.float32(np.nan), {}, "at 64x64 outputs are not finite"),
        (lambda x: {}[""], {}, "it does not run at 64x64: ''"),
    ],
)
def test_without_a_measure_the_reason_is_told(function, sizes, words):
    report = measured(function, **sizes)
    assert report.halo_px is None and not report.exact
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(str(report))


def test_what_is_left_out_is_told():
    assert "thousandth of an 8-bit step" in str(measured(far(1e-6)))


def test_time_runs_out_with_a_word():
    assert "more than 0 s would be needed" in str(measured(Blur().network, budget_s=0))


def test_networks_are_run_at_sizes_that_they_take_only():
    def picky(x):
        h, w = x.shape[2:]
        assert h % 6 == w % 6 == 0 and 18 <= min(h, w) and max(h, w) <= 96
        return box(x, 2)

    report = measured(picky, min_hw=(13, 13), max_hw=(98, 98), multiple=6)
    assert (report.halo_px, report.align_px) == (2, 6), report


@pytest.mark.parametrize("name, variant", [("edsr", "b1"), ("imdeception", "c4-nla")])
def test_networks_of_known_fields(name, variant):
    torch = pytest.importorskip("torch")
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES

    torch.manual_seed(0)
    architecture, variant = ARCHITECTURES[name], Variant.parse(variant)
    net = architecture.build(2, variant, {"channels": 8} if name == "edsr" else None)

    @torch.no_grad()
    def run(x):
        return net(torch.from_numpy(x)).numpy()

    report = measure_field(run, scale=2, sizes=SizeContract(), budget_s=AGES_S)
    halo = architecture.halo_px(variant)
    assert halo - 2 <= report.halo_px <= halo  # whether the farthest changes a bit is chance
    assert report.align_px == architecture.align_px(variant)
