"""Comparing easy with hard transitions, also at matched size of the target.

A step with many contacts also changes more, and a larger target alone makes a larger error. Matching removes that: a
transition is compared only with others whose target is as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

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
        edges: (G,) where each bin begins; the easiest also holds what lies below.
        index: (n,) bin of every transition.
    """

    label: str
    names: tuple[str, ...]
    edges: tuple[float, ...]
    index: npt.NDArray[np.int64]


def difficulty_bins(label: str, values: Array, quantiles: int = 5) -> DifficultyBins:
    """Bin a label (n,): counts that begin low become 0, 1, 2, 3, 4-5, 6+; anything else zero (if common) and quantiles
    of the rest."""
    values = np.asarray(values, np.float64)
    low = bool(len(values)) and 0 <= values.min() < COUNT_EDGES[-1] and values.max() < 100
    if low and np.all(values == np.round(values)):
        edges = [edge for edge in COUNT_EDGES if edge <= values.max()]
        names = [_count_name(edge, edges, int(values.max())) for edge in edges]
    else:
        zeros = float((values == 0).mean()) >= 0.05
        rest = values[values > 0] if zeros else values
        cuts = np.unique(np.quantile(rest, np.linspace(0, 1, quantiles + 1))) if len(rest) else np.zeros(1)
        if len(rest) and len(cuts) == 1:
            # All the same: one bin, beside that of the zeros.
            cuts = np.repeat(cuts, 2)
        edges = [0.0, *cuts[:-1]] if zeros else list(cuts[:-1])
        names = (["0"] if zeros else []) + [f"{a:.2g}-{b:.2g}" if a < b else f"{a:.2g}" for a, b in pairwise(cuts)]
    index = np.searchsorted(np.asarray(edges[1:], np.float64), values, side="right")
    kept, index = np.unique(index, return_inverse=True)
    return DifficultyBins(
        label, tuple(names[k] for k in kept), tuple(float(edges[k]) for k in kept), index.astype(np.int64)
    )


def _count_name(edge: int, edges: list[int], largest: int) -> str:
    following = [other for other in edges if other > edge]
    if not following:
        return str(edge) if largest == edge else f"{edge}+"
    return str(edge) if following[0] == edge + 1 else f"{edge}-{following[0] - 1}"


class Matching:
    """Each difficulty bin against all OTHER transitions whose target is as large.

    Strata are quantiles of the target norm. In each stratum the mean error of the transitions outside the bin says what
    error that size of target usually comes with; summed over the bin's own strata this is the bin's expected error (the
    indirect standardisation of epidemiology). No single range of sizes has to be common to all bins, which matters:
    contact-free steps and long contact chains share none. A stratum with fewer than `minimum` transitions outside the
    bin is left out for that bin.

    Args:
        norm: (n,) target norms.
        bootstrap: over the episodes of the n transitions.

    Attributes:
        shares: per bin, the fraction of its transitions that have a counterpart of their size.
    """

    def __init__(self, bins: DifficultyBins, norm: Array, bootstrap: Bootstrap, *, strata: int = 40, minimum: int = 5):
        self._stratum, self._bins, self._bootstrap = strata_of(norm, strata), bins, bootstrap
        self._shape = (len(bins.names), strata)
        counts = np.zeros(self._shape)
        np.add.at(counts, (bins.index, self._stratum), 1.0)
        self._used = (counts.sum(0) - counts >= minimum) & (counts > 0)
        self.shares = tuple(((counts * self._used).sum(1) / counts.sum(1)).tolist())
        self._resampled_counts, self._counts = self._cells(np.ones(len(norm)))

    def relative(self, values: Array) -> list[Interval | None]:
        """Mean of values (n,) in each bin over that of other transitions of equal target size; 1 is no difference.

        None where the bin has no counterparts.
        """
        resampled, estimate = self._sides(values)
        return self._intervals(_divide(*estimate), _divide(*resampled))

    def relative_gain(self, deep: Array, shallow: Array) -> list[Interval | None]:
        """`deep` over `shallow` (n,) in each bin, relative to the same quotient of other transitions of equal size.

        Below 1, the extra loops helped this bin more than they helped equally large other transitions.
        """
        (deep_resampled, deep_estimate), (resampled, estimate) = self._sides(deep), self._sides(shallow)
        return self._intervals(
            _divide(*deep_estimate) / _divide(*estimate), _divide(*deep_resampled) / _divide(*resampled)
        )

    def _intervals(self, estimate: Array, resampled: Array) -> list[Interval | None]:
        """One interval per bin from estimates (1, G) and their resamples (R, G)."""
        found: list[Interval | None] = []
        for g in range(self._shape[0]):
            member = (self._bins.index == g) & self._used[g, self._stratum]
            if not member.any():
                found.append(None)
                continue
            episodes = len(np.unique(self._bootstrap.row[member]))
            found.append(interval(float(estimate[0, g]), resampled[:, g], int(member.sum()), episodes))
        return found

    def _sides(self, values: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """(observed, expected) sums per bin: for the resamples, (R, G) each, and for the sample itself, (1, G) each."""
        resampled, sample = self._cells(values)
        return self._compared(resampled, self._resampled_counts), self._compared(sample, self._counts)

    def _compared(self, sums: Array, counts: Array) -> tuple[Array, Array]:
        outside = counts.sum(1, keepdims=True) - counts
        # A resample may leave a stratum without counterparts; it then says nothing about that stratum.
        used = self._used & (outside > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            usual = (sums.sum(1, keepdims=True) - sums) / outside
            return np.where(used, sums, 0.0).sum(-1), np.where(used, counts * usual, 0.0).sum(-1)

    def _cells(self, values: Array) -> tuple[Array, Array]:
        """Sums of values (n,) per bin and stratum: of the resamples (R, G, strata) and of the sample (1, G, strata)."""
        groups, strata = self._shape
        episodes = len(self._bootstrap.ids)
        place = (self._bootstrap.row * groups + self._bins.index) * strata + self._stratum
        flat = np.bincount(place, values, minlength=episodes * groups * strata).astype(np.float64)
        sums = flat.reshape(episodes, groups, strata)
        return self._bootstrap.resample(sums), sums.sum(0)[None]


def strata_of(norm: Array, strata: int) -> npt.NDArray[np.int64]:
    """Quantile stratum (n,) of each target norm (n,), from 0 to strata - 1."""
    cuts = np.quantile(norm, np.linspace(0, 1, strata + 1)[1:-1])
    return np.searchsorted(cuts, norm, side="right").astype(np.int64)


def _divide(observed: Array, expected: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return observed / expected


def rank_correlation(bootstrap: Bootstrap, difficulty: Array, values: Array) -> Interval:
    """Spearman correlation of a difficulty label (n,) with values (n,)."""
    return bootstrap.correlation(ranks(difficulty), ranks(values))


def matched_rank_correlation(
    bootstrap: Bootstrap, difficulty: Array, values: Array, norm: Array, members: int = 60
) -> Interval:
    """Spearman correlation within strata of equal target norm (n,): ranks are centred stratum by stratum.

    Args:
        members: transitions per stratum; many make strata so wide that sizes differ within them.
    """
    stratum = strata_of(norm, max(1, len(norm) // members))
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
