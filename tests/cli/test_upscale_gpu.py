"""upscale on a GPU, by torch. It is a stand-in: no test of ours has run on one."""

from __future__ import annotations

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("torch")

from doubles.torch_cuda import StandInTorchCuda  # noqa: E402

MODEL = ("-m", "fsrcnn-w16_x4", "--runtime", "torch")


@pytest.fixture
def gpu(monkeypatch):
    stand_in = StandInTorchCuda(monkeypatch)
    stand_in.late_copies(monkeypatch)
    return stand_in


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8))
    return path


def test_a_picture_is_that_of_the_cpu_and_the_device_is_told(run_cli, gpu, picture, tmp_path):
    lines = {}
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}.png"
        result = run_cli("upscale", picture, *MODEL, "--tile", 40, "--device", device, "-o", output)
        assert result.exit_code == 0, result.stderr
        lines[device] = result.stderr
    assert f"fsrcnn-w16_x4.w16 on {picture}, by torch on the CPU\n" in lines["cpu"]
    assert f"on {picture}, by torch on a stand-in GPU (cuda:0)\n" in lines["cuda"]
    assert "; GPU memory: " in lines["cuda"] and "GPU" not in lines["cpu"]
    assert gpu.waits > 0
    one, two = (cv2.imread(str(tmp_path / f"{device}.png")) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(one, two)


def test_16_bit_pictures_with_alpha(run_cli, gpu, picture, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    cv2.imwrite(str(picture), pixels)
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}.png"
        assert run_cli("upscale", picture, *MODEL, "--device", device, "-o", output).exit_code == 0
    one, two = (cv2.imread(str(tmp_path / f"{d}.png"), -1) for d in ("cpu", "cuda"))
    assert one.dtype == np.uint16 and one.shape == (80, 120, 4)
    np.testing.assert_array_equal(one, two)


def test_a_folder_in_another_precision_is_made_again(run_cli, gpu, picture, tmp_path):
    out = tmp_path / "out"
    for options, words in (
        ((), "1 upscaled"),
        (("--device", "cpu"), "1 finished before"),
        (("--precision", "bf16"), "1 upscaled"),
        (("--precision", "bf16"), "1 finished before"),
    ):
        result = run_cli("upscale", picture.parent, *MODEL, *options, "-o", out)
        assert result.exit_code == 0 and words in result.stderr, (options, result.stderr)
    assert "by torch on a stand-in GPU (cuda:0), in bf16" in result.stderr


def test_a_video_is_that_of_the_cpu(run_cli, gpu, tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    film, frames = tmp_path / "film.mkv", {}
    with av.open("testsrc2=size=32x24:rate=25", format="lavfi") as source, av.open(
        str(film), "w"
    ) as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _, frame in zip(range(5), source.decode(video=0)):
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}.mkv"
        result = run_cli(
            "upscale", film, *MODEL, "--codec", "ffv1", "--device", device, "-o", output
        )
        assert result.exit_code == 0, result.stderr
        with av.open(str(output)) as video:
            frames[device] = [frame.to_ndarray() for frame in video.decode(video=0)]
    assert len(frames["cuda"]) == 5
    np.testing.assert_array_equal(frames["cuda"], frames["cpu"])


@pytest.mark.parametrize("folder", [False, True])
def test_a_gpu_that_is_not_there_is_an_error(run_cli, gpu, picture, tmp_path, folder):
    source = picture.parent if folder else picture
    result = run_cli(
        "upscale", source, *MODEL, "--device", "cuda:7", "-o", tmp_path / "out" / "b.png"
    )
    assert result.exit_code == 1
    assert "torch cannot use cuda:7: there is one GPU, cuda:0" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_torch_cannot_use_is_told(run_cli, gpu, picture, tmp_path):
    gpu.sm = (5, 0)
    result = run_cli("upscale", picture, *MODEL, "-o", tmp_path / "b.png")
    assert result.exit_code == 0
    assert "by torch on the CPU (torch cannot use the GPU: torch" in result.stderr
    assert "a stand-in GPU is sm_50)" in result.stderr
