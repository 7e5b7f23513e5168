"""`results.txt` and `results.json` as the NTIRE efficient super-resolution harness writes them, from rows."""

from __future__ import annotations

import json
from typing import Any, Dict, Sequence

from sr_deploy.results.columns import labels
from sr_deploy.results.protocols import split_mean
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.results.tables import comparable

_WIDTHS = {
    "Model": 20,
    "Val PSNR": 10,
    "Test PSNR": 10,
    "Val Time [ms]": 14,
    "Test Time [ms]": 14,
    "Ave Time [ms]": 14,
    "Params [M]": 10,
    "FLOPs [G]": 10,
    "Acts [M]": 8,
    "Mem [M]": 8,
    "Conv": 8,
}


def results_files(rows: Sequence[BenchmarkRow]) -> Dict[str, str]:
    """Return the contents of both files by name. The columns of a test set are there when every row has one.

    A value that was not measured is null in the JSON and empty in the text. Raises InputError when rows do not compare.
    """
    measured = comparable(rows)
    entries = {
        name.replace("\t", " "): _entry(row) for name, row in zip(labels(measured), measured)
    }
    tested = all(row.test_set for row in measured)
    headings = [
        h for h in _WIDTHS if tested or h not in ("Test PSNR", "Test Time [ms]", "Ave Time [ms]")
    ]
    lines = [dict(zip(_WIDTHS, _WIDTHS)), *(_line(name, entry) for name, entry in entries.items())]
    text = "".join("\t".join(line[h].ljust(_WIDTHS[h]) for h in headings) + "\n" for line in lines)
    return {"results.txt": text, "results.json": json.dumps(entries)}


def _entry(row: BenchmarkRow) -> Dict[str, Any]:
    entry: Dict[str, Any] = {}
    for split in ("valid", "test") if row.test_set else ("valid",):
        images = [image for image in row.images if image["split"] == split]
        entry[f"{split}_runtime"] = [image["ms"] for image in images]
        entry[f"{split}_psnr"] = [image["psnr_db"] for image in images]
        entry[f"{split}_ssim"] = [image["ssim"] for image in images]
        entry[f"{split}_memory"] = row.mem_peak_mib if split == "valid" else None
        for key, name in (("ms", "runtime"), ("psnr_db", "psnr"), ("ssim", "ssim")):
            entry[f"{split}_ave_{name}"] = split_mean(row, split, key)
    params = None if row.params is None else row.params / 1e6
    return {
        **entry,
        "activations": row.acts_m,
        "num_conv": row.convs,
        "flops": row.macs_g,
        "num_parameters": params,
    }


def _line(name: str, entry: Dict[str, Any]) -> Dict[str, str]:
    times = [entry.get("valid_ave_runtime"), entry.get("test_ave_runtime")]
    average = None if None in times else sum(times) / 2
    values = [
        entry.get("valid_ave_psnr"),
        entry.get("test_ave_psnr"),
        *times,
        average,
        entry["num_parameters"],
        entry["flops"],
        entry["activations"],
        entry["valid_memory"],
    ]
    digits = [2, 2, 2, 2, 2, 3, 2, 2, 2]
    texts = ["" if v is None else f"{v:.{d}f}" for v, d in zip(values, digits)]
    conv = "" if entry["num_conv"] is None else f"{entry['num_conv']:4d}"
    return dict(zip(_WIDTHS, [name, *texts, conv]))
