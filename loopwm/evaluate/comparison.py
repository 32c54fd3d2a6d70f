"""Runs side by side: who is more accurate on the same transitions, and who is faster on the same machine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.config import EvaluateConfig, SpeedConfig
from loopwm.evaluate.evaluation import EpisodeErrors, Evaluation, read_evaluation
from loopwm.evaluate.speed import StepTime, processor, step_times
from loopwm.train.checkpoint import load
from loopwm.train.hardware import resolve_device


@dataclass(frozen=True)
class Paired:
    """Error of `run` over error of `reference`, on the same transitions, resampled together.

    Attributes:
        ratio: of the one-step errors; None when the two were not evaluated on the same transitions.
        open_loop: of the open-loop errors, averaged over all steps; None likewise.
    """

    run: str
    reference: str
    ratio: Interval | None
    open_loop: Interval | None


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: error ratios against the leading run, and interleaved speed in the order of the runs."""

    pairs: tuple[Paired, ...]
    speed: tuple[tuple[StepTime, ...], ...]
    processor: str


def compare(runs: list[Path], speed: SpeedConfig | None = None, device: str = "auto") -> Comparison:
    """Compare evaluated runs; the leading one is compared with every other.

    Args:
        device: where speed is measured.

    Raises:
        UserError: a run that was not evaluated, or no such device.
    """
    where = resolve_device(device)
    evaluations = [read_evaluation(run) for run in runs]
    pairs = tuple(paired(evaluations[0], other) for other in evaluations[1:])
    times = step_times([load(run, device=where) for run in runs], speed)
    return Comparison(pairs, tuple(times), processor(where))


def paired(run: Evaluation, reference: Evaluation) -> Paired:
    """The ratios of two runs' errors with intervals that resample both on the same episodes."""
    names = run.run.name, reference.run.name
    # Errors are in units of what a run was trained on.
    same_units = run.run.trained_on == reference.run.trained_on
    same_data = run.run.data_digest == reference.run.data_digest
    if not (same_units and same_data and run.config.same_sample(reference.config)):
        return Paired(*names, None, None)
    return Paired(
        *names,
        _ratio(run.one_step_episodes, reference.one_step_episodes, run.config),
        _ratio(run.open_loop_episodes, reference.open_loop_episodes, run.config),
    )


def _ratio(ours: EpisodeErrors, theirs: EpisodeErrors, config: EvaluateConfig) -> Interval | None:
    if (ours.episode, ours.count) != (theirs.episode, theirs.count):
        return None
    bootstrap = Bootstrap(np.array(ours.episode), resamples=config.resamples, seed=config.seed)
    ratio = bootstrap.ratio(np.array(ours.error_sum), np.array(theirs.error_sum))
    return replace(ratio, n=sum(ours.count))
