"""Runs side by side: who is more accurate on the same transitions, and who is faster on the same machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.evaluation import Evaluation, read_evaluation
from loopwm.evaluate.speed import SpeedConfig, StepTime, processor, step_times
from loopwm.train.checkpoint import load


@dataclass(frozen=True)
class Paired:
    """One-step error of `run` over that of `reference`, on the same transitions, resampled together.

    `ratio` is None when the two were not evaluated on the same transitions.
    """

    run: str
    reference: str
    ratio: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: error ratios against the leading run, and interleaved speed in the order of the runs."""

    pairs: tuple[Paired, ...]
    speed: tuple[tuple[StepTime, ...], ...]
    processor: str


def compare(runs: list[Path], speed: SpeedConfig | None = None) -> Comparison:
    """Compare evaluated runs; the leading one is compared with every other.

    Raises:
        UserError: a run that was not evaluated.
    """
    evaluations = [read_evaluation(run) for run in runs]
    pairs = tuple(paired(evaluations[0], other) for other in evaluations[1:])
    times = step_times([load(run) for run in runs], speed)
    return Comparison(pairs, tuple(times), processor())


def paired(run: Evaluation, reference: Evaluation) -> Paired:
    """The ratio of two runs' one-step errors with an interval that resamples both on the same episodes."""
    ours, theirs = run.one_step_episodes, reference.one_step_episodes
    same = run.run.data_digest == reference.run.data_digest and (ours.episode, ours.count) == (
        theirs.episode,
        theirs.count,
    )
    if not same or run.config.seed != reference.config.seed or run.config.context != reference.config.context:
        return Paired(run.run.name, reference.run.name, None)
    bootstrap = Bootstrap(np.array(ours.episode), resamples=run.config.resamples, seed=run.config.seed)
    ratio = bootstrap.ratio(np.array(ours.error_sum), np.array(theirs.error_sum))
    counted = Interval(ratio.mean, ratio.low, ratio.high, sum(ours.count), ratio.episodes)
    return Paired(run.run.name, reference.run.name, counted)
