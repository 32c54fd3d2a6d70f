"""What an evaluation is about: the run, its checkpoint, and the recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopwm.data.cache import Columns
from loopwm.files import file_digest
from loopwm.model.world_model import WorldModel
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.journal import config_as_dict, read_config, versions


@dataclass(frozen=True)
class RunInfo:
    """What was evaluated.

    Attributes:
        name: name of the run folder. system: what kind of core. updates: made so far.
        loops: T used where nothing else is said: mu, or 1 for a stack.
        flops: operations of one environment step: encode, step at T, decode. flops_step: the step alone.
        checkpoint: digest of the checkpoint. device: where it was evaluated.
        data, data_digest: the recording evaluated on. episodes, transitions: how much of it was in the split.
        config: the run's whole configuration.
        trained_on: digest of the recording that it was trained on; empty in older evaluations.
    """

    name: str
    system: str
    seed: int
    updates: int
    learning_rate: float
    loops: int
    parameters: int
    flops: int
    flops_step: int
    checkpoint: str
    device: str
    world: str
    data: str
    data_digest: str
    episodes: int
    transitions: int
    versions: dict[str, str]
    config: dict[str, Any]
    trained_on: str = ""


def run_info(run: Path, model: WorldModel, data: Path, columns: Columns, held_out: np.ndarray) -> RunInfo:
    """What is about to be evaluated: `model`, the one of `run`, on the episodes `held_out` of the recording `data`."""
    settings, flops = read_config(run / "config.yaml"), model.flops()
    state = read_checkpoint(run / NAME, ()).state
    return RunInfo(
        name=run.name,
        system=settings.model.system,
        seed=settings.train.seed,
        updates=state["update"],
        learning_rate=settings.optim.lr,
        loops=model.default_loops,
        parameters=model.num_parameters(),
        flops=flops.total,
        flops_step=flops.step,
        checkpoint=file_digest(run / NAME),
        device=str(model.device),
        world=columns.meta.world,
        data=str(data),
        data_digest=columns.digest,
        episodes=len(held_out),
        transitions=int(columns.ep_len[held_out].sum()),
        versions=versions(),
        config=config_as_dict(settings),
        trained_on=state["data_digest"],
    )
