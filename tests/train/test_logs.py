import pytest

from sr_deploy.train.logs import MetricsLog


def write(folder, first, steps, **metrics):
    log = MetricsLog(folder, first)
    for step in steps:
        log.write(step, {"loss": step / 2, "valid_psnr_db": None, **metrics})
    log.close()
    return (folder / "metrics.csv").read_text()


def test_a_resumed_run_goes_on_in_one_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = write(tmp_path, 0, [50, 100, 150], valid_psnr_db=30.5)
    assert before.startswith("step,loss,valid_psnr_db\n50,25,30.5\n")
    again = write(tmp_path, 100, [150, 200])  # it was killed after its state of step 100
    assert again.splitlines()[3:] == ["150,75,", "200,100,"]
    assert again.startswith(before.partition("150,")[0])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [50, 100, 150, 200]
    assert write(tmp_path, 0, [7]) == "step,loss,valid_psnr_db\n7,3.5,\n"  # another run


@pytest.mark.parametrize("rest", ["100,5", "", "\udcff\n", "x,y,z\n"])
def test_lines_that_a_kill_left_behind_are_dropped(tmp_path, rest):
    write(tmp_path, 0, [50])
    with open(tmp_path / "metrics.csv", "a", errors="surrogateescape") as f:
        f.write(rest)
    assert write(tmp_path, 100, [150]).splitlines()[1:] == ["50,25,", "150,75,"]


def test_an_empty_file_begins_anew(tmp_path):
    (tmp_path / "metrics.csv").touch()
    assert write(tmp_path, 100, [150]) == "step,loss,valid_psnr_db\n150,75,\n"
