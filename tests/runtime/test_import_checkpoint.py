"""The measured receptive field is on the card that later commands read."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from doubles.networks import network  # noqa: E402
from doubles.spandrel_networks import weights_of  # noqa: E402

from sr_deploy.core.run_options import CPU_RUN  # noqa: E402
from sr_deploy.nets.checkpoint import load_checkpoint  # noqa: E402
from sr_deploy.nets.importers import checkpoint_from_file  # noqa: E402
from sr_deploy.runtime.import_checkpoint import with_receptive_field  # noqa: E402
from sr_deploy.runtime.opener import describe_all  # noqa: E402


@pytest.mark.parametrize("name, halo, multiple", [("Compact", 4, 1), ("ESRGAN unshuffle", None, 4)])
def test_the_card_of_a_network_of_spandrel(tmp_path, name, halo, multiple):
    torch.save(weights_of(name), tmp_path / "w.pth")
    checkpoint, sentence = with_receptive_field(
        checkpoint_from_file(None, tmp_path / "w.pth", tmp_path)
    )
    loaded = load_checkpoint(checkpoint.path)
    assert loaded.spec == checkpoint.spec
    assert loaded.spec.halo_px is not None and halo in (None, loaded.spec.halo_px)
    assert f"exact {loaded.spec.halo_px} px from their edges" in sentence
    (description,) = describe_all([str(checkpoint.path)])
    sizes = description.sizes
    assert (sizes.halo_px, sizes.multiple) == (loaded.spec.halo_px, multiple)
    with description.open(CPU_RUN) as session:
        x = torch.rand(1, 3, 7, 9).numpy()
        assert session.run(x).shape == (1, 3, 7 * session.scale, 9 * session.scale)


def test_architectures_of_ours_know_theirs(tmp_path):
    torch.save(network("asrn", 2, "d1").state_dict(), tmp_path / "w.pth")
    checkpoint = checkpoint_from_file("asrn", tmp_path / "w.pth", tmp_path)
    assert with_receptive_field(checkpoint) == (checkpoint, "")
