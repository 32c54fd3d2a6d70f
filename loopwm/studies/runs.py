"""Evaluated runs of one system, several seeds at a time, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.evaluate.bootstrap import Bootstrap, Interval
from loopwm.evaluate.evaluation import EpisodeErrors, Evaluation, read_evaluation
from loopwm.model.config import System
from loopwm.presets import Preset
from loopwm.studies.demo import evaluate_once


@dataclass(frozen=True)
class Runs:
    """The evaluated runs of one system at one length, one per seed."""

    system: System
    evaluations: tuple[Evaluation, ...]

    @property
    def episodes(self) -> EpisodeErrors:
        """Errors per episode, averaged over seeds, which all saw the same transitions."""
        parts = [one.one_step_episodes for one in self.evaluations]
        sums = np.mean([part.error_sum for part in parts], axis=0)
        return replace(parts[0], error_sum=tuple(sums.tolist()))

    def interval(self) -> Interval:
        """The error with its episode-bootstrap interval."""
        pooled = self.episodes
        return _ratio(np.array(pooled.error_sum), np.array(pooled.count), pooled)

    def ratio(self, other: Runs) -> Interval:
        """This error over the other's, paired by episode."""
        ours, theirs = self.episodes, other.episodes
        return _ratio(np.array(ours.error_sum), np.array(theirs.error_sum), ours)

    def at_depth(self, factor: int) -> float:
        """Error at `factor` times mu loops, averaged over seeds."""
        points = [next(p for p in one.depth if p.loops == factor * one.run.loops) for one in self.evaluations]
        return float(np.mean([point.error.mean for point in points]))


def _ratio(top: np.ndarray, bottom: np.ndarray, pooled: EpisodeErrors) -> Interval:
    bootstrap = Bootstrap(np.array(pooled.episode))
    return replace(bootstrap.ratio(top, bottom), n=sum(pooled.count))


def evaluated(system: System, runs: list[Path], settings: Preset) -> Runs:
    """Evaluate what has not been evaluated like this."""
    for run in runs:
        evaluate_once(run, settings)
    return Runs(system, tuple(read_evaluation(run) for run in runs))


def error_intervals(short: dict[System, Runs], longer: dict[System, Runs]) -> dict[str, Interval]:
    """One-step errors of every system and their paired ratios, with intervals over episodes."""
    looped, flops, params = (short[system] for system in ("looped", "stack-equal-flops", "stack-equal-params"))
    intervals = {
        "mse_looped": looped.interval(),
        "mse_equal_flops": flops.interval(),
        "mse_equal_params": params.interval(),
        "mse_looped_over_equal_flops": looped.ratio(flops),
        "mse_looped_over_equal_params": looped.ratio(params),
    }
    if longer:
        long_loop, long_stack = longer["looped"], longer["stack-equal-flops"]
        intervals |= {
            "mse_looped_long": long_loop.interval(),
            "mse_equal_flops_long": long_stack.interval(),
            "mse_looped_long_over_equal_flops_long": long_loop.ratio(long_stack),
        }
    return intervals


def worst_against_controls(runs: Runs, horizon: int) -> float:
    """Largest open-loop error of the model over the best control's, over horizons 1 to `horizon`; below 1 it wins."""
    worst = 0.0
    for one in runs.evaluations:
        model = next(curve for curve in one.horizon if curve.kind == "model")
        controls = [curve for curve in one.horizon if curve.kind == "control"]
        # Short episodes leave shorter futures.
        for k in range(min(horizon, len(model.error))):
            worst = max(worst, model.error[k].mean / min(control.error[k].mean for control in controls))
    return worst


def one_run(one: Evaluation) -> dict[str, Any]:
    """What is published of a single run."""
    return {
        "name": one.run.name,
        "system": one.run.system,
        "seed": one.run.seed,
        "updates": one.run.updates,
        "learning_rate": one.run.learning_rate,
        "one_step": one.one_step,
        "depth": {str(point.loops): point.error for point in one.depth},
        "open_loop": {curve.name: [step.mean for step in curve.error] for curve in one.horizon},
        "retention": one.retention,
        "nonfinite_10k": one.stability.nonfinite,
    }
