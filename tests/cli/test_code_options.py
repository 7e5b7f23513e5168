import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch runs networks of code")
OWN = Path(__file__).parents[1] / "doubles" / "own_networks.py"


@pytest.fixture()
def images(tmp_path, monkeypatch):
    """A folder with one image, in the working folder."""
    cv2 = pytest.importorskip("cv2", reason="OpenCV writes the image")
    np = pytest.importorskip("numpy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hr").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    cv2.imwrite("hr/a.png", image)
    return tmp_path / "hr"


def test_options_are_folded_into_the_text_and_prints_go_to_stderr(run_cli, images):
    from sr_deploy.core.network_code import NetworkCode
    from sr_deploy.nets.code import load_code

    network = load_code(NetworkCode(str(OWN), "Net", scale=3))
    torch.save(network.module.state_dict(), "mine.pth")
    args = ("--weights", "mine.pth", "--scale", 3, "--data", images, "--json")
    result = run_cli("eval", f"{OWN}:Net", *args)
    assert result.exit_code == 0, result.stderr
    (row,) = json.loads(result.stdout)
    assert (row["model"], row["scale"]) == ("mine_x3", 3)
    assert "a line that the file prints" in result.stderr


def test_code_is_upscaled_with(run_cli, images):
    result = run_cli("upscale", images / "a.png", "-m", f"{OWN}:Elastic.b1", "-o", "b.png")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == ["b.png"]
    assert "Elastic_x2.b1 on" in result.stderr


@pytest.mark.parametrize(
    "args, message, hint",
    [
        (
            ["bench", "asrn_x4", "--scale", "4"],
            "--scale: for a network given as code, but none is",
            "mynet.py:Net",
        ),
        (
            ["compare", "a.py:A", "b.py:B", "--weights", "w.pth", "--value-range", "255"],
            "--weights and --value-range: for one network, but 2 are given as code",
            'in quotation marks: "a.py:A --weights w.pth --value-range 255"',
        ),
        (
            ["export", "a.py:A --scale 2", "--scale", "4", "-o", "out"],
            "--scale: 'a.py:A --scale 2' has options of its own",
            "all of them in one way",
        ),
        (["upscale", "x.png", "--scale", "2", "-o", "y.png"], "but none is", "mynet.py:Net"),
        (["eval", "none.py:Net"], "there is no file none.py", ""),
    ],
)
def test_what_cannot_be_folded_is_refused(args, message, hint, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_cli(*args)
    assert result.exit_code == 1
    assert message in result.stderr and hint in result.stderr
    assert list(tmp_path.iterdir()) == []
