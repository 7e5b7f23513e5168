"""Take networks of other people through the pipeline, and write the table of what works.

Usage: python3 benchmarks/any_network.py [-o ROWS.jsonl] [--limit S] [NAME...]

The networks: small configurations of spandrel's architectures with random weights, and graphs as
other exporters write them, both of tests/doubles. Each is imported, counted, exported in FP32
(static and dynamic) and FP16 (with --fallback auto), and built for the targets cpu and rtx, in a
process of its own that ends after S seconds. Its row is added to ROWS.jsonl, default
benchmarks/any_network.jsonl, and names that are in it are not run again: delete their lines to do
so. The table is written to docs/your-network.md. `--table` writes it without running anything.

Needs `srdeploy[export,rtx,spandrel]`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ROWS = ROOT / "benchmarks" / "any_network.jsonl"
PAGE = ROOT / "docs" / "your-network.md"
BEGIN, END = "<!-- networks -->", "<!-- end of networks -->"
LIMIT_S = 600
MIN_HW, HW, MAX_HW = (32, 32), (48, 64), (80, 96)
"""LR sizes of the graphs, rounded up to what the network takes."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("-o", "--output", type=Path, default=ROWS)
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        run_one(args.names[0], args.one)
        return
    rows = read_rows(args.output)
    names = [] if args.table else [n for n in args.names or all_names() if n not in rows]
    for number, name in enumerate(names, 1):
        row = row_from_process(name, args.limit)
        rows[name] = row
        with args.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"[{number}/{len(names)}] {name}: {row['seconds']:.0f} s", flush=True)
    write_table(rows)


def all_names() -> List[str]:
    from doubles.foreign_graphs import FOREIGN
    from doubles.spandrel_networks import SMALL

    return [*SMALL, *(f"{name}.onnx" for name in FOREIGN)]


def read_rows(path: Path) -> Dict[str, Any]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {row["name"]: row for row in map(json.loads, lines)}


def row_from_process(name: str, limit_s: float) -> Dict[str, Any]:
    """Run `run_one` in a process; return its row, as far as it came."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, __file__, "--one", temporary, name]
        try:
            code = subprocess.run(command, stderr=subprocess.DEVNULL, timeout=limit_s).returncode
            stop = f"the process ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            stop = f"not done after {limit_s:g} s"
        file = Path(temporary) / "row.json"
        row = json.loads(file.read_text()) if file.is_file() else {"name": name, "steps": {}}
    step = row.pop("doing", "" if row["steps"] else "import")
    if step:
        row["steps"][step] = {"error": stop}
    return {**row, "seconds": round(time.perf_counter() - start, 1)}


def run_one(name: str, folder: Path) -> None:
    """Take one network through the steps, and write its row after each to folder/row.json."""
    steps = Steps(name, folder)
    steps.run("import", lambda: imported(name, folder))
    model = folder / f"{steps.row['steps']['import'].get('file')}"
    if not model.is_file():
        return
    hw, sizes = steps.sizes()
    for step, target, size, precision in (
        ("fp32", "cpu", hw, "fp32"),
        ("dynamic", "cpu", sizes, "fp32"),
        ("fp16", "rtx", hw, "fp16"),
    ):
        steps.run(step, lambda t=target, s=size, p=precision: exported(model, folder, t, s, p))
    for step, source in (("cpu", "fp32"), ("rtx", "fp16")):
        graph = steps.row["steps"][source].get("file")
        if graph is not None:
            steps.run(step, lambda t=step, g=graph: built(folder / g, folder, t))


class Steps:
    """The row of one network, and its file."""

    def __init__(self, name: str, folder: Path) -> None:
        self.row: Dict[str, Any] = {"name": name, "steps": {}}
        self.file = folder / "row.json"

    def run(self, step: str, function: Callable[[], Dict[str, Any]]) -> None:
        """Add what a step returns, or why it failed."""
        from sr_deploy.core.errors import SrDeployError, one_line

        self.row["doing"] = step
        self.file.write_text(json.dumps(self.row))
        try:
            result = function()
        except SrDeployError as e:
            result = {
                "error": " ".join(e.message.replace(f"{self.file.parent}{os.sep}", "").split())
            }
        except Exception as e:  # a mistake of ours, which the table shows
            result = {"error": f"{type(e).__name__}: {one_line(e)}"}
        del self.row["doing"]
        self.row["steps"][step] = result
        self.file.write_text(json.dumps(self.row))

    def sizes(self) -> Any:
        """Return the static and the dynamic LR size, as options of an export."""
        known = self.row["steps"]["import"]
        multiple, smallest, fixed = known["multiple"], known["min_hw"], known["fixed_hw"]
        static, *rest = (
            "x".join(
                str(fixed[i] or -(-max(n, smallest[i]) // multiple) * multiple)
                for i, n in enumerate(hw)
            )
            for hw in (HW, MIN_HW, HW, MAX_HW)
        )
        return static, ":".join(rest)


def imported(name: str, folder: Path) -> Dict[str, Any]:
    return (
        imported_graph(name, folder) if name.endswith(".onnx") else imported_weights(name, folder)
    )


def imported_weights(name: str, folder: Path) -> Dict[str, Any]:
    import torch
    from doubles.spandrel_networks import weights_of

    from sr_deploy.nets.complexity import NTIRE_HW, count
    from sr_deploy.nets.importers import checkpoint_from_file
    from sr_deploy.runtime.import_checkpoint import with_receptive_field

    file = folder / f"{name.replace(' ', '-')}.pth"
    torch.save({"params_ema": weights_of(name)}, file)
    checkpoint, field = with_receptive_field(checkpoint_from_file(None, file, folder))
    spec = checkpoint.spec
    counts = count(checkpoint.network(), NTIRE_HW, counter="hooks")
    return {
        "file": checkpoint.path.name,
        "architecture": spec.config["architecture"],
        "scale": spec.scale,
        "min_hw": spec.min_hw,
        "fixed_hw": [None, None],
        "multiple": spec.multiple,
        "halo_px": spec.halo_px,
        "align_px": spec.align_px,
        "tiles": field,
        "params": counts.params,
        "macs": counts.macs,
    }


def imported_graph(name: str, folder: Path) -> Dict[str, Any]:
    from doubles.foreign_graphs import FOREIGN, save_foreign

    from sr_deploy.runtime.import_onnx import ImportOptions, graph_from_file

    (folder / "theirs").mkdir()
    stem = Path(name).stem
    file = save_foreign(stem, folder / "theirs")
    graph = graph_from_file(file, folder, ImportOptions(**dict(FOREIGN[stem].options)))
    m = graph.manifest
    counts: Dict[str, Any] = dict(m.counts)
    return {
        "file": graph.path.name,
        "architecture": m.arch,
        "scale": m.scale,
        "min_hw": m.min_px,
        "fixed_hw": [a if a == b else None for a, b in zip(m.min_shape, m.max_shape)],
        "multiple": m.multiple,
        "halo_px": m.halo_px,
        "align_px": m.align_px,
        "tiles": str(m.checks.get("tiles", "")),
        "params": counts.get("params"),
        "macs": counts.get("macs"),
    }


def exported(model: Path, folder: Path, target: str, size: str, precision: str) -> Dict[str, Any]:
    from sr_deploy.core.manifest import read_manifest
    from sr_deploy.export.pipeline import ExportOptions, onnx_from_source
    from sr_deploy.export.source import SOURCES
    from sr_deploy.runtime.opener import require_kind

    text, _, kind = require_kind(str(model), "export", SOURCES)
    fallback = "auto" if precision == "fp16" else ""
    options = ExportOptions(sizes=[size], precision=precision, target=target, fallback=fallback)
    path = onnx_from_source(SOURCES[kind].from_text(text), folder / "graphs", options)[0]
    manifest = read_manifest(path)
    checks: Dict[str, Any] = manifest.checks
    return {
        "file": f"graphs/{path.name}",
        "nodes": manifest.nodes,
        "opset": manifest.opset,
        "max_abs_err": next(c["max_abs_err"] for k, c in checks.items() if k.startswith("onnxr")),
        "psnr_db": checks.get("fp16", {}).get("psnr_db_vs_fp32"),
        "fp32_nodes": len(manifest.fp32_nodes),
    }


def built(graph: Path, folder: Path, target: str) -> Dict[str, Any]:
    from sr_deploy.core.session import BuildOptions
    from sr_deploy.runtime.build import engine_from_onnx

    options = BuildOptions(compute_capabilities=(89,)) if target == "rtx" else None
    engine = engine_from_onnx(graph, folder / "engines", target=target, options=options)[0]
    return {"bytes": engine.stat().st_size}


def write_table(rows: Dict[str, Any]) -> None:
    """Write the table between the markers of the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or BEGIN not in text or END not in text:
        sys.exit(f"error: {PAGE} lacks the markers {BEGIN} and {END}")
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")


def table(rows: Dict[str, Any]) -> str:
    """Return the table, and below it the reason of everything that fails."""
    lines = [
        "| network | scale | params | GMAC | tiles | FP32 | any size | FP16 | `cpu` | `rtx` |",
        "|---|---|--:|--:|---|---|---|---|---|---|",
    ]
    reasons: List[str] = []
    ordered = [rows[name] for name in all_names() if name in rows]
    for row in ordered:
        steps = row["steps"]
        known = steps.get("import", {})
        cells = [row["name"], *described(known)]
        for step in ("fp32", "dynamic", "fp16", "cpu", "rtx"):
            cells.append(cell(step, steps.get(step)))
        lines.append(f"| {' | '.join(cells)} |")
        reasons += [
            f"- {row['name']}, {TITLES[step]}: {result['error']}"
            for step, result in steps.items()
            if "error" in result
        ]
    return "\n".join([*lines, "", "What fails, and why:", "", *reasons])


TITLES = {
    "import": "import",
    "fp32": "FP32",
    "dynamic": "any size",
    "fp16": "FP16",
    "cpu": "engine for `cpu`",
    "rtx": "engine for `rtx`",
}


def described(known: Dict[str, Any]) -> List[str]:
    """Return the cells of what the import found."""
    if "error" in known or not known:
        return ["refused", "", "", ""]
    if known["halo_px"] is None:
        tiles = "not exact"
    else:
        tiles = f"exact at {known['halo_px']} px"
        tiles += f", on {known['align_px']}" if known["align_px"] > 1 else ""
    params, macs = known["params"], known["macs"]
    return [
        f"x{known['scale']}",
        f"{params / 1e3:.0f} k" if params is not None else "",
        f"{macs / 1e9:.2f}" if macs is not None else "",
        tiles,
    ]


def cell(step: str, result: Any) -> str:
    if result is None:
        return ""
    if "error" in result:
        return "no"
    if step == "fp16":
        fallback = f", {result['fp32_nodes']} nodes FP32" if result["fp32_nodes"] else ""
        return f"{result['psnr_db']:.0f} dB{fallback}"
    return "yes"


if __name__ == "__main__":
    main()
