"""Compare routers with each other and with their branches: quality against work.

Usage: python3 benchmarks/routers.py --data HR_DIR --reference LABELS ROUTER... -o ROWS.jsonl

--data may be repeated: a table for each. Of images larger than 1024 pixels a side the middle is
taken. Every branch runs on the whole images, cropped to multiples of the patches; each patch is
taken from the branch that its router chooses. So the choices are compared, not a runtime: overlaps
and margins cost nothing here. PSNR is on Y, border 4, the mean of the images. Work is that of the
router and of the chosen branches, relative to the largest branch everywhere. The reference router
also gets a handicap on the cost of its classes, so that it works as much as each other router does.
`--table ROWS.jsonl` prints the table of these rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SIDE = 1024
BORDER = 4
"""HR pixels that do not count at each side."""
LOSSES = {"cdnsr": "eq. 4", "expected": "eq. 4 of hard choices", "classsr": "ClassSR's loss"}
STEPS = {"router": "2", "distil": "3", "joint": "4"}
"""Of CDNSR's four, by the stage of the recipe."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("routers", nargs="*")
    parser.add_argument("--reference", help="a router that learnt from labels")
    parser.add_argument("--data", type=Path, action="append")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument(
        "--table", type=Path, metavar="ROWS.jsonl", help="only print the table of these rows"
    )
    args = parser.parse_args()
    if args.table is not None:
        lines = args.table.read_text(encoding="utf-8").splitlines()
        print(table([json.loads(line) for line in lines]))
        return
    if args.data is None or args.output is None or args.reference is None:
        parser.error("--data, --reference and -o are needed to measure")
    rows = [row for data in args.data for row in measure(args.reference, args.routers, data)]
    args.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(table(rows))


@dataclass(frozen=True)
class Choices:
    """What a router can choose on the images. M classes."""

    log_odds: List[np.ndarray]
    """(patches, M) of each image."""
    errors: List[np.ndarray]
    """Sums of squared errors on Y, (patches, M) of each image."""
    pixels: List[int]
    """HR pixels inside the border."""
    macs: Tuple[int, ...]
    router_macs: int

    def row(self, handicap: float = 0.0) -> Dict[str, Any]:
        """Return PSNR [dB], work and the number of patches of each class."""
        costs = np.array(self.macs) / self.macs[-1]
        chosen = [(odds - handicap * costs).argmax(axis=1) for odds in self.log_odds]
        psnr_db = [
            10 * np.log10(255**2 * pixels / errors[np.arange(len(c)), c].sum())
            for c, errors, pixels in zip(chosen, self.errors, self.pixels)
        ]
        every = np.concatenate(chosen)
        macs = np.array(self.macs)[every].mean() + self.router_macs
        return {
            "psnr_db": round(float(np.mean(psnr_db)), 4),
            "work": round(float(macs / self.macs[-1]), 4),
            "patches": np.bincount(every, minlength=len(self.macs)).tolist(),
        }

    def at_work(self, work: float) -> Dict[str, Any]:
        """Return the row of the least handicap that costs at most `work`."""
        low, high = -1e3, 1e3
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if self.row(middle)["work"] <= work else (middle, high)
        return self.row(high)


def middle(image: np.ndarray) -> np.ndarray:
    """Return the middle of a large image, at most SIDE pixels a side."""
    top, left = (max(n - SIDE, 0) // 2 for n in image.shape[:2])
    return image[top : top + SIDE, left : left + SIDE]


def choices(router: Any, data: Path, done: Dict[Any, Any]) -> Choices:
    """Run a router and its branches on the images. done: the errors of branches that have run."""
    import torch

    from sr_deploy.core.degradation import degrade
    from sr_deploy.core.image_folders import hr_images
    from sr_deploy.core.images import modcrop, nchw_from_rgb, read_rgb, rgb_from_nchw
    from sr_deploy.core.metrics import luma

    spec, scale, side = router.spec, router.spec.scale, min(router.spec.patch_hw)
    net, branches = router.network(), router.branch_networks()
    log_odds, errors, pixels = [], [], []
    for path in hr_images(data).files:
        hr = modcrop(middle(read_rgb(path)), scale * side)
        x = torch.from_numpy(nchw_from_rgb(degrade(hr, scale=scale)))
        rows, columns = x.shape[2] // side, x.shape[3] // side
        patches = x[0].reshape(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).flatten(0, 1)
        squared = []
        with torch.inference_mode():
            log_odds.append(net(patches).numpy())
            for branch, checksum in zip(branches, spec.weights_sha256s):
                key = (path, side, checksum)
                if key not in done:
                    error = np.square(luma(rgb_from_nchw(branch(x).numpy())) - luma(hr))
                    inside = np.zeros_like(error)
                    inside[BORDER:-BORDER, BORDER:-BORDER] = 1
                    parts = (error * inside).reshape(rows, scale * side, columns, scale * side)
                    done[key] = parts.sum(axis=(1, 3)).flatten()
                squared.append(done[key])
        errors.append(np.stack(squared, axis=1))
        pixels.append((hr.shape[0] - 2 * BORDER) * (hr.shape[1] - 2 * BORDER))
    return Choices(log_odds, errors, pixels, spec.macs, spec.router_macs)


def measure(reference: str, routers: Sequence[str], data: Path) -> List[Dict[str, Any]]:
    """Return the rows: the reference's branches, the reference, and each other router."""
    from sr_deploy.nets.router import load_router

    first = load_router(reference)
    done: Dict[Any, Any] = {}
    of_first = choices(first, data, done)
    test = {
        "images": data.resolve().name,
        "count": len(of_first.pixels),
        "patch": min(first.spec.patch_hw),
    }
    rows = []
    for number, branch in enumerate(first.branch_names):
        only = [np.eye(len(first.branch_names))[[number] * len(o)] for o in of_first.log_odds]
        row = replace(of_first, log_odds=only, router_macs=0).row()
        rows.append({**test, "name": branch, "kind": "branch", **row})
    rows.append({**test, "name": first.name, **facts(first.spec.training), **of_first.row()})
    for router in map(load_router, routers):
        row = choices(router, data, done).row()
        row["reference_psnr_db"] = of_first.at_work(row["work"])["psnr_db"]
        rows.append({**test, "name": router.name, **facts(router.spec.training), **row})
    return rows


def facts(training: Dict[str, Any]) -> Dict[str, Any]:
    """Return what the card tells about the training."""
    if training["objective"] == "labels":
        return {"kind": "labels"}
    fitted = training.get("fitted") or training.get("init_training", {}).get("fitted", {})
    return {
        "kind": f"{LOSSES[training['objective']]}, step {STEPS[training['stage']]}",
        "share": training["share"],
        "lambda_reg": training["lambda_reg"] if "fitted" in training else None,
        "oracle_share": fitted.get("oracle_share"),
        "without_cost_term": fitted.get("without_cost_term"),
        "counting": training["counting"],
    }


def table(rows: Sequence[Dict[str, Any]]) -> str:
    """Return the rows as Markdown, a table for each set of images."""
    sets = dict.fromkeys(row["images"] for row in rows)
    return "\n\n".join(table_of_set([r for r in rows if r["images"] == name]) for name in sets)


def table_of_set(rows: Sequence[Dict[str, Any]]) -> str:
    lines = [
        "| network | trained by | lambda | oracle | PSNR [dB] | work | patches "
        "| labels at this work |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        fitted, oracle = row.get("lambda_reg"), row.get("oracle_share")
        same = row.get("reference_psnr_db")
        cells = [
            row["name"],
            "whole image" if row["kind"] == "branch" else row["kind"],
            "" if fitted is None else f"{fitted:.2e}",
            "" if oracle is None else f"{oracle:.1%}",
            f"{row['psnr_db']:.3f}",
            f"{row['work']:.1%}",
            "" if row["kind"] == "branch" else "/".join(map(str, row["patches"])),
            "" if same is None else f"{same:.3f} ({row['psnr_db'] - same:+.3f})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    first = rows[0]
    images = f"- images: {first['images']} ({first['count']}), patches of {first['patch']}"
    return "\n".join([*lines, "", images, "- PSNR: y, border 4"])


if __name__ == "__main__":
    main()
