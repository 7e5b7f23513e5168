"""Make the pictures of the README in docs/images: python3 benchmarks/pictures.py [NAME ...]

before-after.jpg needs the extra `export`, precision.png `report` and the rows of
`benchmarks/precision.py`, executed.png `report` and rows of `bench` of static slices and of
adaptive networks with `--max-flops`, in benchmarks/executed.jsonl. Without names, all are made for
which there are rows. The photograph is scikit-image's chelsea (Stefan van der Walt, CC0).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

IMAGES = ROOT / "docs" / "images"
EXECUTED = ROOT / "benchmarks" / "executed.jsonl"
MODEL, VARIANT = "asrn_x4", "d5"
CROPS: Dict[str, Tuple[int, int, int, int]] = {"chelsea": (60, 100, 128, 192)}
"""Of each photograph: top, left, height and width of the part that is shown."""
PANEL_HW = (213, 320)


def before_after(path: Path) -> None:
    """Enlarge photographs that were made four times smaller; draw parts of them side by side."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont
    from skimage import data

    import sr_deploy
    from sr_deploy.core.images import imresize

    height, width = PANEL_HW
    caption, gap = 26, 6
    size = (3 * width + 2 * gap, caption + len(CROPS) * (height + gap) - gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    titles = ("before: the small picture, bicubic x4", f"after: {MODEL}.{VARIANT}", "the original")
    for i, title in enumerate(titles):
        draw.text((i * (width + gap) + width / 2, caption / 2), title, (0, 0, 0), font, anchor="mm")
    session = sr_deploy.session_of(MODEL, VARIANT)
    for line, (name, (top, left, h, w)) in enumerate(CROPS.items()):
        original = getattr(data, name)()
        rows, columns = (side - side % 4 for side in original.shape[:2])
        original = np.ascontiguousarray(original[:rows, :columns])
        small = imresize(original, scale=0.25)
        for i, image in enumerate(
            (imresize(small, scale=4), sr_deploy.upscale_image(small, session), original)
        ):
            part = Image.fromarray(image[top : top + h, left : left + w])
            panel = part.resize((width, height), Image.Resampling.LANCZOS)
            sheet.paste(panel, (i * (width + gap), caption + line * (height + gap)))
    sheet.save(path, quality=90, subsampling=0, optimize=True)


def precision(path: Path) -> None:
    """Draw PSNR against time of every slice in every precision, with the Pareto front."""
    from sr_deploy.results.report.drawing import figure_file
    from sr_deploy.results.report.figures import latency_figure
    from sr_deploy.results.report.groups import group_rows
    from sr_deploy.results.rows import read_rows

    rows = read_rows(ROOT / "benchmarks" / "precision" / "rows.jsonl")
    # Without bicubic, where the axis would begin, far below all networks.
    (group,) = group_rows([replace(row, bicubic_psnr_db=None) for row in rows])
    path.write_bytes(figure_file(latency_figure(group, (7.5, 4.4)).figure, "png"))


def executed(path: Path) -> None:
    """Draw PSNR against the multiply-accumulates executed, of static slices and adaptive curves."""
    from sr_deploy.results.report.drawing import figure_file
    from sr_deploy.results.report.figures import executed_figure
    from sr_deploy.results.report.groups import group_rows
    from sr_deploy.results.rows import read_rows

    rows = read_rows(EXECUTED)
    (group,) = group_rows([replace(row, bicubic_psnr_db=None) for row in rows])
    path.write_bytes(figure_file(executed_figure(group, (7.5, 4.4)).figure, "png"))


PICTURES: Dict[str, Callable[[Path], None]] = {
    "before-after.jpg": before_after,
    "executed.png": executed,
    "precision.png": precision,
}


def main() -> int:
    names = sys.argv[1:] or [n for n in PICTURES if n != "executed.png" or EXECUTED.is_file()]
    for name in names:
        if name not in PICTURES:
            sys.exit(f"error: no picture {name}; expected some of {', '.join(PICTURES)}")
        PICTURES[name](IMAGES / name)
        print(f"written: docs/images/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
