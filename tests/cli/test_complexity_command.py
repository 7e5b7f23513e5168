"""`srdeploy complexity`."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sr_deploy.core.manifest import write_artifact


@pytest.fixture()
def torch():
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    return pytest.importorskip("torch", reason="torch is not installed")


def test_several_variants_are_a_table(run_cli, fails):
    pytest.importorskip("torch", reason="torch is not installed; it counts")
    args = ("complexity", "asrn_x2", "--size", "16x16", "--variants")
    result = run_cli(*args, "d1,d2")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.split("\n")
    assert lines[0].startswith("| variant | #Params [M] | FLOPs [G] |") and lines[2][:4] == "| d1"
    assert "asrn_x2, multiply-accumulates at 16x16, counter hooks" in result.stdout
    counted = json.loads(run_cli(*args, "d1,d2", "--json").stdout)
    single = json.loads(run_cli(*args, "d2", "--json").stdout)
    assert [c["variant"] for c in counted] == ["d1", "d2"]
    assert (counted[1]["macs"], counted[1]["hw"]) == (single["macs"], single["hw"])
    assert "| d5" in run_cli(*args, "all").stdout
    assert "has no variant 'd1'" in fails("complexity", "srn-ntire_x4", "--variants", "d1,b4")


def test_complexity_of_a_bare_name(torch, run_cli):
    counts = json.loads(
        run_cli("complexity", "asrn_x2", "--variant", "d1", "--size", "16x24", "--json").stdout
    )
    assert set(counts) == {
        *("params", "macs", "acts", "convs", "counter", "uncounted", "uncounted_macs", "hw")
    }
    assert (
        all(isinstance(counts[k], int) for k in ("params", "macs", "acts", "convs"))
        and counts["counter"] == "hooks"
    )
    text = run_cli("complexity", "asrn_x2", "--variant", "d1", "--size", "16x24").stdout
    assert f"{counts['params'] / 1e6:.6f} M" in text and "16x24" in text and "hooks" in text


def test_complexity_of_a_checkpoint_is_that_of_its_architecture(torch, run_cli, asrn):
    args = ["--variant", "d2", "--size", "16x16", "--counter", "fvcore", "--json"]
    assert (
        run_cli("complexity", asrn, *args).stdout
        == run_cli("complexity", "asrn_x2", *args).stdout
        != ""
    )


def test_an_architecture_takes_any_depth_but_a_checkpoint_its_own(torch, run_cli, fails, asrn):
    assert run_cli("complexity", "asrn_x2", "--variant", "d9", "--size", "8x8").exit_code == 0
    error = fails("complexity", asrn, "--variant", "d9", "--size", "8x8")
    assert "checkpoint has no variant 'd9'; it has d1, d2" in error
    assert "hint: did you mean 'd" in error


@pytest.mark.parametrize(
    "args, words",
    [
        (["asrn_x9"], ["does not support scale x9", "x2, x3, x4"]),
        (["asrm_x4"], ["there is no model 'asrm_x4'"]),
        (["asrn_x4", "--variant", "c8"], ["'c8' is not a variant", "d5"]),
        (["asrn_x4", "--variant", "five"], ["'five' is not a variant"]),
        (["asrn_x4", "--size", "256"], ["'256' is not a size", "256x512"]),
        (["srn_x4", "--size", "8x64"], ["8x64 pixels is too small for srn_x4", "15x15"]),
        (["absent.safetensors"], ["there is no", "absent.safetensors"]),
    ],
)
def test_bad_arguments(torch, fails, args, words):
    error = fails("complexity", *args)
    assert error.startswith("error: ") and all(word in error for word in words), error


def test_complexity_notes_what_the_paper_miscounts(torch, run_cli):
    printed = run_cli(
        "complexity", "imdeception_x4", "--variant", "c4-nla", "--size", "16x16"
    ).stdout
    assert "note     IMDeception, Table 2 prints 57 M activations" in printed


# Graphs and engines.


@pytest.fixture()
def tiny(tmp_path):
    """Save the tiny graph, with a manifest where one is given; return its path."""
    pytest.importorskip("onnx", reason="onnx is not installed")
    from doubles.graphs import tiny_model

    def save(hw, manifest=None, name="a.onnx"):
        path = tmp_path / name
        data = tiny_model(hw).SerializeToString()
        if manifest is None:
            path.write_bytes(data)
        else:

            def write(temporary):
                temporary.write_bytes(data)
                return manifest

            write_artifact(path, write)
        return path

    return save


COUNTED = {"macs": 256 * 256 * 324, "acts": 256 * 256 * 12, "convs": 1, "params": 324}
TRAINED = {**COUNTED, "params": 999, "counter": "hooks", "uncounted": {}, "uncounted_macs": {}}


def test_complexity_of_a_graph(run_cli, tiny):
    text = run_cli("complexity", tiny(None)).stdout.splitlines()
    assert text == [
        "#Params  0.000324 M",
        "FLOPs    0.0212 G multiply-accumulates at 256x256",
        "#Acts    0.7864 M",
        "#Conv    1",
        "counter  hooks; operators it ignores: none",
    ]
    counts = json.loads(run_cli("complexity", tiny(None), "--size", "8x16", "--json").stdout)
    assert counts["macs"] == 8 * 16 * 324 and counts["hw"] == [8, 16]


def test_complexity_of_a_graph_of_one_size(run_cli, fails, tiny):
    path = tiny((16, 24))
    assert "multiply-accumulates at 16x24" in run_cli("complexity", path).stdout
    assert run_cli("complexity", path, "--size", "16x24").exit_code == 0
    error = fails("complexity", path, "--size", "8x8")
    assert "a.onnx is of a fixed size: it takes 16x24, not 8x8" in error


def test_complexity_of_a_graph_with_a_manifest(run_cli, tiny):
    from doubles.graphs import tiny_manifest

    deployed = {"hooks": {**TRAINED, **COUNTED}, "fvcore": {**TRAINED, **COUNTED}}
    counts = {**TRAINED, "fvcore": {**TRAINED, "counter": "fvcore"}, "deployed": deployed}
    path = tiny(None, dataclasses.replace(tiny_manifest((8, 8), (512, 512)), counts=counts))
    text = run_cli("complexity", path).stdout
    assert text.startswith("#Params  0.000999 M\n")
    assert "deployed 0.000324 M, 0.0212 G, 0.7864 M, 1: of the graph that runs\n" in text
    shown = json.loads(run_cli("complexity", path, "--json", "--counter", "fvcore").stdout)
    assert shown["params"] == 999 and shown["deployed"]["params"] == 324
    other = json.loads(run_cli("complexity", path, "--size", "8x16", "--json").stdout)
    assert other["params"] == 324 and other["hw"] == [8, 16]


def test_complexity_of_an_engine(run_cli, fails, tiny):
    from doubles.graphs import tiny_manifest

    engine = dataclasses.replace(tiny_manifest(), kind="engine", target="cpu")
    path = tiny((16, 24), dataclasses.replace(engine, counts=TRAINED), "b.engine")
    assert "#Params  0.000999 M" in run_cli("complexity", path).stdout
    assert "cannot be counted at 8x8" in fails("complexity", path, "--size", "8x8")
    assert f"{path} has no counts by fvcore" in fails("complexity", path, "--counter", "fvcore")


def test_complexity_of_what_cannot_be_counted(fails, tiny, tmp_path):
    (tmp_path / "text.onnx").write_text("just text")
    assert "text.onnx is not an ONNX" in fails("complexity", tmp_path / "text.onnx")
    assert "there is no file" in fails("complexity", tmp_path / "absent.onnx")
    error = fails("complexity", tiny(None), "--variant", "d3")
    assert "contains no variant 'd3'; it contains one network without a named variant" in error


# Recipes, routers and plans.


def counted(run_cli, model, *options):
    result = run_cli("complexity", model, *options, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "recipe, digits, printed",
    [
        ("asrn-25b-x3", 1, 1.0),  # ASRN, Table 6 [M]
        ("asrn-45b-x3", 1, 1.8),
        ("asrn-25b-x4", 1, 1.0),
        ("asrn-45b-x4", 1, 1.8),
        ("edsr-original-16-x3", 1, 1.6),
        ("srn-ablation-esa-residual-no-last", 3, 0.513),  # without its residual SRN-S: Table 1
        ("imdeception-c12-x4", 3, 0.198),  # IMDeception, Table 2
    ],
)
def test_parameters_of_recipes_are_those_printed(torch, run_cli, recipe, digits, printed):
    assert round(counted(run_cli, recipe, "--size", "16x16")["params"] / 1e6, digits) == printed


def test_an_ablation_that_no_architecture_names(torch, run_cli):
    """ASRN's Table 3, case 1: five blocks of 64 channels without fusion layers."""
    plain = counted(run_cli, "asrn-ablation-64-channels-x3", "--size", "16x16")
    without = counted(run_cli, "asrn-ablation-no-fusion-x3", "--size", "16x16")
    assert plain["params"] - without["params"] == 5 * 64 * (64 + 1)
    assert plain["macs"] - without["macs"] == 5 * 64 * 64 * 16 * 16


@pytest.mark.parametrize("scale, size", [(2, "164x173"), (3, "70x179"), (4, "41x173")])
def test_the_printed_size_of_adaedsr(torch, run_cli, scale, size):
    """32 blocks of 256 channels; without its adapter, EDSR of AdaDSR's Table 2."""
    options = ("--size", size, "--counter", "fvcore")
    ada = counted(run_cli, f"adaedsr-x{scale}", *options)
    edsr = counted(run_cli, f"edsr-original-256-x{scale}", *options)
    assert ada["params"] - edsr["params"] == 738_949
    assert edsr["params"] // 10_000 == {2: 4072, 3: 4368, 4: 4308}[scale]
    assert 1.01 < ada["macs"] / edsr["macs"] < 1.02


@pytest.mark.parametrize("convs, printed", [(3, 1.739), (4, 2.804), (5, 3.869)])
def test_a_router_and_its_branches_have_the_flops_printed(torch, run_cli, convs, printed):
    """CDNSR's Tables I and III, on a patch of 32x32: FLOPs of the router also count its biases."""
    parts = counted(run_cli, f"cdnsr-ablation-fsrcnn-{convs}-convs")
    router, *branches = parts
    assert [p["part"] for p in parts] == [
        "router",
        *(f"cdnsr-fsrcnn-w{width}-x4" for width in (16, 36, 56)),
    ]
    assert all(p["hw"] == [32, 32] for p in parts) and router["convs"] == convs
    assert round((router["macs"] + router["acts"] + 3) / 1e6, 3) == printed
    assert round(2 * branches[-1]["macs"] / 1e6) == 468


def test_parts_are_a_table_in_the_papers_units(torch, run_cli):
    lines = run_cli("complexity", "cdnsr-ablation-fsrcnn-mobilenetv2").stdout.splitlines()
    assert lines[0].split() == "| part | #Params [K] | FLOPs [M] | #Acts [M] | #Conv |".split()
    assert lines[2].split()[1:6:2] == ["router", "2227.715", "6.513"]
    assert lines[-1].endswith("multiply-accumulates at 32x32, counter hooks")


def test_variants_of_a_recipe(torch, run_cli):
    counts = counted(run_cli, "asrn-x4", "--variants", "all", "--size", "8x8")
    assert [c["variant"] for c in counts] == ["d1", "d2", "d3", "d4", "d5"]
    assert counts[2]["params"] == counted(run_cli, "asrn-x4.d3", "--size", "8x8")["params"]


@pytest.mark.parametrize(
    "args, words",
    [
        (["asrn-x5"], ["there is no model 'asrn-x5', and no recipe", "did you mean 'asrn-x"]),
        (["%%%"], ["srdeploy models and srdeploy recipes list the names"]),
        (["int8"], ["trains any checkpoint", "name the checkpoint"]),
        (["srn-x4", "--variants", "b3,b9"], ["has no variant 'b3'"]),
        (["cdnsr-s-fsrcnn-x4", "--variants", "w16"], ["has parts and no variants"]),
        (["srn-x4", "--size", "8x64"], ["8x64 pixels is too small for srn-x4", "15x15"]),
    ],
)
def test_what_a_recipe_cannot_be_asked(torch, fails, args, words):
    error = fails("complexity", *args)
    assert all(word in error for word in words), error
