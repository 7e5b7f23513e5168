from __future__ import annotations

import pytest

from sr_deploy.results.report.printed import printed_for, printed_rows, score_of


def find(series, label, scale):
    (row,) = [r for r in printed_rows() if (r.series, r.label, r.scale) == (series, label, scale)]
    return row


@pytest.mark.parametrize(
    "series, label, scale, name, printed",
    [
        ("ASRN", "5B", 4, "Set5", (31.65, 0.8867)),
        ("ASRN", "1B", 3, "Manga109", (31.21, 0.9213)),
        ("ASRN (DSL)", "3B", 4, "Urban100", (25.16, 0.7517)),
        ("ASRN (SS)", "4B", 4, "Set14", (26.57, 0.7259)),
        ("ASRN, 25B and 45B", "45B", 3, "B100", (29.15, 0.8068)),
        ("IMDeception", "c16-nla", 4, "Set5", (32.14, None)),
        ("IMDeception", "c16-nla", 4, "Set14", None),
        ("SRN", "SRN", 2, "Urban100", (32.19, 0.9287)),
        ("SRN and SRN-S, DIV2K only, distilled", "SRN-S", 4, "B100", (27.4584, None)),
    ],
)
def test_values_as_they_stand_in_the_papers(series, label, scale, name, printed):
    assert score_of(find(series, label, scale), name) == printed


def test_every_row_is_whole_and_named_once():
    assert len({(r.table, r.series, r.label, r.scale) for r in printed_rows()}) == len(
        printed_rows()
    )
    for row in printed_rows():
        assert (
            row.paper in ("ASRN", "IMDeception", "SRN")
            and row.table.startswith("Table ")
            and row.scale in (2, 3, 4)
        )
        assert row.params_k > 0 and row.scores
        assert all(
            20 < psnr < 40 and (ssim is None or 0.6 < ssim < 1)
            for psnr, ssim in row.scores.values()
        )
        assert len(row.scores) == 5 or row.paper != "ASRN"


@pytest.mark.parametrize("series", ["ASRN", "ASRN (DSL)", "ASRN (SS)", "ASRN, 25B and 45B"])
@pytest.mark.parametrize("scale", [3, 4])
def test_more_blocks_score_higher(series, scale):
    """A digit copied wrongly shows here, mostly."""
    rows = sorted(
        (r for r in printed_rows() if (r.series, r.scale) == (series, scale)),
        key=lambda r: r.params_k,
    )
    for name in rows[0].scores:
        psnrs = [r.scores[name][0] for r in rows]
        assert psnrs == sorted(psnrs)


def test_flops_only_where_they_are_counted_as_ours():
    assert {r.label: r.macs_g for r in printed_rows() if r.macs_g is not None} == {
        "c16-nla": 20.7,
        "c12": 12.9,
        "c4-nla": 3.7,
        "c4": 3.7,
    }


def test_rows_are_given_under_the_same_conditions_only():
    four = printed_for("set5", scale=4, metric="y", degradation="bi")
    assert {r.paper for r in four} == {"ASRN", "IMDeception", "SRN"} and {
        r.scale for r in four
    } == {4}
    assert (
        printed_for("BSD100", scale=3, metric="y", degradation="bi")
        == printed_for("B100", scale=3, metric="y", degradation="bi")
        != []
    )
    for name, metric, degradation in (
        ("Set5", "rgb", "bi"),
        ("Set5", "y", "dn"),
        ("Holiday", "y", "bi"),
    ):
        assert printed_for(name, scale=3, metric=metric, degradation=degradation) == []
