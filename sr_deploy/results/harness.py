"""`results.txt` and `results.json` as written by the harness of the NTIRE challenge, from rows."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.results.columns import SCORES, VALUES, labels, number, over
from sr_deploy.results.protocols import score_text, split_mean
from sr_deploy.results.rows import BenchmarkRow
from sr_deploy.results.tables import comparable

Entry = Dict[str, Any]


def _average_ms(entry: Entry) -> Optional[float]:
    valid, test = entry["valid_ave_runtime"], entry.get("test_ave_runtime")
    return None if valid is None or test is None else (valid + test) / 2


# Heading, width, decimals, and the value of an entry.
_COLUMNS: Tuple[Tuple[str, int, int, Callable[[Entry], Optional[float]]], ...] = (
    ("Val PSNR", 10, 2, lambda e: e["valid_ave_psnr"]),
    ("Test PSNR", 10, 2, lambda e: e.get("test_ave_psnr")),
    ("Val Time [ms]", 14, 2, lambda e: e["valid_ave_runtime"]),
    ("Test Time [ms]", 14, 2, lambda e: e.get("test_ave_runtime")),
    ("Ave Time [ms]", 14, 2, _average_ms),
    ("Params [M]", 10, 3, lambda e: e["num_parameters"]),
    ("FLOPs [G]", 10, 2, lambda e: e["flops"]),
    ("Acts [M]", 8, 2, lambda e: e["activations"]),
    ("Mem [M]", 8, 2, lambda e: e["valid_memory"]),
)
_OF_TEST_SET = ("Test PSNR", "Test Time [ms]", "Ave Time [ms]")


def results_files(rows: Sequence[BenchmarkRow]) -> Dict[str, str]:
    """Return the contents of both files by name.

    The columns of a test set are present if every row has one. Those of the scores, which the
    harness does not have, follow where a row was measured beside the baseline. A missing value, or
    a count at another size than the challenge's, is null in the JSON and empty in the text. Raises
    InputError when the rows do not compare.
    """
    measured = comparable(rows)
    names = [name.replace("\t", " ") for name in labels(measured)]
    rows_by_name = dict(zip(names, measured))  # of repeated measurements the last
    entries = {name: _entry(row) for name, row in rows_by_name.items()}
    tested = all(row.test_set for row in measured)
    columns = [c for c in _COLUMNS if tested or c[0] not in _OF_TEST_SET]
    headings = [heading.ljust(width) for heading, width, _, _ in columns]
    scores = SCORES if any(row.baseline for row in measured) else {}
    lines = [["Model".ljust(20), *headings, "Conv".ljust(8), *(h.ljust(10) for h in scores)]]
    for name, row in rows_by_name.items():
        entry = entries[name]
        conv = "" if entry["num_conv"] is None else f"{entry['num_conv']:4d}"
        cells = [number(value(entry), digits).ljust(w) for _, w, digits, value in columns]
        finals = [VALUES[key](row) for key in scores.values()]
        texts = ["" if v is None else score_text(v) for v in finals]
        lines.append([name.ljust(20), *cells, conv.ljust(8), *(t.ljust(10) for t in texts)])
    text = "".join("\t".join(line) + "\n" for line in lines)
    return {"results.txt": text, "results.json": json.dumps(entries)}


def _entry(row: BenchmarkRow) -> Entry:
    entry: Entry = {}
    for split in ("valid", "test") if row.test_set else ("valid",):
        images = [image for image in row.images if image["split"] == split]
        entry[f"{split}_runtime"] = [image["ms"] for image in images]
        entry[f"{split}_psnr"] = [image["psnr_db"] for image in images]
        entry[f"{split}_ssim"] = [image["ssim"] for image in images]
        entry[f"{split}_memory"] = row.mem_peak_mib if split == "valid" else None
        for key, name in (("ms", "runtime"), ("psnr_db", "psnr"), ("ssim", "ssim")):
            entry[f"{split}_ave_{name}"] = split_mean(row, split, key)
    if row.baseline:
        finals = {key: VALUES[key](row) for key in SCORES.values()}
        entry.update({"baseline": row.baseline, **finals})
    as_theirs = row.counted_hw in (None, NTIRE_HW)
    return {
        **entry,
        "activations": row.acts_m if as_theirs else None,
        "num_conv": row.convs,
        "flops": row.macs_g if as_theirs else None,
        "num_parameters": over(row.params, 1e6),
    }
