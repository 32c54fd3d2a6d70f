"""Milliseconds per environment step, measured so that models on a shared machine can be compared."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass

import numpy as np
import torch

from loopwm.evaluate.config import SpeedConfig
from loopwm.model.world_model import WorldModel


@dataclass(frozen=True)
class StepTime:
    """Milliseconds per step of a batch, over rounds.

    Attributes:
        batch: rows that step together.
        median, low, high: milliseconds of one imagined step without decoding; 10% and 90% over rounds.
        decoded_median, decoded_low, decoded_high: the same with decoding.
        rounds: how often it was measured.
    """

    batch: int
    median: float
    low: float
    high: float
    decoded_median: float
    decoded_low: float
    decoded_high: float
    rounds: int


def step_times(models: list[WorldModel], config: SpeedConfig | None = None) -> list[tuple[StepTime, ...]]:
    """Time every model at its default number of loops; one tuple over batch sizes per model.

    Models take turns within every round, so that a machine that slows down slows all of them down.
    """
    config = config or SpeedConfig()
    taken: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for batch in config.batches:
        turns = [_Turn(model, batch, config.seconds) for model in models]
        taken |= {(index, batch): [] for index in range(len(models))}
        for _ in range(config.rounds):
            for index, turn in enumerate(turns):
                taken[index, batch].append(turn.milliseconds())
    return [
        tuple(_summary(batch, np.array(taken[index, batch])) for batch in config.batches)
        for index in range(len(models))
    ]


def processor(device: torch.device) -> str:
    """What times on `device` are measured on: processor, accelerator if it is one, threads."""
    threads = torch.get_num_threads()
    accelerator = "" if device.type == "cpu" else device.type
    if device.type == "cuda":
        accelerator = torch.cuda.get_device_name(device)
    name = _processor_name() or platform.machine()
    return ", ".join(part for part in (name, accelerator, f"{threads} torch thread{'s'[: threads != 1]}") if part)


class _Turn:
    """One model at one batch size, ready to be timed again and again."""

    def __init__(self, model: WorldModel, batch: int, seconds: float):
        self.model = model
        self.h = model.initial(batch)
        self.action = self.h.new_zeros(batch, model.action.stored_size)
        self.repeats = 1
        self.milliseconds()
        step, decode = self.milliseconds()
        self.repeats = max(1, round(1000 * seconds / (step + decode)))

    def milliseconds(self) -> tuple[float, float]:
        """Per step: (imagining it, decoding it)."""
        with torch.inference_mode():
            step = self._timed(lambda: self.model.step(self.h, self.action))
            decode = self._timed(lambda: self.model.decode(self.h).observation)
        return step, decode

    def _timed(self, work) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(self.repeats):
            work()
        self._wait()
        return 1000 * (time.perf_counter() - start) / self.repeats

    def _wait(self) -> None:
        if self.h.device.type != "cpu":
            torch.accelerator.synchronize(self.h.device)


def _summary(batch: int, taken: np.ndarray) -> StepTime:
    """`taken` is (rounds, 2): step and decode."""
    step, total = taken[:, 0], taken.sum(axis=1)
    quantiles = [float(np.quantile(column, q)) for column in (step, total) for q in (0.5, 0.1, 0.9)]
    return StepTime(batch, *quantiles, rounds=len(taken))


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as stream:
            return next((line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")), "")
    except OSError:
        return platform.processor()
