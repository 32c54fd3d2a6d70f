"""Training speed of the looped model against the stack with its FLOPs: a loop must not cost more than the layers it
replaces. Both train in one process, in turns, so that a machine that slows down slows both."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from loopwm.model.config import System
from loopwm.presets import RunConfig
from loopwm.studies.systems import with_system
from loopwm.train.hardware import Precision
from loopwm.train.trainer import Trainer


@dataclass(frozen=True)
class ThroughputConfig:
    """How training speed is measured."""

    rounds: int = 30
    """Turns of each system; medians are reported."""
    updates: int = 4
    """Updates per turn; several, because the number of loops is random."""
    warmup: int = 3
    """Turns before counting, in which blocks are compiled."""
    precision: Precision = "float32"
    """Of the matrix products."""


@dataclass(frozen=True)
class Throughput:
    """Updates per second.

    Attributes:
        looped, stack: median over rounds. ratio: median over rounds of looped / stack within the round.
        low, high: 10% and 90% of the ratio over rounds.
    """

    looped: float
    stack: float
    ratio: float
    low: float
    high: float
    rounds: int
    threads: int


def throughput(config: RunConfig, settings: ThroughputConfig | None = None) -> Throughput:
    """Measure; `config.data` must be recorded."""
    settings = settings or ThroughputConfig()
    systems: tuple[System, System] = ("looped", "stack-equal-flops")
    total = (settings.rounds + settings.warmup) * settings.updates
    with tempfile.TemporaryDirectory() as folder:
        trainers = []
        for system in systems:
            run = with_system(config, system, config.optim.lr, updates=total)
            run = replace(run, train=replace(run.train, precision=settings.precision))
            trainers.append(Trainer(run, Path(folder) / system))
            trainers[-1].precision = settings.precision
        rates = np.array([[_turn(t, settings.updates) for t in trainers] for _ in range(total // settings.updates)])
    rates = rates[settings.warmup :]
    ratio = rates[:, 0] / rates[:, 1]
    low, middle, high = np.quantile(ratio, (0.1, 0.5, 0.9))
    looped, stack = np.median(rates, axis=0)
    return Throughput(
        float(looped), float(stack), float(middle), float(low), float(high), len(rates), torch.get_num_threads()
    )


def _turn(trainer: Trainer, updates: int) -> float:
    """Updates per second over one turn."""
    start = time.perf_counter()
    for _ in range(updates):
        trainer.advance()
    if trainer.device.type != "cpu":
        torch.accelerator.synchronize(trainer.device)
    return updates / (time.perf_counter() - start)
