from pathlib import Path

import numpy as np
import pytest

from sr_deploy.core.errors import CannotRunHereError, InputError, VariantError
from sr_deploy.runtime.opener import describe, kind_of, open_session, split_variant

torch = pytest.importorskip("torch", reason="torch runs networks of code")
OWN = Path(__file__).parents[2] / "doubles" / "own_networks.py"


def noise(h, w):
    return np.random.default_rng(0).random((1, 3, h, w), dtype=np.float32)


def test_code_is_a_kind_of_its_own():
    assert kind_of("mynet.py:Net --weights w.pth") == kind_of("pkg.net:Net.d3") == "code"
    assert split_variant("mynet.py:Net.d3 --scale 4") == ("mynet.py:Net --scale 4", "d3")
    assert split_variant("mynet.py:Net --weights a.d3") == ("mynet.py:Net --weights a.d3", None)


def test_a_network_is_described_and_run():
    (network,) = describe(f"{OWN}:Net --scale 3")
    assert (network.name, network.kind, network.backend) == ("Net_x3", "code", "torch")
    assert (network.scale, network.sizes.multiple, network.sizes.min_hw) == (3, 1, (1, 1))
    counts = network.counts()
    assert counts["convs"] == 3 and counts["params"] == counts["fvcore"]["params"] == 1259
    x = noise(5, 7)
    with network.open() as session:
        y = session.run(x)
        assert y.shape == (1, 3, 15, 21)
        assert (session.halo_px, session.align_px) == (3, 1)
    (again,) = describe(network.source)
    assert again.identity == network.identity


def test_the_receptive_field_is_measured_only_when_it_is_asked_for(monkeypatch):
    from sr_deploy.bench.evaluate import upscale_fitting
    from sr_deploy.runtime import module_probe

    def measure(*args, **kwargs):
        raise AssertionError("it was measured")

    monkeypatch.setattr(module_probe, "measure_field", measure)
    with open_session(f"{OWN}:function --scale 4") as session:
        upscale_fitting(session, np.zeros((8, 9, 3), np.uint8))
        with pytest.raises(AssertionError):
            session.halo_px  # noqa: B018 - measures


def test_sizes_that_are_no_multiple_are_mirrored():
    with open_session(f"{OWN}:Unshuffled") as session:
        assert session.multiple == 2
        assert session.run(noise(5, 7)).shape == (1, 3, 10, 14)


def test_variants_of_an_elastic_network():
    networks = describe(f"{OWN}:Elastic")
    assert [network.name for network in networks] == ["Elastic_x2.b1", "Elastic_x2.b3"]
    assert [network.counts()["convs"] for network in networks] == [3, 5]
    assert len({network.identity for network in networks}) == 2
    assert open_session(f"{OWN}:Elastic").name == "Elastic_x2.b3"
    assert [network.variant for network in describe(f"{OWN}:Elastic.b1")] == ["b1"]
    with pytest.raises(VariantError, match="has no variant 'b2'"):
        describe(f"{OWN}:Elastic.b2")


@pytest.mark.parametrize(
    "name, match",
    [
        ("Classifier", r"32x32 becomes \(1, 10\) and 48x48 .*: expected \(1, 3, H, W\)"),
        ("Half", "32x32 becomes 48x48 and .*: expected one whole scale"),
        ("Pair", "it returns a tuple of 2; expected one tensor"),
        ("Noisy", "two runs of the same image differ by"),
        ("Trains", "it turns its training mode on when it runs"),
        (
            "Fails",
            "does not run as .* at any of .*; at 32x32, running it failed: ValueError: not today "
            r"\(own_networks.py, line \d+\)",
        ),
        ("Net --scale 17", "the scale '17' is not a whole number from 1 to 16"),
        ("instance --scale 4", "instance upscales by 3, but the scale given is 4"),
    ],
)
def test_what_is_no_super_resolution_network_is_refused(name, match):
    with pytest.raises(InputError, match=match):
        describe(f"{OWN}:{name}")


def test_a_run_that_fails_names_the_line():
    with open_session(f"{OWN}:Large") as session:
        session.run(noise(64, 64))
        with pytest.raises(
            CannotRunHereError,
            match=r"own_networks.py:Large: running it at 8x65 failed: ValueError: 65 is too many "
            r"\(own_networks.py, line \d+\)",
        ):
            session.run(noise(8, 65))


def test_the_child_that_measures_memory_finds_the_same_network(monkeypatch, tmp_path):
    from sr_deploy.bench.own_memory import measure_here

    (network,) = describe(f"{OWN}:Elastic.b1")
    np.save(tmp_path / "x.npy", noise(8, 8))
    request = {
        "source": network.source,
        "variant": network.variant,
        "identity": network.identity,
        "run": {},
        "x": str(tmp_path / "x.npy"),
    }
    measure_here(request)


def test_weights_that_nobody_gave_are_noted():
    (network,) = describe(f"{OWN}:Net --scale 3")
    assert network.notes == ("without --weights: the weights are the code's own",)


def test_values_that_a_network_was_not_made_for_are_noted(tmp_path):
    (tmp_path / "bytes.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)\n"
        "        return (x + 8).round().clamp(0, 255)\n"
    )
    (network,) = describe(f"{tmp_path / 'bytes.py'}:Net")
    assert network.notes[1:] == (
        "photographs in 0..255 are enlarged well, in 0..1 they are not: "
        "is --value-range 255 missing?",
    )
    (network,) = describe(f"{tmp_path / 'bytes.py'}:Net --value-range 255")
    assert network.notes[1:] == ()
