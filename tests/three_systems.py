"""Runs of all systems, trained for a moment and measured in little, for tests of what is said about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loopwm.evaluate.config import EvaluateConfig, SpeedConfig
from loopwm.evaluate.evaluation import evaluate
from loopwm.model.config import SYSTEMS
from loopwm.presets import PRESETS
from loopwm.train.runs import train

SPEED = SpeedConfig(batches=(1, 4), rounds=2, seconds=0.001)
SMALL = EvaluateConfig(
    transitions=250, horizon=40, rollouts=8, training_rollouts=300, stability_steps=40, resamples=40, speed=SPEED
)


def trained_and_evaluated(folder: Path, data: Path) -> list[Path]:
    """A run of each system, evaluated."""
    for system in SYSTEMS:
        config = PRESETS["debug"].config
        config = replace(
            config,
            data=data,
            model=replace(config.model, system=system),
            train=replace(config.train, updates=4, log_every=2, validate_every=2),
        )
        train(config, folder / system)
        evaluate(folder / system, config=SMALL)
    return [folder / system for system in SYSTEMS]
