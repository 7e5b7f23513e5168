"""Reads what `on_board/board.sh` reports: a machine's facts, and its power, heat and throttling.

The script collects raw text wherever there is `sh`: here, over SSH, or from a bundle copied to the
board by hand. This module reads that text, and plain tegrastats logs, on any machine.
"""

from __future__ import annotations

import calendar
import re
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from sr_deploy.core.errors import InputError

SCRIPT = Path(__file__).with_name("on_board") / "board.sh"

# The L4T releases in NVIDIA's JetPack archive. A release that is missing here is unknown.
_JETPACK = {
    "32.4.3": "4.4", "32.4.4": "4.4.1", "32.5.0": "4.5", "32.5.1": "4.5.1", "32.6.1": "4.6",
    "32.7.1": "4.6.1", "32.7.2": "4.6.2", "32.7.3": "4.6.3", "32.7.4": "4.6.4", "32.7.5": "4.6.5",
    "32.7.6": "4.6.6", "35.1.0": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2",
    "35.5.0": "5.1.3", "35.6.0": "5.1.4", "35.6.1": "5.1.5", "35.6.4": "5.1.6", "36.3.0": "6.0",
    "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.5.0": "6.2.2",
    "38.2.0": "7.0", "38.4.0": "7.1", "39.2.0": "7.2",
}  # fmt: skip
# Tegra's name in the device tree: its GPU and compute capability.
_SOC = {
    "tegra210": ("gm20b", 53), "tegra186": ("gp10b", 62),
    "tegra194": ("gv11b", 72), "tegra234": ("ga10b", 87),
}  # fmt: skip

_MODULE_RAILS = {
    "AGX Xavier": ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    "AGX Orin": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
}
# nvidia-smi's reasons for clocks lower than requested: power cap, hardware slowdown, software and
# hardware thermal slowdown, power brake.
_SLOWED = 0x04 | 0x08 | 0x20 | 0x40 | 0x80

_KINDS = "tegrastats|smi|ina3221|thermal|clock|throttle"
_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW(?:/\d+mW)*|/\d+)(?!\S)")
_ZONE = re.compile(r"(?<!\S)([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C")
_GR3D = re.compile(r"GR3D_FREQ \d+%@\[?(\d+(?:,\d+)*)")


@dataclass(frozen=True)
class BoardFacts:
    """A machine and its settings at one moment. None is unknown. Of several GPUs the first."""

    board: Optional[str] = None
    l4t: Optional[str] = None
    """`35.4.1`, from /etc/nv_tegra_release."""
    jetpack: Optional[str] = None
    """The version of the nvidia-jetpack package, else the result of `jetpack_of`."""
    tensorrt: Optional[str] = None
    """Version of the installed packages: `8.5.2`. A pip or tar installation is not seen."""
    cuda: Optional[str] = None
    power_mode: Optional[str] = None
    """Number and name in this board's own list: `0 MAXN`."""
    clocks_locked: Optional[bool] = None
    """Whether the GPU's lowest and highest allowed frequency are equal, as after jetson_clocks."""
    gpu_mhz: Optional[float] = None
    gpu_mhz_max: Optional[float] = None
    """The highest frequency that the power mode (or the discrete GPU) allows."""
    temperature_c: Optional[float] = None
    """Temperature of the GPU, else of the hottest zone."""
    driver: Optional[str] = None
    gpu: Optional[str] = None
    compute_capability: Optional[int] = None
    """72 for 7.2."""
    memory_mib: Optional[int] = None
    throttled: Optional[bool] = None
    """Right now."""


@dataclass(frozen=True)
class PowerSample:
    """One line of a log. It has the values that its source reports."""

    time_s: Optional[float]
    """Seconds since 1970. Dates in tegrastats are read as UTC; use differences only."""
    rails_mw: Dict[str, float] = field(default_factory=dict)
    """Momentary power by rail, in mW."""
    gpu_c: Optional[float] = None
    """Temperature of the GPU, else of the hottest junction (`tj`)."""
    gpu_mhz: Optional[float] = None
    source: str = "tegrastats"
    zones_c: Dict[str, float] = field(default_factory=dict)
    throttle: Dict[str, int] = field(default_factory=dict)
    """Counters since boot (names end in `_event_cnt`), and states that are 0 without throttling."""


@dataclass(frozen=True)
class Energy:
    """The power and energy of a run: averages over the samples of one source."""

    watts_mean: float
    covers: str
    """The part of the machine that `watts_mean` is for, from `board_watts`."""
    source: str
    samples: int
    seconds: float
    runs: int
    joules_per_megapixel: float
    """Per 10^6 pixels of output, including idle power."""
    throttled: Optional[bool] = None
    """Whether a state was on in any sample, or a counter rose; None where neither is reported."""
    temperature_c_max: Optional[float] = None


def jetpack_of(l4t: str) -> Optional[str]:
    """Return the JetPack release of an L4T version (`35.4.1`, `36.3`); None when unknown."""
    return _JETPACK.get(l4t) or _JETPACK.get(l4t + ".0")


def facts_here() -> BoardFacts:
    """Return the facts of this machine; without `sh` all are unknown."""
    try:
        done = subprocess.run(["sh", str(SCRIPT), "facts"], capture_output=True, timeout=120)
    except (OSError, subprocess.SubprocessError):
        return BoardFacts()
    return facts_from_text(done.stdout.decode("utf-8", "replace"))


def facts_from_text(text: str) -> BoardFacts:
    """Read the output of `board.sh facts`, which may be incomplete."""
    parts = re.split(r"^== (\w+)\r?\n", text, flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2]))

    def search(pattern: str, section: str) -> Optional[str]:
        match = re.search(pattern, sections.get(section, ""), re.M)
        return match[1] if match else None

    packages = dict(re.findall(r"^(\S+) (\d\S*)$", sections.get("packages", ""), re.M))
    tegra = sections.get("nv_tegra_release", "")
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", tegra)
    core = re.match(r"\d+\.\d+(?:\.\d+)?", packages.get("nvidia-l4t-core", ""))
    l4t = f"{release[1]}.{release[2]}" if release else core[0] if core else None
    jetpack = packages.get("nvidia-jetpack", "").split("-")[0] or (l4t and jetpack_of(l4t))
    soc_gpu, soc_capability = _SOC.get(search(r"(tegra\d+)", "compatible") or "", (None, None))
    smi = _first_gpu(sections.get("nvidia_smi", ""))
    capability = smi.get("compute_cap", "").replace(".", "")
    low, high, now = _gpu_clocks(sections)
    samples = samples_from_text(sections.get("sample", ""))
    zones = {name: c for sample in samples for name, c in sample.zones_c.items()}
    reasons = PowerSample(None, throttle=_slowdowns(smi.get("reasons", "")), source="smi")
    memory_kib = search(r"MemTotal:\s*(\d+) kB", "memory")
    mode = (search(r"^(\d+)\s*$", "nvpmodel"), search(r"NV Power Mode: *(\S+)", "nvpmodel"))
    return BoardFacts(
        board=sections.get("model", "").strip() or None,
        l4t=l4t,
        jetpack=jetpack,
        tensorrt=_tensorrt(packages),
        cuda=_cuda(sections.get("cuda", "")),
        power_mode=" ".join(filter(None, mode)) or None,
        clocks_locked=None if low is None or high is None else low == high,
        gpu_mhz=_first_known(now, _number(smi.get("clocks.sm", ""))),
        gpu_mhz_max=_first_known(high, _number(smi.get("clocks.max.sm", ""))),
        temperature_c=_first_known(
            _number(smi.get("temperature.gpu", "")),
            _gpu_temperature(zones),
            max(zones.values(), default=None),
        ),
        driver=smi.get("driver_version"),
        gpu=smi.get("name") or soc_gpu,
        compute_capability=int(capability) if capability else soc_capability,
        memory_mib=int(memory_kib) // 1024 if memory_kib else None,
        throttled=_throttled([*samples, reasons]),
    )


def samples_from_text(text: str) -> List[PowerSample]:
    """Read the lines of `board.sh watch` or of a plain tegrastats log (L4T 32 to 39).

    Other lines are ignored.
    """
    samples: List[Optional[PowerSample]] = []
    for line in text.splitlines():
        ours = re.match(rf"({_KINDS}) (\d+(?:\.\d*)?) (.*)", line)
        if ours:
            kind, time_s, rest = ours[1], float(ours[2]), ours[3]
            reader = {"tegrastats": _tegrastats, "smi": _smi}.get(kind)
            samples.append(reader(time_s, rest) if reader else _sysfs(kind, time_s, rest))
        elif re.search(r"\bRAM \d+/\d+MB", line):
            date = re.match(r"\d\d-\d\d-\d{4} \d\d:\d\d:\d\d", line)
            parsed = time.strptime(date[0], "%m-%d-%Y %H:%M:%S") if date else None
            samples.append(_tegrastats(float(calendar.timegm(parsed)) if parsed else None, line))
    return [sample for sample in samples if sample is not None]


def board_watts(rails_mw: Dict[str, float]) -> Tuple[Optional[float], str]:
    """Return the total power [W] and the part of the machine it covers, or None and a reason.

    VDD_IN or POM_5V_IN is the module's input; the other rails are parts of it. AGX modules have no
    such rail. AGX Xavier: GPU, CPU, SOC, CV, VDDRQ (memory) and SYS5V (the rest of the module's 5 V
    side) are separate supplies; their sum excludes the losses before them. AGX Orin: VDD_GPU_SOC,
    VDD_CPU_CV and VIN_SYS_5V0; VDDQ_VDD2_1V8AO (memory) is fed from VIN_SYS_5V0. None of these
    includes the carrier board. A discrete GPU's power is its board's, without the computer.
    """
    covered: Dict[Tuple[str, ...], str] = {
        ("VDD_IN",): "module input (VDD_IN)",
        ("POM_5V_IN",): "module input (POM_5V_IN)",
    }
    for module, rails in _MODULE_RAILS.items():
        covered[rails] = f"{module} module, sum of {' + '.join(rails)}"
    gpu = next(iter(rails_mw), "")
    if len(rails_mw) == 1 and gpu.startswith("nvidia-smi:"):  # of several, it is unknown which ran
        covered[(gpu,)] = "GPU board (nvidia-smi power.draw)"
    for names, covers in covered.items():
        if all(name in rails_mw for name in names):
            watts = sum(rails_mw[name] for name in names) / 1000
            return (watts, covers) if watts > 0 else (None, f"the sensors read 0 W: {covers}")
    if not rails_mw:
        return None, "no power was read"
    return None, f"the total of the rails {', '.join(rails_mw)} is unknown"


def within(samples: Iterable[PowerSample], start_s: float, stop_s: float) -> List[PowerSample]:
    """Return the samples of a period (seconds since 1970): a log may include idle time."""
    return [s for s in samples if s.time_s is not None and start_s <= s.time_s <= stop_s]


def energy(
    samples: Sequence[PowerSample], *, output_px: int, runs: int, seconds: float
) -> Optional[Energy]:
    """Return the energy of `runs` inferences of `output_px` output pixels each, in `seconds`.

    The samples must be those of the run (see `within`), evenly spaced. When one log has the same
    rails from two sources, one source is used. Returns None for fewer than 3 samples. Raises
    InputError when a quantity is not positive.
    """
    if output_px <= 0 or runs <= 0 or seconds <= 0:
        quantities = f"{runs} runs of {output_px} pixels in {seconds} s"
        raise InputError(f"energy of {quantities}: expected three positive numbers")
    for source in ("ina3221", "tegrastats", "smi"):
        rails = [s.rails_mw for s in samples if s.source == source]
        # All lines together: each GPU has its own.
        if board_watts({rail: 1.0 for line in rails for rail in line})[0] is None:
            continue
        readings = [(w, covers) for w, covers in map(board_watts, rails) if w is not None]
        if len(readings) >= 3:
            mean = sum(w for w, _ in readings) / len(readings)
            zones = [max(s.zones_c.values(), default=None) for s in samples]
            hottest = [_first_known(s.gpu_c, zone) for s, zone in zip(samples, zones)]
            return Energy(
                watts_mean=mean,
                covers=readings[0][1],
                source=source,
                samples=len(readings),
                seconds=seconds,
                runs=runs,
                joules_per_megapixel=mean * seconds / (runs * output_px / 1e6),
                throttled=_throttled(samples),
                temperature_c_max=max((c for c in hottest if c is not None), default=None),
            )
    return None


def _throttled(samples: Sequence[PowerSample]) -> Optional[bool]:
    values: Dict[str, List[int]] = {}
    for name, value in (item for sample in samples for item in sample.throttle.items()):
        values.setdefault(name, []).append(value)
    counters = [v for name, v in values.items() if name.endswith("_event_cnt") and len(v) > 1]
    states = [v for name, v in values.items() if not name.endswith("_event_cnt")]
    rose, was_on = [max(v) > min(v) for v in counters], [max(v) > 0 for v in states]
    return any(rose + was_on) if counters or states else None


def _tegrastats(time_s: Optional[float], line: str) -> PowerSample:
    zones = _plausible({name: float(c) for name, c in _ZONE.findall(line)})
    rails = {rail: float(mw) for rail, mw in _RAIL.findall(line) if rail != "NC"}
    clock = _GR3D.search(line)
    mhz = max(float(part) for part in clock[1].split(",")) if clock else 0
    # 0 MHz: the GPU is off.
    return PowerSample(time_s, rails, _gpu_temperature(zones), mhz or None, zones_c=zones)


def _sysfs(kind: str, time_s: float, rest: str) -> PowerSample:
    words = rest.split()
    pairs = zip(words[::2], words[1::2])
    values = {name: int(value) for name, value in pairs if re.fullmatch(r"-?\d+", value)}
    sample = PowerSample(time_s, source=kind)
    if kind == "thermal":
        zones = _plausible({name: value / 1000 for name, value in values.items()})
        return replace(sample, gpu_c=_gpu_temperature(zones), zones_c=zones)
    if kind == "ina3221":
        rails = {name: float(mw) for name, mw in values.items() if name != "NC"}
        return replace(sample, rails_mw=rails)
    if kind == "clock":
        return replace(sample, gpu_mhz=values.get("gpu_hz", 0) / 1e6 or None)
    return replace(sample, throttle=values)


def _smi(time_s: float, rest: str) -> Optional[PowerSample]:
    cells = rest.split(", ")
    if len(cells) != 5:
        return None
    watts, temperature, clock = (_number(cell) for cell in cells[1:4])
    rails = {} if watts is None else {f"nvidia-smi:{cells[0]}": watts * 1000}
    zones = {} if temperature is None else {"GPU": temperature}
    return PowerSample(time_s, rails, temperature, clock, "smi", zones, _slowdowns(cells[4]))


def _plausible(zones_c: Dict[str, float]) -> Dict[str, float]:
    """Drop values that are not measured: -256 or 0 of a part that is off; PMIC, a constant."""
    zones = {name: c for name, c in zones_c.items() if 0 < c < 150}
    return {name: c for name, c in zones.items() if not name.upper().startswith("PMIC")}


def _gpu_temperature(zones_c: Dict[str, float]) -> Optional[float]:
    # GPU, gpu, GPU-therm, gpu-thermal
    parts = {re.split(r"[-_]", name.lower())[0]: c for name, c in zones_c.items()}
    return parts.get("gpu", parts.get("tj"))


def _slowdowns(mask: str) -> Dict[str, int]:
    valid = re.fullmatch(r"0x[0-9a-fA-F]+", mask.strip())
    return {"nvidia-smi": int(mask, 16) & _SLOWED} if valid else {}


def _number(text: str) -> Optional[float]:
    match = re.match(r"\s*(-?\d+(?:\.\d+)?)", text)
    return float(match[1]) if match else None


def _first_known(*values: Optional[float]) -> Optional[float]:
    return next((value for value in values if value is not None), None)


def _first_gpu(table: str) -> Dict[str, str]:
    """Return the first row of nvidia-smi's CSV by field, without fields that have no value."""
    head, row = (table.strip().splitlines() + ["", ""])[:2]
    decoration = r" \[.*|\.current|clocks_(event|throttle)_(?=reasons)|(?<=reasons)\.active"
    names = [re.sub(decoration, "", name) for name in head.split(", ")]
    cells = [cell.strip() for cell in row.split(", ")]
    return {n: cell for n, cell in zip(names, cells) if not re.match(r"\[|N/A|$", cell)}


def _gpu_clocks(
    sections: Dict[str, str],
) -> Tuple[Optional[float], Optional[float], Optional[float]]:
    """Return the GPU's lowest and highest allowed and its present frequency in MHz."""
    pattern = r"^GPU MinFreq=(\d+) MaxFreq=(\d+) CurrentFreq=(\d+)"
    shown = re.findall(pattern, sections.get("jetson_clocks", ""), re.M)
    pairs = [pair for values in shown for pair in zip(("min", "max", "cur"), values)]
    files = re.findall(r"^/sys/\S*/(min|max|cur)_freq (\d+)$", sections.get("clocks", ""), re.M)
    pairs += reversed(files)  # the last one counts: of several GPUs the first
    mhz = {name: int(hertz) / 1e6 for name, hertz in pairs}
    return mhz.get("min"), mhz.get("max"), mhz.get("cur") or None


def _tensorrt(packages: Dict[str, str]) -> Optional[str]:
    libraries = [v for k, v in packages.items() if re.fullmatch(r"libnvinfer\d+", k)]
    others = [packages[k] for k in ("tensorrt", "libnvinfer-bin") if k in packages]
    return ", ".join(re.split(r"[-+]", v)[0] for v in libraries or others[:1]) or None


def _cuda(text: str) -> Optional[str]:
    """Read version.json, version.txt or the output of nvcc --version."""
    match = re.search(
        r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"|CUDA Version ([\d.]+)'
        r"|release [\d.]+, V([\d.]+)",
        text,
    )
    return next(filter(None, match.groups())) if match else None
