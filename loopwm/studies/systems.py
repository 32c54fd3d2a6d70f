"""The looped model and its two ordinary counterparts, trained alike: same windows, same number of updates, learning
rate of each picked from the same grid on the validation episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loopwm.errors import LoopwmError
from loopwm.model.config import SYSTEMS, System
from loopwm.presets import RunConfig
from loopwm.progress import Progress
from loopwm.studies.jobs import Job, train_all


def with_system(config: RunConfig, system: System, lr: float, seed: int = 0, updates: int | None = None) -> RunConfig:
    """The same run with another core, rate, seed and, if given, length: windows then grow so much faster or slower."""
    length = config.train.updates if updates is None else updates
    curriculum = config.train.curriculum and max(1, config.train.curriculum * length // config.train.updates)
    return replace(
        config,
        model=replace(config.model, system=system),
        optim=replace(config.optim, lr=lr, warmup=min(config.optim.warmup, length)),
        train=replace(config.train, seed=seed, updates=length, curriculum=curriculum),
    )


@dataclass(frozen=True)
class RateChoice:
    """The learning rate picked for a system, and the validation error of each rate; infinite where it diverged."""

    rate: float
    errors: dict[float, float]


def pick_rates(
    config: RunConfig,
    folder: Path,
    rates: Sequence[float],
    updates: int,
    progress: Progress,
    again: str,
    systems: Sequence[System] = SYSTEMS,
    by: Literal["one_step", "open_loop"] = "one_step",
) -> dict[System, RateChoice]:
    """The learning rate of each system with the lowest error on validation after short runs.

    Args:
        folder: where the short runs go.
        rates: the grid, the same for every system; a single one is taken without a run.
        updates: length of a short run.
        by: the error that decides, one step ahead or imagined over ten.

    Raises:
        LoopwmError: every rate of a system diverged.
    """
    if len(rates) == 1:
        return {system: RateChoice(rates[0], {}) for system in systems}
    runs: dict[tuple[System, float], Path] = {
        (system, rate): rate_run(folder, system, rate) for system in systems for rate in rates
    }
    jobs = [Job(run, with_system(config, system, rate, 0, updates)) for (system, rate), run in runs.items()]
    train_all(jobs, progress, again=again, may_diverge=True)
    choices: dict[System, RateChoice] = {}
    for system in systems:
        errors = {rate: _validation_error(runs[system, rate], by) for rate in rates}
        best = min(errors, key=lambda rate: errors[rate])
        if errors[best] == math.inf:
            raise LoopwmError(f"Every learning rate of {rates} diverged for {system}; lower the grid of the preset.")
        choices[system] = RateChoice(best, errors)
    return choices


def rate_run(folder: Path, system: System, rate: float) -> Path:
    """Where `pick_rates` keeps the run, with seed 0, of a system at a rate."""
    return folder / f"{system}-lr{rate:g}"


def _validation_error(run: Path, by: str) -> float:
    """An error of a finished run; infinite if it diverged."""
    from loopwm.train.runs import finished

    result = finished(run)
    return result.validation[by] if result is not None else math.inf
