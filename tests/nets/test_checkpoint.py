import json
import math
import shutil
from dataclasses import replace

import pytest
import torch

from sr_deploy.core.errors import CheckpointError, InputError, VariantError
from sr_deploy.core.files import sha256_of
from sr_deploy.core.spec import Variant
from sr_deploy.nets import ARCHITECTURES
from sr_deploy.nets.checkpoint import Checkpoint, load_checkpoint, parse_untrained, save_checkpoint


def save(folder, arch="asrn", variant="d2", *, name="net", weights=None, **card):
    torch.manual_seed(3)
    architecture = ARCHITECTURES[arch]
    held = architecture.parse(variant)
    weights = weights or architecture.build(4, held).state_dict()
    return save_checkpoint(folder, name, architecture.spec(4, held, elastic=True, **card), weights)


def edit_card(path, **changes):
    card = path.with_suffix(".json")
    data = json.loads(card.read_text())
    data.update(changes)
    card.write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))


@pytest.mark.smoke
@pytest.mark.parametrize(
    "arch, variant", [("asrn", "d3"), ("imdeception", "c8-nla"), ("srn", "b1"), ("srn-s", "b1")]
)
def test_round_trip(tmp_path, arch, variant):
    path = save(
        tmp_path,
        arch,
        variant,
        licence="MIT",
        trained_on="noise",
        training={"steps": 3, "lr": 0.1},
        notes="n\u00e9e",
    )
    loaded = load_checkpoint(path)
    assert loaded.name == "net" and loaded.path == path
    assert (loaded.spec.licence, loaded.spec.trained_on, loaded.spec.notes) == (
        "MIT",
        "noise",
        "n\u00e9e",
    )
    assert loaded.spec.training == {"steps": 3, "lr": 0.1}
    assert loaded.spec.weights_sha256 == sha256_of(path)
    torch.manual_seed(3)
    net = ARCHITECTURES[arch].build(4, Variant.parse(variant))
    x = torch.rand(1, 3, 16, 17)
    with torch.no_grad():
        assert torch.equal(loaded.network()(x), net(x))
    again = save_checkpoint(tmp_path / "copy", "net", loaded.spec, loaded.weights)
    assert again.read_bytes() == path.read_bytes()
    assert again.with_suffix(".json").read_bytes() == path.with_suffix(".json").read_bytes()
    assert load_checkpoint(path.with_suffix(".json")).spec == loaded.spec


def test_configuration_is_part_of_the_card(tmp_path):
    net = ARCHITECTURES["edsr"].build(4, Variant("b", 1), {"channels": 8})
    spec = ARCHITECTURES["edsr"].spec(4, Variant("b", 1), elastic=False, config={"channels": 8})
    path = save_checkpoint(tmp_path, "small", spec, net.state_dict())
    assert load_checkpoint(path).network().head.out_channels == 8


def test_a_checkpoint_gives_only_the_variants_it_holds(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path, variant="d3"))
    assert (
        [str(v) for v in checkpoint.variants("all")]
        == [str(v) for v in checkpoint.variants(None)]
        == ["d1", "d2", "d3"]
    )
    assert [str(v) for v in checkpoint.variants("d3, d1")] == ["d3", "d1"]
    assert len(checkpoint.network("d2").body) == 2
    for wrong in ("d9", "c4", "3", "d03", ""):
        with pytest.raises(VariantError, match="variant"):
            checkpoint.network(wrong)
    with pytest.raises(VariantError, match="has no variant 'd9'; it has d1, d2, d3"):
        checkpoint.variants("d1,d9")


def test_all_means_the_points_of_the_papers_table(tmp_path):
    checkpoint = load_checkpoint(save(tmp_path, "imdeception", "c16-nla"))
    assert [str(v) for v in checkpoint.variants("all")] == ["c4", "c4-nla", "c8", "c12", "c16-nla"]
    assert str(checkpoint.variants("c12-nla")[0]) == "c12-nla"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"licence": ...}, None),  # has a default
        ({"arch": ...}, "the key 'arch' is missing"),
        ({"variants": ...}, "the key 'variants' is missing"),
        ({"scale": "4"}, "key 'scale': expected int, found '4'"),
        ({"scale": True}, "key 'scale': expected int"),
        ({"variants": "d2"}, "key 'variants': expected a list"),
        ({"variants": []}, "names no variants"),
        ({"variants": ["d1", "d9"]}, "tensors are missing"),
        ({"variants": ["c4", "d2"]}, "d2 cannot be sliced to 'c4'"),
        ({"variants": ["d1", "two"]}, "'two' is not a variant"),
        ({"arch": "vdsr"}, "unknown architecture 'vdsr'; expected one of asrn"),
        ({"arch": "imdeception"}, "is not a variant of this architecture"),
        ({"scale": 8}, "asrn does not support scale x8"),
        ({"scale": 3}, "another shape, the first is 'upsampler.1.weight'|unknown, the first is"),
        ({"config": {"speed": 2}}, "unknown configuration key 'speed'"),
        (
            {"config": {"activation": "gelu"}},
            "unknown activation 'gelu' of ASRN; expected relu or leaky_relu",
        ),
        ({"variants": ["d1", 2]}, "variant"),
        ({"weights_sha256": "0" * 64}, "SHA-256 differs"),
        ({"weights_sha256": ""}, "SHA-256 differs"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_cards_are_strict(tmp_path, changes, words):
    path = save(tmp_path)
    edit_card(path, **changes)
    if words is None:
        assert load_checkpoint(path).spec.licence == ""
        return
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "line 1: not valid JSON"),
        ("[]", "expected a JSON object, found a list"),
        ("\xff", "UTF-8"),
    ],
)
def test_a_card_must_be_a_json_object(tmp_path, text, words):
    path = save(tmp_path)
    path.with_suffix(".json").write_bytes(text.encode("latin1"))
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


def test_a_missing_card(tmp_path):
    path = save(tmp_path)
    path.with_suffix(".json").unlink()
    with pytest.raises(CheckpointError, match="has no card: expected net.json") as e:
        load_checkpoint(path)
    assert "import-checkpoint" in e.value.hint


def test_changed_weights_are_refused(tmp_path):
    path = save(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = save(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    edit_card(path, weights_sha256=sha256_of(path))
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        load_checkpoint(path)


def test_a_pickle_named_safetensors_is_refused(tmp_path):
    path = save(tmp_path)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="not a valid safetensors file"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    weights = ARCHITECTURES["asrn"].build(4, Variant("d", 1)).state_dict()
    weights["body.0.expand.bias"][3] = value
    path = save(tmp_path, variant="d1", weights=weights)
    with pytest.raises(
        CheckpointError, match="'body.0.expand.bias' contains values that are not finite"
    ):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda w: w.pop("head.0.weight"), "1 tensors are missing, the first is 'head.0.weight'"),
        (lambda w: w.update(extra=torch.zeros(1)), "1 tensors are unknown, the first is 'extra'"),
        (
            lambda w: w.update({"head.1.bias": torch.zeros(95)}),
            r"'head.1.bias': \(95,\), expected \(96,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, words):
    weights = dict(ARCHITECTURES["asrn"].build(4, Variant("d", 1)).state_dict())
    change(weights)
    path = save(tmp_path, variant="d1", weights=weights)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


def test_a_card_cannot_name_a_larger_variant_than_its_weights(tmp_path):
    path = save(tmp_path, variant="d2")
    edit_card(path, variants=["d1", "d2", "d3"])
    with pytest.raises(CheckpointError, match="missing, the first is 'body.2"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "model, error, words",
    [
        ("nowhere/net.safetensors", InputError, "there is no checkpoint nowhere"),
        ("asrn_x9", InputError, "asrn does not support scale x9; expected one of x2, x3, x4"),
        ("srn_x4", InputError, "is an architecture"),
        ("resnet50", InputError, "there is no model 'resnet50'"),
    ],
)
def test_names_that_are_no_checkpoint(model, error, words):
    with pytest.raises(error, match=words):
        load_checkpoint(model)


def test_files_of_other_types_are_refused(tmp_path):
    file = tmp_path / "net.pth"
    shutil.copy(save(tmp_path), file)
    with pytest.raises(CheckpointError, match="is not a checkpoint; expected") as e:
        load_checkpoint(file)
    assert "import-checkpoint" in e.value.hint


@pytest.mark.parametrize(
    "name, blocks", [("asrn_x3", 5), ("srn_x4", 6), ("srn-s_x2", 6), ("edsr_x4", 20)]
)
def test_bare_names_are_the_papers_defaults(name, blocks):
    bare = parse_untrained(name)
    with torch.device("meta"):
        net = bare.network()
    assert len(net.body if name.startswith("asrn") else net.blocks) == blocks


def test_bare_names_take_any_variant_of_the_architecture():
    with torch.device("meta"):
        assert len(parse_untrained("asrn_x4").network("d25").body) == 25
        assert parse_untrained("imdeception_x4").network().core == 16
        assert len(parse_untrained("imdeception_x4").network().nla) == 2
    with pytest.raises(VariantError):
        parse_untrained("imdeception_x4").network("d3")
    assert parse_untrained("vdsr_x4") is None and parse_untrained("asrn") is None


def test_saving_keeps_the_old_checkpoint_when_writing_fails(tmp_path, monkeypatch):
    path = save(tmp_path)
    before = path.read_bytes()

    def broken(weights, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(InputError, match="No space left"):
        save(tmp_path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.json", "net.safetensors"]
    assert load_checkpoint(path).spec == replace(load_checkpoint(path).spec)


@pytest.mark.parametrize(
    "arch, variant, elastic, variants",
    [("asrn", "d5", True, "d1..d5"), ("asrn", "d5", False, "d5")],
)
def test_a_checkpoint_has_a_short_repr(arch, variant, elastic, variants):
    spec = ARCHITECTURES[arch].spec(4, Variant.parse(variant), elastic=elastic)
    assert repr(Checkpoint("asrn_x4", spec, {})) == f"<Checkpoint asrn_x4 asrn x4 {variants}>"


def test_learnt_ranges_are_kept_beside_the_weights(tmp_path):
    plain = load_checkpoint(save(tmp_path))
    ranges = {"d1": {"head": (0.0, 1.0), "body.0.expand": (-2.5, 3.0)}, "d2": {"head": (0.0, 1.0)}}
    path = save_checkpoint(tmp_path / "int8", "net", plain.spec, plain.weights, ranges)
    loaded = load_checkpoint(path)
    assert loaded.ranges == ranges and plain.ranges == {}
    assert loaded.weights.keys() == plain.weights.keys()
    x = torch.rand(1, 3, 5, 6)
    assert torch.equal(loaded.network("d1")(x), plain.network("d1")(x))


@pytest.mark.parametrize(
    "variant, bounds", [("d9", (0, 1)), ("d1", (0, 0)), ("d1", (0.5, 1)), ("d1", (0, math.nan))]
)
def test_ranges_that_cannot_be_used_are_refused(tmp_path, variant, bounds):
    plain = load_checkpoint(save(tmp_path))
    ranges = {variant: {"head": bounds}}
    path = save_checkpoint(tmp_path, "int8", plain.spec, plain.weights, ranges)
    with pytest.raises(CheckpointError, match=rf"'int8.{variant}.head' is not the range of"):
        load_checkpoint(path)
