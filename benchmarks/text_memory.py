"""Memory that the largest update of a run on texts needs, with and without keeping all for its gradients.

    python benchmarks/text_memory.py weights/scienceworld-small/config.yaml

Of all batches of the run, the one with the most pairs of words, one written and one remembered, is learned from by a
fresh process for each way, which then says the most memory it ever had. What a long run adds by and by is not in it.
"""

from __future__ import annotations

import multiprocessing
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from loopwm.data.windows import Windows
from loopwm.evaluate.speed import processor
from loopwm.files import write_json
from loopwm.model.text import head
from loopwm.presets import RunConfig
from loopwm.train.hardware import native_precision, peak_memory
from loopwm.train.journal import read_config, versions
from loopwm.train.trainer import Trainer


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    config: Annotated[Path, tyro.conf.Positional] = Path("weights/scienceworld-small/config.yaml")
    """Settings of the run."""
    batch: int = 0
    """Windows per update; those of the run when 0."""
    threads: int = 1
    """Torch threads."""
    out: Path | None = None
    """File for the numbers as JSON."""


@dataclass(frozen=True)
class Needed:
    """What one update took: GiB at most, and seconds when it is made again."""

    gib: float
    seconds: float


def pairs(windows: Windows) -> int:
    """Words that are written times words that are remembered, over all windows."""
    past = windows.past
    written = (windows.observations[:, past + 1 :] != 0).sum((1, 2))
    remembered = (windows.observations[:, :-1] != 0).sum((1, 2)) + (windows.actions != 0).sum((1, 2))
    return int((written * remembered).sum())


def trainer_of(config: RunConfig, threads: int, folder: str) -> Trainer:
    """As the run began, in the precision that fits the processor."""
    torch.set_num_threads(threads)
    trainer = Trainer(replace(config, train=replace(config.train, compile=False)), Path(folder))
    trainer.precision = native_precision(trainer.device)
    return trainer


def largest(config: RunConfig) -> tuple[int, int]:
    """The update with most pairs of words, and how many it has."""
    with tempfile.TemporaryDirectory() as folder:
        draw = trainer_of(config, 1, folder).sampler.draw
    train = config.train
    sizes = [pairs(draw(number, train.batch, train.window)) for number in range(train.updates)]
    return sizes.index(max(sizes)), max(sizes)


def update(config: RunConfig, number: int, threads: int, kept: int, tell: Callable[[Needed], None]) -> None:
    """Make the update `number` of the run twice: the optimiser has its memory from the first time on."""
    head._KEPT = kept
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(config, threads, folder)
        windows = trainer.sampler.draw(number, config.train.batch, config.train.window)
        trainer.draw = lambda: windows  # type: ignore[method-assign]
        seconds = 0.0
        for _ in range(2):
            start = time.perf_counter()
            trainer.advance()
            seconds = time.perf_counter() - start
        trainer.windows.close()
    tell(Needed(peak_memory(), seconds))


def measured(config: RunConfig, number: int, threads: int, kept: int) -> Needed:
    """In a process of its own, as the most memory that one ever had is all that it knows."""
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    process = context.Process(target=update, args=(config, number, threads, kept, said.put))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"The update was not made (exit code {process.exitcode}); there may be too little memory.")
    return said.get()


def main() -> None:
    arguments = tyro.cli(Arguments, description=__doc__)
    config = read_config(arguments.config)
    config = replace(config, train=replace(config.train, batch=arguments.batch or config.train.batch))
    number, size = largest(config)
    ways = {"made again": head._KEPT, "all kept": 2**62}
    found = {name: measured(config, number, arguments.threads, kept) for name, kept in ways.items()}
    print(f"Update {number + 1} of {config.train.updates} has {size / 1e6:.0f} million pairs of words.")
    for name, one in found.items():
        print(f"{name:<12}{one.gib:6.1f} GiB{one.seconds:7.1f} s")
    if arguments.out is not None:
        command = shlex.join(["python", "benchmarks/text_memory.py", *sys.argv[1:]])
        made = {"command": command, "versions": versions(), "processor": processor(torch.device("cpu"))}
        measured_ways = {name: asdict(one) for name, one in found.items()}
        write_json(
            arguments.out,
            made | {"batch": config.train.batch, "update": number + 1, "pairs": size, "ways": measured_ways},
        )


if __name__ == "__main__":
    main()
