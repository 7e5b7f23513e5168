from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cv2")

import cv2  # noqa: E402
from reports import Reports  # noqa: E402

from sr_deploy.core.claims import claim_file, read_holder  # noqa: E402
from sr_deploy.core.errors import InputError  # noqa: E402
from sr_deploy.core.run_options import RunOptions  # noqa: E402
from sr_deploy.upscale import workers  # noqa: E402
from sr_deploy.upscale.folder import FolderSummary, ResultOptions, upscale_folder  # noqa: E402
from sr_deploy.upscale.folder_log import LOG, FolderLog, PictureTask  # noqa: E402
from sr_deploy.upscale.inputs import tree_job  # noqa: E402
from sr_deploy.upscale.memory import MemorySharing  # noqa: E402
from sr_deploy.upscale.options import UpscaleOptions  # noqa: E402
from sr_deploy.upscale.reporter import Reporter  # noqa: E402
from sr_deploy.upscale.tree import find_pictures  # noqa: E402
from sr_deploy.upscale.upscaler import Upscaler  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def picture(path, seed=0, hw=(6, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8))
    return path


@pytest.fixture()
def tree(tmp_path):
    """A folder of three pictures in a tree, beside things that are no pictures."""
    folder = tmp_path / "in"
    for i, name in enumerate(("a.png", "sub/b c.jpg", "sub/deeper/ü.tif")):
        picture(folder / name, i)
    (folder / "notes.txt").write_text("no picture")
    (folder / "._a.png").write_bytes(b"left by a Mac")
    return folder


@pytest.fixture()
def run(sessions):
    """Upscale a folder. Returns the summary, the lines logged and the paths written."""

    def go(folder, output, *, identity="net", suffix=None, session=None, force=False):
        reports = Reports()
        upscaler = Upscaler(
            session or sessions["blur"](),
            identity=identity,
            sharing=MemorySharing(queued_results=2),
        )
        tasks = find_pictures(folder, output, suffix=suffix).tasks
        summary = upscale_folder(
            tasks, output, upscaler, reports.reporter, ResultOptions(force=force)
        )
        return summary, reports.lines, reports.paths

    return go


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.smoke
def test_a_folder_keeps_its_tree_and_names(tree, tmp_path, run):
    summary, lines, written = run(tree, tmp_path / "out")
    assert files(tmp_path / "out") == [LOG, "a.png", "sub/b c.jpg", "sub/deeper/ü.tif"]
    assert cv2.imread(str(tmp_path / "out/a.png")).shape == (12, 14, 3)
    assert str(summary) == "3 upscaled, 0 failed" and len(lines) == len(written) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_are_bytes(tmp_path, run):
    names = [
        f"caf\udce9 {s}.{s}" for s in ("png", "tif", "webp", "jpg", "bmp", "ppm", "gif", "avif")
    ]
    names += [
        "x" * 251 + ".png",
        "y" * 246 + ".tiff",
        "sub\udce9/a.png",
        "-o.png",
        "😀 100%s:1.png",
    ]
    names += [
        "new\nline.png",
        "st*r[1]?.png",
        "a.json.png",
        " .. .png",
        "/".join(["d" * 250] * 5) + ".png",
    ]
    for i, name in enumerate(names):
        source = tmp_path / "in" / name
        source.parent.mkdir(parents=True, exist_ok=True)
        content = picture(tmp_path / f"plain{source.suffix}", i).read_bytes()
        source.write_bytes(content)
    out = tmp_path / "out\udce9"
    summary, _, written = run(tmp_path / "in", out)
    assert str(summary) == f"{len(names)} upscaled, 0 failed"
    for path in written:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        assert cv2.imdecode(data, cv2.IMREAD_UNCHANGED).shape == (12, 14, 3)
    names = [n.replace("gif.gif", "gif.png").replace("avif.avif", "avif.png") for n in names]
    assert files(out) == sorted([LOG, *names])
    assert str(run(tmp_path / "in", out)[0]) == f"{len(names)} finished before, 0 failed"


def test_finished_pictures_are_skipped_until_picture_network_or_result_change(tree, tmp_path, run):
    out = tmp_path / "out"
    run(tree, out)
    before = (out / "a.png").stat().st_mtime_ns
    assert (
        str(run(tree, out)[0]) == "3 finished before, 0 failed"
        and (out / "a.png").stat().st_mtime_ns == before
    )
    picture(tree / "a.png", seed=9)
    assert run(tree, out)[2] == [out / "a.png"]
    (out / "a.png").unlink()
    assert run(tree, out)[2] == [out / "a.png"]
    (out / "a.png").write_bytes(b"cut short")
    assert run(tree, out)[2] == [out / "a.png"]
    assert len(run(tree, out, identity="another net")[2]) == 3


def test_a_bad_picture_is_reported_and_the_rest_done(tree, tmp_path, run):
    (tree / "bad.png").write_bytes((tree / "a.png").read_bytes()[:60])
    (tree / "sub" / "empty.jpg").write_bytes(b"")
    summary, lines, _ = run(tree, tmp_path / "out")
    assert str(summary) == "3 upscaled, 2 failed" and summary.failed == {
        tree / "bad.png",
        tree / "sub" / "empty.jpg",
    }
    assert [
        line
        for line in lines
        if line.startswith(f"failed: {tree / 'bad.png'}: ") and "damaged" in line
    ]
    assert not [
        name
        for name in files(tmp_path / "out")
        if "bad" in name or "empty" in name or "claim" in name or "partial" in name
    ]


def test_a_file_that_is_not_ours_is_not_overwritten(tree, tmp_path, run):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("precious")
    summary, lines, _ = run(tree, tmp_path / "out")
    assert summary.failed == {tree / "a.png"}
    assert "a.png already exists; give another output, or --force" in lines[0]
    assert (tmp_path / "out" / "a.png").read_text() == "precious"
    summary, _, written = run(tree, tmp_path / "out", force=True)
    assert str(summary) == "1 upscaled, 2 finished before, 0 failed"
    assert written == [tmp_path / "out" / "a.png"]


def test_two_results_of_one_name_are_refused_before_anything_is_done(tree, tmp_path, run):
    picture(tree / "a.jpg")
    with pytest.raises(InputError, match="would both become .*a.png"):
        run(tree, tmp_path / "out", suffix=".png")
    assert not (tmp_path / "out").exists()
    for name in ("A.PNG", "é.png", "e\u0301.png"):  # file systems decide whether these are one file
        picture(tree / name)
    assert len(run(tree, tmp_path / "out")[0].done) == len(files(tree)) - 2


def test_formats_that_are_not_written_become_png(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.gif", "b.avif", "c.pbm", "d.jpeg"):
        (tmp_path / "in" / name).write_bytes(b"")
    names = [task.output.name for task in find_pictures(tmp_path / "in", tmp_path / "out").tasks]
    assert names == ["a.png", "b.png", "c.png", "d.jpeg"]


def test_a_folder_inside_the_folder_is_not_upscaled_again(tree, run):
    run(tree, tree / "out")
    assert str(run(tree, tree / "out")[0]) == "3 finished before, 0 failed"


def test_a_folder_is_not_upscaled_into_itself(tree, tmp_path):
    (tmp_path / "link").symlink_to(tree)
    for output in (tree, tmp_path / "link"):
        with pytest.raises(InputError, match="would replace itself"):
            find_pictures(tree, output)


def test_pictures_that_are_not_read_are_named(tree, tmp_path):
    jpeg = picture(tmp_path / "a.jpg").read_bytes()
    (tree / "sub" / "notes.doc").write_bytes(b"\xd0\xcf\x11\xe0")
    given = {  # name -> content, why it is passed over
        "IMG_0001.HEIC": (b"\0\0\0\x18ftypheic", ".heic files cannot be read; convert it"),
        "sub/x.nef": (b"MM\0*", ".nef files cannot be read"),
        "v.svg": (b"<svg/>", ".svg files cannot be read"),
        "photo": (jpeg, "it is a JPEG file in spite of its name; rename it to .jpg"),
        "saved.jfif": (jpeg, "rename it to .jpg"),
        "BMW.txt": (b"BMW and P3 are no pictures", None),
        "a.xmp": (b"<?xpacket", None),
        ".hidden.heic": (b"", None),
    }
    for name, (content, _) in given.items():
        (tree / name).write_bytes(content)
    (tree / "clip.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
    (tree / "gone.png").symlink_to(tree / "nowhere.png")
    found = find_pictures(tree, tmp_path / "out")
    assert len(found.tasks) == 3 and found.videos == [tree / "clip.MOV"]
    expected = {name: why for name, (_, why) in given.items() if why}
    expected["gone.png"] = "it is a broken link"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tree / "pipe.png")
        expected["pipe.png"] = "it is neither a file nor a folder"
    passed_over = find_pictures(tree, tmp_path / "out").passed_over
    assert {p.relative_to(tree).as_posix() for p in passed_over} == set(expected)
    for name, why in expected.items():
        assert why in passed_over[tree / name]


def test_a_folder_that_cannot_be_read_is_named_and_the_others_done(tree, tmp_path, monkeypatch):
    iterdir = Path.iterdir

    def refuse(folder):
        if folder.name == "sub":
            raise PermissionError(13, "Permission denied")
        return iterdir(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = find_pictures(tree, tmp_path / "out")
    assert found.passed_over == {tree / "sub": "it cannot be read: Permission denied"}
    assert [task.source.name for task in found.tasks] == ["a.png"]


def test_links_are_followed_once(tree, tmp_path):
    (tree / "sub" / "loop").symlink_to(tree)
    picture(tmp_path / "elsewhere" / "e.png")
    (tree / "link").symlink_to(tmp_path / "elsewhere")
    names = [
        task.output.relative_to(tmp_path / "out").as_posix()
        for task in find_pictures(tree, tmp_path / "out").tasks
    ]
    assert names == ["a.png", "link/e.png", "sub/b c.jpg", "sub/deeper/ü.tif"]


def test_a_folder_named_like_a_picture_and_an_empty_one(tmp_path):
    picture(tmp_path / "x.png" / "y.png")
    assert [
        task.source.name for task in find_pictures(tmp_path / "x.png", tmp_path / "out").tasks
    ] == ["y.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no pictures"):
        find_pictures(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "a.heic").write_bytes(b"")
    with pytest.raises(InputError, match="1 are passed over, such as .*a.heic: .heic files"):
        find_pictures(tmp_path / "empty", tmp_path / "out")


def test_a_full_disk_ends_it_with_whole_files_only(tree, tmp_path, run, monkeypatch):
    done = []
    write = cv2.imwrite

    def full(path, *more):
        done.append(path)
        return write(path, *more) if len(done) == 1 else False

    monkeypatch.setattr(cv2, "imwrite", full)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with pytest.raises(InputError, match="No space left"):
        run(tree, tmp_path / "out")
    assert files(tmp_path / "out") == [LOG, "a.png"]
    monkeypatch.undo()
    assert str(run(tree, tmp_path / "out")[0]) == "2 upscaled, 1 finished before, 0 failed"


def test_an_interrupt_leaves_whole_files_and_no_claims(tree, tmp_path, run, sessions):
    class Interrupted(sessions["blur"]):
        def network(self, x):
            if len(self.fed) == 3:  # two pictures; small ones need no probes
                raise KeyboardInterrupt
            return x

    with pytest.raises(KeyboardInterrupt):
        run(tree, tmp_path / "out", session=Interrupted())
    found = files(tmp_path / "out")
    assert LOG in found and not [name for name in found if "claim" in name or "partial" in name]
    assert str(run(tree, tmp_path / "out")[0]) in (
        "1 upscaled, 2 finished before, 0 failed",
        "2 upscaled, 1 finished before, 0 failed",
    )


def test_pictures_too_large_to_hold_several_results_are_done_one_after_the_other(
    tree, tmp_path, sessions
):
    upscaler = Upscaler(sessions["blur"](), sharing=MemorySharing(queued_results=2))
    upscaler.must_run_alone = lambda hw, bytes_per_px=3: True
    out = tmp_path / "out"
    summary = upscale_folder(find_pictures(tree, out).tasks, out, upscaler, Reporter())
    assert len(summary.done) == 3


def test_a_log_cut_short_costs_one_picture(tree, tmp_path, run):
    out = tmp_path / "out"
    run(tree, out)
    text = (out / LOG).read_text()
    (out / LOG).write_text(text[:-20])
    summary, _, _ = run(tree, out)
    assert len(summary.skipped) == 2 and len(summary.failed) == 1, (
        "its result is not known to be ours any more"
    )


def test_refresh_reads_the_entries_of_other_processes(tmp_path):
    task = PictureTask(picture(tmp_path / "a.png"), picture(tmp_path / "out" / "a.png"))
    mine, other = (FolderLog(tmp_path / "out", "net") for _ in range(2))
    other.add(task)
    assert not mine.is_finished(task) and not mine.is_ours(task)
    mine.refresh()
    assert mine.is_finished(task) and mine.is_ours(task)
    assert not FolderLog(tmp_path / "out", "another").is_finished(task)


def test_one_claim_at_a_time(tmp_path):
    path = tmp_path / "claim"
    with claim_file(path) as mine:
        assert mine and read_holder(path)[0] == os.getpid()
        with claim_file(path) as second:
            assert not second
        assert path.exists(), "who did not hold it may not remove it"
    assert not path.exists()


def test_a_dead_processs_claim_is_taken_over_and_another_hosts_is_not(tmp_path):
    import socket

    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    path = tmp_path / "claim"
    for text, expected in (
        (f"{done.stdout.strip()} {socket.gethostname()}", True),
        ("", True),
        ("rubbish", True),
        (f"{done.stdout.strip()} another-host", False),
        (f"{os.getppid()} {socket.gethostname()}", False),
    ):
        path.write_text(text)
        with claim_file(path) as mine:
            assert mine == expected, text
        path.unlink(missing_ok=True)


def test_a_picture_claimed_by_another_process_is_left_to_it(tree, tmp_path, run):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".a.png.claim").write_text("1 another-host")
    summary, _, _ = run(tree, out)
    assert (
        str(summary) == "2 upscaled, 1 left to other processes, 0 failed"
        and not (out / "a.png").exists()
    )


SHARED = """
import sys
from pathlib import Path
from sr_deploy.upscale.options import UpscaleOptions
from sr_deploy.upscale.reporter import Reporter
from sr_deploy.upscale.inputs import tree_job
from sr_deploy.upscale.workers import upscale_pictures

if __name__ == "__main__":
    options = UpscaleOptions(sys.argv[3], workers=2)
    reporter = Reporter(lambda line: print(line, file=sys.stderr), print)
    job = tree_job(Path(sys.argv[1]), Path(sys.argv[2]))
    print(upscale_pictures(job, options, reporter))
"""


@pytest.fixture()
def shared(tmp_path):
    """Start two workers on a folder in a process of their own, with a graph that repeats pixels."""
    onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    script, graph = tmp_path / "shared.py", tmp_path / "nearest.onnx"
    script.write_text(SHARED)
    values = [
        onnx.helper.make_tensor_value_info(n, 1, [1, 3, h, w])
        for n, h, w in (("x", "h", "w"), ("y", "2h", "2w"))
    ]
    node = onnx.helper.make_node(
        "Resize",
        ["x", "", "scales"],
        ["y"],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    scales = onnx.helper.make_tensor("scales", 1, [4], [1.0, 1.0, 2.0, 2.0])
    body = onnx.helper.make_graph([node], "nearest", values[:1], values[1:], [scales])
    onnx.save(
        onnx.helper.make_model(
            body, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        ),
        str(graph),
    )

    def start(folder, output):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        given = [sys.executable, str(script), str(folder), str(output), str(graph)]
        return subprocess.Popen(
            given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )

    return start


def test_workers_share_a_folder(tree, tmp_path, shared):
    for i in range(6):
        picture(tree / f"more{i}.png", i)
    (tree / "bad.png").write_bytes(b"")
    out, err = shared(tree, tmp_path / "out").communicate(timeout=120)
    lines = out.splitlines()
    assert lines[-1] == "9 upscaled, 1 failed", out + err
    assert len(set(lines[:-1])) == 9 == len(lines) - 1, "each is written once"
    assert err.count("failed: ") == 1
    out, _ = shared(tree, tmp_path / "out").communicate(timeout=120)
    assert out.splitlines()[-1] == "9 finished before, 1 failed"


def test_workers_that_are_done_exit_by_themselves(monkeypatch, tree, tmp_path):
    """A signal to a worker that is exiting printed a traceback."""
    calls = []

    class StandInProcess:
        start = staticmethod(lambda: None)
        join = staticmethod(lambda timeout=None: calls.append("join"))
        terminate = staticmethod(lambda: calls.append("terminate"))

    context = SimpleNamespace(Queue=lambda: None, Process=lambda **given: StandInProcess)
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method: context)
    monkeypatch.setattr(workers, "_collect", lambda *given: FolderSummary(done=4))
    options = UpscaleOptions("fsrcnn-w16_x4", workers=2, run=RunOptions(runtime="torch"))
    summary = workers.upscale_pictures(tree_job(tree, tmp_path / "out"), options, Reporter())
    assert summary.done == 4 and calls[:4] == ["join", "join", "terminate", "terminate"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_terminated_workers_leave_whole_files_and_a_second_run_does_the_rest(
    tree, tmp_path, shared
):
    for i in range(20):
        picture(tree / f"more{i}.png", i, hw=(160, 160))
    process = shared(tree, tmp_path / "out")
    end = time.monotonic() + 100
    while time.monotonic() < end and not (tmp_path / "out" / LOG).exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    found = [name for name in files(tmp_path / "out") if name != LOG]
    assert found and not [name for name in found if "partial" in name]
    assert all(
        cv2.imread(str(tmp_path / "out" / name)) is not None
        for name in found
        if "claim" not in name
    )
    out, err = shared(tree, tmp_path / "out").communicate(timeout=120)
    assert (
        "0 failed" in out
        and len([name for name in files(tmp_path / "out") if "claim" not in name]) == 24
    ), out + err
