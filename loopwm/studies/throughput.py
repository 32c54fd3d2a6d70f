"""Training speed of the looped model against the stack with its FLOPs: a loop must not cost more than the layers it
replaces. Runs that are compared train in one process, in turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

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
        fixed_ratio: the same ratio if every sequence made mu loops: what is missing to it is the price of random depth,
            because a step calls the block as often as its deepest sequence asks.
    """

    looped: float
    stack: float
    ratio: float
    low: float
    high: float
    fixed_ratio: float
    rounds: int
    threads: int


def throughput(config: RunConfig, settings: ThroughputConfig | None = None) -> Throughput:
    """Measure; `config.data` must be recorded."""
    settings = settings or ThroughputConfig()
    looped, stack = (with_system(config, system, config.optim.lr) for system in ("looped", "stack-equal-flops"))
    fixed = replace(looped, model=replace(looped.model, loop=replace(looped.model.loop, depth_law="fixed")))
    rates = update_rates([looped, fixed, stack], settings)
    ratio = rates[:, 0] / rates[:, 2]
    low, middle, high = np.quantile(ratio, (0.1, 0.5, 0.9))
    medians = np.median(rates, axis=0)
    return Throughput(
        looped=float(medians[0]),
        stack=float(medians[2]),
        ratio=float(middle),
        low=float(low),
        high=float(high),
        fixed_ratio=float(np.median(rates[:, 1] / rates[:, 2])),
        rounds=len(rates),
        threads=torch.get_num_threads(),
    )


def update_rates(configs: Sequence[RunConfig], settings: ThroughputConfig) -> np.ndarray:
    """Updates per second of every run in every round, (rounds, runs); runs take turns within a round."""
    total = (settings.rounds + settings.warmup) * settings.updates
    with tempfile.TemporaryDirectory() as folder:
        trainers = []
        for index, config in enumerate(configs):
            settled = replace(config.train, precision=settings.precision, updates=total)
            optim = replace(config.optim, warmup=min(config.optim.warmup, total))
            trainers.append(Trainer(replace(config, train=settled, optim=optim), Path(folder) / str(index)))
            trainers[-1].precision = settings.precision
        rates = np.array([[_turn(t, settings.updates) for t in trainers] for _ in range(total // settings.updates)])
    return rates[settings.warmup :]


def _turn(trainer: Trainer, updates: int) -> float:
    """Updates per second over one turn."""
    start = time.perf_counter()
    for _ in range(updates):
        trainer.advance()
    if trainer.device.type != "cpu":
        torch.accelerator.synchronize(trainer.device)
    return updates / (time.perf_counter() - start)
