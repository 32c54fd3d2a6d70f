"""Comparing easy with hard transitions, also at matched size of the target.

A step with many contacts also changes more, and a larger target alone makes a larger error. Matching removes that: all
transitions are cut into strata by the size of their target, and the mean error of every difficulty bin is taken
stratum by stratum and combined with the SAME stratum weights for all bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwm.evaluate.bootstrap import Array, Bootstrap, Interval, interval

COUNT_EDGES = (0, 1, 2, 3, 4, 6)


@dataclass(frozen=True)
class DifficultyBins:
    """Transitions grouped by a difficulty label.

    Attributes:
        label: name of the label.
        names: G names of the bins, easiest to hardest.
        index: (n,) bin of every transition.
    """

    label: str
    names: tuple[str, ...]
    index: npt.NDArray[np.int64]


def difficulty_bins(label: str, values: Array, quantiles: int = 5) -> DifficultyBins:
    """Bin a label (n,): counts become 0, 1, 2, 3, 4-5, 6+; anything else zero (if common) and quantiles of the rest."""
    values = np.asarray(values, np.float64)
    if len(values) and np.all(values == np.round(values)) and values.min() >= 0 and values.max() < 100:
        edges = [edge for edge in COUNT_EDGES if edge <= values.max()]
        names = [_count_name(edge, edges, int(values.max())) for edge in edges]
    else:
        zeros = float((values == 0).mean()) >= 0.05
        rest = values[values > 0] if zeros else values
        cuts = np.unique(np.quantile(rest, np.linspace(0, 1, quantiles + 1))) if len(rest) else np.zeros(1)
        edges = [0.0, *cuts[:-1]] if zeros else list(cuts[:-1])
        names = (["0"] if zeros else []) + [f"{a:.2g}-{b:.2g}" for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    index = np.searchsorted(np.asarray(edges[1:], np.float64), values, side="right")
    kept, index = np.unique(index, return_inverse=True)
    return DifficultyBins(label, tuple(names[k] for k in kept), index.astype(np.int64))


def _count_name(edge: int, edges: list[int], largest: int) -> str:
    following = [other for other in edges if other > edge]
    if not following:
        return str(edge) if largest == edge else f"{edge}+"
    return str(edge) if following[0] == edge + 1 else f"{edge}-{following[0] - 1}"


class Matching:
    """Stratum weights that give every difficulty bin the same distribution of target sizes.

    Strata are quantiles of the pooled target norm. A stratum in which any bin has fewer than `minimum` transitions is
    left out for ALL bins; the others are weighted by the smallest share that any bin has there, so that no weight rests
    on a bin's rare transitions.

    Attributes:
        share: fraction of all transitions that lie in a stratum used; 0 when the bins have no target size in common.
        weights: (strata,) summing to 1, or all zero.
    """

    def __init__(self, bins: DifficultyBins, norm: Array, bootstrap: Bootstrap, *, strata: int = 10, minimum: int = 5):
        cuts = np.quantile(norm, np.linspace(0, 1, strata + 1)[1:-1])
        self._stratum = np.searchsorted(cuts, norm, side="right")
        self._bins, self._bootstrap, self._strata = bins, bootstrap, strata
        counts = np.zeros((len(bins.names), strata))
        np.add.at(counts, (bins.index, self._stratum), 1.0)
        common = (counts >= minimum).all(axis=0)
        overlap = np.where(common, (counts / counts.sum(axis=1, keepdims=True)).min(axis=0), 0.0)
        self.weights = overlap / overlap.sum() if overlap.any() else overlap
        self.counts = np.where(common, counts, 0.0).sum(axis=1).astype(int)
        self.share = float(counts[:, common].sum() / counts.sum())

    def means(self, values: Array) -> list[Interval | None]:
        """Matched mean of values (n,) in every bin; None throughout when there is no common target size."""
        if not self.weights.any():
            return [None] * len(self._bins.names)
        estimate, resampled = self._estimates(values)
        return [self._interval(estimate[g], resampled[:, g], g) for g in range(len(estimate))]

    def ratios(self, numerator: Array, denominator: Array) -> list[Interval | None]:
        """Matched mean of `numerator` (n,) over matched mean of `denominator` (n,) in every bin, paired."""
        if not self.weights.any():
            return [None] * len(self._bins.names)
        (top, tops), (bottom, bottoms) = self._estimates(numerator), self._estimates(denominator)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio, ratios = top / bottom, tops / bottoms
        return [self._interval(ratio[g], ratios[:, g], g) for g in range(len(ratio))]

    def _interval(self, estimate: float, resampled: Array, g: int) -> Interval:
        member = (self._bins.index == g) & (self.weights[self._stratum] > 0)
        episodes = len(np.unique(self._bootstrap.row[member]))
        return interval(float(estimate), resampled, int(self.counts[g]), episodes)

    def _estimates(self, values: Array) -> tuple[Array, Array]:
        """Estimates (G,) and their resamples (R, G)."""
        groups, strata = len(self._bins.names), self._strata
        cell = np.zeros((len(values), groups * strata))
        where = (np.arange(len(values)), self._bins.index * strata + self._stratum)
        cell[where] = 1.0
        counts = self._bootstrap.sums(cell)
        cell[where] = values
        sums = self._bootstrap.sums(cell)
        shape = (-1, groups, strata)
        resampled = self._combine(self._bootstrap.resample(sums), self._bootstrap.resample(counts), shape)
        return self._combine(sums.sum(0), counts.sum(0), shape)[0], resampled

    def _combine(self, sums: Array, counts: Array, shape: tuple[int, int, int]) -> Array:
        """Weighted mean over strata, (R, G). A stratum that a resample left empty passes its weight to the others."""
        sums, counts = sums.reshape(shape), counts.reshape(shape)
        weights = np.where(counts > 0, self.weights, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            cell = np.where(weights > 0, sums / counts, 0.0)
            return (weights * cell).sum(-1) / weights.sum(-1)


def rank_correlation(bootstrap: Bootstrap, difficulty: Array, values: Array) -> Interval:
    """Spearman correlation of a difficulty label (n,) with values (n,)."""
    return bootstrap.correlation(ranks(difficulty), ranks(values))


def matched_rank_correlation(
    bootstrap: Bootstrap, difficulty: Array, values: Array, norm: Array, strata: int = 10
) -> Interval:
    """Spearman correlation within strata of equal target norm (n,): ranks are centred stratum by stratum."""
    cuts = np.quantile(norm, np.linspace(0, 1, strata + 1)[1:-1])
    stratum = np.searchsorted(cuts, norm, side="right")
    x, y = np.zeros(len(norm)), np.zeros(len(norm))
    for s in np.unique(stratum):
        member = stratum == s
        for source, target in ((difficulty, x), (values, y)):
            ranked = ranks(source[member]) / member.sum()
            target[member] = ranked - ranked.mean()
    return bootstrap.correlation(x, y)


def ranks(values: Array) -> npt.NDArray[np.float64]:
    """Ranks (n,) from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
