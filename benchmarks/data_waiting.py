"""Share of its time that training waits for data, from states and from images of 64 by 64.

    python benchmarks/data_waiting.py

Records both billiards worlds where they are not there, and trains on each with its preset for a while. Waiting is the
time until a batch is on the device, beginning with the moment it is asked for. "Not read ahead" is the same where
nothing is read while the update before is computed.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from loopwm.evaluate.speed import processor
from loopwm.files import write_json
from loopwm.presets import preset
from loopwm.studies.demo import record
from loopwm.train.curriculum import horizon
from loopwm.train.journal import versions
from loopwm.train.trainer import Trainer


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    folder: Annotated[Path, tyro.conf.Positional] = Path("data")
    """Where the recordings are, or go."""
    episodes: int = 400
    """Episodes that are recorded."""
    updates: int = 40
    """Updates that are counted, of each world and way."""
    warmup: int = 5
    """Updates before counting."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`."""
    threads: int = 1
    """Torch threads."""
    batch: int = 0
    """Windows per update; the preset's when 0."""
    out: Path | None = None
    """File for the numbers as JSON."""


@dataclass(frozen=True)
class Waiting:
    """One world: milliseconds per update, and the shares of them spent waiting."""

    world: str
    device: str
    batch: int
    update: float
    share: float
    share_not_read_ahead: float


def measured(name: str, arguments: Arguments) -> Waiting:
    """Of the preset `name`."""
    settings = replace(preset(name), episodes=arguments.episodes)
    path = arguments.folder / f"waiting-{settings.world}.h5"
    data, total = record(settings, path), arguments.updates + arguments.warmup
    train = replace(settings.config.train, updates=total, compile=False, device=arguments.device)
    train = replace(train, batch=arguments.batch or train.batch)
    config = replace(
        settings.config, data=data, train=train, optim=replace(settings.config.optim, warmup=arguments.warmup)
    )
    shares, update = {}, 0.0
    for ahead in (True, False):
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(config, Path(folder))
            spent, waited = timed(trainer, arguments, ahead)
            trainer.windows.close()
        shares[ahead] = waited / spent
        update = 1000 * spent / arguments.updates if ahead else update
    return Waiting(settings.world, str(trainer.device), train.batch, update, shares[True], shares[False])


def timed(trainer: Trainer, arguments: Arguments, ahead: bool) -> tuple[float, float]:
    """Seconds of all counted updates, and of waiting within them."""
    if not ahead:

        def alone() -> object:
            start, train = time.perf_counter(), trainer.config.train
            windows = trainer.sampler.sample(train.batch, horizon(train, trainer.update)).to(trainer.device)
            trainer.waited += time.perf_counter() - start
            return windows

        trainer.draw = alone  # type: ignore[method-assign]
    start = waited = 0.0
    for update in range(arguments.warmup + arguments.updates):
        if update == arguments.warmup:
            start, waited = time.perf_counter(), trainer.waited
        # Reads the gradient's norm back, so nothing of an update is left to the next.
        trainer.advance()
    return time.perf_counter() - start, trainer.waited - waited


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(arguments.threads)
    found = [measured(name, arguments) for name in ("billiards", "pixels")]
    for one in found:
        print(
            f"{one.world:<18}{one.device:<6} batch {one.batch:<5}{one.update:8.1f} ms an update, waiting "
            f"{100 * one.share:.2f}% of it, {100 * one.share_not_read_ahead:.2f}% not read ahead"
        )
    if arguments.out is not None:
        command = shlex.join(["python", "benchmarks/data_waiting.py", *sys.argv[1:]])
        made = {"command": command, "versions": versions(), "processor": processor(torch.device("cpu"))}
        write_json(arguments.out, made | {"worlds": [asdict(one) for one in found]})


if __name__ == "__main__":
    main()
