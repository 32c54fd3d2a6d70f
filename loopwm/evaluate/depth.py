"""What the loops buy: one-step error against the number of loops, overall and by how hard the transition is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwm.evaluate.bootstrap import Array, Bootstrap, Interval, interval
from loopwm.evaluate.matching import (
    Matching,
    difficulty_bins,
    matched_rank_correlation,
    rank_correlation,
)
from loopwm.evaluate.rollout import StepErrors, one_step
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments
from loopwm.model.world_model import WorldModel


def depth_grid(model: WorldModel) -> tuple[int, ...]:
    """1, 2, 4, mu, 2mu, 4mu and 8mu loops, in order; a stack has nothing to vary and gives (1,)."""
    if not model.core.loopable:
        return (1,)
    mu = model.default_loops
    return tuple(sorted({1, 2, 4, mu, 2 * mu, 4 * mu, 8 * mu}))


def depth_sweep(model: WorldModel, segments: Segments, loops: tuple[int, ...]) -> dict[int, StepErrors]:
    """One-step errors on the same segments at every number of loops."""
    return {count: one_step(model, segments, count) for count in loops}


@dataclass(frozen=True)
class DepthPoint:
    """One-step scores at T loops.

    Attributes:
        loops: T.
        error: normalised mean squared error of the observation.
        relative: that error over the error at mu loops, paired by episode; 1 at mu.
        reward: mean squared error of the reward.
        brier: mean squared error of the continue probability.
    """

    loops: int
    error: Interval
    relative: Interval
    reward: Interval
    brier: Interval


def depth_curve(
    sweep: dict[int, StepErrors], segments: Segments, reference: int, bootstrap: Bootstrap
) -> tuple[DepthPoint, ...]:
    """Scores at every T of the sweep, against T = `reference`. `bootstrap` is over `segments.transition_episode`."""
    valid, continues = segments.valid, segments.continues[segments.valid]
    baseline = sweep[reference].observation[valid]
    return tuple(
        DepthPoint(
            loops=loops,
            error=bootstrap.mean(errors.observation[valid]),
            relative=bootstrap.ratio(errors.observation[valid], baseline),
            reward=bootstrap.mean(errors.reward[valid]),
            brier=bootstrap.mean((errors.continue_probability[valid] - continues) ** 2),
        )
        for loops, errors in sweep.items()
    )


@dataclass(frozen=True)
class TaskScores:
    """Reward and continue predictions at the default number of loops.

    Attributes:
        reward: mean squared error.
        reward_variance: variance of the recorded rewards, the error of always predicting their mean.
        brier: mean squared error of the continue probability.
        brier_base: Brier score of always predicting the rate at which episodes go on.
        auc: chance that a terminating transition looks more terminal than another one; None without terminations.
        terminations: transitions that ended their episode.
    """

    reward: Interval
    reward_variance: float
    brier: Interval
    brier_base: float
    auc: Interval | None
    terminations: int


def task_scores(errors: StepErrors, segments: Segments, bootstrap: Bootstrap) -> TaskScores:
    """How well the task is predicted. `bootstrap` is over `segments.transition_episode`."""
    valid = segments.valid
    continues, probability = segments.continues[valid], errors.continue_probability[valid]
    terminated = continues == 0
    return TaskScores(
        reward=bootstrap.mean(errors.reward[valid]),
        reward_variance=float(np.var(segments.rewards[valid], dtype=np.float64)),
        brier=bootstrap.mean((probability - continues) ** 2),
        brier_base=float(np.var(continues, dtype=np.float64)),
        auc=area_under_curve(bootstrap, -probability, terminated),
        terminations=int(terminated.sum()),
    )


def area_under_curve(bootstrap: Bootstrap, score: Array, positive: npt.NDArray[np.bool_]) -> Interval | None:
    """Chance that a positive (n,) has a higher score (n,) than a negative, ties counting one half.

    None when positives or negatives are missing. Every pair of a positive and a negative contributes to its pair of
    episodes, so a resample that draws these d and d' times counts the pair d d' times.
    """
    if not positive.any() or positive.all():
        return None
    episodes = len(bootstrap.ids)
    wins = np.zeros((episodes, episodes))
    negative_rows, negatives = bootstrap.row[~positive], score[~positive]
    for row, value in zip(bootstrap.row[positive], score[positive], strict=True):
        beaten = (value > negatives) + 0.5 * (value == negatives)
        wins[row] += np.bincount(negative_rows, beaten, minlength=episodes)
    num_positive = np.bincount(bootstrap.row[positive], minlength=episodes).astype(np.float64)
    num_negative = np.bincount(negative_rows, minlength=episodes).astype(np.float64)
    draws = bootstrap.draws
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = ((draws @ wins) * draws).sum(1) / ((draws @ num_positive) * (draws @ num_negative))
    estimate = float(wins.sum() / (num_positive.sum() * num_negative.sum()))
    return interval(estimate, resampled, len(score), episodes)


@dataclass(frozen=True)
class DifficultyBin:
    """One-step error of the transitions of one difficulty.

    "Relative" compares the bin with all other transitions whose target is equally large, see `Matching`.

    Attributes:
        name: the bin.
        n: transitions in it.
        target_norm: mean size of their target.
        error: mean error at each T of the table.
        gain: error at the default T over error at T = 1; None for a stack.
        share: fraction of the bin that has counterparts of its size; the relative numbers rest on them.
        relative_norm: target norm relative to the counterparts; near 1 when matching worked.
        relative: error at each T relative to the counterparts at that T.
        relative_gain: gain relative to the counterparts' gain; below 1, loops help this difficulty in particular.
    """

    name: str
    n: int
    target_norm: Interval
    error: tuple[Interval, ...]
    gain: Interval | None
    share: float
    relative_norm: Interval | None
    relative: tuple[Interval | None, ...]
    relative_gain: Interval | None


@dataclass(frozen=True)
class DifficultyTable:
    """Error against one difficulty label.

    Attributes:
        label: the label, as recorded.
        loops: the numbers of loops T that every bin's `error` and `relative` run over.
        bins: easiest to hardest.
        rank: Spearman correlation of label and error at the default T.
        matched_rank: the same within strata of equal target norm.
    """

    label: str
    loops: tuple[int, ...]
    bins: tuple[DifficultyBin, ...]
    rank: Interval
    matched_rank: Interval


def by_difficulty(
    scorer: Scorer, sweep: dict[int, StepErrors], segments: Segments, reference: int, label: str, bootstrap: Bootstrap
) -> DifficultyTable:
    """Error per difficulty bin at every T of the sweep, plain and at matched target norm.

    Args:
        reference: the default T; gains compare it with T = 1.
        label: a name from `segments.labels`.
        bootstrap: over `segments.transition_episode`.
    """
    valid = segments.valid
    difficulty = np.asarray(segments.labels[label][valid], np.float64)
    norm = scorer.target_norm(segments.observations[:, :-1][valid], segments.observations[:, 1:][valid])
    errors = {loops: one.observation[valid] for loops, one in sweep.items()}
    bins = difficulty_bins(label, difficulty)
    inside = [np.where(bins.index == g, 1.0, np.nan) for g in range(len(bins.names))]
    matching = Matching(bins, norm, bootstrap)
    relative_norm, relative = matching.relative(norm), [matching.relative(error) for error in errors.values()]
    gain: list[Interval | None] = [None] * len(bins.names)
    relative_gain = gain
    if 1 in errors and reference != 1:
        gain = [bootstrap.ratio(errors[reference] * member, errors[1]) for member in inside]
        relative_gain = matching.relative_gain(errors[reference], errors[1])
    rows = [
        DifficultyBin(
            name=name,
            n=int((bins.index == g).sum()),
            target_norm=bootstrap.mean(norm * inside[g]),
            error=tuple(bootstrap.mean(error * inside[g]) for error in errors.values()),
            gain=gain[g],
            share=matching.shares[g],
            relative_norm=relative_norm[g],
            relative=tuple(at_loops[g] for at_loops in relative),
            relative_gain=relative_gain[g],
        )
        for g, name in enumerate(bins.names)
    ]
    return DifficultyTable(
        label=label,
        loops=tuple(errors),
        bins=tuple(rows),
        rank=rank_correlation(bootstrap, difficulty, errors[reference]),
        matched_rank=matched_rank_correlation(bootstrap, difficulty, errors[reference], norm),
    )
