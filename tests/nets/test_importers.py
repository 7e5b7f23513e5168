import math
import os

import numpy as np
import pytest
import torch

from sr_deploy.bench.evaluate import evaluate, image_set
from sr_deploy.core.errors import CheckpointError, InputError, VariantError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.nets.importers import checkpoint_from_file, fold_value_range
from sr_deploy.nets.weight_files import read_weights
from sr_deploy.runtime.torch_module import TorchSession


def weights_of(arch="asrn", scale=3, variant="d2"):
    return ARCHITECTURES[arch].build(scale, Variant.parse(variant)).state_dict()


@pytest.fixture(scope="module")
def imdeception(shared_dir, tmp_path_factory):
    file = shared_dir / "weights" / "imdeception_x4_team19.pth"
    return checkpoint_from_file(
        "imdeception-ntire2022", file, tmp_path_factory.mktemp("imdeception")
    )


@pytest.fixture(scope="module")
def srn(shared_dir, tmp_path_factory):
    return checkpoint_from_file(
        "srn-ntire2023", shared_dir / "weights" / "srn_x4_team25.pt", tmp_path_factory.mktemp("srn")
    )


# kind: file, PSNR on Y of Set5 (measured), variant, parameters.
NTIRE = {
    "span-ntire2026": ("span_x4_ntire2026.pth", 31.739, "w28", 150_688),
    "spanv2-ntire2026": ("spanv2_x4_ntire2026.pth", 31.768, "w32", 139_104),
    "dscf-ntire2026": ("dscf_x4_ntire2026.pth", 31.740, "w26", 125_992),
    "efdn-ntire2025": ("efdn_x4_ntire2025.pth", 32.076, "w48", 276_192),
}


@pytest.mark.parametrize("kind", NTIRE)
def test_official_weights_of_ntire(kind, shared_dir, tmp_path):
    file, psnr, variant, params = NTIRE[kind]
    path = checkpoint_from_file(kind, shared_dir / "weights" / file, tmp_path).path
    checkpoint = load_checkpoint(path)
    assert (checkpoint.name, checkpoint.spec.variants) == (f"{kind}_x4", (variant,))
    assert sum(v.numel() for v in checkpoint.weights.values()) == params
    assert checkpoint.spec.licence == "MIT" and checkpoint.spec.trained_on
    session = TorchSession(checkpoint.network(), scale=4, min_hw=checkpoint.spec.min_hw)
    quality = evaluate(session, image_set(str(shared_dir / "data" / "Set5" / "HR")), metric="y")
    assert quality.psnr_db == pytest.approx(psnr, abs=1e-3)


def test_imdeception_reproduces_the_official_output(imdeception, shared_dir):
    with np.load(shared_dir / "weights" / "imdeception_x4_io.npz") as io:
        x, official = io["input"], io["output"]
    y = TorchSession(imdeception.network(), scale=4).run(x)
    # The reference's FP32 output differs from a float64 run by 1.29e-5. Our rounding, which depends
    # on the number of threads, adds to that.
    np.testing.assert_allclose(y, official, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("which, psnr", [("imdeception", 32.137), ("srn", 32.048)])
def test_official_weights_reach_their_published_psnr(which, psnr, shared_dir, request):
    checkpoint = request.getfixturevalue(which)
    session = TorchSession(checkpoint.network(), scale=4, min_hw=checkpoint.spec.min_hw)
    quality = evaluate(session, image_set(str(shared_dir / "data" / "Set5" / "HR")), metric="y")
    assert quality.psnr_db == pytest.approx(psnr, abs=1e-3)
    assert (quality.set, quality.border_px, len(quality.images)) == ("Set5", 4, 5)


@pytest.mark.parametrize(
    "which, name, variant, params",
    [
        ("imdeception", "imdeception-ntire2022_x4", "c16-nla", 316_552),
        ("srn", "srn-ntire2023_x4", "b4", 351_984),
    ],
)
def test_official_weights_become_a_checkpoint_of_ours(which, name, variant, params, request):
    checkpoint = load_checkpoint(request.getfixturevalue(which).path)
    assert (checkpoint.name, checkpoint.spec.variants) == (name, (variant,))
    assert sum(v.numel() for v in checkpoint.weights.values()) == params
    assert (
        checkpoint.spec.licence == "MIT"
        and checkpoint.spec.trained_on
        and checkpoint.spec.weights_sha256
    )
    with pytest.raises(VariantError, match=f"it has {variant}"):
        checkpoint.network("c4" if which == "imdeception" else "b2")


@pytest.mark.parametrize("arch", ["srn", "srn-s"])
def test_folding_the_value_range_is_the_same_function(arch):
    net = ARCHITECTURES[arch].build(2, Variant("b", 1)).double()
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    wanted = net(255 * x) / 255
    net.load_state_dict(
        {k: v.double() for k, v in fold_value_range(net.state_dict(), net, 255.0).items()}
    )
    torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("arch, width", [("fsrcnn", 6), ("carn-m", 8), ("msrresnet", 4)])
def test_value_range_of_networks_with_a_mean_a_skip_or_a_transposed_last_layer(arch, width):
    net = ARCHITECTURES[arch].build(2, Variant("w", width)).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "mean.bias" in name:
                p.mul_(255)  # as on images of 0..255
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    wanted = net(255 * x) / 255
    net.load_state_dict(
        {k: v.double() for k, v in fold_value_range(net.state_dict(), net, 255.0).items()}
    )
    torch.testing.assert_close(net(x), wanted, rtol=0, atol=1e-6)


def test_weights_that_fit_several_scales_are_not_guessed(tmp_path):
    torch.save(weights_of("fsrcnn", 4, "w8"), tmp_path / "mine.pth")
    with pytest.raises(InputError, match="fits fsrcnn at several scales: x2, x3, x4") as e:
        checkpoint_from_file("fsrcnn", tmp_path / "mine.pth", tmp_path)
    assert e.value.hint == "name one, for example fsrcnn_x4"
    assert checkpoint_from_file("fsrcnn_x3", tmp_path / "mine.pth", tmp_path).spec.scale == 3


@pytest.mark.parametrize("kind", ["asrn", "asrn_x3"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {"params": w},
        lambda w: {"params_ema": w, "params": {k: 0 * v for k, v in w.items()}},
        lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}, "epoch": 3},
        lambda w: {k: v.double() for k, v in w.items()},
    ],
    ids=["flat", "module", "params", "ema", "lightning", "double"],
)
def test_a_users_own_state_dict(tmp_path, kind, wrap):
    weights = weights_of()
    torch.save(wrap(weights), tmp_path / "my net.v2.pth")
    checkpoint = checkpoint_from_file(kind, tmp_path / "my net.v2.pth", tmp_path / "out")
    assert checkpoint.path == tmp_path / "out" / "my-net-v2_x3.safetensors"
    loaded = load_checkpoint(checkpoint.path)
    assert (loaded.spec.arch, loaded.spec.scale, loaded.spec.variants) == ("asrn", 3, ("d2",))
    assert all(torch.equal(loaded.weights[k], v) for k, v in weights.items())
    assert "my net.v2.pth" in loaded.spec.notes


@pytest.mark.parametrize(
    "arch, variant",
    [("imdeception", "c8"), ("imdeception", "c12-nla"), ("srn", "b2"), ("srn-s", "b3")],
)
def test_the_size_is_read_from_the_tensors(tmp_path, arch, variant):
    torch.save(weights_of(arch, 2, variant), tmp_path / "w.pth")
    checkpoint = checkpoint_from_file(arch, tmp_path / "w.pth", tmp_path, name="mine")
    assert (checkpoint.name, checkpoint.spec.scale, checkpoint.spec.variants) == (
        "mine",
        2,
        (variant,),
    )


def test_a_safetensors_state_dict(tmp_path):
    from safetensors.torch import save_file

    save_file(weights_of(), str(tmp_path / "raw.safetensors"))
    assert (
        checkpoint_from_file("asrn", tmp_path / "raw.safetensors", tmp_path / "out").spec.scale == 3
    )


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "wrap",
    [lambda c, w: c, lambda c, w: {**w, "head.0.bias": c}, lambda c, w: {"params": w, "note": c}],
)
def test_a_pickle_with_code_is_refused_without_running_it(tmp_path, wrap):
    trap = tmp_path / "executed"
    torch.save(wrap(Code(str(trap)), weights_of()), tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="cannot be read as weights") as e:
        checkpoint_from_file("asrn", tmp_path / "evil.pth", tmp_path / "out")
    assert "pickles with code are refused" in e.value.hint
    assert not trap.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0, 10, 1000, -100])
def test_a_truncated_pickle(tmp_path, kept):
    torch.save(weights_of(), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        {},
        {"epoch": 3},
        [torch.zeros(1)],
        {1: torch.zeros(2)},
    ],
    ids=str,
)
def test_a_file_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="does not contain a state dict"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "kind, words",
    [
        ("imdeception", "missing, the first is 'features.weight'"),
        ("srn", "missing, the first is 'head.weight'"),
        (
            "asrn_x4",
            "missing, the first is 'upsampler.3.weight'"
            "|wrong shape, the first is 'upsampler.1.weight'",
        ),
        ("imdeception-ntire2022", "missing, the first is 'features.weight'"),
    ],
)
def test_weights_of_another_network_name_the_first_mismatch(tmp_path, kind, words):
    torch.save(weights_of(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=words):
        checkpoint_from_file(kind, tmp_path / "w.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_variant_that_the_weights_do_not_have(tmp_path):
    torch.save(weights_of(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="missing, the first is 'body.2"):
        checkpoint_from_file("asrn", tmp_path / "w.pth", tmp_path / "out", variant="d3")


def test_weights_that_are_not_finite_are_not_imported(tmp_path):
    weights = weights_of()
    weights["head.0.bias"][0] = math.nan
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="'head.0.bias' contains values that are not finite"):
        checkpoint_from_file("asrn", tmp_path / "w.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_core_imdeception_does_not_have_is_a_checkpoint_error(tmp_path):
    weights = weights_of("imdeception", 2, "c8")
    weights["fuse.bias"] = torch.zeros(20)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises((CheckpointError, VariantError), match="c5|fuse.bias"):
        checkpoint_from_file("imdeception", tmp_path / "w.pth", tmp_path / "out")


@pytest.mark.parametrize("kind", ["asrm", "srn-ntire2022", "asrn_4"])
def test_unknown_kinds_are_refused_with_the_known_ones(tmp_path, kind):
    torch.save(weights_of(), tmp_path / "w.pth")
    with pytest.raises(
        InputError,
        match=f"unknown kind of checkpoint '{kind}'; expected one of .*srn-ntire2023.*asrn",
    ) as e:
        checkpoint_from_file(kind, tmp_path / "w.pth", tmp_path / "out")
    assert "did you mean" in e.value.hint


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        checkpoint_from_file("asrn", tmp_path / "none.pth", tmp_path / "out")


def test_an_import_never_replaces_a_checkpoint(tmp_path):
    torch.save(weights_of("asrn", 2, "d1"), tmp_path / "w.pth")
    path = checkpoint_from_file("asrn", tmp_path / "w.pth", tmp_path).path
    before = path.read_bytes()
    torch.save(weights_of("asrn", 2, "d2"), tmp_path / "w.pth")
    with pytest.raises(InputError, match="already exists"):
        checkpoint_from_file("asrn", tmp_path / "w.pth", tmp_path)
    assert path.read_bytes() == before


def test_elastic_weights_hold_every_smaller_point(tmp_path):
    torch.save(weights_of("asrn", 2, "d3"), tmp_path / "w.pth")
    assert checkpoint_from_file(
        "asrn", tmp_path / "w.pth", tmp_path, elastic=True
    ).spec.variants == ("d1", "d2", "d3")
    torch.save(weights_of("srn", 2, "b2"), tmp_path / "s.pth")
    with pytest.raises(InputError, match="cannot be sliced"):
        checkpoint_from_file("srn", tmp_path / "s.pth", tmp_path, elastic=True)
