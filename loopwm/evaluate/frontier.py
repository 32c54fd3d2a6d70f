"""What leaving the loop early costs and saves: error against loops for every exit rule, and who gets the loops.

All of it comes from one pass at full depth, see `signals.py`. Rules are compared where they are equally good, at one
tolerated excess over T = mu.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwm.evaluate.bootstrap import Array, Bootstrap, Interval
from loopwm.evaluate.matching import difficulty_bins, matched_rank_correlation, rank_correlation, ranks, strata_of
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments
from loopwm.evaluate.signals import LoopRecord, record_loops
from loopwm.model.config import EXIT_RULES, ExitConfig, ExitRule
from loopwm.model.world_model import WorldModel

LEADING_LABEL = "impulse"
"""The label that loops are shown against; the earliest recorded one in worlds without it."""
POINTS, FINE = 16, 24
"""Thresholds per curve, and how many times as many an operating point is chosen from."""
MEMBERS = 60
"""Transitions that share a stratum of target norm, as in `matched_rank_correlation`."""
SHOWN = 400
"""Transitions kept for the scatter of a report."""


@dataclass(frozen=True)
class Point:
    """One threshold of one rule.

    Attributes:
        threshold: of the rule; 0 for `fixed`. cap: most loops, and for `fixed` all of them.
        loops: mean loops, which is block calls, per transition.
        error: normalised one-step error.
        excess: error over that at T = mu, minus 1, paired by episode.
    """

    threshold: float
    cap: int
    loops: Interval
    error: Interval
    excess: Interval


@dataclass(frozen=True)
class Loops:
    """Loops of the transitions of one difficulty: mean, and the bin's own excess over T = mu."""

    name: str
    n: int
    loops: Interval
    excess: Interval


@dataclass(frozen=True)
class Allocation:
    """Who gets the loops, by one difficulty label.

    Attributes:
        bins: easiest to hardest.
        rank: Spearman correlation of label and loops. matched_rank: the same at equal target norm. Both are NaN when
            all transitions make equally many loops.
        easiest: mean loops where the label is zero; None if it never is. hardest: in the hardest tenth.
    """

    label: str
    bins: tuple[Loops, ...]
    rank: Interval
    matched_rank: Interval
    easiest: Interval | None
    hardest: Interval


@dataclass(frozen=True)
class Operating:
    """A rule at the threshold that spends fewest loops within the tolerated excess.

    Attributes:
        share: mean loops over mu.
        allocation: one per recorded label, the leading one at the head.
    """

    point: Point
    share: float
    allocation: tuple[Allocation, ...]


@dataclass(frozen=True)
class RuleCurve:
    """One rule with one cap; `best` is None when no threshold stays within the tolerance."""

    rule: ExitRule
    cap: int
    points: tuple[Point, ...]
    best: Operating | None


@dataclass(frozen=True)
class Scatter:
    """Loops against a label among transitions of equal target norm, for some transitions.

    Attributes:
        rank: (n,) rank of the label in its stratum, from 0 to 1. extra: (n,) loops above the mean of the stratum.
        bins: mean of `extra` over ALL transitions in tenths of `rank`, in order; None for an empty tenth.
    """

    label: str
    rank: tuple[float, ...]
    extra: tuple[float, ...]
    bins: tuple[Interval | None, ...]


@dataclass(frozen=True)
class Frontier:
    """Error against loops for every rule that the model can follow.

    Attributes:
        mu: loops that excess is measured over. tolerance: excess that operating points stay within. n: transitions.
        curves: in the order of EXIT_RULES, caps ascending.
        fewest_loops: the rule that needs fewest loops within the tolerance, with its threshold.
        fewest_loops_cap: and its cap. fewest_loops_share: mean loops over mu.
        scatter: loops of that exit against the leading label; None in a world without labels.
        refused: rules the model cannot follow, with the reason.
    """

    mu: int
    tolerance: float
    n: int
    curves: tuple[RuleCurve, ...]
    fewest_loops: ExitConfig
    fewest_loops_cap: int
    fewest_loops_share: float
    scatter: Scatter | None
    refused: dict[str, str]

    @property
    def winner(self) -> Operating:
        """The operating point of the rule that needs fewest loops."""
        rule = self.fewest_loops.rule
        found = (
            one for one in self.curves if one.rule == rule and (rule == "fixed" or one.cap == self.fewest_loops_cap)
        )
        best = next(found).best
        assert best is not None
        return best


def frontier(
    model: WorldModel, segments: Segments, tolerance: float, *, resamples: int = 1000, seed: int = 0
) -> Frontier | None:
    """Measure every exit rule on the transitions of `segments`, with caps of mu and 2 mu; None for a stack.

    Args:
        tolerance: share of the error at T = mu that an operating point may add to it.
    """
    if not model.core.loopable:
        return None
    mu = model.default_loops
    bootstrap = Bootstrap(segments.transition_episode, resamples=resamples, seed=seed)
    labels = {name: np.asarray(column[segments.valid], np.float64) for name, column in segments.labels.items()}
    names = sorted(labels, key=lambda name: name != LEADING_LABEL)
    before, after = segments.observations[:, :-1], segments.observations[:, 1:]
    norm = Scorer.of(model).target_norm(before[segments.valid], after[segments.valid])
    record = record_loops(model, segments, 2 * mu)
    return read_off(record, mu, tolerance, bootstrap, {name: labels[name] for name in names}, norm, seed=seed)


def read_off(
    record: LoopRecord,
    mu: int,
    tolerance: float,
    bootstrap: Bootstrap,
    labels: dict[str, Array],
    norm: Array,
    *,
    seed: int = 0,
) -> Frontier:
    """The frontier that a record of 2 mu loops holds.

    Args:
        bootstrap: over the episodes of its n transitions.
        labels: name -> (n,), the leading one at the head. norm: (n,) target norms.
        seed: chooses the transitions of the scatter.
    """
    names = list(labels)
    measuring = _Measuring(record, mu, tolerance, bootstrap, labels, norm)
    curves = [measuring.fixed()]
    curves += [measuring.curve(rule, cap) for rule in EXIT_RULES if rule in record.signals for cap in (mu, 2 * mu)]
    found = [(curve, curve.best) for curve in curves if curve.best is not None]
    # T = mu itself has no excess, so there always is one.
    winner, best = min(found, key=lambda pair: pair[1].point.loops.mean)
    scatter = measuring.scatter(names[0], measuring.loops(winner.rule, best.point), seed) if names else None
    return Frontier(
        mu=mu,
        tolerance=tolerance,
        n=len(norm),
        curves=tuple(curves),
        fewest_loops=ExitConfig(winner.rule, best.point.threshold),
        fewest_loops_cap=best.point.cap,
        fewest_loops_share=best.share,
        scatter=scatter,
        refused=record.refused,
    )


@dataclass(frozen=True)
class _Measuring:
    """What all curves are measured with."""

    record: LoopRecord
    mu: int
    tolerance: float
    bootstrap: Bootstrap
    labels: dict[str, Array]
    norm: Array

    @property
    def full(self) -> Array:
        """Error (n,) at T = mu."""
        return self.record.error[self.mu - 1]

    def loops(self, rule: ExitRule, point: Point) -> npt.NDArray[np.int64]:
        """Loops (n,) of every transition at a point."""
        if rule == "fixed":
            return np.full(len(self.norm), point.cap)
        return self.record.loops(rule, point.threshold, point.cap)

    def fixed(self) -> RuleCurve:
        """The same number of loops for every transition: 1 to 2 mu."""
        depths = range(1, len(self.record.error) + 1)
        cheapest = min(depth for depth in depths if depth == self.mu or self.tolerable(self.record.error[depth - 1]))
        points = tuple(self.point(0.0, depth, np.full(len(self.norm), depth)) for depth in depths)
        return RuleCurve("fixed", len(depths), points, self.operating("fixed", points[cheapest - 1]))

    def tolerable(self, error: Array) -> bool:
        """Whether errors (n,) stay within the tolerance."""
        return bool(error.mean() <= (1 + self.tolerance) * self.full.mean())

    def curve(self, rule: ExitRule, cap: int) -> RuleCurve:
        """A rule over a geometric grid of thresholds."""
        grid = thresholds(self.record.signals[rule][: cap - 1], POINTS)
        points = tuple(self.point(value, cap, self.record.loops(rule, value, cap)) for value in grid)
        best: tuple[float, float] | None = None
        # A threshold of 0 lets nobody go: a rule that saves nothing says so.
        for value in (0.0, *thresholds(self.record.signals[rule][: cap - 1], POINTS * FINE)):
            used = self.record.loops(rule, value, cap)
            mean = float(used.mean())
            if (best is None or mean < best[0]) and self.tolerable(self.record.error_after(used)):
                best = mean, value
        if best is None:
            return RuleCurve(rule, cap, points, None)
        chosen = self.point(best[1], cap, self.record.loops(rule, best[1], cap))
        return RuleCurve(rule, cap, points, self.operating(rule, chosen))

    def point(self, threshold: float, cap: int, used: npt.NDArray[np.int64]) -> Point:
        """Loops, error and excess of transitions that make `used` (n,) loops."""
        error = self.record.error_after(used)
        mean = self.bootstrap.mean
        return Point(threshold, cap, mean(used.astype(np.float64)), mean(error), self.over_full(error))

    def over_full(self, error: Array) -> Interval:
        """Excess of errors (n,) over T = mu; NaN marks transitions that do not count."""
        return self.bootstrap.ratio(error, self.full).shifted(-1)

    def operating(self, rule: ExitRule, point: Point) -> Operating:
        """A point with all that is told about an operating point."""
        used = self.loops(rule, point)
        allocation = tuple(self.allocation(name, used) for name in self.labels)
        return Operating(point, point.loops.mean / self.mu, allocation)

    def allocation(self, label: str, used: npt.NDArray[np.int64]) -> Allocation:
        """Who gets the loops `used` (n,), by one label."""
        values, loops, error = self.labels[label], used.astype(np.float64), self.record.error_after(used)
        bins = difficulty_bins(label, values)

        def inside(member: npt.NDArray[np.bool_], numbers: Array) -> Array:
            return np.where(member, numbers, np.nan)

        rows = []
        for index, name in enumerate(bins.names):
            member = bins.index == index
            mean = self.bootstrap.mean(inside(member, loops))
            rows.append(Loops(name, int(member.sum()), mean, self.over_full(inside(member, error))))
        zero, hard = values == 0, values >= np.quantile(values, 0.9)
        return Allocation(
            label=label,
            bins=tuple(rows),
            rank=rank_correlation(self.bootstrap, values, loops),
            matched_rank=matched_rank_correlation(self.bootstrap, values, loops, self.norm, MEMBERS),
            easiest=self.bootstrap.mean(inside(zero, loops)) if zero.any() else None,
            hardest=self.bootstrap.mean(inside(hard, loops)),
        )

    def scatter(self, label: str, used: npt.NDArray[np.int64], seed: int) -> Scatter:
        """Loops `used` (n,) against a label, both among transitions of equal target norm."""
        stratum = strata_of(self.norm, max(1, len(self.norm) // MEMBERS))
        rank, extra = np.zeros(len(used)), np.zeros(len(used))
        for s in np.unique(stratum):
            member = stratum == s
            rank[member] = (ranks(self.labels[label][member]) - 0.5) / member.sum()
            extra[member] = used[member] - used[member].mean()
        tenth = np.minimum((10 * rank).astype(int), 9)
        inside = [np.where(tenth == k, extra, np.nan) for k in range(10)]
        means = [self.bootstrap.mean(values) if np.isfinite(values).any() else None for values in inside]
        draws = np.random.default_rng(seed)
        shown = np.sort(draws.choice(len(used), min(SHOWN, len(used)), replace=False))
        return Scatter(label, tuple(rank[shown].tolist()), tuple(extra[shown].tolist()), tuple(means))


def thresholds(signal: npt.NDArray[np.float32], count: int) -> list[float]:
    """At most `count` thresholds, geometrically from where nearly nobody leaves to where everybody leaves at once.

    They are rounded to four digits, so that a point can be asked for again in so many words.

    Args:
        signal: (T, n) of the loops after which leaving early is possible.
    """
    if not len(signal):
        return []
    # A row leaves at the lowest signal it has shown so far, however the signal goes on.
    lowest = np.fmin.reduce(signal, axis=0)
    usable = lowest[np.isfinite(lowest) & (lowest > 0)]
    highest = signal[np.isfinite(signal)]
    if not len(usable):
        return []
    low, high = float(np.quantile(usable, 0.01)), 1.01 * float(highest.max())
    return sorted({float(f"{value:.4g}") for value in np.geomspace(low, high, count)})
