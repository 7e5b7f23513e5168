"""Networks whose values are not finite numbers are refused by their first such node."""

from __future__ import annotations

import types

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from sr_deploy.core.errors import ExportError  # noqa: E402
from sr_deploy.export.not_finite import not_finite_error  # noqa: E402
from sr_deploy.export.source import SourceGraph  # noqa: E402
from sr_deploy.export.verify import compare_with_source  # noqa: E402
from sr_deploy.runtime.ort import raw_session  # noqa: E402
from tests.doubles.onnx_text import graph, run  # noqa: E402

X = np.full((1, 3, 8, 8), 0.5, np.float32)


def test_the_first_node_is_named():
    model = graph("x = Neg (lr) y = Sqrt (x) z = Relu (y) sr = Exp (z)")
    error = not_finite_error(model, X, name="a.onnx")
    assert error.message == (
        "a.onnx: the network yields values that are not finite numbers, first those of node 'y' "
        "(Sqrt)"
    )
    assert "diverged" in error.hint


def test_an_export_of_such_a_network_is_refused():
    model = graph("x = Neg (lr) sr = Log (x)")
    made = SourceGraph(model, lambda x: run(model, x), [], {})
    source = types.SimpleNamespace(reference_name="torch")
    session = raw_session(model.SerializeToString())
    with pytest.raises(ExportError, match="b.onnx: the network yields values that are not finite"):
        compare_with_source(session, source, made, [(8, 8)], "b.onnx")
