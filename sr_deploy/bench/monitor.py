"""What the machine did before and while something was timed: load of others, clocks, heat, and a device's power."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from sr_deploy.core.device import cores_used_by_others, cpu_mhz, cpu_usage, load_1min, temperature_c
from sr_deploy.runtime.boards.board import (
    SCRIPT,
    PowerSample,
    energy,
    facts_here,
    samples_from_text,
    within,
)

LOOK_S = 0.3
"""How long the machine is looked at before; the kernel counts CPU time in ticks of 10 ms."""
BUSY = 0.1
"""Other processes that take more than a tenth of the cores are told of."""
_WATCH_EVERY_S = 0.25


def before() -> Dict[str, Any]:
    """Return what is known of the machine now, looking at it for 0.3 s."""
    start = cpu_usage()
    time.sleep(LOOK_S)
    return _known(
        load_1min=load_1min(),
        others_cores=cores_used_by_others(start, cpu_usage()),
        cpu_mhz=cpu_mhz(),
        temperature_c=temperature_c(),
    )


class Watch:
    """What is seen inside its `with` block: other load, clocks, heat; a device's sensors by a process of its own.

    `look` is called between runs, never inside one: it reads a few small files.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._mhz: List[float] = []
        self._heat: List[float] = []
        self._samples: List[PowerSample] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Watch:
        if self._device and shutil.which("sh") is not None:
            self._log = Path(self._stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            command = ["sh", str(SCRIPT), "watch", str(self._log), str(_WATCH_EVERY_S)]
            self._sensors = self._stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            self._stack.callback(self._read_sensors)
        self._start, self._start_s = cpu_usage(), time.time()
        return self

    def look(self) -> None:
        """Note clocks and heat."""
        for found, now in ((self._mhz, cpu_mhz()), (self._heat, temperature_c())):
            if now is not None:
                found.append(now)

    def __exit__(self, *raised: object) -> None:
        self.look()
        self._others, self._stop_s = cores_used_by_others(self._start, cpu_usage()), time.time()
        self._stack.close()

    def _read_sensors(self) -> None:
        self._sensors.terminate()
        text = (
            self._log.read_text(encoding="utf-8", errors="replace") if self._log.is_file() else ""
        )
        self._samples = within(samples_from_text(text), self._start_s, self._stop_s)

    def seen(self, times_ms: Sequence[float], *, output_px: Optional[int]) -> Dict[str, Any]:
        """Return what was seen, ranges as [lowest, highest]; with the runs' times and the pixels each put out also their energy."""
        mhz, heat = (
            [min(found), max(found)] if found else None for found in (self._mhz, self._heat)
        )
        drawn = (
            energy(
                self._samples, output_px=output_px, runs=len(times_ms), seconds=sum(times_ms) / 1000
            )
            if output_px
            else None
        )
        facts = (
            {}
            if drawn is None
            else {
                "watts": drawn.watts_mean,
                "joules_per_megapixel": drawn.joules_per_megapixel,
                "power_covers": drawn.covers,
                "throttled": drawn.throttled,
                "gpu_c": drawn.temperature_c_max,
            }
        )
        return _known(others_cores=self._others, cpu_mhz=mhz, temperature_c=heat, **facts)


def warnings_of(conditions: Dict[str, Any]) -> List[str]:
    """Return what of the conditions speaks against the numbers."""
    found = []
    others, limit = conditions["during"].get("others_cores"), BUSY * (os.cpu_count() or 1)
    if others is not None and others > limit:
        found.append(
            f"other processes kept {others:.1f} of {os.cpu_count()} cores busy while it was timed"
        )
    if conditions["during"].get("throttled"):
        found.append("the device was throttled while it was timed")
    if conditions["before"].get("clocks_locked") is False:
        found.append("the GPU's clocks are not locked")
    return found


def device_facts() -> Dict[str, Any]:
    """Return how the board or GPU here is set, before it works: power mode, clocks, heat, driver."""
    facts = facts_here()
    return _known(
        power_mode=facts.power_mode,
        clocks_locked=facts.clocks_locked,
        gpu_mhz=facts.gpu_mhz,
        gpu_mhz_max=facts.gpu_mhz_max,
        gpu_c=facts.temperature_c,
        driver=facts.driver,
        jetpack=facts.jetpack,
        throttled=facts.throttled,
    )


def _known(**facts: Any) -> Dict[str, Any]:
    return {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in facts.items()
        if value is not None
    }
