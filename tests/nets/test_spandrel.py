import json
import sys
import types

import pytest
import torch
from doubles.spandrel_networks import SMALL, weights_of

from sr_deploy.core.errors import CheckpointError, InputError, MissingPackageError, VariantError
from sr_deploy.nets import spandrel as module
from sr_deploy.nets.checkpoint import load_checkpoint
from sr_deploy.nets.importers import checkpoint_from_file
from sr_deploy.nets.spandrel import SPANDREL_ARCHITECTURE, import_spandrel, model_from_weights

REFUSED = {
    "LaMa": "needs a mask beside the picture",
    "Uformer": "takes square pictures only",
}


def save(name, path, wrap=lambda w: w):
    torch.save(wrap(weights_of(name)), path)
    return path


def described(**changes):
    """A descriptor of spandrel of which `_described` takes what it needs."""
    spandrel = import_spandrel()
    values = {
        "architecture": types.SimpleNamespace(id="Net"),
        "model": torch.nn.Conv2d(1, 1, 3, padding=1),
        "_call_fn": lambda model, x: model(x),
        "purpose": "SR",
        "tags": ["8nf"],
        "scale": 1,
        "input_channels": 3,
        "output_channels": 3,
        "supports_half": True,
        "tiling": spandrel.ModelTiling.SUPPORTED,
        "size_requirements": spandrel.SizeRequirements(),
    }
    return types.SimpleNamespace(**{**values, **changes})


@pytest.mark.parametrize("name", [n for n in SMALL if n not in REFUSED])
def test_every_architecture_is_recognised_and_runs(name):
    model = model_from_weights(weights_of(name), source=name)
    assert model is not None and model.architecture == SMALL[name].arch
    side = -(-max(16, *model.min_hw) // model.multiple) * model.multiple
    x = torch.rand(1, 3, side, side)
    with torch.no_grad():
        before, y = x.clone(), model.network(x)
    assert torch.equal(x, before)
    assert y.shape == (1, 3, model.scale * side, model.scale * side)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", [n for n in REFUSED if n != "LaMa"])  # LaMa has 51 M parameters
def test_networks_of_another_kind_are_refused(name):
    with pytest.raises(CheckpointError, match=f"w.pth is a network of {name}, which") as e:
        model_from_weights(weights_of(name), source="w.pth")
    assert REFUSED[name] in e.value.message and "upscales or restores" in e.value.hint


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"purpose": "Inpainting"}, "needs a mask beside the picture"),
        ({"purpose": "FaceSR"}, "restores one aligned face"),
        ({"input_channels": 4}, "has 4 input and 3 output channels; expected 3 or 1 of both"),
    ],
)
def test_what_is_not_a_picture_to_a_picture_is_refused(changes, words):
    with pytest.raises(CheckpointError, match=words):
        module._described(described(**changes), "w.pth")


@pytest.mark.parametrize("scale", [1, 2])
def test_a_network_of_one_channel_runs_on_luma(scale):
    up = torch.nn.Upsample(scale_factor=scale, mode="bicubic") if scale > 1 else torch.nn.Identity()
    descriptor = described(input_channels=1, output_channels=1, scale=scale, model=up)
    model = module._described(descriptor, "w.pth")
    x = torch.rand(1, 3, 8, 9)
    # Luma and the differences to it are resized alike: together, the picture is.
    torch.testing.assert_close(model.network(x), up(x))
    assert "runs on luma; chroma is resized bicubically" in model.notes


def test_what_spandrel_knows_becomes_the_card(tmp_path):
    file = save("ESRGAN unshuffle", tmp_path / "my net.pth", lambda w: {"params_ema": w})
    checkpoint = checkpoint_from_file(None, file, tmp_path)
    assert checkpoint.path == tmp_path / "my-net_x2.safetensors"
    loaded = load_checkpoint(checkpoint.path)
    spec = loaded.spec
    assert (spec.arch, spec.scale, spec.variants) == ("spandrel", 2, ("",))
    assert (spec.config, spec.min_hw, spec.multiple) == ({"architecture": "ESRGAN"}, (4, 4), 4)
    assert "imported from my net.pth: ESRGAN, 8nf, 1nb, unshuffle, SR" in spec.notes
    assert set(loaded.weights) == set(weights_of("ESRGAN unshuffle"))
    x = torch.rand(1, 3, 8, 8)
    spandrel = import_spandrel()
    with torch.no_grad():
        known = spandrel.MAIN_REGISTRY.load(weights_of("ESRGAN unshuffle")).model.eval()
        torch.testing.assert_close(loaded.network()(x), known(x), rtol=0, atol=0)
    with pytest.raises(VariantError, match="has no variant 'd3'"):
        loaded.network("d3")


@pytest.mark.parametrize("name", ["SPAN", "SeemoRe"])
def test_what_cannot_be_traced_is_replaced_by_the_same_function(name):
    known = import_spandrel().MAIN_REGISTRY.load(weights_of(name)).model.eval()
    network = model_from_weights(weights_of(name), source="").network
    replaced = ("Conv3XC", "MoELayer")
    assert any(type(module).__name__ in replaced for module in known.modules())
    assert not any(type(module).__name__ in replaced for module in network.modules())
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x), known(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name, multiple", [("HAT", 8), ("NAFNet", 4), ("GRL", 64), ("FBCNN", 8), ("DAT", 1)]
)
def test_images_are_padded_by_the_session_instead_of_the_network(name, multiple):
    assert model_from_weights(weights_of(name), source="").multiple == multiple


def test_indices_stay_integers(tmp_path):
    loaded = checkpoint_from_file(None, save("SwinIR", tmp_path / "s.pth"), tmp_path)
    index = loaded.weights["layers.0.residual_group.blocks.0.attn.relative_position_index"]
    assert index.dtype == torch.int64
    assert "tiling is discouraged" in loaded.spec.notes and "FP16" in loaded.spec.notes


@pytest.mark.parametrize(
    "change, words",
    [
        ({"scale": 4}, "its scale is 4; expected 2"),
        ({"min_hw": [1, 1]}, r"its min_hw is \(1, 1\); expected \(4, 4\)"),
        ({"multiple": 1}, "its multiple is 1; expected 4"),
        ({"config": {"architecture": "SPAN"}}, "its config is .*SPAN.*; expected .*ESRGAN"),
        ({"variants": ["", "d1"]}, r"its variants is \('', 'd1'\)"),
        ({"arch": "spandrl"}, "unknown architecture 'spandrl'"),
    ],
)
def test_a_card_that_does_not_fit_the_weights(tmp_path, change, words):
    path = checkpoint_from_file(None, save("ESRGAN unshuffle", tmp_path / "w.pth"), tmp_path).path
    card = path.with_suffix(".json")
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


def test_weights_that_spandrel_cannot_load(tmp_path):
    weights = weights_of("SPAN")
    del weights["block_1.c1_r.sk.bias"]
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="has tensors of SPAN, but spandrel cannot load it"):
        checkpoint_from_file(None, tmp_path / "w.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_of_our_own_networks_are_refused(tmp_path):
    file = save("Compact", tmp_path / "w.pth")
    for options in ({"elastic": True}, {"value_range": 255.0}, {"variant": "d3"}):
        with pytest.raises(InputError, match="is a network of spandrel: it has no variants"):
            checkpoint_from_file(None, file, tmp_path / "out", **options)


def test_without_the_package(tmp_path, monkeypatch):
    file = save("Compact", tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(MissingPackageError, match="needs the package 'spandrel'") as e:
        checkpoint_from_file(None, file, tmp_path)
    assert "pip install 'spandrel" in e.value.hint


def test_torchvision_that_cannot_be_imported_leaves_no_stand_in(monkeypatch):
    for name in ("spandrel", "torchvision"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [BrokenTorchvision(), *sys.meta_path])
    with module._usable_torchvision():
        from torchvision.transforms.functional import normalize, rotate  # noqa: F401
    assert not any(name.startswith("torchvision") for name in sys.modules)


class BrokenTorchvision:
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")


def test_extra_architectures_are_used_and_their_licence_is_named(monkeypatch):
    spandrel = import_spandrel()
    compact = spandrel.MAIN_REGISTRY["Compact"].architecture

    class Extra(type(compact)):
        def __init__(self):
            super().__init__()
            self._id = "Extra"
            self._detect = lambda weights: "extra" in weights

        def load(self, weights):
            weights.pop("extra")
            return super().load(weights)

    registry = spandrel.ArchRegistry()
    registry.add(spandrel.ArchSupport.from_architecture(Extra()))
    package = types.ModuleType("spandrel_extra_arches")
    package.EXTRA_REGISTRY = registry
    monkeypatch.setitem(sys.modules, package.__name__, package)
    weights = {"extra": torch.zeros(1), **weights_of("Compact")}
    model = model_from_weights(weights, source="w.pth")
    assert model.architecture == "Extra"
    assert "spandrel_extra_arches, whose licences restrict its use" in model.notes
    assert "Extra" not in spandrel.MAIN_REGISTRY


def test_there_is_no_untrained_network():
    with pytest.raises(CheckpointError, match="are made from their weights"):
        SPANDREL_ARCHITECTURE.build(2, SPANDREL_ARCHITECTURE.parse(None))
