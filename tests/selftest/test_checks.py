from __future__ import annotations

from sr_deploy.selftest.checks import KINDS, MODELS, TILED, Way, planned_checks

GPU = Way("torch cuda:0 fp32", {"device": "cuda:0", "precision": "fp32"}, device=True)
ENGINES = Way("tensorrt", target="rtx-tensorrt", device=True)
CPU = Way("torch cpu", {"device": "cpu", "precision": "fp32"})
NONE = Way("tensorrt-rtx", target="rtx", device=True, why_not="it is not here")


def test_the_best_way_is_checked_in_full_and_the_others_by_their_networks():
    checks = planned_checks([GPU, ENGINES, NONE, CPU])
    by_way = {way.name: [c.kind for c in checks if c.on == way] for way in (GPU, ENGINES, CPU)}
    assert sorted(set(by_way[GPU.name])) == [
        "adaptive", "energy", "networks", "protocols", "tiles", "video",
    ]  # fmt: skip
    assert by_way[ENGINES.name] == ["build", "networks"] * len(MODELS) + ["adaptive"] * 3
    assert len([c for c in checks if c.kind == "adaptive" and c.on == GPU]) == 3
    on_cpu = [c.model for c in planned_checks([CPU]) if c.kind == "adaptive"]
    assert on_cpu == ["cdnsr-fsrcnn-gains_x4"]
    assert by_way[CPU.name] == ["networks"] * len(MODELS)
    assert checks[0].name == f"torch cuda:0 fp32: {MODELS[0]}"
    assert {c.model for c in checks if c.kind == "tiles"} == {TILED}


def test_a_missing_way_is_one_skipped_check_at_the_end():
    skipped = [c for c in planned_checks([NONE, CPU]) if c.why_skipped]
    assert [(c.name, c.why_skipped) for c in skipped] == [("tensorrt-rtx", "it is not here")]
    assert planned_checks([NONE, CPU])[-1] == skipped[0]


def test_a_way_that_builds_only_builds_and_tells_why():
    rtx = Way("tensorrt-rtx", target="rtx", device=True, why_builds_only="there is no GPU")
    checks = [check for check in planned_checks([CPU, rtx]) if check.on == rtx]
    assert [c.kind for c in checks] == ["build"] * len(MODELS) + ["networks"]
    assert [c.why_skipped for c in checks] == ["", "", "", "there is no GPU"]


def test_names_are_unique_and_kinds_exist():
    checks = planned_checks([GPU, ENGINES, NONE, CPU])
    assert len({c.name for c in checks}) == len(checks)
    assert all(c.kind in KINDS for c in checks)


def test_on_a_machine_with_engines_only_they_are_checked_in_full():
    kinds = [c.kind for c in planned_checks([ENGINES])]
    assert kinds == [
        "build",
        "networks",
        "build",
        "networks",
        "tiles",
        "build",
        "networks",
        *["adaptive"] * 3,
        "energy",
    ]
