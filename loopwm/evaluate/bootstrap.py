"""Confidence intervals by resampling whole episodes.

Transitions of one episode resemble each other, so an interval that resamples transitions is too narrow. Here a
resample draws E episodes with replacement; it is stored as how often each episode was drawn, (R, E), which turns
every mean into one matrix product and lets paired quantities share their resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% percentile interval.

    Attributes:
        mean: the estimate on all episodes.
        low, high: 2.5% and 97.5% quantiles over resamples; equal to `mean` when there is one episode.
        n: values (usually transitions) behind the estimate.
        episodes: episodes behind the estimate.
    """

    mean: float
    low: float
    high: float
    n: int
    episodes: int

    def shifted(self, by: float) -> Interval:
        """The interval of the quantity plus a constant, for turning a ratio into an excess."""
        return Interval(self.mean + by, self.low + by, self.high + by, self.n, self.episodes)

    def root(self) -> Interval:
        """The interval of the square root, for turning a mean squared error into an RMSE."""
        mean, low, high = (float(np.sqrt(max(value, 0.0))) for value in (self.mean, self.low, self.high))
        return Interval(mean, low, high, self.n, self.episodes)


class Bootstrap:
    """Seeded episode resamples for values that belong to episodes.

    Args:
        episode: (n,) episode id of every value.
        resamples: R, number of resamples.
        seed: the same seed and episodes give the same resamples.
    """

    def __init__(self, episode: npt.NDArray[np.integer], *, resamples: int = 1000, seed: int = 0):
        self.ids, self.row = np.unique(np.asarray(episode), return_inverse=True)
        self._order = np.argsort(self.row, kind="stable")
        self._begins = np.searchsorted(self.row[self._order], np.arange(len(self.ids)))
        draws = len(self.ids)
        rng = np.random.default_rng(seed)
        # (R, E): how often each episode was drawn.
        self.draws = rng.multinomial(draws, np.full(draws, 1 / max(draws, 1)), size=resamples).astype(np.float64)

    def sums(self, values: Array) -> npt.NDArray[np.float64]:
        """Sum values (n, ...) within each episode, giving (E, ...). NaN counts as zero."""
        values = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        # Sorted by episode, every episode is one stretch, and stretches are summed much faster than scattered rows.
        return np.add.reduceat(values[self._order], self._begins, axis=0)

    def resample(self, sums: Array) -> npt.NDArray[np.float64]:
        """Sum episode sums (E, ...) over every resample, giving (R, ...)."""
        flat = sums.reshape(len(self.ids), -1)
        if np.isfinite(flat).all():
            return (self.draws @ flat).reshape(-1, *sums.shape[1:])
        # An infinite error must reach only the resamples that drew its episode: 0 * inf would spread NaN to the rest.
        finite = self.draws @ np.where(np.isfinite(flat), flat, 0.0)
        hit = self.draws @ (~np.isfinite(flat)).astype(np.float64) > 0
        return np.where(hit, np.inf, finite).reshape(-1, *sums.shape[1:])

    def mean(self, values: Array) -> Interval:
        """Mean of values (n,); NaN marks values that do not count."""
        return self.means(np.asarray(values)[:, None])[0]

    def means(self, values: Array) -> list[Interval]:
        """Mean of every column of values (n, C); NaN marks values that do not count."""
        counted = ~np.isnan(values)
        sums, counts = self.sums(values), self.sums(counted.astype(np.float64))
        with np.errstate(invalid="ignore", divide="ignore"):
            estimate = sums.sum(0) / counts.sum(0)
            spread = self.resample(sums) / self.resample(counts)
        return [
            interval(estimate[c], spread[:, c], int(counted[:, c].sum()), int((counts[:, c] > 0).sum()))
            for c in range(values.shape[1])
        ]

    def ratio(self, numerator: Array, denominator: Array) -> Interval:
        """Mean of `numerator` (n,) over mean of `denominator` (n,), paired: both come from the same resamples.

        A value that is NaN on either side counts on neither.
        """
        both = ~np.isnan(numerator) & ~np.isnan(denominator)
        top, bottom = (self.sums(np.where(both, side, np.nan)) for side in (numerator, denominator))
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = self.resample(top) / self.resample(bottom)
            estimate = top.sum() / bottom.sum()
        return interval(estimate, spread, int(both.sum()), len(np.unique(self.row[both])))

    def correlation(self, first: Array, second: Array) -> Interval:
        """Pearson correlation of two columns (n,); rank them beforehand for Spearman."""
        both = ~np.isnan(first) & ~np.isnan(second)
        x, y = (np.where(both, side - side[both].mean(), np.nan) for side in (first, second))
        moments = np.stack([both, x, y, x * x, y * y, x * y], axis=1).astype(np.float64)
        sums = self.sums(moments)
        spread = _pearson(self.resample(sums))
        return interval(float(_pearson(sums.sum(0))), spread, int(both.sum()), len(np.unique(self.row[both])))


def interval(estimate: float, resampled: Array, n: int, episodes: int) -> Interval:
    """The percentile interval of resampled estimates (R,); resamples without a value (NaN) are left out."""
    resampled = resampled[~np.isnan(resampled)]
    if len(resampled) == 0:
        return Interval(float(estimate), float(estimate), float(estimate), n, episodes)
    # `lower`/`higher` never interpolate, so an infinite resample cannot turn into NaN.
    low = np.quantile(resampled, 0.025, method="lower")
    high = np.quantile(resampled, 0.975, method="higher")
    return Interval(float(estimate), float(low), float(high), n, episodes)


def _pearson(moments: Array) -> Array:
    """Correlation from the sums (..., 6) of 1, x, y, x^2, y^2, xy."""
    n, x, y, xx, yy, xy = np.moveaxis(moments, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
