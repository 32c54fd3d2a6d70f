"""Comparing two measured models, property by property, with intervals over episodes.

Sampling noise is what another choice of episodes would have changed. It is estimated by resampling whole episodes.
Where both models were measured on the same episodes, both get the same resamples, and what the episodes share cancels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Bootstrap
from loopwm.monitor.config import MonitorConfig
from loopwm.monitor.profile import LoopProfile, Rows

Array = npt.NDArray[np.float64]
Verdict = Literal["ok", "unclear", "changed"]
Kind = Literal["factor", "factor either way", "level", "difference", "distance", "count"]

FEWEST = 5
"""Episodes below which nothing is compared: the spread of so few says too little."""


@dataclass(frozen=True)
class Check:
    """One property.

    Attributes:
        name: the property.
        kind: what `change` is. `factor`: now over reference, limited from above, or either way; `level`: now itself;
            `difference`: now minus reference; `distance`: total variation; `count`: now itself.
        reference, now: its values.
        change, low, high: estimate and interval; the intervals of all checks hold together with the given confidence.
        limit: how far `change` may go.
        verdict: `ok` within the limit; `unclear` beyond it, but by no more than the choice of episodes can do;
            `changed` beyond it even so.
    """

    name: str
    kind: Kind
    reference: float
    now: float
    change: float
    low: float
    high: float
    limit: float
    verdict: Verdict

    @property
    def reason(self) -> str:
        """In words, how far it went and how far it may go."""
        between = f"[{self.low:.3g}, {self.high:.3g}]"
        match self.kind:
            case "factor" | "factor either way":
                allowed = f"{self.limit:.3g}" if self.kind == "factor" else f"1/{self.limit:.3g} to {self.limit:.3g}"
                return f"{self.name} is {self.change:.3g} {between} times the reference's (limit {allowed})"
            case "level":
                return f"{self.name} is {self.now:.3g} {between} (limit {self.limit:.3g})"
            case "count":
                return f"{self.name}: {self.now:g} (limit {self.limit:g})"
            case "difference":
                went = f"went from {self.reference:.3g} to {self.now:.3g}"
                return f"{self.name} {went}, by {self.change:.3g} {between} (limit {self.limit:.3g})"
            case "distance":
                return f"{self.name} moved by {self.change:.3g} {between} (limit {self.limit:.3g})"


def compare(reference: LoopProfile, now: LoopProfile, paired: bool, config: MonitorConfig) -> tuple[Check, ...]:
    """Every property of `now` against `reference`.

    Args:
        paired: both were measured on the same transitions.

    Raises:
        UserError: too few episodes on either side.
    """
    episodes = min(len(reference.sums.episode), len(now.sums.episode))
    if episodes < FEWEST:
        raise UserError(
            f"Only {episodes} episodes were measured on one side, and fewer than {FEWEST} cannot tell a change from "
            "chance; record more episodes."
        )
    return tuple(_Comparison(reference, now, paired, config).checks())


class _Comparison:
    def __init__(self, reference: LoopProfile, now: LoopProfile, paired: bool, config: MonitorConfig) -> None:
        self.before, self.after, self.paired, self.config = reference, now, paired, config
        sums = (reference.sums, now.sums)
        # Different episodes need draws of their own; the same episodes share them.
        self.bootstraps = tuple(
            Bootstrap(np.asarray(one.episode), resamples=config.resamples, seed=config.seed + (0 if paired else side))
            for side, one in enumerate(sums)
        )
        self.bins = self._comparable_bins()
        tests = 2 * len(reference.grid) + 4 + sum(map(len, self.bins))
        # Bonferroni: together the intervals hold with the confidence asked for.
        self.tail = (1 - config.confidence) / (2 * tests)

    def checks(self) -> Iterator[Check]:
        """All of them, in the order of the table."""
        before, after, config = self.before, self.after, self.config
        weights = tuple(np.asarray(one.sums.transitions) for one in (before, after))
        for column, loops in enumerate(before.grid):
            sides = self._means("error", column, weights)
            yield self._factor(f"error at T = {loops}", sides, config.error, "factor")
        yield self._overthinking(weights)
        for column, loops in enumerate(before.grid):
            logs = self._means("residual", column, weights)
            yield self._factor(f"residual in loop {loops}", [np.exp(log) for log in logs], config.residual, "factor")
        mu = before.mu
        for column, (name, loops) in enumerate(((f"2 to {2 * mu}", 2 * mu - 1), (f"beyond {2 * mu}", 6 * mu))):
            sides = self._means("turning", column, tuple(loops * weight for weight in weights))
            yield self._difference(f"share of loops that turn back, loops {name}", sides, config.oscillation)
        yield self._halting()
        for label, members in enumerate(self.bins):
            bins = before.bins[label]
            for column in members:
                counts = tuple(_table(one.sums.counts[label])[:, column] for one in (before, after))
                sides = self._means("loops", column, counts, label)
                name = f"mean loops, {bins.label.replace('_', ' ')} {bins.names[column]}"
                yield self._factor(name, sides, config.loops, "factor either way", self._shared(counts))
        yield _count("decoded numbers that are not finite", before.nonfinite, after.nonfinite)

    def _comparable_bins(self) -> list[list[int]]:
        """Per label, the bins that enough episodes on both sides have transitions in."""
        sides = [[(_table(rows) > 0).sum(0) for rows in one.sums.counts] for one in (self.before, self.after)]
        return [np.flatnonzero(np.minimum(*counts) >= FEWEST).tolist() for counts in zip(*sides, strict=True)]

    def _shared(self, counts: tuple[Array, ...]) -> int:
        return int(min((one > 0).sum() for one in counts))

    def _means(self, part: str, column: int, weights: tuple[Array, ...], label: int | None = None) -> list[Array]:
        """Mean of a column, reference and now: (1 + R,) each, the estimate and its resamples."""
        found = []
        for one, bootstrap, weight in zip((self.before, self.after), self.bootstraps, weights, strict=True):
            rows = getattr(one.sums, part)
            values = _table(rows if label is None else rows[label])[:, column]
            sums = np.stack([values, weight], axis=1)
            with np.errstate(invalid="ignore", divide="ignore"):
                totals = np.concatenate([sums.sum(0)[None], bootstrap.resample(sums)])
                found.append(totals[:, 0] / totals[:, 1])
        return found

    def _factor(self, name: str, sides: list[Array], limit: float, kind: Kind, episodes: int | None = None) -> Check:
        before, after = sides
        with np.errstate(invalid="ignore", divide="ignore"):
            change, low, high = _exp(self._interval(np.log(after) - np.log(before), episodes))
        beyond, clearly = change > limit, low > limit
        if kind == "factor either way":
            beyond, clearly = beyond or change < 1 / limit, clearly or high < 1 / limit
        values = float(before[0]), float(after[0]), change, low, high, limit
        return Check(name, kind, *values, _verdict(beyond, clearly))

    def _difference(self, name: str, sides: list[Array], limit: float) -> Check:
        before, after = sides
        change, low, high = self._interval(after - before)
        values = float(before[0]), float(after[0]), change, low, high, limit
        return Check(name, "difference", *values, _verdict(change > limit, low > limit))

    def _overthinking(self, weights: tuple[Array, ...]) -> Check:
        grid, limit = self.before.grid, self.config.overthinking
        deep, usual = (self._means("error", grid.index(loops), weights) for loops in (grid[-1], self.before.mu))
        with np.errstate(invalid="ignore", divide="ignore"):
            before, after = (np.log(one) - np.log(other) for one, other in zip(deep, usual, strict=True))
            now, low, high = _exp(self._interval(after))
            _, grown, _ = self._interval(after - before)
        was = float(np.exp(before[0]))
        verdict = _verdict(now > max(limit, was), low > limit and grown > 0)
        name = f"error at T = {grid[-1]} over that at {self.before.mu}"
        return Check(name, "level", was, now, now, low, high, max(limit, was), verdict)

    def _halting(self) -> Check:
        """Total variation of the two histograms. Noise alone makes one above 0; `_dealt` says how large."""
        tables = [_table(one.sums.halting) for one in (self.before, self.after)]
        loops = 1 + np.arange(tables[0].shape[1])
        before, after = (_shares(table.sum(0)) for table in tables)
        distance = 0.5 * np.abs(after - before).sum()
        chance = self._dealt(*tables)
        margin = float(chance.mean() + quantile(1 - self.tail, min(map(len, tables)) - 1) * chance.std())
        low, high = max(0.0, distance - margin), min(1.0, distance + margin)
        limit = self.config.halting
        verdict = _verdict(distance > limit, low > limit)
        means = float(before @ loops), float(after @ loops)
        name = "histogram of loops used (its mean in the columns)"
        return Check(name, "distance", *means, float(distance), low, high, limit, verdict)

    def _dealt(self, before: Array, after: Array) -> Array:
        """Distances (R,) between histograms (E, loops) and (E', loops) whose episodes are dealt anew at random."""
        rng = np.random.default_rng(self.config.seed)
        if self.paired:
            # Which of its two histograms an episode gives to which side is a coin toss.
            signs = rng.choice((-1.0, 1.0), size=(self.config.resamples, len(before)))
            return 0.5 * np.abs(signs @ (after - before)).sum(1) / before.sum()
        pool = np.concatenate([before, after])
        even = np.full(len(pool), 1 / len(pool))
        one, other = (
            _shares(rng.multinomial(size, even, self.config.resamples) @ pool) for size in map(len, (before, after))
        )
        return 0.5 * np.abs(other - one).sum(1)

    def _interval(self, values: Array, episodes: int | None = None) -> tuple[float, float, float]:
        """Estimate, low and high from an estimate and its resamples (1 + R,): Student's t on the bootstrap's spread.

        Percentiles of the resamples would be too narrow with few episodes, and too coarse so far out in the tails.
        """
        count = episodes or min(len(one.ids) for one in self.bootstraps)
        estimate, spread = float(values[0]), values[1:][np.isfinite(values[1:])]
        if math.isinf(estimate):
            return estimate, estimate, estimate
        # The bootstrap divides by the number of episodes where one less would be right.
        reach = float(spread.std()) * math.sqrt(count / (count - 1)) if len(spread) else math.nan
        reach *= quantile(1 - self.tail, count - 1)
        return estimate, estimate - reach, estimate + reach


def _exp(values: tuple[float, float, float]) -> tuple[float, float, float]:
    with np.errstate(over="ignore"):
        estimate, low, high = (float(np.exp(value)) for value in values)
    return estimate, low, high


def _verdict(beyond: bool, clearly: bool) -> Verdict:
    return "changed" if clearly else "unclear" if beyond else "ok"


def _count(name: str, before: int, after: int) -> Check:
    verdict = _verdict(after > before, after > before)
    return Check(name, "count", before, after, after, after, after, before, verdict)


def _table(rows: Rows) -> Array:
    return np.asarray(rows, np.float64)


def _shares(counts: Array) -> Array:
    return counts / counts.sum(-1, keepdims=True)


def quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t with `freedom` degrees of freedom, within 2% from 4 on up to probability 0.999.

    Source: the expansion in Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    x, v = NormalDist().inv_cdf(probability), freedom
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / v ** (power + 1) for power, term in enumerate(terms))
