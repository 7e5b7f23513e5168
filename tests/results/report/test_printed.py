from __future__ import annotations

import pytest

from sr_deploy.results.report.printed import printed_for, printed_rows


def find(series, network):
    (row,) = [r for r in printed_rows() if (r.series, r.network) == (series, network)]
    return row


@pytest.mark.parametrize(
    "series, network, name, printed",
    [
        ("ASRN", "asrn_x4.d5", "set5", (31.65, 0.8867)),
        ("ASRN", "asrn_x3.d1", "manga109", (31.21, 0.9213)),
        ("ASRN (DSL)", "asrn_x4.d3", "urban100", (25.16, 0.7517)),
        ("ASRN (SS)", "asrn_x4.d5", "set14", (28.32, 0.7748)),
        ("ASRN, 25B and 45B", "asrn_x3.d45", "b100", (29.15, 0.8068)),
        ("IMDeception", "imdeception_x4.c16-nla", "set5", (32.14, None)),
        ("SRN", "srn_x2.b6", "urban100", (32.19, 0.9287)),
        ("SRN and SRN-S, DIV2K only, distilled", "srn-s_x4.b6", "b100", (27.4584, None)),
    ],
)
def test_values_as_they_stand_in_the_papers(series, network, name, printed):
    assert find(series, network).scores[name] == printed


def test_every_row_is_whole_and_named_once():
    assert len({(r.series, r.network) for r in printed_rows()}) == len(printed_rows()) == 39
    for row in printed_rows():
        assert row.paper in ("ASRN", "IMDeception", "SRN") and row.scale in (2, 3, 4)
        assert row.params_k and row.params_k > 0
        assert len(row.scores) == (4 if row.paper == "SRN" else 5)
        assert all(
            20 < psnr < 40 and (ssim is None or 0.6 < ssim < 1)
            for psnr, ssim in row.scores.values()
        )


def test_counts_of_another_table_of_the_paper():
    assert find("ASRN, 25B and 45B", "asrn_x4.d25").params_k == 1000
    assert find("SRN and SRN-S, DIV2K only", "srn-s_x4.b6").params_k == 513


def test_flops_only_where_they_are_counted_as_ours():
    assert {r.network: r.macs_g for r in printed_rows() if r.macs_g is not None} == {
        "imdeception_x4.c16-nla": 20.7,
        "imdeception_x4.c12": 12.9,
        "imdeception_x4.c8": 7.4,
        "imdeception_x4.c4-nla": 3.7,
        "imdeception_x4.c4": 3.7,
    }


def test_a_note_names_the_table():
    assert find("SRN", "srn_x2.b6").note.startswith("SRN, Table 1: x4 with")
    assert find("ASRN", "asrn_x4.d5").note == "ASRN, Table 5: With self-distillation."


def test_rows_are_given_under_the_same_conditions_only():
    four = printed_for("set5", 4, "y", "bi")
    assert {r.paper for r in four} == {"ASRN", "IMDeception", "SRN"} and {
        r.scale for r in four
    } == {4}
    assert printed_for("BSD100", 3, "y", "bi") == printed_for("B100", 3, "y", "bi") != []
    for name, metric, degradation in (
        ("Set5", "rgb", "bi"),
        ("Set5", "y", "dn"),
        ("Holiday", "y", "bi"),
    ):
        assert printed_for(name, 3, metric, degradation) == []
