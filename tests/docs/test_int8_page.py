"""The table of targets in docs/int8.md against their profiles."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.core.target import Int8Rules, load_target, target_names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "int8.md"


def cells(rules: Int8Rules):
    if rules.placement == "operators":
        quantised = "all operators with 8-bit kernels"
    else:
        skips = ", skips of residual additions" if rules.residuals else ""
        quantised = f"inputs of convolutions{skips}"
    return (
        quantised,
        rules.activations + (", symmetric" if rules.symmetric else ""),
        "int8 by a pair" if rules.weights == "float" else "int8",
        rules.rest.upper(),
    )


def test_the_table_of_targets_is_that_of_their_profiles():
    table = PAGE.read_text(encoding="utf-8").split("## What each target wants")[1]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    shown = {name.strip("` "): tuple(rest) for names, *rest in rows for name in names.split(",")}
    profiles = {name: load_target(name) for name in target_names()}
    assert shown == {name: cells(p.int8) for name, p in profiles.items() if p.int8 is not None}
    limits = {(p.int8.group_multiple, p.int8.channel_multiple) for p in profiles.values() if p.int8}
    assert limits == {(1, 1), (4, 8)}
    assert "groups are a multiple of 4 and the channels of each a multiple of 8" in table
