"""What decoding costs: calls of the decoder, time, and what training keeps in memory, each with every step decoded and
with the end alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from loopwm.model.world_model import WorldModel
from loopwm.presets import RunConfig
from loopwm.studies.throughput import ThroughputConfig, update_rates
from loopwm.train.trainer import Trainer


@dataclass(frozen=True)
class Cost:
    """Decoding every step against decoding the end.

    Attributes:
        each, deferred: what it takes. unit: of both.
        ratio: deferred / each; for times the median over rounds of the ratio within a round.
        low, high: 10% and 90% of a ratio over rounds; of a count, the ratio itself.
    """

    each: float
    deferred: float
    ratio: float
    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class Costs:
    """All of them.

    Attributes:
        decoded: latents decoded to imagine a future of `horizon` steps; training_decoded: for a window of training.
        imagination: time to imagine `rows` futures of `horizon` steps.
        update: time of a training update with whole windows.
        memory: bytes that autograd keeps from the forward to the backward pass of such an update.
    """

    horizon: int
    rows: int
    decoded: Cost
    training_decoded: Cost
    imagination: Cost
    update: Cost
    memory: Cost


def measure_costs(each: RunConfig, deferred: RunConfig, horizon: int = 20, rows: int = 512, rounds: int = 20) -> Costs:
    """Measure with untrained weights, on which none of this depends; `data` must be recorded.

    Args:
        each, deferred: two runs that differ in how they decode.
    """
    whole = [replace(one, train=replace(one.train, curriculum=0, mixed_horizons=False)) for one in (each, deferred)]
    with TemporaryDirectory() as folder:
        plain = [replace(one, train=replace(one.train, compile=False)) for one in whole]
        trainers = [Trainer(one, Path(folder) / str(index)) for index, one in enumerate(plain)]
        training = [_training_costs(trainer) for trainer in trainers]
        model = trainers[0].model.eval()
        imagine_each, imagine_end = _two_ways(model, horizon, rows)
        decoded = [decoded_latents(model, work) / rows for work in (imagine_each, imagine_end)]
        imagination = _in_turns(imagine_each, imagine_end, model.device, rounds)
    speed = ThroughputConfig(rounds=rounds, updates=2, warmup=2)
    return Costs(
        horizon,
        rows,
        decoded=_count(*decoded, unit="latents decoded per future"),
        training_decoded=_count(training[0][0], training[1][0], unit="latents decoded per window"),
        imagination=_time(imagination),
        update=_time(1 / update_rates(whole, speed)),
        memory=_count(training[0][1], training[1][1], unit="bytes"),
    )


def decoded_latents(model: WorldModel, work: Callable[[], object]) -> int:
    """How many latents (N, D) go through the decoder while `work` runs: counted where it happens."""
    seen = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += inputs[0].shape[:-2].numel()

    hook = model.observation_head.register_forward_pre_hook(count)
    try:
        work()
    finally:
        hook.remove()
    return seen


def kept_bytes(model: WorldModel, work: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of what `work` returns: every storage once, and no weights."""
    own = {value.untyped_storage().data_ptr() for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Held on to, so that its address cannot be given to another before all are counted.
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(storage.nbytes() for storage in kept.values())


def _training_costs(trainer: Trainer) -> tuple[float, float]:
    """(latents decoded per window, bytes kept) of the run's leading update."""
    windows, depths = trainer.draw(), trainer.depth_draws.get_state()

    def forward() -> Tensor:
        trainer.depth_draws.set_state(depths)
        return trainer.loss(windows, "float32").total

    return decoded_latents(trainer.model, forward) / len(windows), kept_bytes(trainer.model, forward)


def _two_ways(model: WorldModel, horizon: int, rows: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Imagine futures, and decode every step or the end of each."""
    start = model.observation_mean.expand(rows, *model.observation.shape)
    actions = model.action_mean.expand(rows, horizon, -1)

    @torch.inference_mode()
    def each() -> object:
        return model.decode(model.imagine(actions, observation=start))

    @torch.inference_mode()
    def end() -> object:
        return model.foresee(actions, observation=start)

    return each, end


def _in_turns(
    first: Callable[[], object], second: Callable[[], object], device: torch.device, rounds: int, warmup: int = 2
) -> np.ndarray:
    """Seconds, (rounds, 2)."""
    seconds = np.array([[_timed(work, device) for work in (first, second)] for _ in range(rounds + warmup)])
    return seconds[warmup:]


def _timed(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def _count(each: float, deferred: float, unit: str) -> Cost:
    ratio = deferred / each
    return Cost(each, deferred, ratio, ratio, ratio, unit)


def _time(seconds: np.ndarray) -> Cost:
    """`seconds` (rounds, 2)."""
    each, deferred = np.median(seconds, axis=0)
    low, ratio, high = np.quantile(seconds[:, 1] / seconds[:, 0], (0.1, 0.5, 0.9))
    return Cost(float(each), float(deferred), float(ratio), float(low), float(high), "seconds")
