import argparse
import math
import zipfile

import numpy as np
import pytest
import torch
from doubles.spandrel_networks import weights_of
from safetensors.torch import save_file

from sr_deploy.core.errors import CheckpointError, InputError
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.importers import checkpoint_from_file
from sr_deploy.nets.weight_files import candidates, read_weights


@pytest.fixture
def weights():
    return {"a.weight": torch.rand(2, 2), "a.index": torch.arange(3)}


def read(content, path):
    torch.save(content, path)
    return read_weights(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"params-ema": w, "params": {k: v + 1 for k, v in w.items()}},
        lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {0: {}}}},
        lambda w: {"net_g": w, "net_d": {"d": torch.zeros(1)}},
        lambda w: {"epoch": 1, "whatever": {"params": w}},
        lambda w: {"model": {"state_dict": w}, "iter": 3, "best": np.float64(30.1)},
        lambda w: {"state_dict": {f"module._orig_mod.{k}": v for k, v in w.items()}},
        lambda w: {f"_orig_mod.module.{k}": v for k, v in w.items()},
        lambda w: {k: v.half() if v.is_floating_point() else v for k, v in w.items()},
        lambda w: {k: v.bfloat16() if v.is_floating_point() else v for k, v in w.items()},
        lambda w: {k: torch.nn.Parameter(v, requires_grad=False) for k, v in w.items()},
    ],
)
def test_state_dicts_as_training_code_saves_them(wrap, weights, tmp_path):
    found = read(wrap(weights), tmp_path / "w.ckpt")
    assert list(found) == list(weights)
    torch.testing.assert_close(found["a.weight"], weights["a.weight"], rtol=0, atol=4e-3)
    assert (found["a.weight"].dtype, found["a.index"].dtype) == (torch.float32, torch.int64)


def test_numbers_among_the_tensors(weights, tmp_path):
    assert float(read({**weights, "pro": True}, tmp_path / "w.pth")["pro"]) == 1


def test_numbers_of_older_numpy(weights, tmp_path):
    torch.save({"params": weights, "psnr": np.float32(31.5)}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "new.pth") as new, zipfile.ZipFile(
        tmp_path / "old.pth", "w"
    ) as old:
        for name in new.namelist():
            content = new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(name, content)
    assert list(read_weights(tmp_path / "old.pth")) == list(weights)


def test_options_of_training_beside_the_weights(weights, tmp_path):
    state = {"state_dict": weights, "args": argparse.Namespace(lr=1e-4)}
    assert list(read(state, tmp_path / "w.pth")) == list(weights)


def test_the_format_before_torch_1_6(weights, tmp_path):
    torch.save(weights, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "w.pth")["a.weight"], weights["a.weight"])


@pytest.mark.parametrize("name", ["w.safetensors", "w.SafeTensors", "w.pth"])
def test_safetensors_with_metadata_and_half_precision(weights, tmp_path, name):
    half = {"module.a.weight": weights["a.weight"].half()}
    save_file(half, str(tmp_path / name), metadata={"format": "pt"})
    found = read_weights(tmp_path / name)
    assert list(found) == ["a.weight"] and found["a.weight"].dtype == torch.float32


def test_several_state_dicts_are_not_guessed(weights, tmp_path):
    with pytest.raises(CheckpointError, match="contains several state dicts: first, second") as e:
        read({"first": weights, "second": weights}, tmp_path / "w.pth")
    assert "save one of them" in e.value.hint


def write_script(path):
    torch.jit.save(torch.jit.trace(torch.nn.Conv2d(3, 3, 1), torch.zeros(1, 3, 4, 4)), str(path))


@pytest.mark.parametrize(
    "write, words, hint",
    [
        (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS", "pull"),
        (lambda p: p.write_text("\n<!DOCTYPE html><html>"), "a web page", "the file itself"),
        (write_script, "TorchScript archive", "torch.jit.load"),
        (lambda p: torch.save({"x": slice(3)}, p), "more than tensors: .*slice", "state_dict"),
        (
            lambda p: torch.save(torch.nn.PReLU(), p),
            "more than tensors: .*PReLU",
            r"False).state_d",
        ),
        (lambda p: p.write_bytes(b""), "it is empty or cut off", "state_dict"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_files_are_named(tmp_path, write, words, hint):
    write(tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=f"w.pt cannot be read as weights: .*{words}") as e:
        read_weights(tmp_path / "w.pt")
    assert hint in e.value.hint


def test_candidates_are_the_tensors_under_each_common_prefix():
    found = [(p, list(part)) for p, part in candidates({"model.net.a": 1, "model.net.b.c": 2})]
    assert found == [
        ("", ["model.net.a", "model.net.b.c"]),
        ("model.", ["net.a", "net.b.c"]),
        ("model.net.", ["a", "b.c"]),
    ]
    with_loss = {"generator.a": 1, "generator.b": 2, "discriminator.x": 3, "loss_fn.vgg.0": 4}
    assert [(p, len(part)) for p, part in candidates(with_loss)] == [
        ("", 4),
        ("", 2),
        ("generator.", 2),
    ]


@pytest.mark.parametrize("prefix", ["model.", "netG.", "net_g.model."])
def test_a_network_under_a_prefix_beside_a_discriminator(tmp_path, prefix):
    state = {f"{prefix}{k}": v for k, v in weights_of("SPAN").items()}
    state["discriminator.0.weight"] = torch.zeros(1)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.ckpt")
    checkpoint = checkpoint_from_file(None, tmp_path / "w.ckpt", tmp_path)
    assert set(checkpoint.weights) == set(weights_of("SPAN"))
    expected = f"w.ckpt, tensors under '{prefix}', without 1 tensors beside the network: SPAN"
    assert expected in checkpoint.spec.notes


@pytest.mark.parametrize("arch, variant", [("asrn", "d2"), ("imdeception", "c4"), ("srn-s", "b2")])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_our_own_architectures_are_recognised(tmp_path, arch, variant, prefix):
    net = ARCHITECTURES[arch].build(4, Variant.parse(variant))
    torch.save({f"{prefix}{k}": v for k, v in net.state_dict().items()}, tmp_path / "w.pth")
    spec = checkpoint_from_file(None, tmp_path / "w.pth", tmp_path).spec
    assert (spec.arch, spec.scale, spec.variants) == (arch, 4, (variant,))


def test_official_weights_are_recognised(shared_dir, tmp_path):
    file = shared_dir / "weights" / "srn_x4_team25.pt"
    checkpoint = checkpoint_from_file(None, file, tmp_path)
    assert (checkpoint.name, checkpoint.spec.licence) == ("srn-ntire2023_x4", "MIT")


def test_weights_of_several_scales_are_not_guessed(tmp_path):
    net = ARCHITECTURES["fsrcnn"].build(2, Variant.parse("w4"))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="fits fsrcnn at several scales") as e:
        checkpoint_from_file(None, tmp_path / "w.pth", tmp_path)
    assert "fsrcnn_x4" in e.value.hint


def test_weights_that_nobody_knows(tmp_path):
    torch.save({"fc.weight": torch.zeros(10, 3), "fc.bias": torch.zeros(10)}, tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"2 tensors, the first is 'fc.weight' \(10, 3\)"
    ) as e:
        checkpoint_from_file(None, tmp_path / "w.pth", tmp_path / "out")
    assert "KIND FILE" in e.value.hint and not (tmp_path / "out").exists()


def test_weights_of_spandrel_that_are_not_finite(tmp_path):
    weights = weights_of("Compact")
    weights["body.0.bias"][0] = math.inf
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="'body.0.bias' contains values that are not finite"):
        checkpoint_from_file(None, tmp_path / "w.pth", tmp_path)
