from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time

import pytest

from sr_deploy.core.errors import InputError
from sr_deploy.core.jsonio import from_dict, to_json
from sr_deploy.runtime.boards import board
from sr_deploy.runtime.boards.board import (
    BoardFacts,
    PowerSample,
    board_watts,
    energy,
    facts_from_text,
    facts_here,
    samples_from_text,
    within,
)

# Lines of tegrastats. "Recorded": printed by a board and published; there was no board here. The
# first five are from the tests of DataDog/datadog-agent (Apache-2.0), which does not name the
# releases: they follow from the format.
XAVIER_32 = (  # recorded, AGX Xavier 32 GB, L4T 32
    "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU "
    "[2%@1190,0%@1190,0%@1190,0%@1190,off,off,off,off] EMC_FREQ 0%@665 "
    "GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C Tdiode@40C PMIC@100C AUX@36C "
    "CPU@37.5C thermal@36.9C Tboard@37C "
    "GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
)
XAVIER_NX_32 = (  # recorded, Xavier NX, L4T 32
    "RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU "
    "[9%@1190,6%@1190,6%@1190,5%@1190,4%@1190,8%@1267] EMC_FREQ 10%@1600 "
    "GR3D_FREQ 62%@306 APE 150 MTS fg 0% bg 0% AO@41.5C GPU@43C PMIC@100C AUX@41.5C CPU@43.5C "
    "thermal@42.55C VDD_IN 4067/4067 "
    "VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353"
)
NANO_32 = (  # recorded, Nano, L4T 32; its IRAM is no rail
    "RAM 613/3964MB (lfb 634x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) CPU "
    "[2%@102,1%@102,0%@102,0%@102] EMC_FREQ 0% "
    "GR3D_FREQ 0% PLL@39C CPU@40.5C PMIC@100C GPU@41C AO@46C thermal@41C POM_5V_IN 900/943 "
    "POM_5V_GPU 0/0 POM_5V_CPU 123/123"
)
ORIN_NX_35 = (  # recorded, Orin NX, L4T 35
    "RAM 6334/15388MB (lfb 1770x4MB) SWAP 491/7694MB (cached 0MB) CPU "
    "[6%@729,9%@729,5%@729,16%@729,off,off,off,off] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@611 VIC_FREQ 729 APE 174 CV0@45.812C CPU@47.937C SOC2@46.093C SOC0@46.968C "
    "CV1@46.406C GPU@45.875C tj@48.875C "
    "SOC1@48.875C CV2@45.75C VDD_IN 5299mW/5299mW VDD_CPU_GPU_CV 773mW/773mW VDD_SOC 1424mW/1424mW"
)
ORIN_36 = (  # recorded, AGX Orin 32 GB, L4T 36 (shortened: CPUs)
    "RAM 29114/30697MB (lfb 3x4MB)    SWAP 4915/15348MB (cached 1MB) CPU [3%@729,100%@2201] "
    "EMC_FREQ 1%@2133 GR3D_FREQ 0%@[305,305] "
    "NVENC      off  NVDEC    off NVJPG off NVJPG1    off         VIC        off          OFA    "
    "       off          NVDLA0    off       "
    "NVDLA1     off          PVA0_FREQ off         APE           174        cpu@53.062C "
    "soc2@48.25C soc0@48.843C  gpu@47.812C "
    "tj@53.062C soc1@48.968C    VDD_GPU_SOC 3205mW/3205mW VDD_CPU_CV 4405mW/4405mW VIN_SYS_5V0 "
    "4767mW/4767mW"
)
ORIN_35 = (  # recorded, AGX Orin 64 GB, L4T 35, setup guide of 2023 (CPUs shortened); GPU, CV off
    "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU "
    "[0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 VIC_FREQ 729 APE 174 CV0@-256C CPU@42.593C Tboard@32C "
    "SOC2@39.343C Tdiode@33.25C SOC0@39.375C "
    "CV1@-256C GPU@-256C tj@42.593C SOC1@40.468C CV2@-256C VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV "
    "400mW/400mW "
    "VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
ORIN_NANO_39 = (  # recorded, Orin Nano Super, JetPack 7.2, 2026: instant/average/highest
    "09-19-2026 13:33:03 RAM 2845/7486MB (lfb 33x4MB) CPU "
    "[1%@729,0%@729,0%@729,0%@729,0%@729,0%@729] EMC_FREQ 3%@665 GR3D_FREQ 0%@[305] "
    "NVDEC0 off NVJPG0 off NVJPG1 off VIC off OFA off APE 200 cpu@45.375C/45.812C "
    "soc2@44.687C/44.843C soc0@46.25C/46.25C "
    "gpu@46.562C/46.843C tj@46.562C/46.843C soc1@46.281C/46.281C VDD_IN 3462mW/3522mW/3582mW "
    "VDD_CPU_GPU_CV 442mW/483mW/523mW "
    "VDD_SOC 1127mW/1127mW/1127mW"
)
XAVIER_35 = (  # composed: rails as published for AGX Xavier, the rest as in XAVIER_32, ORIN_NX_35
    "11-21-2026 12:00:00 RAM 2046/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU "
    "[2%@1190,off] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 99%@1377 VIC_FREQ 115 APE 150 AUX@36C CPU@46.5C thermal@45.7C Tboard@37C AO@35C "
    "GPU@48.2C Tdiode@38.75C PMIC@50C "
    "GPU 14467mW/14467mW CPU 467mW/467mW SOC 1245mW/1245mW CV 0mW/0mW VDDRQ 311mW/311mW SYS5V "
    "2768mW/2768mW"
)


@pytest.mark.parametrize(
    ("line", "watts", "rails", "gpu_c", "gpu_mhz"),
    [
        (XAVIER_32, 0.311 + 0.932 + 0.621 + 1.482, 6, 37.5, 318),
        (XAVIER_NX_32, 4.067, 3, 43, 306),
        (NANO_32, 0.900, 3, 41, None),
        (ORIN_NX_35, 5.299, 3, 45.875, 611),
        (ORIN_36, 3.205 + 4.405 + 4.767, 3, 47.812, 305),
        (
            ORIN_35,
            2.399 + 0.400 + 4.032,
            4,
            42.593,
            None,
        ),  # tj stands in for the GPU that is off; memory is not added twice
        (ORIN_NANO_39, 3.462, 3, 46.562, 305),
        (XAVIER_35, 14.467 + 0.467 + 1.245 + 0.311 + 2.768, 6, 48.2, 1377),
    ],
    ids=[
        "xavier-32",
        "xavier-nx-32",
        "nano-32",
        "orin-nx-35",
        "orin-36",
        "orin-35",
        "orin-nano-39",
        "xavier-35",
    ],
)
def test_a_line_of_tegrastats_is_read(line, watts, rails, gpu_c, gpu_mhz):
    (plain,) = samples_from_text(line)
    (stamped,) = samples_from_text(f"tegrastats 1795262400.25 {line}\n")
    for sample in (plain, stamped):
        assert (len(sample.rails_mw), sample.gpu_c, sample.gpu_mhz) == (rails, gpu_c, gpu_mhz)
        assert board_watts(sample.rails_mw)[0] == pytest.approx(watts)
    assert stamped.time_s == 1795262400.25


def test_a_date_is_a_time_and_no_date_is_none():
    first, second = samples_from_text(ORIN_35 + "\n" + ORIN_35.replace("00:01:24", "00:01:26"))
    assert second.time_s - first.time_s == 2
    assert samples_from_text(NANO_32)[0].time_s is None


def test_the_constant_temperature_of_the_pmic_is_ignored():
    assert max(samples_from_text(XAVIER_32)[0].zones_c.values()) == 40


def test_other_lines_are_ignored():
    assert samples_from_text("\nnvpmodel: 0\nina3221 soon GPU 3\nthermal\nsmi 1 0, 65.3\n") == []


def test_total_power_names_its_rails_and_is_none_for_an_unknown_set():
    assert "VDD_IN" in board_watts({"VDD_IN": 5000, "VDD_SOC": 1500})[1]
    assert (
        "GPU + CPU + SOC + CV + VDDRQ + SYS5V"
        in board_watts(samples_from_text(XAVIER_32)[0].rails_mw)[1]
    )
    for rails, reason in (
        ({"GPU": 5000, "CPU": 800}, "GPU, CPU"),  # part of AGX Xavier's
        ({"VDD_GPU": 5000, "VDD_CPU_SOC_MSS": 800, "VIN_SYS_5V0": 3000}, "VDD_CPU_SOC_MSS"),  # Thor
        ({"nvidia-smi:0": 60000, "nvidia-smi:1": 20000}, "nvidia-smi:1"),
        ({"VDD_IN": 0}, "the sensors read 0 W"),
        ({}, "no power"),
    ):
        watts, why = board_watts(rails)
        assert watts is None
        assert reason in why


# Output of `board.sh watch` (composed): 20, 22 and 24 W; an over-current counter rises at the end.
WATCHED = """\
ina3221 100.5 GPU 12000 CPU 2000 SOC 2000 CV 0 VDDRQ 1000 SYS5V 3000
thermal 100.5 CPU-therm 45000 GPU-therm 46500 PMIC-Die 100000
clock 100.5 gpu_hz 1377000000
throttle 100.5 oc1_event_cnt 0 oc3_event_cnt 7 gpu-throttle-alert:2 0
ina3221 101.5 GPU 14000 CPU 2000 SOC 2000 CV 0 VDDRQ 1000 SYS5V 3000
thermal 101.5 CPU-therm 45000 GPU-therm 51000 PMIC-Die 100000
throttle 101.5 oc1_event_cnt 0 oc3_event_cnt 7 gpu-throttle-alert:2 0
ina3221 102.5 GPU 16000 CPU 2000 SOC 2000 CV 0 VDDRQ 1000 SYS5V 3000
throttle 102.5 oc1_event_cnt 0 oc3_event_cnt 9 gpu-throttle-alert:2 0
"""


def test_energy_is_watts_times_seconds_per_megapixel_of_output():
    used = energy(samples_from_text(WATCHED), output_px=2_000_000, runs=60, seconds=3.0)
    assert (used.watts_mean, used.samples, used.source) == (22.0, 3, "ina3221")
    assert used.joules_per_megapixel == pytest.approx(22 * 3 / (2 * 60))
    assert used.temperature_c_max == 51
    assert used.throttled is True  # by the counter
    assert (
        from_dict(board.Energy, json.loads(to_json(used)), source="test", error=InputError) == used
    )


def test_throttling_is_seen_in_states_and_counters_and_unknown_without_them():
    lines = WATCHED.splitlines()
    quiet = "\n".join(lines[:-1] + [lines[-2]])
    assert energy(samples_from_text(quiet), output_px=1, runs=1, seconds=1).throttled is False
    alert = WATCHED.replace("oc3_event_cnt 9", "oc3_event_cnt 7").replace(
        "alert:2 0", "alert:2 1", 1
    )
    assert energy(samples_from_text(alert), output_px=1, runs=1, seconds=1).throttled is True
    silent = "\n".join(line for line in lines if not line.startswith("throttle"))
    assert energy(samples_from_text(silent), output_px=1, runs=1, seconds=1).throttled is None


def test_two_sources_of_the_same_rails_are_not_mixed():
    both = WATCHED + "".join(f"tegrastats {100 + i} {XAVIER_32}\n" for i in range(5))
    used = energy(samples_from_text(both), output_px=1, runs=1, seconds=1)
    assert (used.watts_mean, used.samples) == (22.0, 3)
    used = energy(samples_from_text(both.replace("ina3221", "# ")), output_px=1, runs=1, seconds=1)
    assert used.source == "tegrastats"
    assert used.watts_mean == pytest.approx(3.346)


def test_energy_needs_three_samples():
    samples = samples_from_text(WATCHED)
    assert energy(within(samples, 101, 103), output_px=1, runs=1, seconds=1) is None
    assert energy([], output_px=1, runs=1, seconds=1) is None
    assert (
        energy(
            [PowerSample(float(t), {"STRANGE": 1.0}) for t in range(9)],
            output_px=1,
            runs=1,
            seconds=1,
        )
        is None
    )


@pytest.mark.parametrize("wrong", [{"output_px": 0}, {"runs": 0}, {"seconds": 0.0}])
def test_energy_of_non_positive_quantities_is_an_error(wrong):
    with pytest.raises(InputError, match="positive"):
        energy([], **{"output_px": 1, "runs": 1, "seconds": 1.0, **wrong})


# Composed after nvidia-smi's documented CSV; one line a GPU.
SMI = "smi {t}.5 {gpu}, {w}, 61, 1965, 0x000000000000000{reasons}\n"


def test_a_discrete_gpu_is_read_and_its_power_cap_is_throttling():
    one = "".join(
        SMI.format(t=t, gpu=0, w=300.5, reasons=1) for t in range(4)
    )  # 1: idle, no slowdown
    used = energy(samples_from_text(one), output_px=10**6, runs=1, seconds=1)
    assert (used.watts_mean, used.throttled, used.temperature_c_max) == (300.5, False, 61)
    capped = energy(
        samples_from_text(one + SMI.format(t=9, gpu=0, w=300.5, reasons=4)),
        output_px=1,
        runs=1,
        seconds=1,
    )
    assert capped.throttled is True
    two = one + "".join(SMI.format(t=t, gpu=1, w=20.0, reasons=0) for t in range(4))
    assert energy(samples_from_text(two), output_px=1, runs=1, seconds=1) is None
    assert (
        samples_from_text("smi 1.5 0, [N/A], 48, [N/A], [N/A]")[0].rails_mw == {}
    )  # a Jetson's nvidia-smi


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("32.7.1", "4.6.1"),
        ("35.4.1", "5.1.2"),
        ("36.3", "6.0"),
        ("36.4.0", "6.1"),
        ("35.99.9", None),
        ("", None),
    ],
)
def test_jetpack_by_l4t(l4t, jetpack):
    assert board.jetpack_of(l4t) == jetpack


def test_an_empty_text_has_no_facts():
    assert facts_from_text("") == BoardFacts()
    assert all(
        value is None
        for value in vars(facts_from_text("== nvpmodel\n\n== nvidia_smi\n== clocks\nx\n")).values()
    )


def test_the_facts_of_a_desktop_gpu():
    text = (  # composed after nvidia-smi's documented CSV
        "== nvidia_smi\nindex, name, driver_version, persistence_mode, pstate, clocks.current.sm "
        "[MHz], clocks.max.sm [MHz], "
        "clocks.current.memory [MHz], power.draw [W], power.limit [W], temperature.gpu, "
        "memory.total [MiB], compute_cap, "
        "clocks_event_reasons.active\n0, NVIDIA GeForce RTX 3090, 575.57.08, Disabled, P8, 210 "
        "MHz, 2100 MHz, 405 MHz, 21.33 W, 350.00 W, "
        "38, 24576 MiB, 8.6, 0x0000000000000001\n\n"
    )
    facts = facts_from_text(text)
    assert (facts.gpu, facts.driver, facts.compute_capability) == (
        "NVIDIA GeForce RTX 3090",
        "575.57.08",
        86,
    )
    assert (
        facts.gpu_mhz,
        facts.gpu_mhz_max,
        facts.temperature_c,
        facts.throttled,
        facts.board,
    ) == (210, 2100, 38, False, None)
    assert (
        facts_from_text(
            text.replace("event_reasons", "throttle_reasons").replace("0001\n", "0040\n")
        ).throttled
        is True
    )
    orin = facts_from_text(
        text.replace("NVIDIA GeForce RTX 3090, 575.57.08", "Orin (nvgpu), 540.4.0").replace(
            "38, 24576 MiB, 8.6", "[N/A], [N/A], 8.7"
        )
    )
    assert (orin.temperature_c, orin.compute_capability) == (None, 87)


def test_the_clocks_shown_by_jetson_clocks():
    # recorded: AGX Orin, L4T 35, not locked
    text = (
        "== jetson_clocks\nGPU MinFreq=306000000 MaxFreq=1300500000 CurrentFreq=306000000\n"
        "EMC MinFreq=204000000 MaxFreq=3199000000\n"
    )
    facts = facts_from_text(text)
    assert (facts.clocks_locked, facts.gpu_mhz, facts.gpu_mhz_max) == (False, 306, 1300.5)


def shell(name):
    if name == "busybox":
        return [shutil.which("busybox"), "sh"] if shutil.which("busybox") else None
    return [shutil.which(name)] if shutil.which(name) else None


@pytest.fixture(params=["sh", "dash", "busybox"])
def sh(request):
    found = shell(request.param)
    if found is None:
        pytest.skip(f"there is no {request.param} here to run board.sh with")
    return found


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


INA_32 = "sys/bus/i2c/drivers/ina3221x"
INA_35 = "sys/bus/i2c/drivers/ina3221"
COMMON = {
    "proc/device-tree/model": "Jetson-AGX\0",
    "proc/device-tree/compatible": "nvidia,p2972-0000\0nvidia,tegra194\0",
    "proc/meminfo": "MemTotal:       32692948 kB\nMemFree:         1 kB\n",
    "proc/loadavg": "0.10 0.20 0.30 1/500 1234\n",
    "proc/cpuinfo": "processor : 0\nmodel name : ARMv8 Processor rev 0 (v8l)\n",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm\n",
    "sys/class/thermal/thermal_zone0/temp": "45500\n",
    "sys/class/thermal/thermal_zone1/type": "GPU-therm\n",
    "sys/class/thermal/thermal_zone1/temp": "44000\n",
    "sys/class/thermal/thermal_zone2/type": "PMIC-Die\n",
    "sys/class/thermal/thermal_zone2/temp": "100000\n",
    "sys/class/thermal/thermal_zone3/type": "CV-therm\n",  # off: it has a name, but no temperature
    "sys/class/thermal/thermal_zone3/temp": "",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device0/max_state": "7\n",
    "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
}


@pytest.fixture()
def xavier_32(tmp_path):
    """An AGX Xavier of JetPack 4.6.1, composed after public listings of its /sys; free clocks."""
    gpu = "sys/devices/gpu.0/devfreq/17000000.gv11b"
    rails = [
        ("1-0040", 0, 0, "GPU", 465),
        ("1-0040", 0, 1, "CPU", 618),
        ("1-0040", 0, 2, "SOC", 2936),
    ]
    rails += [
        ("1-0041", 1, 0, "CV", 0),
        ("1-0041", 1, 1, "VDDRQ", 309),
        ("1-0041", 1, 2, "SYS5V", 3306),
    ]
    root = tmp_path / "xavier-32"
    write(root, COMMON)
    for chip, device, channel, rail, mw in rails:
        folder = f"{INA_32}/{chip}/iio:device{device}"
        write(
            root,
            {
                f"{folder}/rail_name_{channel}": f"{rail}\n",
                f"{folder}/in_power{channel}_input": f"{mw}\n",
            },
        )
    release = (
        "# R32 (release), REVISION: 7.1, GCID: 29689809, BOARD: t186ref, "
        "EABI: aarch64, DATE: Wed Feb  2 21:33:23 UTC 2022\n"
    )
    write(
        root,
        {
            "etc/nv_tegra_release": release,
            "usr/local/cuda/version.txt": "CUDA Version 10.2.300\n",
            f"{gpu}/min_freq": "114750000\n",
            f"{gpu}/max_freq": "905250000\n",
            f"{gpu}/cur_freq": "318750000\n",
        },
    )
    return root


@pytest.fixture()
def xavier_35(tmp_path):
    """An AGX Xavier with JetPack 5.1.2, as in public listings of /sys and dpkg; locked clocks."""
    gpu = "sys/class/devfreq/17000000.gv11b"
    rails = [
        ("1-0040", 3, 1, "GPU", 800, 1250),
        ("1-0040", 3, 2, "CPU", 800, 625),
        ("1-0040", 3, 3, "SOC", 1000, 1245),
    ]
    rails += [
        ("1-0041", 4, 1, "CV", 0, 0),
        ("1-0041", 4, 2, "VDDRQ", 622, 500),
        ("1-0041", 4, 3, "SYS5V", 5008, 552),
    ]
    root = tmp_path / "xavier-35"
    write(root, COMMON)
    for chip, device, channel, rail, mv, ma in rails:
        folder = f"{INA_35}/{chip}/hwmon/hwmon{device}"
        write(
            root,
            {f"{folder}/in{channel}_label": f"{rail}\n", f"{folder}/in{channel}_input": f"{mv}\n"},
        )
        write(
            root,
            {
                f"{folder}/curr{channel}_input": f"{ma}\n",
                f"{folder}/in7_label": "sum of shunt voltages\n",
                f"{folder}/in7_input": "9\n",
            },
        )
    release = (
        "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, "
        "EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023\n"
    )
    write(
        root,
        {
            "etc/nv_tegra_release": release,
            "usr/local/cuda/version.json": '{\n   "cuda" : {\n      "name" : "CUDA SDK",\n'
            '      "version" : "11.4.19"\n   }\n}\n',
            f"{gpu}/min_freq": "1377000000\n",
            f"{gpu}/max_freq": "1377000000\n",
            f"{gpu}/cur_freq": "1377000000\n",
            "sys/class/hwmon/hwmon5/oc1_event_cnt": "4\n",
            "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2265600\n",
        },
    )
    return root


def packages_of(root):
    """Give the tree a dpkg database with the packages of JetPack 5.1.2."""
    versions = {
        "nvidia-jetpack": "5.1.2-b104",
        "libnvinfer8": "8.5.2-1+cuda11.4",
        "tensorrt": "8.5.2.2-1+cuda11.4",
    }
    entry = (
        "Package: {}\nStatus: install ok installed\nMaintainer: nobody\n"
        "Architecture: arm64\nVersion: {}\nDescription: x\n\n"
    )
    write(root, {"var/lib/dpkg/status": "".join(entry.format(*item) for item in versions.items())})


def commands(folder, **scripts):
    """Put commands first on PATH. By default, nvidia-smi cannot reach a driver."""
    smi = "echo NVIDIA-SMI has failed because it could not communicate with the driver.; exit 9"
    for name, script in {"nvidia-smi": smi, **scripts}.items():
        path = folder / "bin" / name.replace("_", "-")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


def contents(root):
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def facts_of(sh, root, path):
    before = contents(root)
    done = subprocess.run(
        [*sh, str(board.SCRIPT), "facts"],
        env={**os.environ, "SRDEPLOY_ROOT": str(root), "PATH": path},
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert contents(root) == before
    return done.stdout.decode()


def test_the_facts_of_an_agx_xavier_with_jetpack_4(sh, xavier_32, tmp_path):
    text = facts_of(
        sh,
        xavier_32,
        commands(
            tmp_path,
            nvpmodel="echo 'NV Fan Mode:quiet'; echo 'NV Power Mode: MODE_30W_ALL'; echo 3",
        ),
    )
    facts = facts_from_text(text)
    assert (facts.board, facts.l4t, facts.jetpack, facts.cuda) == (
        "Jetson-AGX",
        "32.7.1",
        "4.6.1",
        "10.2.300",
    )
    assert (facts.power_mode, facts.clocks_locked, facts.gpu_mhz, facts.gpu_mhz_max) == (
        "3 MODE_30W_ALL",
        False,
        318.75,
        905.25,
    )
    assert (facts.gpu, facts.compute_capability, facts.memory_mib) == ("gv11b", 72, 31926)
    assert (facts.temperature_c, facts.throttled, facts.driver) == (
        44.0,
        False,
        None,
    )  # neither the PMIC's 100 nor the fan
    watts = [board_watts(s.rails_mw)[0] for s in samples_from_text(text) if s.rails_mw]
    assert watts == [pytest.approx(0.465 + 0.618 + 2.936 + 0.309 + 3.306)]
    assert "pwm-fan" in text
    assert "NVIDIA-SMI has failed" not in text


def test_the_facts_of_an_agx_xavier_with_jetpack_5(sh, xavier_35, tmp_path):
    if shutil.which("dpkg-query"):
        packages_of(xavier_35)
    text = facts_of(
        sh, xavier_35, commands(tmp_path, nvpmodel="echo 'NV Power Mode: MAXN'; echo 0")
    )
    facts = facts_from_text(text)
    assert (facts.l4t, facts.jetpack, facts.cuda, facts.power_mode) == (
        "35.4.1",
        "5.1.2",
        "11.4.19",
        "0 MAXN",
    )
    assert facts.tensorrt == ("8.5.2" if shutil.which("dpkg-query") else None)
    assert (facts.clocks_locked, facts.gpu_mhz) == (True, 1377)
    assert facts.throttled is False  # the counter says 4 since boot, not now
    (rails,) = [s.rails_mw for s in samples_from_text(text) if s.rails_mw]
    assert rails == {"GPU": 1000, "CPU": 500, "SOC": 1245, "CV": 0, "VDDRQ": 311, "SYS5V": 2764}
    assert (
        from_dict(BoardFacts, json.loads(to_json(facts)), source="test", error=InputError) == facts
    )


def test_a_machine_with_nothing_has_no_facts_and_no_error(sh, tmp_path):
    (tmp_path / "empty").mkdir()
    facts = facts_from_text(facts_of(sh, tmp_path / "empty", commands(tmp_path)))
    assert facts == BoardFacts()


def test_an_older_nvidia_smi_is_queried_by_its_own_names(sh, tmp_path):
    script = (
        'case "$1" in *compute_cap*|*event_reasons*) '
        'echo "Field is not a valid field to query."; exit 2 ;; esac; '
        'echo "index, name, driver_version, clocks_throttle_reasons.active"; '
        'echo "0, Tesla T4, 450.80.02, 0x0000000000000008"'
    )
    facts = facts_from_text(facts_of(sh, tmp_path / "empty", commands(tmp_path, nvidia_smi=script)))
    assert (facts.gpu, facts.driver, facts.compute_capability, facts.throttled) == (
        "Tesla T4",
        "450.80.02",
        None,
        True,
    )


def watched(sh, root, path, folder, *, lines, every="0.1"):
    """Watch until the file has so many lines, end it by TERM, and return the text."""
    log = folder / "board.log"
    scratch = folder / "scratch"
    scratch.mkdir()
    before = contents(root)
    env = {**os.environ, "SRDEPLOY_ROOT": str(root), "PATH": path, "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [*sh, str(board.SCRIPT), "watch", str(log), every], env=env, stderr=subprocess.PIPE
    )
    try:
        late = time.monotonic() + 30
        while time.monotonic() < late and (
            not log.is_file() or log.read_text().count("\n") < lines
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[1] == b""
    finally:
        process.kill()
    assert process.returncode == 0
    assert list(scratch.iterdir()) == []  # the pipe is gone
    assert contents(root) == before  # what is under /sys was only read
    text = log.read_text()
    time.sleep(0.3)
    assert log.read_text() == text  # and nobody goes on writing
    return text


TEGRASTATS = (
    'echo $$ > "{pid}"; test "$1" = --interval || exit 1; '
    'while :; do echo "{line}"; sleep 0.1; done'
)


def test_watch_on_a_jetson_samples_tegrastats_and_the_rails_and_leaves_nothing_running(
    sh, xavier_35, tmp_path
):
    path = commands(tmp_path, tegrastats=TEGRASTATS.format(pid=tmp_path / "pid", line=XAVIER_35))
    before = time.time()
    samples = samples_from_text(watched(sh, xavier_35, path, tmp_path, lines=24))
    assert {s.source for s in samples} == {"tegrastats", "ina3221", "thermal", "clock", "throttle"}
    assert all(math.floor(before) <= s.time_s <= time.time() for s in samples)
    used = energy(samples, output_px=10**6, runs=10, seconds=1.0)
    assert used.watts_mean == pytest.approx(1.0 + 0.5 + 1.245 + 0.311 + 2.764)
    assert (used.source, used.throttled, used.temperature_c_max) == ("ina3221", False, 48.2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_watch_reads_the_rails_of_jetpack_4(sh, xavier_32, tmp_path):
    samples = samples_from_text(watched(sh, xavier_32, commands(tmp_path), tmp_path, lines=12))
    used = energy(samples, output_px=10**6, runs=1, seconds=1.0)
    assert used.watts_mean == pytest.approx(7.634)
    assert {s.gpu_mhz for s in samples if s.source == "clock"} == {318.75}


def test_watch_on_a_desktop_samples_nvidia_smi(sh, tmp_path):
    script = (
        'case "$*" in *event_reasons*) exit 2 ;; *-lms*) ;; *) exit 0 ;; esac; '
        'while :; do echo "0, 65.32, 41, 1980, 0x0000000000000000"; sleep 0.1; done'
    )
    (tmp_path / "empty").mkdir()
    samples = samples_from_text(
        watched(sh, tmp_path / "empty", commands(tmp_path, nvidia_smi=script), tmp_path, lines=3)
    )
    used = energy(samples, output_px=10**6, runs=1, seconds=1.0)
    assert (used.watts_mean, used.source, used.throttled) == (65.32, "smi", False)


def test_watch_without_sensors_leaves_an_empty_file(sh, tmp_path):
    (tmp_path / "empty").mkdir()
    assert watched(sh, tmp_path / "empty", commands(tmp_path), tmp_path, lines=0) == ""


@pytest.mark.parametrize(
    "arguments",
    [[], ["guess"], ["watch"], ["watch", "x", "0"], ["watch", "x", "1s"], ["watch", "x", "1;id"]],
)
def test_a_wrong_call_is_a_usage_error(sh, arguments):
    done = subprocess.run([*sh, str(board.SCRIPT), *arguments], capture_output=True, timeout=30)
    assert done.returncode == 2
    assert b"usage: sh board.sh" in done.stderr


def test_this_machine_answers(sh):
    done = subprocess.run([*sh, str(board.SCRIPT), "facts"], capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    facts = facts_from_text(done.stdout.decode())
    assert facts.memory_mib is None or facts.memory_mib > 100
    assert isinstance(facts_here(), BoardFacts)


def test_without_a_shell_there_are_no_facts(monkeypatch):
    monkeypatch.setattr(board, "SCRIPT", board.SCRIPT.with_name("nothing.sh"))
    assert facts_here() == BoardFacts()
    monkeypatch.setenv("PATH", "")
    assert facts_here() == BoardFacts()
