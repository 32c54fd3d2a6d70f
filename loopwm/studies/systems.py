"""The looped model and its two ordinary counterparts, trained alike: same windows, same number of updates, learning
rate of each picked from the same grid on the validation episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loopwm.model.config import SYSTEMS, System
from loopwm.presets import RunConfig
from loopwm.progress import Progress
from loopwm.studies.jobs import Job, train_all


def with_system(config: RunConfig, system: System, lr: float, seed: int = 0, updates: int | None = None) -> RunConfig:
    """The same run with another core, rate, seed and, if given, length."""
    length = config.train.updates if updates is None else updates
    return replace(
        config,
        model=replace(config.model, system=system),
        optim=replace(config.optim, lr=lr, warmup=min(config.optim.warmup, length)),
        train=replace(config.train, seed=seed, updates=length),
    )


def pick_rates(
    config: RunConfig,
    folder: Path,
    rates: Sequence[float],
    updates: int,
    progress: Progress,
    again: str,
    systems: Sequence[System] = SYSTEMS,
) -> dict[System, float]:
    """The learning rate of each system with the lowest one-step error on validation after short runs.

    Args:
        folder: where the short runs go.
        rates: the grid, the same for every system.
        updates: length of a short run.
    """
    from loopwm.train.trainer import finished

    runs: dict[tuple[System, float], Path] = {
        (system, rate): folder / f"{system}-lr{rate:g}" for system in systems for rate in rates
    }
    jobs = [Job(run, with_system(config, system, rate, 0, updates)) for (system, rate), run in runs.items()]
    if len(rates) > 1:
        train_all(jobs, progress, again=again)
    best: dict[System, float] = {}
    for system in systems:
        errors = {}
        for rate in rates if len(rates) > 1 else ():
            result = finished(runs[system, rate])
            assert result is not None
            errors[rate] = result.validation["one_step"]
        best[system] = min(errors, key=lambda rate: errors[rate]) if errors else rates[0]
    return best
