"""Board receipts: what a measured machine is and how it was set, and the power, heat and throttling during a run.

`on_board/board.sh` collects raw text where only `sh` exists: here, over SSH, or from a bundle carried to the board by hand. This
module reads that text, and plain tegrastats logs, on any machine.
"""

from __future__ import annotations

import calendar
import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError

SCRIPT = Path(__file__).with_name("on_board") / "board.sh"

# The L4T releases NVIDIA's JetPack archive names; one that is not here is unknown, not rounded to a neighbour.
_JETPACK = {
    "32.4.3": "4.4",
    "32.4.4": "4.4.1",
    "32.5.0": "4.5",
    "32.5.1": "4.5.1",
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.4": "5.1.6",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.4.0": "7.1",
    "39.2.0": "7.2",
}
# Tegra's name in the device tree: its GPU and compute capability.
_SOC = {
    "tegra210": ("gm20b", 53),
    "tegra186": ("gp10b", 62),
    "tegra194": ("gv11b", 72),
    "tegra234": ("ga10b", 87),
}

_XAVIER = ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")
_ORIN = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
# nvidia-smi's reasons that mean fewer clocks than asked for: power cap, hardware slowdown, heat (software, hardware), power brake.
_SLOWED = 0x04 | 0x08 | 0x20 | 0x40 | 0x80

_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW(?:/\d+mW)*|/\d+)(?!\S)")
_ZONE = re.compile(r"(?<!\S)([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C")
_GR3D = re.compile(r"GR3D_FREQ \d+%@\[?(\d+(?:,\d+)*)")


@dataclass(frozen=True)
class BoardFacts:
    """A machine and its settings at one moment; None is unknown, never zero. Of several discrete GPUs the first."""

    board: Optional[str] = None
    l4t: Optional[str] = None
    """`35.4.1`, of /etc/nv_tegra_release."""
    jetpack: Optional[str] = None
    """The version of the nvidia-jetpack package, else what `jetpack_of` gives."""
    tensorrt: Optional[str] = None
    """Of the installed packages: `8.5.2`. A pip or tar installation does not show."""
    cuda: Optional[str] = None
    power_mode: Optional[str] = None
    """Number and name by this board's own list: `0 MAXN`."""
    clocks_locked: Optional[bool] = None
    """Whether the GPU's lowest and highest allowed frequency are the same, as after jetson_clocks."""
    gpu_mhz: Optional[float] = None
    gpu_mhz_max: Optional[float] = None
    """The highest the power mode (or the discrete GPU) allows."""
    temperature_c: Optional[float] = None
    """Of the GPU, else of the hottest zone."""
    driver: Optional[str] = None
    gpu: Optional[str] = None
    compute_capability: Optional[int] = None
    """72 for 7.2."""
    memory_mib: Optional[int] = None
    throttled: Optional[bool] = None
    """Right now."""


@dataclass(frozen=True)
class PowerSample:
    """One line of a log: power in mW by rail (averages are left out), degC and MHz. A line gives what its source knows."""

    time_s: Optional[float]
    """Since 1970; a date of tegrastats is taken for UTC, None where the line has neither. Only differences mean something."""
    rails_mw: Dict[str, float] = field(default_factory=dict)
    gpu_c: Optional[float] = None
    """Of the GPU, else of the hottest junction (`tj`)."""
    gpu_mhz: Optional[float] = None
    source: str = "tegrastats"
    zones_c: Dict[str, float] = field(default_factory=dict)
    throttle: Dict[str, int] = field(default_factory=dict)
    """Counters since boot (on `_event_cnt`), and states that are 0 while nothing is throttled."""


@dataclass(frozen=True)
class Energy:
    """What a run drew, on average over the samples of one source."""

    watts_mean: float
    covers: str
    """What `watts_mean` is the power of, as `board_watts` says it."""
    source: str
    samples: int
    seconds: float
    runs: int
    joules_per_megapixel: float
    """Per 10^6 pixels of output, idle power included."""
    throttled: Optional[bool] = None
    """Whether a state was on in any sample or a counter rose between two of them; None where nothing would tell."""
    temperature_c_max: Optional[float] = None


def jetpack_of(l4t: str) -> Optional[str]:
    """Return the JetPack that brought this L4T (`35.4.1`, `36.3`), None when it is not known."""
    return _JETPACK.get(l4t) or _JETPACK.get(l4t + ".0")


def facts_here() -> BoardFacts:
    """Ask this machine. Without `sh` nothing is known."""
    try:
        done = subprocess.run(
            ["sh", str(SCRIPT), "facts"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )
    except (OSError, subprocess.SubprocessError):
        return BoardFacts()
    return facts_from_text(done.stdout.decode("utf-8", "replace"))


def facts_from_text(text: str) -> BoardFacts:
    """Read what `board.sh facts` printed, whole or in part."""
    parts = re.split(r"^== (\w+)\r?\n", text, flags=re.M)
    said = dict(zip(parts[1::2], parts[2::2]))
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", said.get("nv_tegra_release", ""))
    packages = dict(re.findall(r"^(\S+) (\d\S*)$", said.get("packages", ""), re.M))
    core = re.match(r"\d+\.\d+(?:\.\d+)?", packages.get("nvidia-l4t-core", ""))
    l4t = f"{release[1]}.{release[2]}" if release else core[0] if core else None
    soc = re.search(r"tegra\d+", said.get("compatible", ""))
    smi = _first_gpu(said.get("nvidia_smi", ""))
    gpu, capability = _SOC.get(soc[0] if soc else "", (None, None))
    low, high, now = _gpu_clocks(said)
    samples = samples_from_text(said.get("sample", "")) + [
        PowerSample(None, throttle=_reasons(smi.get("reasons", "")), source="smi")
    ]
    zones = {name: c for s in samples for name, c in s.zones_c.items()}
    memory = re.search(r"MemTotal:\s*(\d+) kB", said.get("memory", ""))
    mode = said.get("nvpmodel", "")
    heat = _number(smi.get("temperature.gpu", ""))
    return BoardFacts(
        board=said.get("model", "").strip() or None,
        l4t=l4t,
        jetpack=packages.get("nvidia-jetpack", "").split("-")[0]
        or (jetpack_of(l4t) if l4t else None),
        tensorrt=_tensorrt(packages),
        cuda=_cuda(said.get("cuda", "")),
        power_mode=" ".join(
            re.findall(r"^(\d+)\s*$", mode, re.M)[:1]
            + re.findall(r"NV Power Mode: *(\S+)", mode)[:1]
        )
        or None,
        clocks_locked=None if low is None or high is None else low == high,
        gpu_mhz=now if now is not None else _number(smi.get("clocks.sm", "")),
        gpu_mhz_max=high if high is not None else _number(smi.get("clocks.max.sm", "")),
        temperature_c=heat
        if heat is not None
        else _gpu_heat(zones) or max(zones.values(), default=None),
        driver=smi.get("driver_version"),
        gpu=smi.get("name") or gpu,
        compute_capability=int(smi["compute_cap"].replace(".", ""))
        if "compute_cap" in smi
        else capability,
        memory_mib=int(memory[1]) // 1024 if memory else None,
        throttled=_throttled(samples),
    )


def samples_from_text(text: str) -> List[PowerSample]:
    """Read the lines of `board.sh watch`, or of a plain tegrastats log (L4T 32 to 39). Other lines are passed over."""
    samples: List[Optional[PowerSample]] = []
    for line in text.splitlines():
        ours = re.match(
            r"(tegrastats|smi|ina3221|thermal|clock|throttle) (\d+(?:\.\d*)?) (.*)", line
        )
        if ours:
            reader = {"tegrastats": _tegrastats, "smi": _smi}.get(ours[1])
            samples.append(
                reader(float(ours[2]), ours[3])
                if reader
                else _sysfs(ours[1], float(ours[2]), ours[3])
            )
        elif re.search(r"\bRAM \d+/\d+MB", line):
            date = re.match(r"\d\d-\d\d-\d{4} \d\d:\d\d:\d\d", line)
            at = (
                float(calendar.timegm(time.strptime(date[0], "%m-%d-%Y %H:%M:%S")))
                if date
                else None
            )
            samples.append(_tegrastats(at, line))
    return [sample for sample in samples if sample is not None]


def board_watts(rails_mw: Dict[str, float]) -> Tuple[Optional[float], str]:
    """Return the total power in W and what it covers; None and the reason where the set of rails is not understood.

    VDD_IN or POM_5V_IN is the module's whole input, of which the other rails are parts. AGX modules have no such rail. AGX
    Xavier: GPU, CPU, SOC, CV, VDDRQ (memory) and SYS5V (the rest of the module's 5 V side) are separate supplies, and their
    sum leaves out the losses before them. AGX Orin: VDD_GPU_SOC, VDD_CPU_CV and VIN_SYS_5V0; VDDQ_VDD2_1V8AO (memory) is fed
    from VIN_SYS_5V0 and not added again. None of these sees the carrier board. A discrete GPU's power is its board's, without
    the computer around it.
    """
    sets = [((rail,), f"module input ({rail})") for rail in ("VDD_IN", "POM_5V_IN")]
    sets += [
        (rails, f"{name} module, sum of {' + '.join(rails)}")
        for name, rails in (("AGX Xavier", _XAVIER), ("AGX Orin", _ORIN))
    ]
    if len(rails_mw) == 1:  # with several it is not known which of them ran
        sets += [
            ((rail,), "GPU board (nvidia-smi power.draw)")
            for rail in rails_mw
            if rail.startswith("nvidia-smi:")
        ]
    for rails, covers in sets:
        if all(rail in rails_mw for rail in rails):
            watts = sum(rails_mw[rail] for rail in rails) / 1000
            return (
                (watts, covers)
                if watts > 0
                else (None, f"the sensors read no power at all: {covers}")
            )
    return (
        None,
        f"no total is known for the rails {', '.join(rails_mw)}"
        if rails_mw
        else "no power was read",
    )


def within(samples: Iterable[PowerSample], start_s: float, stop_s: float) -> List[PowerSample]:
    """Return the samples taken in this time (seconds since 1970): a watch also sees the machine idle and warming up."""
    return [s for s in samples if s.time_s is not None and start_s <= s.time_s <= stop_s]


def energy(
    samples: Sequence[PowerSample], *, output_px: int, runs: int, seconds: float
) -> Optional[Energy]:
    """Return what `runs` inferences of `output_px` pixels of output each drew in `seconds`; None from fewer than 3 samples.

    The samples must be those of the run (see `within`), evenly spaced. Where one log holds the same rails from two sources
    they are not mixed. Raises InputError when a quantity is not positive.
    """
    if output_px <= 0 or runs <= 0 or seconds <= 0:
        raise InputError(
            f"energy of {runs} runs of {output_px} pixels in {seconds} s: expected three positive numbers"
        )
    for source in ("ina3221", "tegrastats", "smi"):
        rails = [s.rails_mw for s in samples if s.source == source]
        if (
            board_watts({rail: 1.0 for r in rails for rail in r})[0] is None
        ):  # all lines together: each GPU has its own
            continue
        watts = [(w, covers) for w, covers in map(board_watts, rails) if w is not None]
        if len(watts) < 3:
            continue
        mean = sum(w for w, _ in watts) / len(watts)
        heats = [
            s.gpu_c if s.gpu_c is not None else max(s.zones_c.values(), default=None)
            for s in samples
        ]
        hottest = max((c for c in heats if c is not None), default=None)
        joules = mean * seconds / (runs * output_px / 1e6)
        return Energy(
            mean,
            watts[0][1],
            source,
            len(watts),
            seconds,
            runs,
            joules,
            _throttled(samples),
            hottest,
        )
    return None


def _throttled(samples: Sequence[PowerSample]) -> Optional[bool]:
    seen: Dict[str, List[int]] = {}
    for name, value in (item for sample in samples for item in sample.throttle.items()):
        seen.setdefault(name, []).append(value)
    counters = [
        max(v) > min(v) for name, v in seen.items() if name.endswith("_event_cnt") and len(v) > 1
    ]
    states = [max(v) > 0 for name, v in seen.items() if not name.endswith("_event_cnt")]
    return any(counters + states) if counters or states else None


def _tegrastats(time_s: Optional[float], line: str) -> PowerSample:
    zones = _plausible({name: float(c) for name, c in _ZONE.findall(line)})
    rails = {rail: float(mw) for rail, mw in _RAIL.findall(line) if rail != "NC"}
    clock = _GR3D.search(line)
    mhz = max(float(part) for part in clock[1].split(",")) if clock else 0
    return PowerSample(
        time_s, rails, _gpu_heat(zones), mhz or None, zones_c=zones
    )  # 0 MHz: the GPU is off


def _sysfs(kind: str, time_s: float, rest: str) -> PowerSample:
    words = rest.split()
    pairs = {
        name: int(value)
        for name, value in zip(words[::2], words[1::2])
        if re.fullmatch(r"-?\d+", value)
    }
    zones = (
        _plausible({name: millidegrees / 1000 for name, millidegrees in pairs.items()})
        if kind == "thermal"
        else {}
    )
    rails = (
        {name: float(mw) for name, mw in pairs.items() if name != "NC"} if kind == "ina3221" else {}
    )
    clock = pairs["gpu_hz"] / 1e6 if kind == "clock" and pairs.get("gpu_hz") else None
    return PowerSample(
        time_s, rails, _gpu_heat(zones), clock, kind, zones, pairs if kind == "throttle" else {}
    )


def _smi(time_s: float, rest: str) -> Optional[PowerSample]:
    cells = rest.split(", ")
    if len(cells) != 5:
        return None
    watts, heat, clock = (_number(cell) for cell in cells[1:4])
    rails = {} if watts is None else {f"nvidia-smi:{cells[0]}": watts * 1000}
    zones = {} if heat is None else {"GPU": heat}
    return PowerSample(time_s, rails, heat, clock, "smi", zones, _reasons(cells[4]))


def _plausible(zones_c: Dict[str, float]) -> Dict[str, float]:
    """Leave out what is no measurement: -256 or 0 of a part that is off, and PMIC, which is a constant (50 or 100)."""
    return {
        name: c
        for name, c in zones_c.items()
        if 0 < c < 150 and not name.upper().startswith("PMIC")
    }


def _gpu_heat(zones_c: Dict[str, float]) -> Optional[float]:
    by_part = {
        re.split(r"[-_]", name.lower())[0]: c for name, c in zones_c.items()
    }  # GPU, gpu, GPU-therm, gpu-thermal
    return by_part.get("gpu", by_part.get("tj"))


def _reasons(mask: str) -> Dict[str, int]:
    return (
        {"nvidia-smi": int(mask, 16) & _SLOWED}
        if re.fullmatch(r"0x[0-9a-fA-F]+", mask.strip())
        else {}
    )


def _number(text: str) -> Optional[float]:
    match = re.match(r"\s*(-?\d+(?:\.\d+)?)", text)
    return float(match[1]) if match else None


def _first_gpu(table: str) -> Dict[str, str]:
    """Return the first row of nvidia-smi's CSV by field, without fields it has no value for."""
    head, row = (table.strip().splitlines() + ["", ""])[:2]
    names = [
        re.sub(
            r" \[.*|\.current|clocks_(event|throttle)_(?=reasons)|(?<=reasons)\.active", "", name
        )
        for name in head.split(", ")
    ]
    return {
        name: value.strip()
        for name, value in zip(names, row.split(", "))
        if not re.match(r"\s*\[|N/A|$", value)
    }


def _gpu_clocks(said: Dict[str, str]) -> Tuple[Optional[float], Optional[float], Optional[float]]:
    """Return the GPU's lowest and highest allowed and its present frequency in MHz."""
    shown = re.findall(
        r"^GPU MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)", said.get("jetson_clocks", ""), re.M
    )
    found = [pair for values in shown for pair in zip(("min", "max", "cur"), values)]
    found += reversed(
        re.findall(r"^/sys/\S*/(min|max|cur)_freq (\d+)$", said.get("clocks", ""), re.M)
    )  # the first GPU's come last
    mhz = {name: int(hertz) / 1e6 for name, hertz in found}
    return mhz.get("min"), mhz.get("max"), mhz.get("cur") or None


def _tensorrt(packages: Dict[str, str]) -> Optional[str]:
    libraries = [v for k, v in packages.items() if re.fullmatch(r"libnvinfer\d+", k)]
    found = libraries or [packages[k] for k in ("tensorrt", "libnvinfer-bin") if k in packages][:1]
    return ", ".join(re.split(r"[-+]", v)[0] for v in found) or None


def _cuda(text: str) -> Optional[str]:
    """Read version.json, version.txt or what nvcc --version prints."""
    match = re.search(
        r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"|CUDA Version ([\d.]+)|release [\d.]+, V([\d.]+)',
        text,
    )
    return next(filter(None, match.groups())) if match else None
