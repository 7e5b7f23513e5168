from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.results.columns import VALUES, Column, labels, settings_text
from sr_deploy.results.rows import BenchmarkRow

A = BenchmarkRow(model="m_x4", variant="c4", backend="torch", input_hw=(256, 512), macs_g=3.7308)
B = replace(A, variant="c16-nla")


def test_names_tell_rows_apart():
    graph = replace(A, backend="onnxruntime")
    assert labels([A, B]) == ["m_x4.c4", "m_x4.c16-nla"]
    assert labels([A, graph, B]) == ["m_x4.c4 (torch)", "m_x4.c4 (onnxruntime)", "m_x4.c16-nla"]
    assert labels([graph, replace(graph, target="cpu"), A]) == [
        "m_x4.c4 (onnxruntime, no target)",
        "m_x4.c4 (onnxruntime, cpu)",
        "m_x4.c4 (torch)",
    ]
    assert labels([A, replace(A, input_hw=(8, 8))]) == ["m_x4.c4 (256x512)", "m_x4.c4 (8x8)"]


def test_networks_of_one_name_are_told_apart_by_their_code_or_weights():
    a, b = replace(A, artifact_sha256="1" * 64), replace(A, artifact_sha256="2" * 64)
    assert labels([a, b, A]) == [f"m_x4.c4 ({x})" for x in ("1" * 8, "2" * 8, "random weights")]
    a, b = replace(a, artifact="a.py:Net"), replace(b, artifact="b.py:Net")
    assert labels([a, a, b]) == [f"m_x4.c4 ({x}.py:Net)" for x in "aab"]


def test_rows_of_other_settings_have_other_names():
    graph = replace(A, settings="eager, NCHW, one CUDA graph, TF32 off")
    assert labels([A, graph]) == [
        "m_x4.c4 (default settings)",
        "m_x4.c4 (eager, NCHW, one CUDA graph, TF32 off)",
    ]
    assert settings_text(graph) == "CUDA graph"
    assert settings_text(replace(A, settings="torch.compile, channels-last")) == (
        "channels-last, torch.compile"
    )
    assert settings_text(replace(A, settings="no CUDA graph (DLA), one stream")) == ""


@pytest.mark.parametrize("key", VALUES)
def test_a_missing_value_is_an_empty_cell(key):
    bare = BenchmarkRow(model="m", variant="", backend="b")
    assert VALUES[key](bare) is None and Column("", key).text(bare) == ""


def test_flops_are_marked_where_operators_are_not_counted():
    column = Column("FLOPs [G]", "macs_g")
    assert column.text(A) == "3.73" and column.text(replace(A, uncounted={"add": 1})) == "3.73†"
