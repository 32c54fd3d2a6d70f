"""loopwm train-gate"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from loopwm.commands.arguments import parse
from loopwm.progress import TerminalProgress, duration
from loopwm.train.config import GateTraining


@dataclass(frozen=True)
class TrainGate:
    """Teach a trained looped model when to leave its loop, for the exit rule 'gate'.

    The model itself does not change: the gate learns from the training episodes of the run's recording what each loop
    still gained, and is kept in the run's checkpoint. Ctrl-C leaves the run as it was."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A finished run of the looped system."""
    settings: Annotated[GateTraining, arg(name="")] = field(default_factory=GateTraining)
    data: Annotated[Path | None, arg(metavar="FILE")] = None
    """The recording the run was trained on; where its configuration says when left out."""
    overwrite: Annotated[bool, FlagCreatePairsOff] = False
    """Replace a gate that the run has already."""


def main(words: list[str]) -> None:
    """Parse, train, print."""
    arguments = parse(TrainGate, words, "train-gate")
    # Imported here because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.train.gate import LOG, train_gate

    with TerminalProgress("training the gate", "update") as progress:
        result = train_gate(
            arguments.run, arguments.settings, progress, data=arguments.data, overwrite=arguments.overwrite
        )
    updates, loss = result.losses[-1]
    print(
        f"Trained a gate for {arguments.run}: {updates} updates in {duration(result.seconds)}, last loss {loss:.4g}; "
        f"losses in {arguments.run / LOG}"
    )
    print(f"use it: loopwm.load({str(arguments.run)!r}).step(..., exit=loopwm.ExitConfig('gate', threshold=0.05))")
