import numpy as np
import pytest


def test_prepare_prints_the_folder_and_what_comes_next(run_cli, tmp_path):
    pytest.importorskip("cv2", reason="opencv is not installed; it reads and writes the images")
    from sr_deploy.core.images import write_png

    photos = tmp_path / "photos"
    photos.mkdir()
    write_png(photos / "one.png", np.full((40, 1920, 3), 99, np.uint8))
    result = run_cli("prepare", "test2k", "--from", photos, "--any-images", "-o", tmp_path / "sets")
    folder = tmp_path / "sets" / "photos-2K"
    assert result.exit_code == 0 and result.stdout == f"{folder}\n"
    assert "1 images, reduced to a longer side of 1920 pixels" in result.stderr
    assert f"--data {folder / 'HR'} --lr-data {folder / 'LR_x4'} --metric rgb" in result.stderr
    failed = run_cli("prepare", "test2k", "--from", photos, "-o", tmp_path / "sets")
    assert failed.exit_code == 1 and "lacks 100 of DIV8K's images 1201 to 1300" in failed.stderr
    assert run_cli("prepare", "test2k", "-o", tmp_path).exit_code == 2
