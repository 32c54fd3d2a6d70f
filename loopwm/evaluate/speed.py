"""Milliseconds per environment step, measured so that models on a shared machine can be compared."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from loopwm.evaluate.config import SpeedConfig
from loopwm.evaluate.segments import Segments
from loopwm.model.config import ExitConfig
from loopwm.model.trace import Trace
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


@dataclass(frozen=True)
class ExitTime:
    """What leaving early does to the time of imagination, each round a pair of runs on the same starts and actions.

    Attributes:
        batch: rows that are imagined together, for `steps` steps; recorded starts, repeated where they are too few.
        loops: mean loops per step of the rows that may leave.
        full_median, full_low, full_high: milliseconds per step at T = mu; 10% and 90% over rounds. Nothing is decoded
            but what the rule reads.
        exit_median, exit_low, exit_high: the same with the exit.
        share, share_low, share_high: time with the exit over time without, of the same round.
    """

    batch: int
    steps: int
    loops: float
    full_median: float
    full_low: float
    full_high: float
    exit_median: float
    exit_low: float
    exit_high: float
    share: float
    share_low: float
    share_high: float
    rounds: int


def exit_time(
    model: WorldModel, segments: Segments, exit: ExitConfig, cap: int, config: SpeedConfig | None = None, steps: int = 3
) -> ExitTime:
    """Time imagination from recorded starts with an exit against T = mu, taking turns, at the largest batch size.

    Args:
        exit: the rule. cap: most loops of a row that may leave, and with `fixed` all of them.
        steps: imagined at most; the segments may be shorter.
    """
    config = config or SpeedConfig()
    batch, steps = max(config.batches), min(steps, segments.length)
    rows = np.resize(np.arange(len(segments)), batch)
    start = torch.as_tensor(segments.observations[rows, 0], device=model.device)
    actions = torch.as_tensor(segments.actions[rows, :steps], device=model.device)
    trace = Trace(residuals=False)

    def full() -> None:
        model.imagine(actions, observation=start)

    def early() -> None:
        model.imagine(actions, observation=start, num_loops=cap, exit=exit)

    with torch.inference_mode():
        model.imagine(actions, observation=start, num_loops=cap, exit=exit, trace=trace)
        full()
        repeats = max(1, round(1000 * config.seconds / _milliseconds(full, 1, model.device)))
        taken = np.array(
            [[_milliseconds(work, repeats, model.device) for work in (full, early)] for _ in range(config.rounds)]
        )
    columns = (*(taken / steps).T, taken[:, 1] / taken[:, 0])
    quantiles = [float(np.quantile(column, q)) for column in columns for q in (0.5, 0.1, 0.9)]
    return ExitTime(batch, steps, float(trace.loops.double().mean()), *quantiles, rounds=config.rounds)


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
            step = _milliseconds(lambda: self.model.step(self.h, self.action), self.repeats, self.h.device)
            decode = _milliseconds(lambda: self.model.decode(self.h).observation, self.repeats, self.h.device)
        return step, decode


def _milliseconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Of one `work()`, the mean of `repeats`."""
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return 1000 * (time.perf_counter() - start) / repeats


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


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
