"""Ranges of the values of a graph, by several methods."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from sr_deploy.core.errors import ExportError
from sr_deploy.core.target import Int8Rules
from sr_deploy.export.int8.placement import ready_to_quantise
from sr_deploy.export.int8.ranges import collect_ranges
from tests.doubles.onnx_text import chain, graph

UNSIGNED = Int8Rules("convolutions", "uint8", False)
SIGNED = Int8Rules("convolutions", "int8", True)


def ranges_of(images, rules=UNSIGNED, weights=(2.0, 1.0)):
    return collect_ranges(ready_to_quantise(chain(*weights)), images, rules)


@pytest.mark.smoke
def test_min_max_is_what_all_pictures_reach():
    low, high = np.zeros((1, 3, 6, 7), np.float32), np.zeros((1, 3, 6, 7), np.float32)
    low[0, 1, 2, 3], high[0, 2, 5, 6] = -0.25, 0.75
    found = ranges_of([low, high])
    assert set(found) == {"min-max", "percentile", "mse"}
    assert found["min-max"] == {"lr": (-0.25, 0.75), "t0": (-0.5, 1.5)}


def test_rare_values_are_cut_by_the_other_methods():
    x = np.random.default_rng(0).random((1, 3, 6, 7), np.float32)
    pictures = [x] * 200 + [x * 40]
    found = ranges_of(pictures)
    assert found["min-max"]["lr"][1] > 35
    assert found["percentile"]["lr"][1] <= found["min-max"]["lr"][1]
    for rules in (UNSIGNED, SIGNED):
        low, high = ranges_of(pictures, rules)["mse"]["t0"]
        assert 0 <= low < high <= 2 * float(pictures[-1].max())


def test_the_least_error_of_even_numbers_takes_their_whole_range():
    x = np.linspace(-1, 1, 6 * 7 * 3, dtype=np.float32).reshape(1, 3, 6, 7)
    for rules in (UNSIGNED, SIGNED):
        low, high = ranges_of([x] * 30, rules)["mse"]["lr"]
        assert (low, high) == (pytest.approx(-1, abs=0.05), pytest.approx(1, abs=0.05))


def test_a_network_that_yields_nan_is_refused_by_its_first_node():
    model = graph("x = Neg (lr) y = Sqrt (x) z = Conv (y, w) sr = Conv (z, w)")
    weights = np.ones((3, 3, 1, 1), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    x = np.full((1, 3, 8, 8), 0.5, np.float32)
    with pytest.raises(
        ExportError, match="not finite numbers, first those of node 'y' .Sqrt."
    ) as e:
        collect_ranges(ready_to_quantise(model), [x], UNSIGNED)
    assert "diverged" in e.value.hint
