from __future__ import annotations

from dataclasses import replace

import pytest
from sample_rows import family, mixed_family, row

from sr_deploy.results.report.groups import (
    cost_axes,
    cost_points,
    executed_g,
    flops,
    group_rows,
    pareto_front,
    rank_changes,
)
from sr_deploy.results.report.series import elastic_curves, precision_costs


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
    assert [p.entry.row.variant for p in pareto_front(group, latency)] == [
        "d1",
        "d2",
        "d10",
    ]
    assert [p.entry.row.variant for p in pareto_front(group, flops)] == ["b4", "d2", "d10"]
    assert [p.entry.row.variant for p in pareto_front(group, params)] == ["d1", "d2", "d10"]


def test_what_differs_by_less_than_is_printed_is_equal():
    (group,) = group_rows(
        [
            row("d1", 10.0, 30.0),
            row("d1", 20.0, 30.0000004, backend="onnxruntime"),
            row("d2", 30.0, 30.001),
        ]
    )
    assert [
        (p.entry.row.variant, p.entry.row.backend) for p in pareto_front(group, cost_axes(group)[0])
    ] == [("d1", "torch"), ("d2", "torch")]


def test_of_equals_one_is_on_the_front_and_a_cost_of_nothing_is_not_drawn():
    (group,) = group_rows(
        [
            row("d1"),
            row("d2", 11.0),
            row("d3", ms=0.0, psnr=40.0),
            row("d4", ms=None, psnr=40.0),
        ]
    )
    assert [p.entry.row.variant for p in pareto_front(group, cost_axes(group)[0])] == ["d1"]


def test_counters_have_an_axis_each():
    counted = {"counter": "fvcore", "macs_g": 13.0}
    rows = [row("d1"), row("d2", 20.0, params=1), row("d3", macs_g=27.0)]
    rows += [row("d4", **counted), row("d5", psnr=31.0, **counted)]
    (group,) = group_rows(rows)
    names = [axis.name for axis in cost_axes(group)]
    assert names == [
        "Latency [ms]",
        "FLOPs as deployed [G], fvcore",
        "FLOPs as deployed [G], hooks",
        "Parameters [K]",
    ]
    assert [cost_axes(group)[1].of(e.row) for e in group.entries] == [None] * 3 + [13.0] * 2


def test_flops_are_those_that_run():
    deployed = row("d1", deployed={"macs": 7_000_000_000})
    adaptive = {"share": 0.5, "timed_share": 0.6, "ways": {}}
    assert [flops(r) for r in (row(), deployed)] == [26.0, 7.0]
    assert flops(row(executed=adaptive)) is None, "it runs less"
    work = {**adaptive, "macs_g": 3.0}
    assert executed_g(row(executed=work)) == 3.0
    assert executed_g(row(executed=work, schema=2)) is None, "another basis"


def test_what_is_executed_has_an_axis_where_there_are_adaptive_networks():
    share = {"share": 0.5, "timed_share": 0.6, "ways": {}}
    adaptive = [row(f"d{i}", psnr=30.0 + i, executed={"macs_g": float(i), **share}) for i in (4, 8)]
    static = [row("d9", psnr=31.0, executed_g=9.0), row("d7")]
    (group,) = group_rows([*adaptive, *static])
    axis = cost_axes(group)[-1]
    assert axis.name == "Multiply-accumulates executed [G]"
    assert [p.cost for p in cost_points(group, axis)] == [4.0, 8.0, 9.0]
    assert "executed" not in [a.id for a in cost_axes(group_rows(static)[0])]


def test_what_is_below_bicubic_is_left_out_unless_all_is():
    rows = [row("d1", psnr=20.0), row("d2", 20.0, 29.0), row("d3", 30.0, 31.0)]
    scored = [replace(r, bicubic_psnr_db=28.0) for r in rows]
    (group,) = group_rows(scored)
    assert [e.row.variant for e in group.below_bicubic] == ["d1"]
    latency = cost_axes(group)[0]
    assert [p.entry.row.variant for p in pareto_front(group, latency)] == ["d2", "d3"]
    for bad in (rows, [replace(r, bicubic_psnr_db=40.0) for r in rows]):
        assert group_rows(bad)[0].below_bicubic == []


def test_a_cost_that_one_place_has_is_no_axis():
    assert cost_axes(group_rows([row()])[0]) == []
    same = [row(), row("d2"), row("d3", 20.0)]
    assert [axis.id for axis in cost_axes(group_rows(same)[0])] == ["latency"]


def test_attention_makes_a_family_of_its_own():
    (group,) = group_rows([row("c4"), row("c4-nla"), row("", model="n")])
    assert [e.family for e in group.entries] == ["m_x4", "m_x4 nla", "n"]


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


def test_mixtures_of_one_precision_are_a_family():
    (group,) = group_rows(mixed_family())
    assert group.precisions == ["fp32", "bf16", "int8"]
    hows = [e.how for e in group.entries if e.row.variant == "d2"]
    assert hows == ["torch fp32", "openvino fp32", "openvino bf16", "openvino int8"]
    curves = elastic_curves(group)[0].psnr
    assert {how: len(points) for how, points in curves.items()} == dict.fromkeys(hows, 2)


def test_the_front_is_over_sizes_and_precisions():
    (group,) = group_rows(mixed_family())
    front = pareto_front(group, cost_axes(group)[0])
    assert [(p.entry.row.variant, p.entry.precision) for p in front] == [
        ("d1", "int8"),
        ("d1", "bf16"),
        ("d2", "int8"),
        ("d2", "bf16"),
        ("d2", "fp32"),
    ]


def test_what_a_precision_costs_is_against_the_fastest_fp32_of_the_network():
    (group,) = group_rows(mixed_family())
    costs = precision_costs(group)
    assert [(c.entry.name, c.entry.precision) for c in costs] == [
        ("m_x4.d1", "bf16"),
        ("m_x4.d1", "int8"),
        ("m_x4.d2", "bf16"),
        ("m_x4.d2", "int8"),
    ]
    assert costs[1].loss_db == pytest.approx(0.06) and costs[1].time_share == pytest.approx(0.4)
    assert costs[1].fp32 is not None and costs[1].fp32.how == "torch fp32"
    (alone,) = group_rows([r for r in mixed_family() if r.precision != "fp32"])
    for cost in precision_costs(alone):
        assert (cost.loss_db, cost.fp32, cost.time_share) == (None, None, None)
    assert precision_costs(group_rows(family())[0]) == []
