"""The search of layers to keep, on layers whose noise is known and adds up."""

import numpy as np
import pytest

from sr_deploy.core.errors import ExportError
from sr_deploy.core.progress import Advance
from sr_deploy.export.int8 import keep
from sr_deploy.export.int8.keep import Graphs, layers_asked, measured_kept, search_kept
from sr_deploy.export.int8.loss import Loss


def graphs(noise, *, other=0.0):
    """Layers a, b, ... with this noise in thousandths; other: noise that no kept layer removes."""
    names = tuple(f"conv{i}" for i in range(len(noise)))
    noise = dict(zip(names, np.array(noise) / 1000))

    def rest(kept):
        return other / 1000 + sum(noise[name] for name in names if name not in kept)

    def loss(kept):
        return Loss(rest(kept), 60 - 10 * rest(kept), np.array([rest(kept)]))

    return Graphs(names, loss, lambda kept: np.array([rest(kept), rest(kept)]))


def search(noise, limit, **others):
    return search_kept(graphs(noise, **others), limit, Advance())


def counts(found):
    return [point["kept"] for point in found.curve]


def test_none_is_kept_where_none_is_needed_and_the_curve_goes_on():
    found = search([5, 30, 1, 20], 0.1)
    assert found.layers == () and found.loss.loss_db == pytest.approx(0.056)
    assert [point["layers"] for point in found.curve] == [[], ["conv1"], ["conv3"]]
    assert [point["loss_db"] for point in found.curve] == [0.056, 0.026, 0.006]


def test_the_fewest_are_kept_in_the_order_of_the_graph():
    noise = [100, 1, 2, 3, 40, 1, 1, 60, 2, 1, 2, 80]
    found = search(noise, 0.06)
    assert found.layers == ("conv0", "conv7", "conv11") and found.fewest
    assert found.loss.loss_db == pytest.approx(0.053) and counts(found) == [0, 1, 2, 3]
    assert found.runs <= 2 * len(noise)


def test_many_are_found_by_few_measurements_on_all_crops():
    noise = np.linspace(1, 20, 90)
    found = search(noise, 0.1)
    order = np.argsort(-noise)
    fewest = next(n for n in range(90) if noise[order[n:]].sum() <= 100)
    assert len(found.layers) == fewest and set(counts(found)) >= {0, 1, 2, fewest}
    assert len(found.curve) < 20
    with_one_less = [point for point in found.curve if point["kept"] == fewest - 1]
    assert with_one_less and with_one_less[0]["loss_db"] > 0.1  # it was tried


def test_when_the_runs_are_used_up_whole_blocks_are_kept_and_it_is_said(monkeypatch):
    monkeypatch.setattr(keep, "MAX_RUNS", 8)
    found = search(list(range(1, 65)), 0.5)
    assert not found.fewest and found.loss.loss_db <= 0.5 and found.runs <= 10


def test_what_no_layer_helps_with_is_returned_with_its_loss():
    found = search([5, 6, 7], 0.1, other=300)
    assert found.loss.loss_db > 0.3 and len(found.layers) < 3
    assert search([500], 0.1).layers == ()  # one layer is INT8 at least


def test_layers_that_are_given():
    layers = ["head", "body.0", "body.1", "tail"]
    assert layers_asked("ends", layers) == ("head", "tail")
    assert layers_asked("none", layers) == layers_asked("auto", layers) == ()
    assert layers_asked("tail, body.0", layers) == ("body.0", "tail")
    assert layers_asked("ends", ["only"]) == ("only",)
    with pytest.raises(ExportError, match="'bodi.1' is not the name of a layer") as e:
        layers_asked("head,bodi.1", layers)
    assert "did you mean 'body.1'" in e.value.hint
    kept = measured_kept(("conv0",), graphs([10, 20]))
    assert kept.curve == [
        {"kept": 1, "loss_db": 0.02, "psnr_db_vs_fp32": 59.8, "layers": ["conv0"]}
    ]
