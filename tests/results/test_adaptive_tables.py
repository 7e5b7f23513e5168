from __future__ import annotations

from dataclasses import replace

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.results.adaptive_tables import printed_scores
from sr_deploy.results.paper_numbers import quantity_in, score_in
from sr_deploy.results.published import build_table
from sr_deploy.results.rows import BenchmarkRow


def image(name, hw, ms):
    keys = {"image": name, "split": "valid", "psnr_db": 30.0, "ssim": 0.9}
    return {**keys, "lr_hw": list(hw), "ms": ms}


STATIC = BenchmarkRow(
    model="fsrcnn-w56_x4",
    variant="w56",
    backend="onnxruntime",
    scale=4,
    set="Test2K",
    metric="rgb",
    border_px=4,
    psnr_db=25.61,
    ssim=0.7363,
    macs_g=14.976,
    counter="hooks",
    tiling="whole",
    images=(image("a.png", (256, 256), 10.0), image("b.png", (256, 768), 20.0)),
)
SMALL = replace(STATIC, model="fsrcnn-w16_x4", variant="w16", macs_g=4.516, psnr_db=25.3)
WORK = {"share": 0.62, "timed_share": 0.7, "macs_g": 2.0}
ROUTED = replace(
    STATIC,
    model="cdnsr-fsrcnn_x4",
    variant="70%",
    macs_g=None,
    counter="",
    psnr_db=25.6,
    executed={**WORK, "ways": {"fsrcnn-w16_x4.w16": 0.25, "fsrcnn-w56_x4.w56": 0.75}},
)


def columns(table):
    return {h: [row[i] for row in table.cells] for i, h in enumerate(table.headings)}


def test_cdnsr_s_flops_of_a_patch_are_those_of_the_branches_as_the_paper_counts_them():
    table = build_table([STATIC, SMALL, ROUTED], "cdnsr1")
    names, flops, work = (columns(table)[key] for key in ("Model", "FLOPs", "work"))
    assert names[:3] == ["fsrcnn-w56_x4.w56", "fsrcnn-w16_x4.w16", "cdnsr-fsrcnn_x4.70%"]
    # The paper prints 468 M, 141 M; 0.25 * 141.1 + 0.75 * 468 = 386.3.
    assert flops[:3] == ["468M", "141M", "386M (83%)"] and work[:3] == ["", "", "62%"]
    assert columns(table)["time [ms]"][0] == "15.00"
    assert columns(table)["Test2K PSNR/SSIM"][0] == "25.610/0.7363"
    printed = dict(zip(names, flops))
    assert printed["CDNSR(M), FSRCNN (printed, not measured)"] == "299M (64%)"
    assert len(names) == 3 + 5, "of this backbone only"
    assert any("twice the multiply-accumulates" in note for note in table.notes)
    assert any("prints 119 M as 42 %" in note for note in table.notes)


def test_a_router_s_flops_need_the_rows_of_its_branches():
    table = build_table([STATIC, ROUTED], "cdnsr1")
    assert columns(table)["FLOPs"][1] == ""
    assert "no FLOPs of routers without rows of their branches: fsrcnn-w16_x4.w16" in table.notes


def test_a_column_for_each_set_and_printed_numbers_only_where_they_compare():
    other = replace(STATIC, set="Test8K", psnr_db=32.6)
    table = build_table([STATIC, other], "cdnsr1")
    assert columns(table)["Test8K PSNR/SSIM"][:2] == ["32.600/0.7363", "32.66/0.8639"]
    assert len(build_table([replace(STATIC, metric="y")], "cdnsr1").cells) == 1
    assert len(build_table([replace(STATIC, set="photos-2K")], "cdnsr1").cells) == 1
    with pytest.raises(InputError, match="two rows for fsrcnn-w56_x4.w56 on Test2K"):
        build_table([STATIC, STATIC], "cdnsr1")


def test_adadsr_s_flops_are_of_an_image_on_average():
    dense = replace(STATIC, model="edsr-16_x4", variant="", set="Set5", metric="y", macs_g=100.0)
    work = {**WORK, "macs_g": 60.0, "ways": {"4": 1.0}}
    deep = replace(dense, model="adaedsr_x4", variant="d8", macs_g=100.0, executed=work)
    table = build_table([dense, deep], "adadsr2")
    found = columns(table)
    assert found["FLOPs [G]"][:2] == ["200.00", "120.00"], "of 2 * 256 * 256 pixels"
    assert "EDSR x4 (printed, not measured)" in found["Model"] and "501.9" in found["FLOPs [G]"]
    assert "work" not in found and any("Set5 imply" in note for note in table.notes)


def test_the_printed_numbers_are_whole():
    rows = printed_scores()
    assert len([r for r in rows if r.paper == "CDNSR"]) == 20
    assert len([r for r in rows if r.paper == "AdaDSR"]) == 12
    for row in rows:
        assert len(row.sets) == (3 if row.paper == "CDNSR" else 5)
        for score, flops in row.sets.values():
            psnr_db, ssim = score_in(score)
            assert 20 < psnr_db < 40 and ssim is not None and 0.5 < ssim < 1
            amount, _, share = flops.partition(" ")
            assert quantity_in(amount) > 0
            assert bool(share) == (row.paper == "CDNSR")
            assert not share or 40 < int(share.strip("(%)")) <= 100


def test_rows_of_cdnsr_belong_to_the_backbone_above_them():
    rows = {(r.architecture, r.label): r.sets for r in printed_scores() if r.paper == "CDNSR"}
    assert rows["carn-m", "CARN"]["test2k"] == ("25.95/0.7511", "1150M (100%)")
    assert rows["rcan", "CDNSR(S), RCAN"]["test8k"] == ("33.72/0.8833", "14620M (45%)")


def test_a_set_may_have_another_name_in_rows():
    row = replace(STATIC, model="edsr-16_x4", variant="", set="BSD100", metric="y", macs_g=100.0)
    found = columns(build_table([row], "adadsr2"))
    assert found["BSD100 PSNR/SSIM"][1:] == ["27.71/0.7420", "27.71/0.7410"]
