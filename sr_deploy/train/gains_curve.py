"""What a gains head's choices cost and bring on the cells of a bank, by price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

import numpy as np
import torch

from sr_deploy.nets.gains import INVISIBLE, GainsHead
from sr_deploy.train.gains_bank import GainsBank

_PRICES = 200


def gains_of(head: GainsHead, bank: GainsBank) -> np.ndarray:
    """Return the gains of all depths, (n, 1 + D) float64; that of the smallest is 0."""
    with torch.inference_mode():
        error, change, worth = head.predict(bank.statistics[:, :, None, None])
    means = image_means(error.flatten(1).numpy(), bank)
    gains = (change * worth).flatten(1).numpy() / (means[_rows(bank)] + INVISIBLE)
    return np.concatenate([np.zeros((len(gains), 1)), gains], axis=1)


def image_means(values: np.ndarray, bank: GainsBank) -> np.ndarray:
    """Return the mean of (n, k) values of cells over each image, (images, k)."""
    rows = _rows(bank)
    sums = np.zeros((rows.max() + 1, values.shape[1]))
    np.add.at(sums, rows, values)
    return sums / np.bincount(rows)[:, None]


def _rows(bank: GainsBank) -> np.ndarray:
    """Return the number of each cell's image among those of the bank, (n,)."""
    return np.unique(bank.image.numpy(), return_inverse=True)[1]


def chosen_depths(gains: np.ndarray, macs: Sequence[float], price: float) -> np.ndarray:
    """Return the number of the depth of each cell, (n,): that of the least price * macs - gain."""
    return np.asarray((gains - price * np.asarray(macs)).argmax(axis=1))


def share_of(gains: np.ndarray, macs: Sequence[float], price: float) -> float:
    """Return the mean multiply-accumulates as a share of the largest depth's."""
    return float(np.asarray(macs)[chosen_depths(gains, macs, price)].mean() / macs[-1])


def default_price(gains: np.ndarray, macs: Sequence[float], share: float) -> float:
    """Return the least price with which cells cost at most `share` of the largest depth."""
    low, high = 0.0, 1.0
    if share_of(gains, macs, low) <= share:
        return low
    while high - low > 1e-4 * high:
        middle = (low + high) / 2 if low else high / 2
        if share_of(gains, macs, middle) <= share:
            high = middle
        else:
            low = middle
    return high


@dataclass(frozen=True)
class GainsCurve:
    """Mean PSNR in dB over images, and mean work as a share of the largest depth's."""

    static_db: np.ndarray
    """Of each depth everywhere, (1 + D,)."""
    static_share: np.ndarray
    db: np.ndarray
    """With the gains, from the highest price to the lowest."""
    share: np.ndarray

    def lines(self, depths: Sequence[str]) -> Iterator[str]:
        """Return the comparison with each depth but the smallest, as text."""
        for name, db, share in list(zip(depths, self.static_db, self.static_share))[1:]:
            reached = self.share[self.db >= db - 1e-9]
            work = f"{reached.min() / share:.0%} of its work" if len(reached) else "not reached"
            affordable = self.db[self.share <= share]
            more = affordable.max(initial=self.static_db[0]) - db
            yield f"{name} {db:.3f} dB: the same with gains {work}; with its work {more:+.3f} dB"


def gains_curve(
    gains: np.ndarray, bank: GainsBank, macs: Sequence[float], prices: Sequence[float] = ()
) -> GainsCurve:
    """Return the curve of a bank. prices: highest first; empty: all that matter.

    The work is that of the depths on whole images: margins of tiles are not counted.
    """
    work, error = np.asarray(macs) / macs[-1], bank.error.numpy().astype(np.float64)
    if not len(prices):
        largest = max(gains.max(), 1e-9) / (macs[-1] - macs[0]) * 10
        prices = [*np.geomspace(largest, largest * 1e-8, _PRICES), 0.0]
    share, db = [], []
    for price in prices:
        depths = chosen_depths(gains, macs, price)
        share.append(work[depths].mean())
        db.append(_mean_psnr_db(np.take_along_axis(error, depths[:, None], 1), bank)[0])
    return GainsCurve(_mean_psnr_db(error, bank), work, np.array(db), np.array(share))


def _mean_psnr_db(error: np.ndarray, bank: GainsBank) -> np.ndarray:
    """Return the mean PSNR over images of (n, k) mean squared errors of cells, (k,) in dB."""
    mean: np.ndarray = (10 * np.log10(255**2 / np.maximum(image_means(error, bank), 1e-9))).mean(0)
    return mean
