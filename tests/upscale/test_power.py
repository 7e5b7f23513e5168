from __future__ import annotations

import os

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.upscale import power
from sr_deploy.upscale.power import _Readings, live_watts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the sensors are read by sh")


@pytest.fixture()
def sensors(tmp_path, monkeypatch):
    """Put a script in the place of board.sh that writes the lines, one each tenth of a second."""

    def put(*lines):
        script = tmp_path / "board.sh"
        commands = "\n".join(f'echo "{line}" >>"$2"; sleep 0.1' for line in lines)
        script.write_text(f"{commands}\nexec sleep 60\n")
        monkeypatch.setattr(power, "SCRIPT", script)

    return put


def test_the_last_reading_is_returned(sensors):
    sensors(
        "thermal 99.0 GPU 40000",
        "ina3221 100.5 VDD_IN 5200 VDD_SOC 1000",
        "ina3221 101.0 VDD_IN 7400 VDD_SOC 1000",
    )
    with live_watts() as watts:
        seen = {watts()}
        while len(seen) < 2:
            seen.add(watts())
    assert seen == {5.2, 7.4}


def test_a_machine_without_power_readings_is_an_error(sensors):
    sensors("thermal 99.0 GPU 40000")
    with pytest.raises(InputError, match="reports none") as caught:
        with live_watts(wait_s=0.5):
            pass
    assert "--max-watts" in caught.value.hint


def test_rails_without_a_known_total_are_named(sensors):
    sensors("ina3221 100.5 VDD_WHATEVER 1000 VDD_OTHER 200")
    with pytest.raises(InputError, match="VDD_OTHER, VDD_WHATEVER"):
        with live_watts(wait_s=0.5):
            pass


def test_half_a_line_waits_for_its_other_half():
    readings = _Readings()
    assert readings.add("ina3221 100.5 VDD_IN 52") is None
    assert readings.add("00\nina3221 101.0 VDD_IN 1") == 5.2


def test_two_graphics_boards_have_no_total():
    readings = _Readings()
    assert readings.add("smi 1.0 0, 100.0, 40, 1000, 0x0\n") == 100.0
    assert readings.add("smi 1.0 1, 50.0, 40, 1000, 0x0\n") == 100.0
    assert "nvidia-smi" in readings.why_none()
