"""The results.json of a challenge, as its harness writes it, read as rows marked as published."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import InputError
from sr_deploy.core.jsonio import read_json
from sr_deploy.core.metrics import border_px
from sr_deploy.results.protocols import CHALLENGES, PROTOCOLS, Protocol
from sr_deploy.results.rows import PUBLISHED, BenchmarkRow, is_challenge_entry

Entry = Dict[str, Any]


def is_challenge_file(path: Path) -> bool:
    """Return whether a file is to be read as a results.json: JSON, and not rows."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    return b'"schema"' not in path.read_bytes()


def published_rows(path: Path, protocol: Optional[str] = None) -> List[BenchmarkRow]:
    """Return a row for each entry of a challenge's results.json.

    protocol: the challenge's name, such as ntire2026; None: that whose baseline is among the
    entries. The file names neither device nor images: the rows have those of the challenge. Raises
    InputError naming the first entry that is not as the harnesses write it.
    """
    entries = read_json(path, InputError)
    if not entries:
        raise InputError(f"{path} has no entries", hint="expected {NAME: {valid_runtime: [...]}}")
    for name, entry in entries.items():
        if not is_challenge_entry(entry):
            raise InputError(
                f"{path}: '{name}' is no entry of a results.json: it has no list 'valid_runtime'",
                hint="expected a file that test_demo.py of an NTIRE challenge wrote, or rows.jsonl",
            )
    p = PROTOCOLS[_challenge_of(path, entries, protocol)]
    return [_Reader(f"{path}: '{name}'", entry, p).row(name) for name, entry in entries.items()]


def _challenge_of(path: Path, entries: Dict[str, Entry], given: Optional[str]) -> str:
    found = [name for name in CHALLENGES if _has_baseline(entries, PROTOCOLS[name])]
    if given is None and len(found) == 1:
        return found[0]
    if given is None:
        why = f"has the baselines of {', '.join(found)}" if found else "has no baseline of a year"
        raise InputError(
            f"{path} {why} among its entries, so its challenge is not known",
            hint=f"name it: --protocol {CHALLENGES[-1]}",
        )
    if found and given not in found:
        raise InputError(
            f"{path} is of {found[0]}, whose baseline is among its entries, not of {given}",
            hint="omit --protocol",
        )
    return given


def _has_baseline(entries: Dict[str, Entry], protocol: Protocol) -> bool:
    """Whether an entry has the baseline's team number, 00, its name and its parameters."""
    b = protocol.baseline
    if b is None:
        return False
    named = (e for n, e in entries.items() if re.match(rf"\s*0+_{b.name}(_|$)", n, re.I))
    sizes = (entry.get("num_parameters") for entry in named)
    return any(isinstance(n, float) and round(n, 3) == b.params_m for n in sizes)


class _Reader:
    """Reads one entry, whose errors begin with `where`."""

    def __init__(self, where: str, entry: Entry, protocol: Protocol) -> None:
        self._where, self._entry, self._protocol = where, entry, protocol

    def row(self, name: str) -> BenchmarkRow:
        p, entry = self._protocol, self._entry
        if not name.strip():
            raise self._error("its name is empty")
        splits = ["valid", *(["test"] if "test_runtime" in entry else [])]
        images = [image for split in splits for image in self._images(split)]
        means = [self._mean(split, "runtime") for split in splits]
        params_m, convs = self._number("num_parameters"), self._number("num_conv")
        known = [ms for ms in means if ms is not None]
        return BenchmarkRow(
            model=" ".join(name.split()),
            variant="",
            backend=PUBLISHED,
            device=f"{p.device}, the challenge's" if p.device else "that of the challenge",
            scale=p.scale,
            protocol=p.name,
            warmup=0,
            runs=len(images),
            latency_ms_mean=sum(known) / len(known),
            timer=p.timer,
            mem_peak_mib=self._number("valid_memory"),
            mem_definition=p.memory,
            params=None if params_m is None else round(params_m * 1e6),
            macs_g=self._number("flops"),
            acts_m=self._number("activations"),
            convs=None if convs is None else round(convs),
            counter=p.counter,
            counted_hw=NTIRE_HW,
            set=p.sets[0],
            test_set=p.sets[1] if len(splits) > 1 else "",
            images=tuple(images),
            metric=p.metric or "",
            border_px=border_px(p.metric or "", p.scale or 4),
            psnr_db=self._mean("valid", "psnr"),
            ssim=self._mean("valid", "ssim"),
        )

    def _images(self, split: str) -> List[Dict[str, Any]]:
        times, psnr = self._list(f"{split}_runtime"), self._list(f"{split}_psnr")
        ssim = self._list(f"{split}_ssim") if f"{split}_ssim" in self._entry else [None] * len(psnr)
        if not len(times) == len(psnr) == len(ssim):
            raise self._error(
                f"'{split}_runtime' has {len(times)} images, '{split}_psnr' has {len(psnr)}"
            )
        return [
            {"image": "", "split": split, "lr_hw": [], "psnr_db": db, "ssim": s, "ms": ms}
            for ms, db, s in zip(times, psnr, ssim)
        ]

    def _mean(self, split: str, key: str) -> Optional[float]:
        """The mean that the harness printed, else that of the list; None without a list."""
        printed = self._number(f"{split}_ave_{key}")
        if printed is not None or f"{split}_{key}" not in self._entry:
            return printed
        values = self._list(f"{split}_{key}")
        return None if None in values else sum(filter(None, values)) / len(values)

    def _list(self, key: str) -> List[Optional[float]]:
        values = self._entry.get(key)
        if not isinstance(values, list) or not values:
            raise self._error(f"'{key}' is no list with a number for each image")
        return [self._checked(value, key) for value in values]

    def _number(self, key: str) -> Optional[float]:
        value = self._entry.get(key)
        return None if value is None else self._checked(value, key)

    def _checked(self, value: Any, key: str) -> Optional[float]:
        """Return a number; None for null, and for the infinite PSNR of identical images."""
        is_time = key.endswith("runtime")
        if value is None and not is_time:
            return None
        if isinstance(value, float) and math.isinf(value) and "psnr" in key and value > 0:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._error(f"'{key}' has {value!r:.40}, which is no number")
        if not math.isfinite(value) or value < 0 or (is_time and value == 0):
            raise self._error(f"'{key}' has {value!r:.40}; expected a number above 0")
        return float(value)

    def _error(self, problem: str) -> InputError:
        return InputError(
            f"{self._where}: {problem}", hint="expected what the challenge's test_demo.py writes"
        )
