from __future__ import annotations

import os
import shutil
import time

import pytest

from sr_deploy.bench import monitor
from sr_deploy.bench.monitor import (
    ConditionMonitor,
    condition_warnings,
    conditions_before,
    device_facts,
)
from sr_deploy.runtime.boards.board import BoardFacts


def test_before_and_during_hold_numbers_only():
    with ConditionMonitor("") as watch:
        watch.sample()
        found = {"before": conditions_before()}
    found["during"] = watch.summary()
    numbers = [
        v
        for part in found.values()
        for value in part.values()
        for v in (value if isinstance(value, list) else [value])
    ]
    assert all(isinstance(v, (int, float)) for v in numbers)
    assert "others_cores" not in found["before"] or found["before"]["others_cores"] >= 0


def test_a_partner_that_takes_turns_is_not_another_process(monkeypatch):
    partner_cpu_s = iter([5.0, 1000.0])
    monkeypatch.setattr(monitor, "cores_used_by_others", lambda *usages: 1.5)
    with ConditionMonitor("", lambda: next(partner_cpu_s)) as watch:
        pass
    assert watch.summary()["others_cores"] == 0


def test_warnings():
    fine = {"before": {}, "during": {"others_cores": 0.01}}
    assert condition_warnings(fine) == [] and condition_warnings({"before": {}, "during": {}}) == []
    busy = condition_warnings(
        {
            "before": {"clocks_locked": False},
            "during": {"others_cores": os.cpu_count(), "throttled": True},
        }
    )
    assert [w.split(" ")[0] for w in busy] == ["other", "the", "the"]


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh to watch sensors with")
def test_a_device_s_power_is_read_from_its_sensors(tmp_path, monkeypatch):
    """A made-up Jetson whose module input draws 10 W, read by board.sh as on a board."""
    rail = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    rail.mkdir(parents=True)
    for name, text in (("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "2000")):
        (rail / name).write_text(text + "\n")
    monkeypatch.setenv("SRDEPLOY_ROOT", str(tmp_path))
    monkeypatch.setattr(monitor, "_SENSOR_PERIOD_S", 0.05)
    with ConditionMonitor("Orin") as watch:
        start_s = time.time()
        for _ in range(100):
            time.sleep(0.1)
            if watch._log.is_file() and watch._log.read_text().count("ina3221") > 4:
                break
    assert "joules_per_megapixel" not in watch.summary()
    watch.timed_runs((start_s, start_s + 20), runs=10, output_px=1_000_000)
    found = watch.summary()
    assert found["watts"] == pytest.approx(10) and found["power_covers"] == "module input (VDD_IN)"
    assert found["joules_per_megapixel"] == pytest.approx(10 * 20 / 10)
    watch.timed_runs((start_s - 20, start_s - 1), runs=10, output_px=1_000_000)
    assert "watts" not in watch.summary()


def test_the_clocks_of_another_gpu_than_the_first_are_unknown(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    facts = BoardFacts(gpu="NVIDIA RTX", driver="580", gpu_mhz=1500.0, temperature_c=50.0)
    monkeypatch.setattr(monitor, "facts_here", lambda: facts)
    assert device_facts("cuda:0", "NVIDIA RTX")["gpu_mhz"] == 1500
    for place, name in (("cuda:1", "NVIDIA RTX"), ("cuda:0", "NVIDIA T4")):
        assert device_facts(place, name) == {"driver": "580"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")  # the second GPU, perhaps of the same name
    assert device_facts("cuda:0", "NVIDIA RTX") == {"driver": "580"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert device_facts("cuda:0", "NVIDIA RTX")["gpu_mhz"] == 1500
    board = BoardFacts(gpu="gv11b", gpu_mhz=1377.0)
    monkeypatch.setattr(monitor, "facts_here", lambda: board)
    assert device_facts("cuda:0", "Xavier") == {"gpu_mhz": 1377}
