"""Rows in the layouts of CDNSR's Table I and AdaDSR's Tables 1 and 2, beside what these print."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from sr_deploy.core.counts import NTIRE_HW
from sr_deploy.core.errors import InputError
from sr_deploy.results.columns import label, labels, number
from sr_deploy.results.conditions import condition_notes
from sr_deploy.results.paper_numbers import cells_of, item_of, quantity_in
from sr_deploy.results.render import Table, make_table
from sr_deploy.results.reproduction import read_paper, set_key
from sr_deploy.results.rows import BenchmarkRow, executed_of_plain
from sr_deploy.results.slips import SLIPS
from sr_deploy.results.tables import failures, require_same

PATCH_PX = 32 * 32
"""LR pixels of the patches that CDNSR's FLOPs are of."""
_COUNTED_PX = NTIRE_HW[0] * NTIRE_HW[1]
_PRINTED = "printed, not measured"
_CDNSR_FLOPS = (
    "FLOPs: of a 32x32 LR patch, on average, as CDNSR counts them: twice the multiply-accumulates "
    "of the networks as trained (hooks), a transposed convolution at the size of its output; of a "
    "router's branches, weighted by the patches of each, without the router. In parentheses: of "
    "the largest branch"
)
_WORK = (
    "work: multiply-accumulates executed, of those of the plain network on the whole image, as "
    "they run: router, overlaps and rewritten layers included"
)
_ADADSR_FLOPS = (
    "FLOPs: of an image, on average, as AdaDSR counts them: multiply-accumulates; of an adaptive "
    "network those executed"
)
_TIME = "time: of an image, on average, one run each, after those of the timed size"


@dataclass(frozen=True)
class PrintedScores:
    """A row of a paper's table: copied, not measured."""

    paper: str
    architecture: str
    """The backbone."""
    label: str
    scale: int
    sets: Dict[str, Tuple[str, str]]
    """By `set_key`: PSNR/SSIM and FLOPs as they are shown: CDNSR's in M, AdaDSR's in G."""


@lru_cache(maxsize=1)
def printed_scores() -> Tuple[PrintedScores, ...]:
    """Return the rows of CDNSR's Table I and those of AdaDSR's Table 1, with FLOPs of Table 2."""
    return (*_printed_cdnsr(), *_printed_adadsr())


def _printed_cdnsr() -> Iterator[PrintedScores]:
    paper = read_paper("cdnsr")
    item = item_of(paper, "Table I")
    backbone = architecture = ""
    for line in item.lines:
        cells = cells_of(item, line)
        name = f"{cells['Model']}, {backbone}"
        if line.network:  # a backbone, and of it the lines that follow
            name = backbone = cells["Model"]
            architecture = line.network.rpartition("_x")[0]
        sets = {}
        for chosen in ("Test2K", "Test4K", "Test8K"):
            flops, share = cells[f"{chosen} FLOPs"].split()
            in_m = f"{quantity_in(flops) / 1e6:.0f}M {share}"
            sets[set_key(chosen)] = cells[f"{chosen} PSNR/SSIM"], in_m
        yield PrintedScores(paper.paper, architecture, name, 4, sets)


def _printed_adadsr() -> Iterator[PrintedScores]:
    paper = read_paper("adadsr")
    item = item_of(paper, "Table 1")
    for line in item.lines:
        cells = cells_of(item, line)
        if not line.network:  # one of others
            continue
        name, scale = cells["Method"], cells["Scale"]
        costs = item_of(paper, f"Table 2, {scale}")
        flops = next(cells_of(costs, one) for one in costs.lines if one.cells[0] == name)
        sets = {
            set_key(chosen): (cells[chosen], flops[f"{chosen} FLOPs [G]"])
            for chosen in ("Set5", "Set14", "B100", "Urban100", "Manga109")
        }
        architecture = name.replace("Ada", "").lower()
        yield PrintedScores(paper.paper, architecture, name, int(scale[1:]), sets)


def cdnsr_table1(rows: Sequence[BenchmarkRow]) -> Table:
    """Return CDNSR's Table I: PSNR/SSIM, average FLOPs of a patch and time, by set.

    FLOPs of a router need the rows of its branches. Raises InputError when rows do not compare.
    """
    networks, sets = _by_network(rows)
    trained = {label(r): r.macs_g for r in rows if r.macs_g is not None and r.counter == "hooks"}
    lines = []
    for name, of_set in networks.items():
        line = [name]
        for chosen in sets:
            row = of_set.get(chosen)
            line += ["", "", "", ""] if row is None else _cdnsr_cells(row, trained)
        lines.append(line)
    printed = _printed("CDNSR", rows, sets, "rgb")
    for one in printed:
        line = [f"{one.label} ({_PRINTED})"]
        for chosen in sets:
            line += [*one.sets.get(set_key(chosen), ("", "")), "", ""]
        lines.append(line)
    headings = ["Model"]
    for chosen in sets:
        headings += [f"{chosen} PSNR/SSIM", "FLOPs", "work", "time [ms]"]
    notes = [_CDNSR_FLOPS, _WORK, _TIME, *_missing_branches(rows, trained)]
    return _table(headings, lines, notes, rows, "CDNSR" if printed else "")


def adadsr_table2(rows: Sequence[BenchmarkRow]) -> Table:
    """Return AdaDSR's Table 2, with the PSNR of its Table 1: FLOPs and time of an image, by set.

    Raises InputError when rows do not compare.
    """
    networks, sets = _by_network(rows)
    lines = []
    for name, of_set in networks.items():
        line = [name]
        for chosen in sets:
            row = of_set.get(chosen)
            line += ["", "", ""] if row is None else _adadsr_cells(row)
        lines.append(line)
    printed = _printed("AdaDSR", rows, sets, "y")
    for one in printed:
        line = [f"{one.label} x{one.scale} ({_PRINTED})"]
        for chosen in sets:
            line += [*one.sets.get(set_key(chosen), ("", "")), ""]
        lines.append(line)
    headings = ["Model"]
    for chosen in sets:
        headings += [f"{chosen} PSNR/SSIM", "FLOPs [G]", "time [ms]"]
    return _table(headings, lines, [_ADADSR_FLOPS, _TIME], rows, "AdaDSR" if printed else "")


def _table(
    headings: Sequence[str],
    lines: Sequence[Sequence[str]],
    notes: Sequence[str],
    rows: Sequence[BenchmarkRow],
    paper: str,
) -> Table:
    shown = [i for i in range(len(headings)) if not i or any(line[i] for line in lines)]
    cells = [[line[i] for i in shown] for line in lines]
    slips = [f"note: {slip}" for slip in SLIPS if slip.paper == paper]
    notes = [*notes, *condition_notes([r for r in rows if not r.error]), *slips]
    return make_table([headings[i] for i in shown], cells, notes)


def _by_network(
    rows: Sequence[BenchmarkRow],
) -> Tuple[Dict[str, Dict[str, BenchmarkRow]], List[str]]:
    """Return the rows by name and set, and the sets. Raises InputError when they do not compare."""
    measured = [r for r in rows if not r.error]
    if not measured:
        raise InputError(
            "there are no measured rows" + "".join(f"; {line}" for line in failures(rows)[:1]),
            hint="measure some: srdeploy bench -o DIR",
        )
    for key in ("protocol", "metric", "scale"):
        require_same(measured, key)
    sets = list(dict.fromkeys(r.set for r in measured))
    networks: Dict[str, Dict[str, BenchmarkRow]] = {}
    for chosen in sets:
        of_set = [r for r in measured if r.set == chosen]
        for name, row in zip(labels(of_set), of_set):
            if chosen in networks.setdefault(name, {}):
                raise InputError(
                    f"two rows for {name} on {chosen}", hint="select one of them with --where"
                )
            networks[name][chosen] = row
    return networks, sets


def _cdnsr_cells(row: BenchmarkRow, trained: Dict[str, float]) -> List[str]:
    mean, largest = _branch_macs_g(row, trained)
    flops = work = ""
    if mean is not None:
        flops = f"{2e3 * mean * PATCH_PX / _COUNTED_PX:.0f}M"
        flops += f" ({mean / largest:.0%})" if largest else ""
    if row.executed and executed_of_plain(row):
        work = f"{row.executed['share']:.0%}"
    return [_score(row), flops, work, _mean_ms(row)]


def _branch_macs_g(
    row: BenchmarkRow, trained: Dict[str, float]
) -> Tuple[Optional[float], Optional[float]]:
    """Return the mean G of a row's network at 256x256 as trained, and of its largest branch."""
    if row.executed is None:
        return (row.macs_g if row.counter == "hooks" else None), None
    ways = row.executed.get("ways") or {}
    if not ways or any(way not in trained for way in ways):
        return None, None
    total = sum(ways.values())
    mean = sum(part * trained[way] for way, part in ways.items()) / total
    return mean, max(trained[way] for way in ways)


def _missing_branches(rows: Sequence[BenchmarkRow], trained: Dict[str, float]) -> List[str]:
    ways = {way for r in rows if not r.error and r.executed for way in r.executed.get("ways", ())}
    missing = sorted(ways - set(trained))
    if not missing:
        return []
    return [f"no FLOPs of routers without rows of their branches: {', '.join(missing)}"]


def _adadsr_cells(row: BenchmarkRow) -> List[str]:
    of_256 = row.macs_g
    if row.executed is not None:
        of_256 = row.executed.get("macs_g") if executed_of_plain(row) else None
    sizes = [i["lr_hw"] for i in row.images if i["split"] == "valid"]
    flops = ""
    if of_256 is not None and sizes:
        mean_px = sum(h * w for h, w in sizes) / len(sizes)
        flops = number(of_256 * mean_px / _COUNTED_PX, 2)
    return [_score(row), flops, _mean_ms(row)]


def _score(row: BenchmarkRow) -> str:
    mark = "*" if "tiled" in row.tiling else ""
    if row.psnr_db is None:
        return ""
    return f"{row.psnr_db:.3f}/{number(row.ssim, 4)}{mark}"


def _mean_ms(row: BenchmarkRow) -> str:
    times = [i["ms"] for i in row.images if i["split"] == "valid"]
    return number(sum(times) / len(times), 2) if times else ""


def _printed(
    paper: str, rows: Sequence[BenchmarkRow], sets: Sequence[str], metric: str
) -> List[PrintedScores]:
    """Return the printed rows of the backbones, scale and sets of measured rows, in one metric."""
    measured = [r for r in rows if not r.error]
    if measured[0].metric != metric:
        return []
    return [
        one
        for one in printed_scores()
        if one.paper == paper
        and one.scale == measured[0].scale
        and set(one.sets) & set(map(set_key, sets))
        and any(one.architecture in r.model for r in measured)
    ]
