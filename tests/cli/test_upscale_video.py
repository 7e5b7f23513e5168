from __future__ import annotations

import json

import pytest

from sr_deploy.core.session import ExecutedWork, Session
from sr_deploy.runtime import opener
from sr_deploy.runtime.opener.description import NetworkDescription
from sr_deploy.upscale import options

av = pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("cv2", reason="OpenCV is not installed")

MODEL = ("-m", "repeat_x2")


class Repeat(Session):
    """Each pixel is repeated."""

    backend, backend_version, precision, scale = "test", "1", "fp32", 2
    halo_px = 0

    def _run(self, x_nchw):
        return x_nchw.repeat(2, axis=2).repeat(2, axis=3)


def description(variant, opener=Repeat):
    return NetworkDescription(
        kind="checkpoint",
        source="repeat_x2",
        model="repeat_x2",
        variant=variant,
        identity=variant,
        sha256=variant,
        backend="test",
        opener=lambda run: opener(),
    )


@pytest.fixture(autouse=True)
def small_networks(monkeypatch):
    networks = [description(variant) for variant in ("d1", "d2", "d3")]
    monkeypatch.setattr(opener, "describe", lambda text, variants=None, **given: networks)


@pytest.fixture()
def film(tmp_path):
    path = tmp_path / "film.mp4"
    with av.open("testsrc2=size=32x24:rate=25", format="lavfi") as source, av.open(
        str(path), "w"
    ) as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _, frame in zip(range(6), source.decode(video=0)):
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return path


def test_a_video_the_file_on_stdout_the_rest_on_stderr(run_cli, film, tmp_path):
    result = run_cli(
        "upscale",
        film,
        *MODEL,
        "--variant",
        "d1",
        "--crf",
        20,
        "-o",
        tmp_path / "new" / "large.mkv",
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'new' / 'large.mkv'}\n"
    assert all(
        words in result.stderr
        for words in ("repeat_x2.d1 on", "libx264 preset medium, crf 20", "6 frames in", "memory: ")
    )
    with av.open(str(tmp_path / "new" / "large.mkv")) as made:
        assert [(f.width, f.height) for f in made.decode(video=0)] == [(64, 48)] * 6


def test_the_work_of_an_adaptive_network_is_reported_for_all_frames(
    run_cli, film, tmp_path, monkeypatch
):
    class Half(Repeat):
        def executed_work(self):
            return ExecutedWork(1, 2, {"all": 1.0}, {"small": 3, "large": 1})

    monkeypatch.setattr(options, "describe_adaptive", lambda *given, **kw: description("", Half))
    result = run_cli("upscale", film, "--adaptive", "cdnsr", "-o", tmp_path / "large.mkv")
    assert result.exit_code == 0, result.stderr
    share = "50.0% of the plain network's multiply-accumulates"
    said = f"all frames of this run: {share} (small 75%, large 25%; ms: all 6)"
    assert said in result.stderr


def test_a_governor_reports_its_variants_and_logs_each_choice(run_cli, film, tmp_path):
    result = run_cli(
        "upscale", film, *MODEL, "--governor", "--fps", 24, "-o", tmp_path / "new" / "large.mkv"
    )
    assert result.exit_code == 0, result.stderr
    log = tmp_path / "new" / "large.governor.jsonl"
    first, *entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert set(first["ms"]) == {"d1", "d2", "d3"}
    assert [e["frame"] for e in entries] == [1, 2, 3, 4, 5, 6]
    assert all(e["variant"] in first["ms"] and "why" in e for e in entries)
    assert "repeat_x2 on" in result.stderr and "d1, d2, d3 at 24 frames/s" in result.stderr
    assert f"frame by frame: {log}" in result.stderr and "memory: " in result.stderr


@pytest.mark.parametrize(
    "options, output, words",
    [
        (("--governor",), "b.mkv", "--governor needs --fps"),
        (("--fps", 24), "b.mkv", "need --governor"),
        (("--variant", "d1", "--max-watts", 9), "b.mkv", "need --governor"),
        (("--governor", "--fps", 24, "--variant", "d1"), "b.mkv", "but --variants is given too"),
        (("--governor", "--fps", 24), "b.avi", "unknown video format"),
        (("--governor", "--fps", 24), "film.mp4", "the input itself"),
        (("--variant", "d1", "--workers", 2), "b.mkv", "is for several pictures"),
        (("--variant", "d1", "--codec", "h264"), "b.mkv", "unknown codec"),
        (("--variant", "d1"), "b.webm", "webm cannot hold libx264"),
    ],
)
def test_refused_options_leave_no_files(run_cli, film, tmp_path, options, output, words):
    result = run_cli("upscale", film, *MODEL, *options, "-o", tmp_path / output)
    assert result.exit_code == 1 and words in result.stderr and result.stdout == ""
    assert list(tmp_path.iterdir()) == [film]


def test_another_size_and_other_inputs(run_cli, film, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    result = run_cli(
        *("upscale", tmp_path / "bad.png", film, *MODEL, "--variant", "d1"),
        *("--outscale", 1.7, "-o", f"{tmp_path / 'new'}/"),
    )
    assert result.exit_code == 1 and "not everything was upscaled" in result.stderr
    assert result.stdout == f"{tmp_path / 'new' / 'film.mp4'}\n"
    with av.open(str(tmp_path / "new" / "film.mp4")) as made:
        assert [(f.width, f.height) for f in made.decode(video=0)] == [(54, 40)] * 6


def test_a_dry_run_of_a_video(run_cli, film, tmp_path):
    result = run_cli("upscale", film, *MODEL, "--variant", "d1", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{tmp_path / 'film_x2.mp4'}\n"
    assert "32x24 -> 64x48 (width x height), 6 frames, 24x32 whole, about" in result.stderr
    assert list(tmp_path.iterdir()) == [film]


@pytest.mark.parametrize("governed", [(), ("--governor", "--fps", "1000")])
def test_memory_is_reserved_for_the_frames_that_wait(run_cli, film, monkeypatch, governed):
    reserved = []

    def noted(self, network, *, sharing, **given):
        reserved.append(sharing.reserved_results)
        return upscaler(self, network, sharing=sharing, **given)

    upscaler = options.UpscaleOptions.upscaler
    monkeypatch.setattr(options.UpscaleOptions, "upscaler", noted)
    result = run_cli("upscale", film, *MODEL, *governed)
    assert result.exit_code == 0, result.stderr
    assert len(reserved) == (3 if governed else 1) and min(reserved) > 9


@pytest.mark.parametrize("governed", [(), ("--governor", "--fps", "24")])
def test_what_is_no_video_is_refused_before_a_network_is_made(
    run_cli, film, tmp_path, monkeypatch, governed
):
    def network(self, *given):
        raise AssertionError("a network was made")

    monkeypatch.setattr(options.UpscaleOptions, "network", network)
    monkeypatch.setattr("sr_deploy.upscale.run.describe_family", network)
    (tmp_path / "notes.txt").write_text("hi")
    result = run_cli("upscale", tmp_path / "notes.txt", *MODEL, *governed)
    assert result.exit_code == 1 and "cannot be read as a video" in result.stderr
    result = run_cli("upscale", film, *MODEL, *governed, "-o", film)
    assert result.exit_code == 1 and "a network" not in result.stderr
