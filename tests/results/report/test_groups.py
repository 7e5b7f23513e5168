from __future__ import annotations

import pytest
from sample_rows import family, row

from sr_deploy.results.report.groups import cost_axes, group_rows, pareto_front, rank_changes


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": "ntire2024"},
        {"device": "another"},
        {"threads": 1},
        {"power_mode": "15W"},
        {"input_hw": (32, 32)},
        {"batch": 4},
        {"set": "Set14"},
        {"metric": "rgb"},
        {"scale": 2},
        {"cadence_hz": 30.0},
        {"test_set": "t"},
    ],
    ids=str,
)
def test_rows_of_other_conditions_are_never_ranked_together(changes):
    groups = group_rows([row(), row("d2", **changes), row("d3")])
    assert [[e.row.variant for e in g.entries] for g in groups] == [["d1", "d3"], ["d2"]]
    assert len({e.id for g in groups for e in g.entries}) == 3


def test_the_newest_of_repeated_measurements_counts_and_the_earlier_are_kept():
    old, new = (
        row(ms=12.0, date_utc="2026-01-01T00:00:00Z"),
        row(ms=10.0, date_utc="2026-01-03T00:00:00Z"),
    )
    for given in ([old, new], [new, old]):
        (entry,) = group_rows(given)[0].entries
        assert entry.row == new and entry.earlier == (old,)
    first, last = row(ms=12.0), row(ms=10.0)  # within a second: the later line
    assert group_rows([first, last])[0].entries[0].row == last


def test_rows_of_other_settings_are_networks_of_their_own():
    fast = row(settings="eager, channels-last")
    (group,) = group_rows([row(), fast])
    assert [entry.how for entry in group.entries] == ["torch fp32", "torch fp32 channels-last"]


def test_errors_are_in_no_group():
    assert group_rows([row(error="needs a GPU")]) == []


def test_the_front_holds_what_nothing_beats():
    (group,) = group_rows(family())
    latency, flops, params = cost_axes(group)
    assert [p.entry.row.variant for p in pareto_front(group.entries, latency)] == [
        "d1",
        "d2",
        "d10",
    ]
    assert [p.entry.row.variant for p in pareto_front(group.entries, flops)] == ["b4", "d2", "d10"]
    assert [p.entry.row.variant for p in pareto_front(group.entries, params)] == ["d1", "d2", "d10"]


def test_what_differs_by_less_than_is_printed_is_equal():
    (group,) = group_rows(
        [
            row("d1", 10.0, 30.0),
            row("d1", 20.0, 30.0000004, backend="onnxruntime"),
            row("d2", 30.0, 30.001),
        ]
    )
    assert [
        (p.entry.row.variant, p.entry.row.backend)
        for p in pareto_front(group.entries, cost_axes(group)[0])
    ] == [("d1", "torch"), ("d2", "torch")]


def test_of_equals_one_is_on_the_front_and_a_cost_of_nothing_is_not_drawn():
    (group,) = group_rows(
        [row("d1"), row("d2"), row("d3", ms=0.0, psnr=40.0), row("d4", ms=None, psnr=40.0)]
    )
    assert [p.entry.row.variant for p in pareto_front(group.entries, cost_axes(group)[0])] == ["d1"]


def test_counters_have_an_axis_each():
    (group,) = group_rows([row("d1"), row("d2", counter="fvcore", macs_g=13.0)])
    names = [axis.name for axis in cost_axes(group)]
    assert names == [
        "Latency [ms]",
        "FLOPs [G], counted by fvcore",
        "FLOPs [G], counted by hooks",
        "Parameters [K]",
    ]
    assert [cost_axes(group)[1].of(e.row) for e in group.entries] == [None, 13.0]


def test_ranks_of_two_protocols_are_compared_among_what_both_measured():
    rows = [row("d1", 1.0), row("d2", 2.0), row("d3", 3.0)]
    rows += [
        row(v, ms, protocol="ntire2022", input_hw=None) for v, ms in (("d1", 9.0), ("d3", 8.0))
    ]
    (changes,) = rank_changes(group_rows(rows))
    assert [(e.row.variant, here, there) for e, here, there in changes.lines] == [
        ("d1", 1, 2),
        ("d3", 2, 1),
    ]
    assert (
        rank_changes(
            group_rows([row("d1"), row("d2"), row("d1", device="b"), row("d2", device="b")])
        )
        == []
    )


def test_ranks_are_compared_though_a_harness_rounds_otherwise():
    ours, theirs = "eager, NCHW, TF32 off", "eager, NCHW, convolutions may round to TF32"
    rows = [row("d1", 1.0, settings=ours), row("d2", 2.0, settings=ours)]
    rows += [
        row(v, ms, protocol="ntire2022", input_hw=None, settings=theirs)
        for v, ms in (("d1", 9.0), ("d2", 8.0))
    ]
    (changes,) = rank_changes(group_rows(rows))
    assert [(here, there) for _, here, there in changes.lines] == [(1, 2), (2, 1)]
