"""srdeploy deploy: the folder for each kind of target, going on, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles.graphs import tiny_model

from sr_deploy.cli.main import main  # noqa: F401 - the command is reached by run_cli
from sr_deploy.core import timing
from sr_deploy.core.jsonio import to_json
from sr_deploy.core.manifest import read_manifest, write_artifact
from sr_deploy.core.target import load_target
from sr_deploy.deploy import deployment, measured


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")
    from sr_deploy.core.images import write_png

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        write_png(folder / name, rng.integers(0, 256, (48, 48, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A target like cpu, whose graphs take small sizes only, so that their checks are fast."""
    path = tmp_path_factory.mktemp("targets") / "small.json"
    profile = replace(load_target("cpu"), name="small", shapes=("16x16:24x24:32x32",))
    path.write_text(to_json(profile))
    return str(path)


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    for name, value in (("WARMUP_S", 0.0), ("ENOUGH_S", 0.0), ("MIN_RUNS", 2), ("PAUSE_S", 0.0)):
        monkeypatch.setattr(timing, name, value)


@pytest.fixture()
def deploy(run_cli, asrn, exporter, images, tmp_path):
    """Deploy the tiny ASRN; return the result."""

    def run(target, *options, model=asrn, folder=tmp_path / "out"):
        return run_cli(
            "deploy", model, "--target", target, "--data", images, "-o", folder, *options
        )

    return run


@pytest.fixture()
def cpu(made_once, deploy, small, tmp_path):
    """A finished deployment for cpu, in a folder of its own; and what was printed."""

    def make(folder):
        result = deploy(small, folder=folder / "out")
        assert result.exit_code == 0, result.output + str(result.exception)
        (folder / "printed").write_text(result.stdout + result.stderr)

    made = made_once("deployed-cpu", make)
    shutil.copytree(str(made / "out"), str(tmp_path / "out"))
    return (made / "printed").read_text()


def record(folder):
    return json.loads((folder / "deploy.json").read_text())


def test_cpu_everything_is_in_one_folder(cpu, tmp_path, run_cli, images):
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert {"graphs", "engines", "rows.jsonl", "README.md", "deploy.json"} <= names
    assert len(list((out / "graphs").glob("*.onnx"))) == 2
    data = record(out)
    assert data["chosen"].startswith("tiny-asrn_x2.d") and data["by_time"] and not data["next"]
    assert "the highest PSNR of 2, as no limit was given" in data["why"]
    assert f"chosen: {data['chosen']}: " in cpu and "use it: srdeploy upscale photo.jpg -m " in cpu
    readme = (out / "README.md").read_text()
    assert f"srdeploy upscale photo.jpg -m {data['artifact']}" in readme
    picture = tmp_path / "x2.png"
    done = run_cli("upscale", images / "a.png", "-m", out / data["artifact"], "-o", picture)
    assert done.exit_code == 0 and picture.is_file(), done.output
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    assert f"upscale PHOTO -m {data['artifact']}" in (out / "report.html").read_text()


def test_started_again_all_is_kept_and_a_limit_is_applied(cpu, deploy, tmp_path, small):
    out = tmp_path / "out"
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.engine")}
    rows = (out / "rows.jsonl").read_text()
    result = deploy(small, "--max-ms", "100000", "--json")
    assert result.exit_code == 0, result.output
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.engine")} == before
    assert (out / "rows.jsonl").read_text() == rows
    data = json.loads(result.stdout)
    assert data["use"].startswith("srdeploy upscale") and "meet the limits" in data["why"]
    assert "--max-ms 100000" in data["command"]


def test_limits_that_nothing_meets_are_an_error_of_a_whole_folder(cpu, deploy, tmp_path, small):
    result = deploy(small, "--min-psnr", "90")
    assert result.exit_code == 1
    assert "error: no variant was chosen: none of 2 rows meets the limits" in result.stderr
    assert "the highest PSNR is " in result.stderr and str(tmp_path / "out") in result.stderr
    assert "Nothing is chosen" in (tmp_path / "out" / "README.md").read_text()


def test_a_killed_one_goes_on(cpu, deploy, tmp_path, monkeypatch, small):
    out, measure = tmp_path / "out", measured._timed_row
    (out / "rows.jsonl").unlink()

    def killed_at_the_second(engine, options):
        if (out / "rows.jsonl").exists():
            raise KeyboardInterrupt
        return measure(engine, options)

    monkeypatch.setattr(measured, "_timed_row", killed_at_the_second)
    assert deploy(small).exit_code != 0
    assert record(out)["why"] == "unfinished" and record(out)["chosen"] == ""
    calls = []
    monkeypatch.setattr(
        measured, "_timed_row", lambda engine, options: calls.append(1) or measure(engine, options)
    )
    result = deploy(small)
    assert result.exit_code == 0, result.output
    assert len(calls) == 1 and len((out / "rows.jsonl").read_text().splitlines()) == 2
    assert not list(out.rglob(".partial-*")) and not (out / ".claim").exists()


@pytest.fixture()
def imported(run_cli, exporter, tmp_path):
    """An imported graph that takes any size."""
    onnx = pytest.importorskip("onnx")
    onnx.save(tiny_model(None), str(tmp_path / "net.onnx"))
    assert run_cli("import-onnx", tmp_path / "net.onnx", "-o", tmp_path / "mine").exit_code == 0
    return next((tmp_path / "mine").glob("*.onnx"))


def test_another_size_replaces_what_is_no_part_any_more(imported, deploy, tmp_path, small):
    assert deploy(small, model=imported).exit_code == 0
    (tmp_path / "out" / "graphs" / "mine.txt").write_text("kept")
    result = deploy(small, "--size", "24x40", model=imported)
    assert result.exit_code == 0, result.output
    names = [path.name for path in (tmp_path / "out").rglob("*.onnx")]
    assert len(names) == 1 and "24x40" in names[0]
    assert "removed, it is no part of this deployment any more" in result.stderr
    assert (tmp_path / "out" / "graphs" / "mine.txt").exists()
    rows = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["input_hw"] for line in rows] == [[24, 40]]


def test_a_graph_of_many_sizes_is_timed_again_for_another_size(cpu, deploy, tmp_path, small):
    result = deploy(small, "--size", "16x32")
    assert result.exit_code == 0, result.output
    rows = (tmp_path / "out" / "rows.jsonl").read_text().splitlines()
    assert [json.loads(line)["input_hw"] for line in rows] == [[16, 32]] * 2


def test_graphs_are_kept_where_nothing_exports(cpu, deploy, tmp_path, monkeypatch, small):
    monkeypatch.setitem(__import__("sys").modules, "sr_deploy.export.pipeline", None)
    result = deploy(small)
    assert result.exit_code == 0, result.output
    assert "graphs kept as they are (2): nothing here exports" in result.stderr


def test_graphs_are_kept_where_the_model_is_not(imported, deploy, run_cli, tmp_path, small):
    assert deploy(small, model=imported).exit_code == 0
    imported.unlink()
    result = run_cli("deploy", "--target", small, "-o", tmp_path / "out", "--min-psnr", "1")
    assert result.exit_code == 0, result.output
    assert f"graphs kept as they are (1): {imported} is not here" in result.stderr
    assert record(tmp_path / "out")["model"] == str(imported)


def test_code_is_deployed_with_its_options(deploy, run_cli, exporter, tmp_path, small):
    (tmp_path / "mynet.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, scale=2):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 3 * scale**2, 3, padding=1)\n"
        "        self.up = torch.nn.PixelShuffle(scale)\n"
        "    def forward(self, x):\n"
        "        return self.up(self.conv(x))\n"
    )
    result = deploy(small, "--scale", "3", model=f"{tmp_path / 'mynet.py'}:Net")
    assert result.exit_code == 0, result.output
    data = record(tmp_path / "out")
    assert (data["name"], data["chosen"]) == ("Net", "Net_x3")
    assert "mynet.py:Net --scale 3' --target" in data["command"]


def test_without_the_packages_of_the_report_a_line_says_how_to_get_it(
    cpu, deploy, tmp_path, monkeypatch, small
):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    (tmp_path / "out" / "report.html").unlink(missing_ok=True)
    result = deploy(small)
    assert result.exit_code == 0, result.output
    assert "no report.html" in result.stderr and "pip install jinja2" in result.stderr
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "srdeploy report rows.jsonl -o report.html" in readme and "| Model" in readme


def test_folders_of_other_things_are_refused(cpu, deploy, srn, tmp_path, small):
    result = deploy(small, model=srn)
    assert result.exit_code == 1
    assert "is the deployment of tiny-asrn_x2 for small, not of tiny-srn-s_x2" in result.stderr
    assert "not of tiny-asrn_x2 for rtx" in deploy("rtx").stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    result = deploy(small, folder=tmp_path / "other")
    assert result.exit_code == 1 and "it is no deployment" in result.stderr
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rows.jsonl", "all is measured again then"), ("deploy.json", "give another folder with -o")],
)
def test_damaged_files_of_a_deployment_are_named_with_what_to_do(
    cpu, deploy, tmp_path, small, name, hint
):
    folder = tmp_path / "out"
    (folder / name).write_text("damaged\n")
    result = deploy(small)
    assert result.exit_code == 1 and name in result.stderr and hint in result.stderr
    assert (folder / name).read_text() == "damaged\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing_x4", "--target", "cpu"), "nothing_x4"),
        (("cdnsr-fsrcnn_x4", "--target", "cpu"), "is a router"),
        (("asrn_x4", "--target", "xavir"), "did you mean 'xavier'?"),
        (("asrn_x4", "--target", "cpu", "--fps", "0"), "expected a number above 0"),
        (("asrn_x4", "--target", "cpu", "--size", "12"), "is not a size"),
        (("net.engine", "--target", "cpu"), "is an engine"),
        (("asrn_x4", "--target", "cpu", "--data", "photos"), "there is no folder photos"),
        (("asrn_x4", "--target", "cpu", "--precision", "fp16"), "builds fp32 and int8 engines"),
        (("asrn_x4", "--target", "cpu", "--precision", "int8"), "give a folder of HR images"),
        (("asrn_x4", "--target", "cpu", "--calibrate", "photos"), "is for INT8 graphs"),
    ],
)
def test_bad_input_writes_nothing(fails, tmp_path, monkeypatch, arguments, words):
    if words == "nothing_x4":
        pytest.importorskip("torch", reason="torch is not installed; checkpoints need it")
    monkeypatch.chdir(tmp_path)
    assert words in fails("deploy", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing(run_cli, asrn, exporter, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["deploy", asrn, "--data", images, "--dry-run", "--target"]
    result = run_cli(*given, "cpu", "--fps", "30")
    assert result.exit_code == 0 and list(tmp_path.iterdir()) == []
    assert "into tiny-asrn_x2-cpu" in result.stdout
    assert "2 (tiny-asrn_x2.d1, tiny-asrn_x2.d2), LR 16x16:256x256:1024x1024" in result.stdout
    assert " M parameters, " in result.stdout and "at 256x256" in result.stdout
    assert "the highest PSNR within --fps 30" in result.stdout
    result = run_cli(*given, "xavier", "--fps", "30")
    assert "a bundle to build them elsewhere" in result.stdout
    assert "none before the engines are timed on the target" in result.stdout


def test_a_dry_run_tells_the_work_where_it_is_known(run_cli, images, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sr_deploy.deploy.plan.why_not_here", lambda profile: ("no library", False))
    given = ["deploy", "asrn_x4.d1", "--data", images, "--dry-run", "--target"]
    result = run_cli(*given, "rtx")
    assert "work:    1 of 1 graphs to export: about " in result.stdout
    assert "to build here: pip install 'tensorrt-rtx" in result.stdout
    result = run_cli(*given, "xavier", "--size", "32x32")
    assert "work:" not in result.stdout and "to build here" not in result.stdout
    assert list(tmp_path.iterdir()) == []


def board_engines(out):
    """Write what `adopt` writes: engines with the times that a board recorded."""
    digest = load_target("xavier").digest
    for number, graph in enumerate(sorted((out / "graphs").glob("*.onnx")), 1):
        manifest = read_manifest(graph)

        def write(temporary, manifest=manifest, number=number):
            temporary.write_bytes(b"engine")
            latency = {"median": 20.0 * number, "runs": 9, "timer": "GPU compute time"}
            latency.update({key: 20.0 * number for key in ("p90", "p95", "p99")})
            return replace(
                manifest,
                kind="engine",
                target="xavier",
                parent_sha256=manifest.sha256,
                versions={"profile": digest, "tensorrt": "8.5.2"},
                precision_obtained=manifest.precision_asked,
                checks={"accuracy": {"psnr_db_vs_fp32": 58.25}},
                build={"latency_ms": latency, "gpu": "Xavier", "board": {"board": "Jetson"}},
            )

        write_artifact(out / "engines" / graph.name.replace(".onnx", ".engine"), write)


def test_int8_is_built_beside_fp32_and_kept_where_its_images_are_not(
    imported, deploy, images, tmp_path, small
):
    out, given = tmp_path / "out", ("--precision", "fp32,int8")
    result = deploy(small, *given, "--calibrate", images, model=imported)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["precision_asked"] for row in rows] == ["fp32", "int8"]
    assert f"--precision fp32,int8 --calibrate {images}" in record(out)["command"]
    result = deploy(small, *given, model=imported)
    assert "graphs kept as they are (2): --calibrate is not given" in result.stderr
    assert result.exit_code == 0 and len(record(out)["engines"]) == 2


def test_the_choice_is_among_precisions_too(imported, deploy, tmp_path):
    out, given = tmp_path / "out", ("--precision", "fp32,fp16", "--size", "24x32")
    planned = deploy("xavier", *given, "--dry-run", model=imported)
    assert "2 (net, in fp32 and fp16), LR 24x32" in planned.stdout
    assert "of 2 network(s) on 2 image(s)" in planned.stdout
    assert deploy("xavier", *given, model=imported).exit_code == 0
    assert len(list((out / "graphs").glob("*.fp??.onnx"))) == 2
    assert "--precision fp32,fp16" in record(out)["next"][1]

    board_engines(out)  # FP16 in 20 ms, FP32 in 40 ms
    result = deploy("xavier", *given, "--fps", "30", "--json", model=imported)
    data = json.loads(result.stdout)
    assert data["chosen"].endswith(" fp16") and len(data["engines"]) == 2
    assert data["artifact"].endswith("24x32.fp16.engine")
    assert f"## Use {data['chosen']}" in (out / "README.md").read_text()

    result = deploy("xavier", "--size", "24x32", model=imported)  # FP16, the target's own
    assert len(list((out / "graphs").glob("*.onnx"))) == 1 and "fp32.onnx: removed" in result.stderr


def test_xavier_a_bundle_then_the_times_of_the_board(deploy, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    result = deploy("xavier", "--fps", "30", "--size", "24x32")
    assert result.exit_code == 0, result.output
    assert (out / "bundle.tar").is_file() and not (out / "engines").exists()
    assert "not chosen yet: nothing was timed on 'xavier' yet" in result.stdout
    first, second = record(out)["next"]
    assert "bundle.tar" in first and "/build.sh" in first and "result.tar" in first
    assert second.startswith(f"srdeploy adopt result.tar -o {out}/engines && srdeploy deploy ")
    assert "--fps 30 --size 24x32" in second
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["latency_ms_median"] for row in rows] == [None, None]

    board_engines(out)
    result = deploy("xavier", "--fps", "30", "--size", "24x32")
    assert result.exit_code == 0, result.output
    data = record(out)
    assert data["chosen"] == "tiny-asrn_x2.d1" and data["by_time"] and data["next"] == []
    assert any("d2: 40.000 ms is above 33.3333" in remark for remark in data["remarks"])
    assert any("the board's output differs from FP32 by 58.2" in r for r in data["remarks"])
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(row["protocol"], row["latency_ms_median"]) for row in rows] == [
        ("trtexec", 20.0),
        ("trtexec", 40.0),
    ]
    assert all(row["psnr_db"] and row["device"] == "Jetson Xavier" for row in rows)


def test_rtx_engines_are_built_and_not_timed_without_a_gpu(imported, deploy, tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from sr_deploy.core.device import gpu_present

    if gpu_present():
        pytest.skip("this machine has a GPU")
    result = deploy("rtx", "--size", "24x32", model=imported)
    assert result.exit_code == 0, result.output
    data = record(tmp_path / "out")
    assert len(data["engines"]) == 1 and not data["by_time"]
    assert data["next"][0].startswith("scp -r ") and "--target rtx --size 24x32" in data["next"][1]
    assert f"chosen: {data['chosen']}: the highest PSNR" in result.stdout


def test_rtx_without_its_library_tells_how_to_build_here(imported, deploy, monkeypatch):
    for module in ("parts", "plan"):
        monkeypatch.setattr(f"sr_deploy.deploy.{module}.why_not_here", lambda p: ("absent", False))
    result = deploy("rtx", "--size", "24x32", model=imported)
    assert result.exit_code == 0, result.output
    assert "to build here: pip install 'tensorrt-rtx" in result.stderr
    assert "not timed on 'rtx'" in result.output and "median time" not in result.stdout


def test_the_folder_is_named_by_model_and_target():
    options = deployment.DeployOptions("xavier")
    model, folder, found = deployment.planned_deployment(None, None, options)
    assert (model.name, folder, found) == ("asrn_x4", Path("asrn_x4-xavier"), None)
    model, folder, _ = deployment.planned_deployment("asrn_x4.d3", None, options)
    assert (model.variant, folder) == ("d3", Path("asrn_x4.d3-xavier"))
    model, folder, _ = deployment.planned_deployment("mine/net.onnx", None, options)
    assert folder == Path("net-xavier")
