"""The machine's state before and during a measurement: load, clocks, temperature and power."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from sr_deploy.core.device import cores_used_by_others, cpu_mhz, cpu_usage, load_1min, temperature_c
from sr_deploy.runtime.boards.board import (
    SCRIPT,
    PowerSample,
    energy,
    facts_here,
    samples_from_text,
    within,
)

OBSERVE_S = 0.3
"""Duration of the observation before a measurement. CPU time is counted in ticks of 10 ms."""
BUSY_SHARE = 0.1
"""A warning is recorded if other processes use more than this share of the cores."""
_SENSOR_PERIOD_S = 0.25


def conditions_before() -> Dict[str, Any]:
    """Observe the machine for 0.3 s and return its load, clocks and temperature."""
    start = cpu_usage()
    time.sleep(OBSERVE_S)
    return _rounded(
        load_1min=load_1min(),
        others_cores=cores_used_by_others(start, cpu_usage()),
        cpu_mhz=cpu_mhz(),
        temperature_c=temperature_c(),
    )


class ConditionMonitor:
    """Records load, clocks and temperature within its `with` block.

    If there is a device, a separate process reads its sensors. Call `sample` between timed runs,
    never during one: it reads a few small files.
    """

    def __init__(self, device: str, partner_cpu_s: Callable[[], float] = lambda: 0.0) -> None:
        """partner_cpu_s: the CPU time of a process that runs while this one waits for it, and is
        therefore not counted among the others."""
        self._device, self._partner_cpu_s = device, partner_cpu_s
        self._mhz: List[float] = []
        self._temperatures: List[float] = []
        self._power: List[PowerSample] = []
        self._runs: Optional[Tuple[Tuple[float, float], int, int]] = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ConditionMonitor:
        if self._device and shutil.which("sh") is not None:
            self._log = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            command = ["sh", str(SCRIPT), "watch", str(self._log), str(_SENSOR_PERIOD_S)]
            self._sensors = self._stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            self._stack.callback(self._read_sensors)
        self._start, self._start_s = cpu_usage(), time.time()
        self._partner_start_s = self._partner_cpu_s()
        return self

    def sample(self) -> None:
        """Record the current clock and temperature."""
        for values, value in ((self._mhz, cpu_mhz()), (self._temperatures, temperature_c())):
            if value is not None:
                values.append(value)

    def __exit__(self, *exception: object) -> None:
        self.sample()
        self._others, self._stop_s = cores_used_by_others(self._start, cpu_usage()), time.time()
        if self._others is not None:
            partner_s = self._partner_cpu_s() - self._partner_start_s
            cores = partner_s / (self._stop_s - self._start_s)
            self._others = max(self._others - cores, 0.0)
        self._stack.close()

    def _read_sensors(self) -> None:
        self._sensors.terminate()
        if self._log.is_file():
            text = self._log.read_text(encoding="utf-8", errors="replace")
            self._power = within(samples_from_text(text), self._start_s, self._stop_s)

    def timed_runs(self, span_s: Tuple[float, float], *, runs: int, output_px: int) -> None:
        """Tell when runs of `output_px` output pixels began and ended, nothing else between them.

        span_s: in seconds since 1970. The summary has their power and energy then, those of the
        copies and the host's work between runs included.
        """
        self._runs = (span_s, runs, output_px)

    def summary(self) -> Dict[str, Any]:
        """Return the recorded conditions, ranges as [lowest, highest]."""
        mhz, temperatures = (
            [min(values), max(values)] if values else None
            for values in (self._mhz, self._temperatures)
        )
        power = {}
        if self._runs is not None:
            (start_s, stop_s), runs, output_px = self._runs
            samples = within(self._power, start_s, stop_s)
            used = energy(samples, output_px=output_px, runs=runs, seconds=stop_s - start_s)
            if used is not None:
                power = {
                    "watts": used.watts_mean,
                    "joules_per_megapixel": used.joules_per_megapixel,
                    "power_covers": used.covers,
                    "throttled": used.throttled,
                    "gpu_c": used.temperature_c_max,
                }
        return _rounded(others_cores=self._others, cpu_mhz=mhz, temperature_c=temperatures, **power)


def condition_warnings(conditions: Dict[str, Any]) -> List[str]:
    """Return warnings about conditions that make the measured times doubtful."""
    warnings = []
    during, cores = conditions["during"], os.cpu_count() or 1
    others = during.get("others_cores")
    if others is not None and others > BUSY_SHARE * cores:
        warnings.append(
            f"other processes kept {others:.1f} of {cores} cores busy while it was timed"
        )
    if during.get("throttled"):
        warnings.append("the device was throttled while it was timed")
    if conditions["before"].get("clocks_locked") is False:
        warnings.append("the GPU's clocks are not locked")
    return warnings


def device_facts(place: str, device: str) -> Dict[str, Any]:
    """Return the settings of the board or GPU: power mode, clocks, temperature, driver.

    The system's list of GPUs is read for its first one only, so those of another are unknown.
    CUDA_VISIBLE_DEVICES numbers the GPUs anew: unless it begins with 0, which one runs is unknown.
    """
    facts = facts_here()
    first_visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    other_name = facts.gpu and facts.driver and facts.gpu not in device
    if place != "cuda:0" or first_visible != "0" or other_name:
        return _rounded(driver=facts.driver, power_mode=facts.power_mode, jetpack=facts.jetpack)
    return _rounded(
        power_mode=facts.power_mode,
        clocks_locked=facts.clocks_locked,
        gpu_mhz=facts.gpu_mhz,
        gpu_mhz_max=facts.gpu_mhz_max,
        gpu_c=facts.temperature_c,
        driver=facts.driver,
        jetpack=facts.jetpack,
        throttled=facts.throttled,
    )


def _rounded(**facts: Any) -> Dict[str, Any]:
    """Return the facts that are not None, floats rounded to 3 digits."""
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in facts.items()
        if value is not None
    }
