from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="the plan's checkpoints run by torch")
pytest.importorskip("cv2", reason="reading images needs OpenCV")

import torch  # noqa: E402

from sr_deploy.bench import sweep  # noqa: E402
from sr_deploy.bench.evaluate import image_set  # noqa: E402
from sr_deploy.bench.sweep import cells_of, read_plan, rows_from_plan  # noqa: E402
from sr_deploy.core.errors import InputError, VariantError  # noqa: E402
from sr_deploy.core.images import write_png  # noqa: E402
from sr_deploy.core.spec import Variant  # noqa: E402
from sr_deploy.nets import ARCHITECTURES  # noqa: E402
from sr_deploy.nets.checkpoint import save_checkpoint  # noqa: E402
from sr_deploy.results.rows import BenchmarkRow, read_rows  # noqa: E402


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkpoint of two depths and a folder with one image."""
    folder = tmp_path_factory.mktemp("sweep")
    torch.manual_seed(0)
    net = ARCHITECTURES["asrn"].build(2, Variant("d", 2))
    save_checkpoint(
        folder,
        "tiny_x2",
        ARCHITECTURES["asrn"].spec(2, Variant("d", 2), elastic=True),
        net.state_dict(),
    )
    (folder / "Set" / "HR").mkdir(parents=True)
    write_png(
        folder / "Set" / "HR" / "0.png",
        np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8),
    )
    return folder


def plan(place, tmp_path, **changes):
    values = {
        "models": [str(place / "tiny_x2.safetensors")],
        "shapes": ["16x18"],
        "backends": ["torch"],
        "runs": 1,
        **changes,
    }
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(values))
    return path


def data(place):
    return str(place / "Set" / "HR")


@pytest.fixture()
def children(monkeypatch):
    """Replace the child processes: record their arguments, and return the answers of a test."""

    class Children:
        def __init__(self):
            self.calls, self.answers = [], {}

        def __call__(self, *arguments):
            self.calls.append(arguments)
            if arguments[0] == "bench":
                answer = self.answers.get(arguments[3])
                if answer is not None:
                    raise answer
                row = BenchmarkRow(
                    model="tiny_x2",
                    variant=arguments[3],
                    backend="torch",
                    latency_ms_median=1.0,
                    psnr_db=30.0,
                )
                return json.dumps([vars(row)])
            return f"/made/by/{arguments[0]}\n"

    made = Children()
    monkeypatch.setattr(sweep, "_srdeploy", made)
    return made


def test_the_cells_are_every_combination(place, tmp_path):
    path = plan(
        place,
        tmp_path,
        shapes=["16x18", "8x8"],
        targets=["cpu"],
        precisions=["fp32", "fp16"],
        protocols=["steady", "ntire2025"],
    )
    cells = cells_of(read_plan(path), image_set(data(place)))
    # A challenge's protocol runs a checkpoint on the images' sizes, so both shapes are one cell.
    # The same holds for a CPU engine at sizes that its default graph accepts: from 16x16.
    assert len(cells) == len(set(cells.values())) == 2 * 2 * 2 * 2 * 2 - 2 * 2
    assert [
        c.shape for c in cells.values() if (c.row.backend, c.row.protocol) == ("torch", "ntire2025")
    ] == [""] * 4
    assert {
        c.shape for c in cells.values() if (c.row.target, c.row.protocol) == ("cpu", "ntire2025")
    } == {
        "",
        "8x8",
    }
    assert {(c.row.backend, c.row.target) for c in cells.values()} == {
        ("torch", ""),
        ("onnxruntime", "cpu"),
    }
    name = next(iter(cells))
    assert name.startswith("tiny_x2.d1 16x18 batch 1 fp32 torch steady #")


def test_a_router_is_one_cell_of_each_way_and_exported_as_what_it_is(place, tmp_path, children):
    path = plan(
        place,
        tmp_path,
        models=["cdnsr-fsrcnn_x4"],
        variants=["d1"],
        backends=["torch", "onnxruntime"],
        targets=["cpu"],
    )
    rows = rows_from_plan(read_plan(path), tmp_path / "out", data=data(place))
    assert [c.row.variant for c in cells_of(read_plan(path), image_set(data(place))).values()] == [
        ""
    ] * 3
    by_torch, export, by_onnx = children.calls
    assert by_torch[:4] == ("bench", "cdnsr-fsrcnn_x4", "--runtime", "torch") and by_onnx[:2] == (
        "bench",
        "/made/by/export",
    )
    assert export == (
        "export",
        "cdnsr-fsrcnn_x4",
        "--adaptive",
        "-o",
        str(tmp_path / "out" / "artifacts" / "onnx"),
    )
    assert [bool(row.error) for row in rows] == [
        False,
        False,
        True,
    ] and "routers have no engines" in rows[2].error


def test_a_router_of_other_branches_is_another_cell(place, tmp_path, monkeypatch):
    from dataclasses import replace

    from sr_deploy.nets import router
    from sr_deploy.nets.checkpoint import load_checkpoint

    path = plan(place, tmp_path, models=["cdnsr-fsrcnn_x4"])
    before, real = set(cells_of(read_plan(path), image_set(data(place)))), router.load_router

    def other(model):
        found = real(model)
        return replace(
            found,
            spec=replace(found.spec, weights_sha256s=("0" * 64, *found.spec.weights_sha256s[1:])),
        )

    monkeypatch.setattr(router, "load_router", other)
    monkeypatch.setattr(router, "load_chosen", lambda _, model, *a, **k: load_checkpoint(model))
    assert not before & set(cells_of(read_plan(path), image_set(data(place))))


def test_a_plan_of_an_adaptive_network_is_no_model(place, tmp_path):
    with pytest.raises(InputError, match="ada.adadsr.json was exported from a model"):
        cells_of(
            read_plan(plan(place, tmp_path, models=["ada.adadsr.json"])), image_set(data(place))
        )


def test_a_cell_is_another_one_with_other_images_or_settings(place, tmp_path):
    cells = set(cells_of(read_plan(plan(place, tmp_path)), image_set(data(place))))
    (tmp_path / "HR").mkdir()
    write_png(tmp_path / "HR" / "0.png", np.zeros((40, 48, 3), np.uint8))
    assert not cells & set(
        cells_of(read_plan(plan(place, tmp_path)), image_set(str(tmp_path / "HR")))
    )
    assert not cells & set(
        cells_of(read_plan(plan(place, tmp_path, runs=2)), image_set(data(place)))
    )
    assert cells == set(cells_of(read_plan(plan(place, tmp_path)), image_set(data(place))))


def test_what_is_done_is_skipped_and_what_failed_is_a_row(place, tmp_path, children):
    path, said = plan(place, tmp_path), []
    children.answers["d1"] = sweep._CellError(
        "srdeploy bench was ended by SIGSEGV: the backend crashed"
    )
    rows = rows_from_plan(read_plan(path), tmp_path / "out", data=data(place), progress=said.append)
    assert [(r.variant, r.error.partition(":")[0]) for r in rows] == [
        ("d1", "srdeploy bench was ended by SIGSEGV"),
        ("d2", ""),
    ]
    assert (rows[0].backend, rows[0].input_hw, rows[0].psnr_db) == ("torch", (16, 18), None)
    assert read_rows(tmp_path / "out" / "rows.jsonl") == rows and len(children.calls) == 2
    again = rows_from_plan(
        read_plan(path), tmp_path / "out", data=data(place), progress=said.append
    )
    assert again == rows and len(children.calls) == 2
    assert said[-1] == "2 of 2 cells are already done, 1 of them failed"


def test_a_killed_sweep_goes_on_where_it_stopped(place, tmp_path, children):
    path = plan(place, tmp_path)
    children.answers["d2"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        rows_from_plan(read_plan(path), tmp_path / "out", data=data(place))
    assert [r.variant for r in read_rows(tmp_path / "out" / "rows.jsonl")] == ["d1"]
    children.answers.clear()
    assert [
        r.variant for r in rows_from_plan(read_plan(path), tmp_path / "out", data=data(place))
    ] == ["d1", "d2"]
    assert [c[3] for c in children.calls] == ["d1", "d2", "d2"]


def test_half_a_row_of_a_killed_run_is_measured_again(place, tmp_path, children):
    path, said = plan(place, tmp_path), []
    rows = rows_from_plan(read_plan(path), tmp_path / "out", data=data(place))
    file = tmp_path / "out" / "rows.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert (
        rows_from_plan(read_plan(path), tmp_path / "out", data=data(place), progress=said.append)
        == rows
    )
    assert (
        "removed an incomplete last line" in said[0]
        and len(children.calls) == 3
        and read_rows(file) == rows
    )


def test_graphs_and_engines_are_made_by_the_commands_a_user_would_give(place, tmp_path, children):
    rows_from_plan(
        read_plan(
            plan(
                place,
                tmp_path,
                backends=["onnxruntime"],
                targets=["cpu"],
                variants=["d1"],
                threads=1,
            )
        ),
        tmp_path / "out",
        data=data(place),
    )
    export, bench, to_target, build, bench_engine = children.calls
    assert export[0] == "export" and export[2:8] == (
        "--variants",
        "d1",
        "--size",
        "16x18",
        "--precision",
        "fp32",
    )
    assert (
        bench[:2] == ("bench", "/made/by/export")
        and ("--threads", "1") == bench[bench.index("--threads") :][:2]
    )
    assert "--target" in to_target and "--size" not in to_target, (
        "its own graph takes any size, so that images stay whole"
    )
    assert build[:4] == ("build-engine", "/made/by/export", "--target", "cpu")
    assert bench_engine[1] == "/made/by/build-engine" and "--size" in bench_engine


CODE = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
"""


def test_code_without_variants_is_measured_and_exported_by_its_text(place, tmp_path, children):
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    asked = plan(place, tmp_path, models=[f"{file}:net"], backends=["torch", "onnxruntime"])
    (first, _) = cells_of(read_plan(asked), image_set(data(place)))
    rows_from_plan(read_plan(asked), tmp_path / "out", data=data(place))
    bench, export, _ = children.calls
    assert bench[:4] == ("bench", f"{file}:net", "--runtime", "torch")
    assert export[:3] == ("export", f"{file}:net", "--size")
    file.write_text(CODE + "# changed\n")
    assert first not in cells_of(read_plan(asked), image_set(data(place)))


def test_a_challenge_s_cells_take_neither_a_size_nor_runs(place, tmp_path, children):
    rows_from_plan(
        read_plan(plan(place, tmp_path, protocols=["ntire2025"], variants=["d1"])),
        tmp_path / "out",
        data=data(place),
    )
    (bench,) = children.calls
    assert "--size" not in bench and "--runs" not in bench


def test_a_sweep_on_a_gpu_in_half_precision_passes_both_on(place, tmp_path, children):
    changes = {"variants": ["d1"], "precisions": ["bf16"]}
    arguments = (read_plan(plan(place, tmp_path, **changes)), tmp_path / "out")
    (row,) = rows_from_plan(*arguments, data=data(place), device="cuda:1")
    (bench,) = children.calls
    assert ("--device", "cuda:1") == bench[bench.index("--device") :][:2]
    assert ("--precision", "bf16") == bench[bench.index("--precision") :][:2]
    assert " on cuda:1 #" in row.cell
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        rows_from_plan(*arguments, data=data(place), device="gpu")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch": [4]}, "batch 4: sessions take one image"),
        (
            {"precisions": ["bf16"], "backends": ["onnxruntime"]},
            "bf16 needs a target; graphs for none are in fp32 or fp16",
        ),
    ],
)
def test_what_cannot_be_done_is_no_other_measurement(place, tmp_path, children, changes, words):
    rows = rows_from_plan(
        read_plan(plan(place, tmp_path, **changes)), tmp_path / "out", data=data(place)
    )
    assert len(rows) == 2 and all(words in r.error for r in rows) and not children.calls
    assert rows[0].batch == changes.get("batch", [1])[0]


def test_precisions_are_cells_and_int8_graphs_are_calibrated(place, tmp_path, children):
    (tmp_path / "photos").mkdir()
    write_png(tmp_path / "photos" / "0.png", np.zeros((40, 48, 3), np.uint8))
    changes = {
        "variants": ["d1"],
        "precisions": ["fp32", "int8"],
        "calibrate": str(tmp_path / "photos"),
        "targets": ["cpu"],
    }
    asked = read_plan(plan(place, tmp_path, **changes))
    rows = rows_from_plan(asked, tmp_path / "out", data=data(place))
    assert [(r.target, r.precision_asked, r.error) for r in rows] == [
        ("", "", ""),
        ("", "", ""),
        ("", "int8", "torch runs in fp32 or fp16 or bf16, not in int8"),
        ("", "", ""),
    ], "measured rows are those of the stand-in"
    exports = [call for call in children.calls if call[0] == "export"]
    asked_for = [call[call.index("--precision") + 1] for call in exports]
    assert asked_for == ["fp32", "int8"] and "--calibrate" not in exports[0]
    at = exports[1].index("--calibrate")
    assert exports[1][at + 1] == str(tmp_path / "photos")
    names = list(cells_of(asked, image_set(data(place))))
    assert [name.split()[4] for name in names] == ["fp32", "fp32", "int8", "int8"]
    write_png(tmp_path / "photos" / "1.png", np.zeros((40, 48, 3), np.uint8))
    again = list(cells_of(asked, image_set(data(place))))
    assert [a == b for a, b in zip(names, again)] == [True, True, False, False]
    missing = plan(place, tmp_path, precisions=["int8"], calibrate=str(tmp_path / "none"))
    with pytest.raises(InputError, match="none"):
        rows_from_plan(read_plan(missing), tmp_path / "new", data=data(place))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "changes, error, words",
    [
        ({"models": []}, InputError, "models is empty"),
        ({"backends": []}, InputError, "neither backends nor targets"),
        (
            {"backends": ["tensorrt"]},
            InputError,
            "backends contains 'tensorrt'; expected torch or onnxruntime",
        ),
        (
            {"precisions": ["fp8"]},
            InputError,
            "precisions contains 'fp8'; expected fp32 or bf16 or",
        ),
        ({"precisions": ["int8"]}, InputError, "int8 in precisions and calibrate, .* belong"),
        ({"calibrate": "photos"}, InputError, "int8 in precisions and calibrate, .* belong"),
        ({"shapes": ["256"]}, InputError, "'256' is not a size"),
        ({"protocols": ["ntire2021"]}, InputError, "unknown protocol 'ntire2021'"),
        ({"targets": ["xavie"]}, Exception, "unknown target 'xavie'"),
        ({"shape": ["8x8"]}, InputError, "line 1: unknown key 'shape'"),
        ({"runs": "3"}, InputError, "key 'runs': expected int"),
        ({"runs": 0}, InputError, "runs is 0; expected 1 to 10000"),
        ({"batch": [0]}, InputError, "batch is 0; expected 1 to"),
        ({"threads": 100000}, InputError, "threads is 100000; expected 1 to"),
        ({"metric": "ssim"}, InputError, "metric contains 'ssim'; expected y or rgb"),
        (
            {"metric": "y", "protocols": ["ntire2025"]},
            InputError,
            "ntire2025 scores on rgb, not on y",
        ),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(place, tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        read_plan(plan(place, tmp_path, **changes))


def test_a_variant_that_a_model_does_not_hold(place, tmp_path):
    with pytest.raises(VariantError, match="has no variant 'd9'"):
        cells_of(read_plan(plan(place, tmp_path, variants=["d9"])), image_set(data(place)))


def test_a_folder_of_no_images_and_one_that_only_looks_like_one(place, tmp_path, children):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="contains no images"):
        rows_from_plan(
            read_plan(plan(place, tmp_path)), tmp_path / "out", data=str(tmp_path / "empty")
        )
    (tmp_path / "empty" / "notes.png").write_text("no image")
    with pytest.raises(InputError, match="notes.png is not an image"):
        rows_from_plan(
            read_plan(plan(place, tmp_path)), tmp_path / "out", data=str(tmp_path / "empty")
        )
    write_png(tmp_path / "empty" / "notes.png", np.zeros((14, 40, 3), np.uint8))
    with pytest.raises(InputError, match="notes.png is too small to be scored: 14x40"):
        rows_from_plan(
            read_plan(plan(place, tmp_path)), tmp_path / "out", data=str(tmp_path / "empty")
        )
    assert not (tmp_path / "out").exists() and not children.calls


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no signals")
def test_a_process_that_crashes_is_told_by_its_signal(monkeypatch):
    real, crash = subprocess.Popen, [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"]
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: real(crash, **options))
    with pytest.raises(sweep._CellError, match="srdeploy bench was ended by SIGSEGV"):
        sweep._srdeploy("bench", "x")


def test_a_real_child_s_error_is_its_own_words():
    with pytest.raises(sweep._CellError, match="^there is no file absent.onnx$"):
        sweep._srdeploy("bench", "absent.onnx")


@pytest.mark.slow
def test_a_real_cell_in_a_real_process(place, tmp_path):
    (row,) = rows_from_plan(
        read_plan(plan(place, tmp_path, variants=["d1"], threads=1)),
        tmp_path / "out",
        data=data(place),
    )
    assert (row.error, row.threads, row.input_hw, row.runs, row.set) == ("", 1, (16, 18), 1, "Set")
    assert (
        row.psnr_db is not None and row.cell and read_rows(tmp_path / "out" / "rows.jsonl") == [row]
    )
