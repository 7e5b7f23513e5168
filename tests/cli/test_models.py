from __future__ import annotations

import json
import os
import pickle

import pytest

CODE_RAN = "code-ran"


@pytest.fixture()
def torch():
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    return pytest.importorskip("torch", reason="torch is not installed")


def test_models_lists_what_is_shipped(run_cli):
    listed = json.loads(run_cli("models", "--json").stdout)
    models, routers = ([m for m in listed if ("branches" in m) == which] for which in (False, True))
    assert models and routers and all(os.path.isfile(m["path"]) for m in listed)
    origin = {"licence", "trained_on", "notes", "path", "measured", "conditions"}
    origin |= {"precisions", "precision_conditions"}
    for model in models:
        assert set(model) == {"name", "arch", "scale", "variants", *origin}
        assert model["variants"] and set(model["measured"]) <= set(model["variants"])
    points = {f"{m['name']}:{variant}" for m in models for variant in m["variants"]}
    for router in routers:
        assert set(router) == {"name", "scale", "branches", *origin}
        assert len(router["branches"]) >= 2
        assert set(router["branches"]) <= points, (
            "a shipped router chooses between shipped networks"
        )
    table, notes = run_cli("models").stdout.split("\n\n")
    assert "- imdeception_x4: Taught in its last 6,000 steps" in notes
    assert table.startswith("| model") and all(f"| {m['name']} " in table for m in listed)
    assert all(m["licence"] in table and m["path"] in table for m in listed)


@pytest.mark.parametrize("columns", [80, 100])
def test_models_on_a_terminal(run_cli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = run_cli("models", "--format", "text").stdout
    assert all(len(line) <= columns for line in text.splitlines()), text
    heading = text.splitlines()[0].split()
    assert heading[:3] == ["model", "scale", "variants"] and "PSNR" in heading and "fps" in heading
    assert "licence of all: weights: research and education only" in text
    assert "onnxruntime" in text and "threads" in text and "Set5" in text, "conditions of numbers"
    listed = json.loads(run_cli("models", "--json").stdout)
    assert all(f"\n{m['name']} " in text for m in listed)


def test_one_model_has_a_line_for_each_variant(run_cli, fails, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = run_cli("models", "asrn_x4", "--format", "text").stdout
    (model,) = json.loads(run_cli("models", "asrn_x4", "--json").stdout)
    first = text.split("in each precision")[0]
    for variant, numbers in model["measured"].items():
        (line,) = [line for line in first.splitlines() if line.startswith(f"asrn_x4.{variant} ")]
        assert f"{numbers['psnr_db']:.3f}" in line and f"{numbers['time_ms']:.2f}" in line
    assert f"licence: {model['licence']}" in text and "trained on: BSDS500" in text
    assert "x4 " in run_cli("models", "elastic-asrn_x4", "--format", "text").stdout
    error = fails("models", "asrm_x4")
    assert "there is no shipped model 'asrm_x4'" in error and "did you mean 'asrn_x4'" in error


# What a checkpoint may not be.


def damaged(asrn, tmp_path, how):
    path = tmp_path / asrn.name
    data, card = asrn.read_bytes(), asrn.with_suffix(".json").read_text()
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    elif how == "text":
        data = b"just text\n"
    elif how == "edited":
        data = data[:-1] + bytes([data[-1] ^ 1])
    elif how == "card key":
        card = card.replace('"arch"', '"archi"')
    elif how == "card text":
        card = card.replace(":", " ", 1)
    path.write_bytes(data)
    if how != "no card":
        path.with_suffix(".json").write_text(card)
    return path


@pytest.mark.parametrize(
    "how, words",
    [
        ("truncated", "is not a valid safetensors file"),
        ("empty", "is not a valid safetensors file"),
        ("text", "is not a valid safetensors file"),
        ("edited", "does not match its card"),
        ("card key", "unknown key 'archi'"),
        ("card text", "line 2: not valid JSON"),
        ("no card", "has no card"),
    ],
)
def test_a_damaged_checkpoint_is_refused(torch, fails, asrn, tmp_path, how, words):
    path = damaged(asrn, tmp_path, how)
    for command in (["complexity", path], ["export", path, "-o", tmp_path / "out"]):
        if command[0] == "export":
            pytest.importorskip("onnx", reason="onnx is not installed")
        assert words in fails(*command)
    assert not (tmp_path / "out").exists()


# Importing.


class Code:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def write_bad(torch, path, how):
    if how == "code":
        path.write_bytes(pickle.dumps({"weight": Code(str(path.with_name(CODE_RAN)))}, protocol=2))
    elif how == "code in torch's own format":
        torch.save({"weight": Code(str(path.with_name(CODE_RAN)))}, str(path))
    elif how == "truncated":
        torch.save({"weight": torch.zeros(1000)}, str(path))
        path.write_bytes(path.read_bytes()[:2000])
    elif how == "text":
        path.write_text("just text\n")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a list":
        torch.save([torch.zeros(1)], str(path))


@pytest.mark.parametrize(
    "how, words",
    [
        ("code", "cannot be read as weights"),
        ("code in torch's own format", "cannot be read as weights"),
        ("truncated", "cannot be read as weights"),
        ("text", "cannot be read as weights"),
        ("empty", "cannot be read as weights"),
        ("a list", "does not contain a state dict"),
        ("missing", "there is no file"),
    ],
)
@pytest.mark.parametrize("kind", ["asrn_x4", "imdeception-ntire2022"])
def test_a_file_that_is_no_weights_is_refused_and_no_code_runs(
    torch, fails, tmp_path, kind, how, words
):
    write_bad(torch, tmp_path / "w.pth", how)
    error = fails("import-checkpoint", kind, tmp_path / "w.pth", "-o", tmp_path / "out")
    assert error.startswith("error: ") and words in error and "w.pth" in error
    assert not (tmp_path / CODE_RAN).exists() and not (tmp_path / "out").exists()


def test_the_pickle_used_above_does_run_code_where_it_is_trusted(tmp_path):
    pickle.loads(pickle.dumps(Code(str(tmp_path / CODE_RAN))))
    assert (tmp_path / CODE_RAN).exists()


def state_dict(torch, variant="d1", scale=2):
    from sr_deploy.core.spec import Variant
    from sr_deploy.nets import ARCHITECTURES

    torch.manual_seed(0)
    return ARCHITECTURES["asrn"].build(scale, Variant.parse(variant)).state_dict()


@pytest.mark.parametrize("kind", ["asrn", "asrn_x2"])
def test_a_state_dict_of_ours_comes_in(torch, run_cli, tmp_path, kind):
    torch.save(
        {"params": {f"module.{k}": v for k, v in state_dict(torch).items()}},
        str(tmp_path / "my net.pth"),
    )
    result = run_cli("import-checkpoint", kind, tmp_path / "my net.pth", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    path = result.stdout.strip()
    assert path == str(tmp_path / "out" / "my-net_x2.safetensors")
    assert json.loads(run_cli("complexity", path, "--size", "8x8", "--json").stdout)[
        "params"
    ] == sum(v.numel() for v in state_dict(torch).values())


@pytest.mark.parametrize(
    "kind, words",
    [
        (
            "asrm",
            ["unknown kind of checkpoint 'asrm'", "imdeception-ntire2022", "did you mean 'asrn'?"],
        ),
        ("asrn_x4", ["does not fit its network"]),
        ("imdeception", ["does not fit its network"]),
        ("asrn_x9", ["does not support scale x9"]),
    ],
)
def test_weights_of_another_network_are_refused(torch, fails, tmp_path, kind, words):
    torch.save(state_dict(torch), str(tmp_path / "w.pth"))
    error = fails("import-checkpoint", kind, tmp_path / "w.pth", "-o", tmp_path / "out")
    assert all(word in error for word in words), error
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_refused(torch, fails, tmp_path):
    weights = state_dict(torch)
    weights["body.0.reduce.bias"][3] = float("nan")
    torch.save(weights, str(tmp_path / "w.pth"))
    assert "'body.0.reduce.bias' contains values that are not finite" in fails(
        "import-checkpoint", "asrn", tmp_path / "w.pth", "-o", tmp_path / "out"
    )


def test_an_output_folder_that_cannot_be_written(torch, fails, tmp_path):
    torch.save(state_dict(torch), str(tmp_path / "w.pth"))
    error = fails("import-checkpoint", "asrn", tmp_path / "w.pth", "-o", tmp_path / "w.pth" / "out")
    assert "cannot write to the folder" in error and "hint: a part of its path is a file" in error


def test_an_architecture_is_recognised_without_its_name(torch, run_cli, tmp_path):
    from doubles.spandrel_networks import weights_of

    torch.save(weights_of("Compact"), str(tmp_path / "net.pth"))
    result = run_cli("import-checkpoint", tmp_path / "net.pth", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "out" / "net_x4.safetensors")
    assert "Compact x4, 4,920 parameters" in result.stderr
    assert "imported from net.pth: Compact, 8nf, 2nc, SR" in result.stderr
    counts = json.loads(
        run_cli("complexity", result.stdout.strip(), "--size", "8x8", "--json").stdout
    )
    assert counts["params"] == 4920


@pytest.mark.parametrize("arguments", [[], ["asrn", "w.pth", "x"]])
def test_import_takes_a_file_and_at_most_a_kind(run_cli, tmp_path, arguments):
    result = run_cli("import-checkpoint", *arguments, "-o", tmp_path)
    assert result.exit_code == 2
    assert f"expected [KIND] FILE, got {len(arguments)} arguments" in result.stderr


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["-o", "x"], "-o needs --online"),
        (["--online", "-o", "x"], "-o needs the id of a network"),
        (["--online", "span", "-o", "x", "--json"], "excludes --json"),
    ],
)
def test_models_online_that_do_not_fit_together(run_cli, arguments, words):
    result = run_cli("models", *arguments)
    assert result.exit_code == 2 and words in result.stderr


def test_models_online(torch, run_cli, tmp_path, monkeypatch):
    from sr_deploy.nets import online

    found = {"name": "4x-A", "arch": "span", "scale": 4, "author": "b", "licence": "MIT"}
    monkeypatch.setattr(online, "find_online", lambda text: [found] if text == "sp" else [])
    assert "| 4x-A | span |" in run_cli("models", "--online", "sp").stdout
    assert json.loads(run_cli("models", "--online", "sp", "--json").stdout) == [found]
    assert json.loads(run_cli("models", "--online", "--json").stdout) == []

    def imported(name, folder):
        from doubles.spandrel_networks import weights_of

        from sr_deploy.nets.importers import checkpoint_from_file

        torch.save(weights_of("Compact"), str(tmp_path / f"{name}.pth"))
        return checkpoint_from_file(None, tmp_path / f"{name}.pth", folder)

    monkeypatch.setattr(online, "checkpoint_from_catalogue", imported)
    result = run_cli("models", "--online", "4x-A", "-o", tmp_path)
    assert result.stdout.strip() == str(tmp_path / "4x-A_x4.safetensors"), result.stderr
