"""loopwm calibrate"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from loopwm.calibrate.config import CalibrateConfig
from loopwm.commands.arguments import parse
from loopwm.progress import TerminalProgress

if TYPE_CHECKING:
    from loopwm.calibrate.calibration import Calibration


@dataclass(frozen=True)
class Calibrate:
    """Choose the cheapest threshold of an exit rule whose excess error over full depth stays within a tolerance, with a
    stated confidence, on held-out episodes; and keep it in the run's checkpoint."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run of the looped system."""
    settings: Annotated[CalibrateConfig, arg(name="")] = field(default_factory=CalibrateConfig)
    data: Annotated[Path | None, arg(metavar="FILE")] = None
    """Episodes recorded for this; the held-out ones of the run's own recording when left out."""
    overwrite: Annotated[bool, FlagCreatePairsOff] = False
    """Replace the calibrated exit that the run holds already."""


def main(words: list[str]) -> None:
    """Parse, calibrate, print."""
    arguments = parse(Calibrate, words, "calibrate")
    # Imported here because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.calibrate.calibration import FILE, calibrate

    with TerminalProgress("calibrating", "threshold") as progress:
        result = calibrate(arguments.run, arguments.settings, arguments.data, progress, overwrite=arguments.overwrite)
    print(table(result))
    print(result.claim)
    print(f"It spends {result.loops_share:.0%} of the loops of full depth there.")
    print(f"kept in the checkpoint; every number: {arguments.run / FILE}")
    print(f"use it: model = loopwm.load({str(arguments.run)!r}); model.imagine(..., exit=model.exit)")


def table(result: Calibration) -> str:
    """The candidates, one a line, from careful to cheap."""
    measures = list(result.full)
    head = f"{'threshold':>10}{'loops':>7}" + "".join(f"{'excess, ' + name:>34}" for name in measures)
    lines = [f"{head}{'p':>10}"]
    for one in result.candidates:
        excess = "".join(
            f"{f'{part.mean:+.2%} [{part.low:+.2%}, {part.high:+.2%}]':>34}" for part in one.excess.values()
        )
        mark = "  <- chosen" if one.threshold == result.exit.threshold else "" if one.accepted else "  not accepted"
        lines.append(f"{one.threshold:>10.4g}{one.loops:>7.2f}{excess}{one.p:>10.2g}{mark}")
    return "\n".join(lines)
