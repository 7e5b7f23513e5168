from __future__ import annotations

import pytest

from sr_deploy.core.errors import CheckpointError, InputError, VariantError
from sr_deploy.core.jsonio import from_dict
from sr_deploy.core.spec import WHOLE, ModelSpec, Variant, network_name

SPEC = ModelSpec(arch="asrn", scale=4, variants=("d1", "d2", "d5"), min_hw=(15, 16))


@pytest.mark.parametrize(
    "text, variant",
    [
        ("d3", Variant("d", 3)),
        ("c16-nla", Variant("c", 16, ("nla",))),
        ("b4", Variant("b", 4)),
        ("d25", Variant("d", 25)),
        ("", WHOLE),
    ],
)
def test_a_variant_reads_and_prints_alike(text, variant):
    assert Variant.parse(text) == variant
    assert str(variant) == text


@pytest.mark.parametrize(
    "text",
    [
        "d",
        "3",
        "d0",
        "d-1",
        "D3",
        "d3 ",
        "d3.5",
        "d03",
        "c16_nla",
        "c16-",
        "c16-NLA",
        "dd3",
        "d99999",
        "d3\n",
    ],
)
def test_a_misspelt_variant_is_refused_not_guessed(text):
    with pytest.raises(VariantError, match="is not a variant; expected .*d3"):
        Variant.parse(text)


def test_a_network_without_variants_is_named_by_its_model():
    assert [network_name("net", v) for v in ("d3", "", WHOLE)] == ["net.d3", "net", "net"]


def test_the_largest_is_the_default_and_a_held_one_is_returned_as_asked():
    assert str(SPEC.variant(None)) == "d5"
    assert [str(SPEC.variant(v)) for v in SPEC.variants] == list(SPEC.variants)


@pytest.mark.parametrize("asked", ["d9", "d3", "c8", "d5-nla"])
def test_a_variant_that_is_not_held_is_refused_with_what_is_and_the_nearest(asked):
    with pytest.raises(
        VariantError, match=f"asrn_x4 checkpoint has no variant '{asked}'; it has d1, d2, d5"
    ) as e:
        SPEC.variant(asked)
    assert e.value.hint.startswith("did you mean 'd") or asked == "c8"


@pytest.mark.parametrize(
    "hw, fits", [((15, 16), True), ((100, 100), True), ((14, 16), False), ((15, 15), False)]
)
def test_an_input_below_the_smallest_is_refused(hw, fits):
    if fits:
        SPEC.check_input(hw)
        return
    with pytest.raises(
        InputError, match=f"{hw[0]}x{hw[1]} pixels is too small for asrn_x4: the smallest is 15x16"
    ):
        SPEC.check_input(hw)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"archs": "asrn"}, "unknown key 'archs'"),
        ({"scale": "4"}, "'scale': expected int, found '4'"),
        ({"scale": 4.0}, "'scale': expected int"),
        ({"scale": True}, "'scale': expected int, found True"),
        ({"variants": "d1"}, "'variants': expected a list"),
        ({"training": []}, "'training': expected dict"),
    ],
)
def test_a_card_is_read_strictly(change, words):
    card = {"arch": "asrn", "scale": 4, "variants": ["d1"]}
    assert from_dict(ModelSpec, card, source="card", error=CheckpointError).variants == ("d1",)
    with pytest.raises(CheckpointError, match=words):
        from_dict(ModelSpec, {**card, **change}, source="card", error=CheckpointError)
