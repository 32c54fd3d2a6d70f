"""A training run in its folder: begun, gone on with, and what it came to when it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from loopwm.errors import LoopwmError, UserError
from loopwm.files import claim
from loopwm.presets import RunConfig
from loopwm.progress import Progress, SilentProgress
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.journal import read_config, write_config
from loopwm.train.trainer import Trainer, TrainResult, continuing


def train(config: RunConfig, run: Path, progress: Progress | None = None) -> TrainResult:
    """Train a new run.

    Args:
        config: everything about it.
        run: folder to create.

    Raises:
        UserError: the folder exists or cannot be one, the data cannot be used, the device is not there.
        Interrupted: stopped by Ctrl-C, after saving.
        LoopwmError: training diverged for good, or the disk refused.
    """
    run = Path(run)
    # Files with a leading dot are what a killed atomic write leaves behind.
    if run.exists() and (not run.is_dir() or any(not part.name.startswith(".") for part in run.iterdir())):
        raise UserError(
            f"{run} already exists and is not overwritten; choose another folder with --run, or continue it with: "
            f"{continuing(run)}"
        )
    trainer = Trainer(config, run)
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        kind = UserError if isinstance(error, NotADirectoryError | FileExistsError) else LoopwmError
        raise kind(f"The folder {run} cannot be made ({error.strerror}); choose another place for it.") from error
    with _alone(run):
        write_config(run, config)
        trainer.settle_precision()
        return trainer.fit(progress or SilentProgress())


def resume(run: Path, progress: Progress | None = None) -> TrainResult:
    """Continue an interrupted run from its last checkpoint, bit for bit on a CPU.

    Raises:
        UserError: nothing to resume there, the data changed since, or another process trains it.
    """
    run = Path(run)
    config = read_config(run / "config.yaml")
    with _alone(run):
        trainer = Trainer(config, run)
        if (run / NAME).is_file():
            trainer.restore(read_checkpoint(run / NAME))
        else:
            # Stopped before its first checkpoint: beginning again loses nothing.
            trainer.settle_precision()
        return trainer.fit(progress or SilentProgress())


def finished(run: Path) -> TrainResult | None:
    """The result of a run that has made all its updates; None if it has not, or was never started."""
    if not (Path(run) / NAME).is_file():
        return None
    state = read_checkpoint(Path(run) / NAME, ()).state
    if state["update"] < read_config(Path(run) / "config.yaml").train.updates:
        return None
    return TrainResult(Path(run), state["validation"], state["update"], state["skipped"], state["seconds"])


def saved(run: Path) -> int:
    """Updates that the last checkpoint of a run has; 0 where there is none."""
    path = Path(run) / NAME
    return int(read_checkpoint(path, ()).state["update"]) if path.is_file() else 0


@contextlib.contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Two processes that train one run would write over each other's log and checkpoints."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context((run / ".lock").open("a"))
        except OSError as error:
            raise LoopwmError(f"Could not write in {run}: {error.strerror}; choose another folder.") from error
        claim(file, f"Another process is training {run}; wait until it is done, or choose another folder with --run.")
        yield
