"""What the papers printed: PSNR [dB]/SSIM on Y, LR by bicubic. Copied, not measured; each value as it stands in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple


@dataclass(frozen=True)
class Printed:
    """One printed row."""

    paper: str
    table: str
    series: str
    """Rows of one series are sizes of one model."""
    label: str
    scale: int
    params_k: Optional[float]
    macs_g: Optional[float]
    """At 256x256; only where the paper counts as `--counter hooks` does."""
    scores: Dict[str, Tuple[float, Optional[float]]]
    """By set: PSNR and, where printed, SSIM."""


_FIVE = ("Set5", "Set14", "B100", "Urban100", "Manga109")

# Columns: scale, label, parameters [K], multiply-accumulates [G], then PSNR/SSIM by set; `-` is what the paper leaves out
# (or, for IMDeception, what cannot be read). Repeated rows (5B of DSL in Tables 4 and 5) stand once.

# Table 4. Set14 of x3 4B DSL is printed 0.8834, between 0.8346 and 0.8319. Only 5B was trained as it stands; the other rows
# of SS are what is left when blocks of it are removed.
_ASRN_SS = """
x3 5B 248 - 33.95/0.9238 30.01/0.8359 28.89/0.8000 27.45/0.8366 32.70/0.9383
x3 4B 209 - 30.84/0.8942 28.00/0.7929 27.46/0.7555 24.84/0.7582 27.67/0.8789
x3 3B 170 - 30.64/0.8768 27.83/0.7852 27.35/0.7482 24.65/0.7472 27.31/0.8682
x3 2B 131 - 30.50/0.8726 27.72/0.7807 27.27/0.7437 24.55/0.7415 27.13/0.8631
x3 1B 92 - 30.28/0.8678 27.56/0.7749 27.17/0.7389 24.43/0.7354 26.82/0.8551
x4 5B 244 - 31.73/0.8888 28.32/0.7748 27.38/0.7293 25.48/0.7648 29.59/0.8962
x4 4B 205 - 29.04/0.8325 26.57/0.7259 26.28/0.6863 23.57/0.6854 25.70/0.8178
x4 3B 166 - 28.52/0.8170 26.19/0.7109 26.02/0.6730 23.23/0.6660 25.09/0.7969
x4 2B 127 - 28.41/0.8131 26.11/0.7071 25.97/0.6697 23.15/0.6611 24.95/0.7916
x4 1B 88 - 28.22/0.8068 25.98/0.7014 25.88/0.6674 23.06/0.6553 24.78/0.7853
"""
_ASRN_DSL = """
x3 5B 248 - 33.81/0.9221 29.92/0.8346 28.81/0.7985 27.34/0.8331 32.55/0.9361
x3 4B 209 - 33.71/0.9211 29.86/0.8834 28.79/0.7979 27.24/0.8306 32.42/0.9341
x3 3B 170 - 33.65/0.9198 29.81/0.8319 28.74/0.7962 27.06/0.8258 32.19/0.9312
x3 2B 131 - 33.40/0.9175 29.71/0.8301 28.66/0.7943 26.81/0.8189 31.81/0.9274
x3 1B 92 - 33.04/0.9134 29.51/0.8265 28.50/0.7908 26.48/0.8099 31.12/0.9213
x4 5B 244 - 31.55/0.8855 28.25/0.7725 27.32/0.7270 25.33/0.7580 29.47/0.8915
x4 4B 205 - 31.45/0.8831 28.21/0.7713 27.29/0.7260 25.27/0.7558 29.34/0.8888
x4 3B 166 - 31.36/0.8819 28.13/0.7695 27.24/0.7246 25.16/0.7517 29.12/0.8849
x4 2B 127 - 31.13/0.8771 27.99/0.7662 27.15/0.7221 24.95/0.7439 28.68/0.8771
x4 1B 88 - 30.76/0.8698 27.76/0.7606 27.00/0.7177 24.68/0.7329 28.11/0.8671
"""
# Table 5.
_ASRN = """
x3 5B 248 - 33.84/0.9223 29.97/0.8348 28.86/0.7990 27.41/0.8342 32.63/0.9364
x3 4B 209 - 33.75/0.9213 29.91/0.8337 28.82/0.7983 27.29/0.8317 32.47/0.9346
x3 3B 170 - 33.67/0.9205 29.86/0.8328 28.78/0.7973 27.17/0.8285 32.33/0.9329
x3 2B 131 - 33.43/0.9179 29.74/0.8306 28.69/0.7949 26.90/0.8216 31.92/0.9286
x3 1B 92 - 33.06/0.9136 29.53/0.8267 28.53/0.7910 26.50/0.8107 31.21/0.9213
x4 5B 244 - 31.65/0.8867 28.28/0.7733 27.34/0.7279 25.42/0.7616 29.60/0.8935
x4 4B 205 - 31.57/0.8855 28.23/0.7724 27.31/0.7270 25.36/0.7593 29.48/0.8912
x4 3B 166 - 31.41/0.8824 28.15/0.7701 27.26/0.7253 25.22/0.7540 29.21/0.8858
x4 2B 127 - 31.21/0.8782 28.02/0.7669 27.17/0.7228 25.02/0.7465 28.81/0.8787
x4 1B 88 - 30.79/0.8701 27.77/0.7611 27.03/0.7180 24.73/0.7356 28.12/0.8674
"""
# Table 6: extended versions, each trained for itself.
_ASRN_EXTENDED = """
x3 25B 1000 - 34.34/0.9268 30.28/0.8418 29.07/0.8047 28.11/0.8515 33.41/0.9438
x3 45B 1800 - 34.51/0.9280 30.40/0.8436 29.15/0.8068 28.44/0.8580 33.67/0.9458
x4 25B 1000 - 32.05/0.8931 28.54/0.7811 27.55/0.7353 25.99/0.7828 30.35/0.9066
x4 45B 1800 - 32.30/0.8966 28.68/0.7843 27.62/0.7377 26.29/0.7938 30.61/0.9111
"""
# Table 3, parameters and FLOPs of Table 2. The copy read here carries each row twice, both damaged: a value stands here where
# both readings have the same decimals; the integers then follow from the rows beside. c8 cannot be read that way.
_IMDECEPTION = """
x4 c16-nla 316 20.7 32.14 - - 26.20 -
x4 c12 198 12.9 - 28.47 27.50 - -
x4 c4-nla 57 3.7 31.42 - - - -
x4 c4 57 3.7 - 28.12 - 25.23 29.20
"""
# Table 1: x4 with distillation on DIV2K and LSDIR, x2 without.
_SRN = """
x2 SRN 529 - 37.98/0.9605 33.65/0.9176 32.14/0.8992 32.19/0.9287
x4 SRN 550 - 32.15/0.8942 28.60/0.7814 27.58/0.7356 26.11/0.7849
"""
_SRN_S = """
x2 SRN-S 492 - 37.96/0.9604 33.62/0.9175 32.13/0.8990 32.15/0.9282
x4 SRN-S 513 - 32.13/0.8940 28.60/0.7813 27.57/0.7355 26.08/0.7843
"""
# Table 4: on DIV2K only, without and with distillation; parameters of Table 1.
_SRN_DIV2K = """
x4 SRN 550 - 31.9314 28.4481 27.4463 25.6931
x4 SRN-S 513 - 31.8728 28.3795 27.4184 25.6250
"""
_SRN_DISTILLED = """
x4 SRN 550 - 31.9390 28.4581 27.4724 25.7605
x4 SRN-S 513 - 31.8937 28.4159 27.4584 25.6713
"""


def _rows(paper: str, table: str, series: str, text: str) -> List[Printed]:
    def score(cell: str) -> Tuple[float, Optional[float]]:
        psnr, _, ssim = cell.partition("/")
        return float(psnr), float(ssim) if ssim else None

    rows = []
    for line in text.strip().splitlines():
        scale, label, params, macs, *cells = line.split()
        scores = {name: score(cell) for name, cell in zip(_FIVE, cells) if cell != "-"}
        rows.append(
            Printed(
                paper,
                table,
                series,
                label,
                int(scale[1:]),
                float(params),
                None if macs == "-" else float(macs),
                scores,
            )
        )
    return rows


PRINTED: Tuple[Printed, ...] = (
    *_rows("ASRN", "Table 4", "ASRN (SS)", _ASRN_SS),
    *_rows("ASRN", "Table 4", "ASRN (DSL)", _ASRN_DSL),
    *_rows("ASRN", "Table 5", "ASRN", _ASRN),
    *_rows("ASRN", "Table 6", "ASRN, 25B and 45B", _ASRN_EXTENDED),
    *_rows("IMDeception", "Table 3", "IMDeception", _IMDECEPTION),
    *_rows("SRN", "Table 1", "SRN", _SRN),
    *_rows("SRN", "Table 1", "SRN-S", _SRN_S),
    *_rows("SRN", "Table 4", "SRN and SRN-S, DIV2K only", _SRN_DIV2K),
    *_rows("SRN", "Table 4", "SRN and SRN-S, DIV2K only, distilled", _SRN_DISTILLED),
)

_ALIASES = {"bsd100": "b100", "bsds100": "b100"}


def printed_for(set_name: str, *, scale: int, metric: str, degradation: str) -> List[Printed]:
    """Return the rows that have a value for a set under the same conditions; the papers' are Y and bicubic only."""
    if (metric, degradation) != ("y", "bi"):
        return []
    return [row for row in PRINTED if row.scale == scale and score_of(row, set_name) is not None]


def score_of(row: Printed, set_name: str) -> Optional[Tuple[float, Optional[float]]]:
    """Return a row's PSNR and SSIM on a set, whatever the case of its name; None where the paper has none."""
    wanted = _ALIASES.get(set_name.lower(), set_name.lower())
    return next((score for name, score in row.scores.items() if name.lower() == wanted), None)
