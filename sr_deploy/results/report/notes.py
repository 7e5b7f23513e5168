"""Texts about a group: its conditions and remarks, and the receipt of each row."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import asdict
from typing import Any, Dict, List, Optional, Tuple

from sr_deploy.core.files import data_folder
from sr_deploy.core.spec import network_name
from sr_deploy.core.workspace import engines_folder, graphs_folder
from sr_deploy.results.columns import VALUES
from sr_deploy.results.conditions import (
    conditions,
    score_notes,
    uncounted_texts,
    useless_tags,
)
from sr_deploy.results.precisions import precision_of
from sr_deploy.results.report.drawing import short_number
from sr_deploy.results.report.groups import RowGroup
from sr_deploy.results.rows import BICUBIC, DEPLOY_CELL, PUBLISHED, BenchmarkRow

_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?![\w.]*[A-Za-z_])")
"""Separate numbers: neither the 4 of x4 nor the numbers of a version or a name."""


def machine(row: BenchmarkRow) -> str:
    """Return the device with its threads and power mode, as far as they are known."""
    parts = (
        row.device,
        f"{row.threads} thread{'s' if row.threads != 1 else ''}" if row.threads else "",
        row.power_mode or "",
    )
    return ", ".join(part for part in parts if part)


def use_command(row: BenchmarkRow) -> str:
    """Return the command that upscales a picture by a row's network, empty if there is none.

    Graphs and engines are expected in the folders where export and build-engine put them, those of
    deploy in the folder of the page.
    """
    if row.backend in (PUBLISHED, BICUBIC) or row.error:
        return ""
    command = ["srdeploy", "upscale", "PHOTO", "-m"]
    name, suffix = row.model, os.path.splitext(row.artifact)[1]
    shipped = {file.name.split(".")[0] for file in data_folder("models").glob("*.safetensors")}
    if row.cell.startswith(DEPLOY_CELL):
        command.append(f"{'engines' if suffix == '.engine' else 'graphs'}/{row.artifact}")
    elif row.artifact and (
        name not in shipped or row.target not in ("", "cpu") or precision_of(row) != "fp32"
    ):
        if row.target and suffix == ".engine":
            name = (engines_folder(row.target) / row.artifact).as_posix()
        elif row.target and suffix == ".onnx":
            name = (graphs_folder(row.target) / row.artifact).as_posix()
        else:
            name = row.artifact
        command.append(name)
    elif row.executed:
        command += [name, *_how_much(row)]
    else:
        command.append(network_name(name, row.variant))
        if row.backend == "torch":
            command += ["--runtime", "torch"]
            if row.precision_asked not in ("", "fp32"):
                command += ["--precision", row.precision_asked]
    return " ".join(map(shlex.quote, command))


def _how_much(row: BenchmarkRow) -> List[str]:
    """The options that give an adaptive network its depth or budget."""
    if not row.variant:
        return []
    if row.variant.endswith("%"):
        kind = "elastic" if row.model.startswith("elastic") else "cdnsr"
        return ["--adaptive", kind, "--max-flops", row.variant]
    return ["--adaptive", "adadsr", "--depth", row.variant[1:]]


def remarks_of(group: RowGroup) -> List[str]:
    """Return caveats: several counters, tiled scores, uncounted operators and warnings."""
    rows = [e.row for e in group.entries]
    remarks = []
    if len(group.counters) > 1:
        remarks.append(
            f"FLOPs were counted by {' and '.join(group.counters)}. The counts are not comparable, "
            "so each has its own column and chart."
        )
    if any("tiled" in r.tiling for r in rows):
        remarks.append(
            "A score with * was computed by tiles. Near their borders the pixels differ from those "
            "of the whole image."
        )
    several = len(group.precisions) > 1
    names = ((e, f"{e.name} {e.precision}" if several else e.name) for e in group.below_bicubic)
    below = {name: f"{name} {e.row.psnr_db:.2f} dB" for e, name in names}
    if below:
        remarks.append(
            f"Below bicubic's {group.bicubic_db:.2f} dB, so outside of the charts: "
            f"{', '.join(below.values())}."
        )
    uncounted = sorted({text for r in rows for text in uncounted_texts(r)})
    if uncounted:
        remarks.append(f"Operators that the FLOPs do not include: {', '.join(uncounted)}.")
    if any(VALUES["score"](r) is not None for r in rows):
        remarks += [f"{note[0].upper()}{note[1:]}." for note in score_notes(rows)]
    return [*remarks, *useless_tags(rows), *_warnings(group)]


def _warnings(group: RowGroup) -> List[str]:
    """The rows' warnings. Those that differ only in numbers become one, with the range of each."""
    variants: Dict[Tuple[str, ...], Dict[str, List[List[str]]]] = {}
    for e in group.entries:
        for warning in e.row.warnings:
            parts = _NUMBER.split(warning)  # text and numbers alternate
            numbers_of = variants.setdefault(tuple(parts[::2]), {})
            numbers_of.setdefault(f"{e.name}, {e.how}", []).append(parts[1::2])
    lines = []
    for texts, numbers_of in variants.items():
        columns = zip(*(numbers for lists in numbers_of.values() for numbers in lists))
        ranges = []
        for column in columns:
            ordered = sorted(set(column), key=float)
            ranges.append(" to ".join(dict.fromkeys([ordered[0], ordered[-1]])))
        text = "".join(part for pair in zip(texts, [*ranges, ""]) for part in pair)
        count = len(group.entries)
        if len(numbers_of) == count > 1:
            owners = "All"
        elif len(numbers_of) > 3:
            owners = f"{len(numbers_of)} of {count}"
        else:
            owners = "; ".join(numbers_of)
        lines.append(f"{owners}: {text}")
    return lines


_SHOWN_ELSEWHERE = ("evaluated", "† not counted")
"""Conditions that the page states in its remarks."""


def conditions_of(group: RowGroup) -> List[Tuple[str, str]]:
    """Return the conditions of a group, with at most four values of each where rows differ."""
    rows = [e.row for e in group.entries]
    by_name = {
        **conditions(rows),
        "power mode": [r.power_mode or "" for r in rows],
        "Python": [r.python for r in rows],
        "revision": [r.git_rev for r in rows],
        "measured": [r.date_utc[:10] for r in rows],
    }
    shown = []
    for name, texts in by_name.items():
        if name in _SHOWN_ELSEWHERE:
            continue
        values = list(dict.fromkeys(filter(None, texts)))
        if len(values) > 4:
            values = [*values[:3], f"{len(values) - 3} more: see the receipts"]
        if values:
            shown.append((name[0].upper() + name[1:], "; ".join(values)))
    return shown


def receipt_of(row: BenchmarkRow) -> List[Tuple[str, str]]:
    """Return every field that has a value, by its name. Runs and images are summarised."""
    lines = []
    for name, value in asdict(row).items():
        if value is None or value in ("", (), [], {}):
            continue
        if name == "latencies_ms":
            text = f"{len(value)} runs, {short_number(min(value))} to {short_number(max(value))}"
        elif name == "images":
            text = "; ".join(f"{image['image']} {_psnr(image['psnr_db'])}" for image in value)
        else:
            text = _plain(value)
        lines.append((name, text))
    return lines


def _psnr(psnr_db: Optional[float]) -> str:
    return "identical" if psnr_db is None else f"{psnr_db:.2f} dB"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(
            f"{key}: {_plain(v)}" for key, v in value.items() if v not in (None, {}, ())
        )
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
