"""Every line of the table in ../shared/cases: small inputs that failed once, run as a user would.

The tests beside the code make inputs of their own for the same kinds. These need the folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

from sr_deploy.core.images import write_png

pytest.importorskip("torch", reason="torch is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
av = pytest.importorskip("av", reason="av is not installed; it reads and writes video")
Image = pytest.importorskip("PIL.Image", reason="Pillow, which reads the results, is not installed")

LINES: Dict[str, Callable[..., None]] = {}
"""The start of a line's first cell -> its test."""


def line(start: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return lambda test: LINES.setdefault(start, test)


class Bench:
    """The command line, and a folder for its results."""

    def __init__(self, cases: Path, run: Callable[..., Any], folder: Path) -> None:
        self.cases, self.run, self.folder = cases, run, folder
        self.network = cases / "id2.onnx"

    def upscale(self, source: Any, output: Any, *options: Any, ok: bool = True) -> str:
        """Upscale; return what was said. Checks the exit code, and that a failure is an error."""
        result = self.run("upscale", source, "-m", self.network, "-o", output, *options)
        self.check(result, ok)
        return result.stderr

    def check(self, result: Any, ok: bool) -> None:
        said = f"{result.stdout}{result.stderr}"
        assert result.exit_code == (0 if ok else 1), (said, result.exception)
        assert "Traceback" not in said and isinstance(result.exception, (SystemExit, type(None)))
        assert ok or "error: " in said or "failed: " in said, said

    def refused(self, source: Any, output: Path, *words: str, options: Any = ()) -> str:
        """Check that a source is refused with one of the words, and that nothing is left."""
        said = self.upscale(source, output, *options, ok=False)
        assert any(word in said for word in words), said
        assert not output.exists() and not list(output.parent.glob(".*")), "half-written"
        return said

    def hr(self) -> Path:
        folder = self.folder / "HR"
        if not folder.is_dir():
            folder.mkdir()
            values = np.random.default_rng(0).integers(0, 256, (96, 192, 3), dtype=np.uint8)
            write_png(folder / "a.png", values)
        return folder

    def rows(self, *graphs: Any, ok: bool = True) -> List[Dict[str, Any]]:
        out = self.folder / "rows"
        result = self.run("bench", *graphs, "--data", self.hr(), "--runs", 2, "-o", out)
        self.check(result, ok)
        return [json.loads(text) for text in (out / "rows.jsonl").read_text().splitlines()]


@pytest.fixture()
def bench(shared_dir, run_cli, tmp_path) -> Bench:
    if not (shared_dir / "cases").is_dir():
        pytest.skip("the folder shared/cases is not beside this checkout")
    return Bench(shared_dir / "cases", run_cli, tmp_path)


def test_every_line_of_the_table_has_a_test(shared_dir):
    if not (shared_dir / "cases").is_dir():
        pytest.skip("the folder shared/cases is not beside this checkout")
    text = (shared_dir / "cases" / "README.md").read_text(encoding="utf-8")
    cells = [row.split("|")[1].strip() for row in text.splitlines() if row.startswith("|")][2:]
    assert len(cells) == len(LINES)
    for cell in cells:
        assert [start for start in LINES if cell.startswith(start)], f"no test of: {cell}"


@line("a PNG, TIFF, WebP, GIF or AVIF whose name is not UTF-8")
def _names_that_are_not_utf8(bench):
    folder = os.fsencode(str(bench.folder / "in"))
    os.mkdir(folder)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    for suffix in (".png", ".tif", ".webp", ".gif", ".avif", ".jpg"):
        done, data = cv2.imencode(suffix, pixels)
        assert done
        name = {".gif": b"g\xe9", ".avif": b"a\xe9"}.get(suffix, b"caf\xe9")  # both become PNG
        with open(os.path.join(folder, name + suffix.encode()), "wb") as f:
            f.write(data.tobytes())
    assert "6 upscaled, 0 failed" in bench.upscale(bench.folder / "in", bench.folder / "out")


@line("pictures/mpf_only, icc_then_mpf, mpf_then_icc, fpxr, ultrahdr .jpg")
def _only_icc_profiles_are_profiles(bench):
    for name in ("mpf_only", "icc_then_mpf", "mpf_then_icc", "fpxr", "ultrahdr"):
        source = bench.cases / "pictures" / f"{name}.jpg"
        with Image.open(source) as picture:
            profile = picture.info.get("icc_profile")
        for suffix in (".jpg", ".png", ".webp", ".tif"):
            output = bench.folder / f"{name}{suffix}"
            said = bench.upscale(source, output)
            with Image.open(output) as picture:
                assert picture.info.get("icc_profile") == profile, (name, suffix)
            assert ("gain map" in said) == (name == "ultrahdr"), said


def _xmp(path: Path) -> bytes:
    with Image.open(path) as picture:
        found = picture.info.get("xmp", picture.info.get("XML:com.adobe.xmp"))
        if found is None and hasattr(picture, "tag_v2"):
            found = picture.tag_v2[700]
    found = found.encode("utf-8") if isinstance(found, str) else found
    return found.rstrip(b"\0")


@line("pictures/xmp .jpg .png .webp, with --format of another kind")
def _xmp_goes_from_any_format_to_any(bench):
    folder = bench.folder / "in"
    for suffix in (".jpg", ".png", ".webp"):
        packet = _xmp(bench.cases / "pictures" / f"xmp{suffix}")
        assert any(byte > 127 for byte in packet), "not ASCII"
        folder.mkdir(exist_ok=True)
        shutil.copy(bench.cases / "pictures" / f"xmp{suffix}", folder / f"xmp{suffix}")
        for to in (".jpg", ".png", ".webp", ".tif"):
            bench.upscale(folder, bench.folder / f"out{suffix}{to}", "--format", to[1:])
            assert _xmp(bench.folder / f"out{suffix}{to}" / f"xmp{to}") == packet, (suffix, to)
        shutil.rmtree(folder)


@line("pictures/png_text.png, pq_cicp.png (to jpg, webp, tif)")
def _text_is_kept_or_said_and_hdr_refused(bench):
    source = bench.cases / "pictures" / "png_text.png"
    with Image.open(source) as picture:
        text = dict(picture.text)
    for suffix in (".png", ".jpg", ".webp", ".tif"):
        said = bench.upscale(source, bench.folder / f"text{suffix}")
        with Image.open(bench.folder / f"text{suffix}") as picture:
            assert getattr(picture, "text", None) == text or "text" in said.split("; ", 1)[1]
        hdr = bench.cases / "pictures" / "pq_cicp.png"
        bench.refused(hdr, bench.folder / f"new{suffix}" / f"hdr{suffix}", "HDR")


@line("pictures/cut_eoi.jpg")
def _half_a_scan_with_an_end_marker(bench):
    source = bench.cases / "pictures" / "cut_eoi.jpg"
    bench.refused(source, bench.folder / "new" / "x.png", "damaged", "cut off")


@line("pictures/thumbnail_first.dng")
def _a_raw_photograph_with_a_thumbnail(bench):
    source = bench.cases / "pictures" / "thumbnail_first.dng"
    bench.refused(source, bench.folder / "new" / "x.png", "raw", "thumbnail")


@line("pictures/IMG_0001.HEIC beside a PNG in a folder")
def _a_picture_of_a_kind_that_is_not_read(bench):
    folder = bench.folder / "in"
    folder.mkdir()
    for name in ("IMG_0001.HEIC", "even.png"):
        shutil.copy(bench.cases / "pictures" / name, folder / name)
    result = bench.run("upscale", folder, "-m", bench.network, "-o", bench.folder / "out")
    assert "IMG_0001.HEIC" in result.stderr and "1 upscaled" in result.stderr
    assert (bench.folder / "out" / "even.png").is_file()


@line("pictures/anim.gif")
def _an_animation_is_a_video(bench):
    source = bench.cases / "pictures" / "anim.gif"
    assert "video" in bench.refused(source, bench.folder / "new" / "x.png", "frames")
    bench.upscale(source, bench.folder / "x.mp4")
    with av.open(str(bench.folder / "x.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 10


@line("a picture name of 250 bytes in a folder, or as a video's output")
def _a_name_of_250_bytes(bench):
    folder, name = bench.folder / "in", "n" * 246
    folder.mkdir()
    shutil.copy(bench.cases / "pictures" / "even.png", folder / f"{name}.png")
    bench.upscale(folder, bench.folder / "out")
    bench.upscale(folder, bench.folder / "out")
    bench.upscale(folder, bench.folder / "two", "--workers", 2)
    for out in ("out", "two"):
        assert (bench.folder / out / f"{name}.png").is_file()
    bench.upscale(bench.cases / "videos" / "plain.mp4", bench.folder / f"{name}.mp4")
    assert (bench.folder / f"{name}.mp4").is_file()


def _frames(path: Path) -> int:
    with open(path, "rb") as f, av.open(f) as video:
        return sum(1 for _ in video.decode(video=0))


@line("videos/drop.avi")
def _null_frames(bench):
    bench.upscale(bench.cases / "videos" / "drop.avi", bench.folder / "x.mp4")
    assert _frames(bench.folder / "x.mp4") == _frames(bench.cases / "videos" / "drop.avi")


@line("videos/plain.mp4 named `Alien: 1979.mp4`")
def _names_that_look_like_protocols(bench):
    for name in ("Alien: 1979.mp4", "-dash.mp4", "a\nb.mp4", "\N{ALIEN MONSTER}.mp4", "%03d.mp4"):
        shutil.copy(bench.cases / "videos" / "plain.mp4", name)
        out = bench.folder / "out"
        out.mkdir(exist_ok=True)
        result = bench.run("upscale", "-m", bench.network, "-o", out / name, "--", name)
        bench.check(result, ok=True)
        os.chdir(out)
        os.rename(name, f"in-{name}")
        result = bench.run("upscale", "-m", bench.network, f"-o{name}", "--", f"in-{name}")
        bench.check(result, ok=True)
        assert _frames(out / name) == _frames(bench.cases / "videos" / "plain.mp4")
        os.chdir(bench.folder)


@line("videos/alpha.webm (alpha_mode=1)")
def _alpha_that_the_decoder_hides(bench):
    source = bench.cases / "videos" / "alpha.webm"
    bench.refused(source, bench.folder / "new" / "x.mp4", "alpha")


@line("videos/mov_text.mp4 to .mkv; x.wmv to anything")
def _streams_that_a_container_cannot_hold(bench):
    for name, suffixes in (("mov_text.mp4", (".mkv",)), ("x.wmv", (".mp4", ".mkv", ".mov"))):
        for suffix in suffixes:
            source, output = bench.cases / "videos" / name, bench.folder / f"{name}{suffix}"
            result = bench.run("upscale", source, "-m", bench.network, "-o", output)
            if result.exit_code:
                bench.check(result, ok=False)
                _, hint = result.stderr.split("hint: ")
                named = re.findall(r"\.(?:mp4|mkv|mov|webm|avi)\b", hint)
                assert suffix not in named
                for other in named:
                    bench.upscale(source, bench.folder / f"{name}{suffix}{other}")
                (option,) = set(re.findall(r"--\w+", hint))
                left_out = re.findall(option + r" (\w+)", hint)
                said = bench.upscale(source, output, option, *left_out)
                assert "left out" in said
            assert _frames(output) == _frames(source)


@line("graphs/h48_x2 (H fixed, W free), batch4_x2 (batch 4)")
def _one_fixed_side_and_a_batch_of_four(bench):
    graphs = [bench.cases / "graphs" / f"{name}.onnx" for name in ("batch4_x2", "h48_x2")]
    rows = bench.rows(*graphs, bench.network)
    assert ["batch of the input is 4" in row["error"] for row in rows] == [True, False, False]
    assert all(row["psnr_db"] for row in rows[1:])
    bench.network = graphs[0]
    picture = bench.cases / "pictures" / "odd.png"
    bench.refused(picture, bench.folder / "new" / "x.png", "batch")
    bench.network = graphs[1]
    bench.upscale(picture, bench.folder / "x.png")
    _equals_nearest(picture, bench.folder / "x.png")


def _equals_nearest(source: Path, output: Path) -> None:
    expected = cv2.imread(str(source)).repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(cv2.imread(str(output)), expected)


@line("graphs/valid_x2 (output smaller than scale x input)")
def _unpadded_convolutions(bench):
    bench.network = bench.cases / "graphs" / "valid_x2.onnx"
    picture = bench.cases / "pictures" / "even.png"
    said = bench.refused(picture, bench.folder / "new" / "x.png", "pixels less than x2")
    assert re.search(r"\d+x\d+ becomes \d+x\d+", said)
    (row,) = bench.rows(bench.network, ok=False)
    assert "pixels less than x2" in row["error"]


@line("a graph with a pixel-unshuffle head")
def _sizes_of_a_multiple(bench):
    bench.network = bench.folder / "unshuffle.onnx"
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, *sides])
        for name, sides in (("lr", ("h", "w")), ("sr", ("H", "W")))
    ]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    nodes = [
        onnx.helper.make_node("SpaceToDepth", ["lr"], ["deep"], blocksize=2),
        onnx.helper.make_node("DepthToSpace", ["deep"], ["flat"], blocksize=2),
        onnx.helper.make_node("Resize", ["flat", "", "scales"], ["sr"], mode="nearest"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [scales])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(bench.network))
    for name in ("odd.png", "even.png"):
        picture = bench.cases / "pictures" / name
        for number, options in enumerate(((), ("--tile", 40), ("--tile", 34))):
            output = bench.folder / f"{number}{name}"
            bench.upscale(picture, output, *options)
            _equals_nearest(picture, output)


@line("graphs/external_a, external_b (one net.onnx, two net.onnx.data)")
def _identity_covers_external_data(bench):
    graphs = [bench.cases / "graphs" / f"external_{name}" / "net.onnx" for name in "ab"]
    hashes = [bench.rows(graph)[-1]["artifact_sha256"] for graph in graphs]
    assert hashes[0] != hashes[1]
    folder = bench.folder / "in"
    folder.mkdir()
    shutil.copy(bench.cases / "pictures" / "even.png", folder)
    results = []
    for bench.network in graphs:
        assert "1 upscaled, 0 failed" in bench.upscale(folder, bench.folder / "out")
        results.append((bench.folder / "out" / "even.png").read_bytes())
    assert results[0] != results[1]


@line("graphs/y_only, nhwc, uint8, fp16_scales with `check --target cpu`")
def _what_check_accepts_runs(bench):
    for name in ("y_only_x2", "nhwc_x2", "uint8_x2", "fp16_scales", "h48_x2", "batch4_x2"):
        graph = bench.cases / "graphs" / f"{name}.onnx"
        checked = bench.run("check", graph, "--target", "cpu")
        bench.network, output = graph, bench.folder / f"{name}.png"
        picture = bench.cases / "pictures" / "even.png"
        ran = bench.run("upscale", picture, "-m", graph, "-o", output)
        bench.check(ran, ok=not ran.exit_code)
        assert checked.exit_code == ran.exit_code, (name, checked.stdout, ran.stderr)


@line("graphs/int8_x2 in `bench`")
def _the_precision_of_the_graph(bench):
    (row,) = bench.rows(bench.cases / "graphs" / "int8_x2.onnx")
    assert row["precision"] == "int8" and not row["error"]


@pytest.mark.slow
@pytest.mark.parametrize("start", LINES)
def test_a_line_of_the_table(start, bench, monkeypatch):
    monkeypatch.chdir(bench.folder)
    LINES[start](bench)
