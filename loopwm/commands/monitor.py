"""loopwm monitor"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from loopwm.commands.arguments import parse
from loopwm.errors import UserError
from loopwm.monitor.config import MonitorConfig, ProfileConfig

if TYPE_CHECKING:
    from loopwm.monitor.checks import Check
    from loopwm.monitor.monitor import Monitoring


@dataclass(frozen=True)
class Monitor:
    """Compare how a model loops now with the reference stored when its training ended: error and residual at every
    depth, loops that turn back, loops used, overall and by difficulty.

    Exit code 1 and the reasons if a property is beyond its limit by more than the choice of episodes explains. With
    --reference a retrained model is compared with the one in service, with DATA a model with a newer recording of its
    world."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A run folder."""
    data: Annotated[Positional[Path | None], arg(metavar="[DATA]")] = None
    """Recording to measure on; the one the run was trained on when left out."""
    reference: Annotated[Path | None, arg(metavar="RUN-OR-FILE")] = None
    """Compare with the reference of this run, or with this file, instead of the run's own."""
    limits: Annotated[MonitorConfig, arg(name="")] = field(default_factory=MonitorConfig)
    """What counts as a change."""
    store: Annotated[bool, FlagCreatePairsOff] = False
    """Measure the run and keep the result as its reference, as training does at its end."""
    sample: ProfileConfig = field(default_factory=ProfileConfig)
    """How a reference is measured, with --store."""
    overwrite: Annotated[bool, FlagCreatePairsOff] = False
    """With --store, replace the reference that the run holds already."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""


def main(words: list[str]) -> None:
    """Parse, store or compare, print."""
    arguments = parse(Monitor, words, "monitor")
    if arguments.store and arguments.reference is not None:
        raise UserError("--store measures the run itself and compares it with nothing: leave --reference out.")
    if arguments.store and arguments.limits != MonitorConfig():
        raise UserError("--store compares with nothing: leave the limits out.")
    if not arguments.store and (arguments.overwrite or arguments.sample != ProfileConfig()):
        raise UserError(
            "--overwrite and --sample say how a reference is stored: add --store (a comparison measures as its "
            "reference did)."
        )
    # Imported here because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.monitor.monitor import RESULT, keep_reference, monitor

    if arguments.store:
        path = keep_reference(
            arguments.run,
            arguments.data,
            arguments.sample,
            device=arguments.device,
            overwrite=arguments.overwrite,
        )
        print(f"reference: {path}")
        return
    result = monitor(arguments.run, arguments.data, arguments.reference, arguments.limits, device=arguments.device)
    print(table(result))
    print(f"every number: {arguments.run / RESULT}")
    result.require_unchanged()


def table(result: Monitoring) -> str:
    """Every property, one a line."""
    before, now = result.reference, result.now
    how = "the same transitions" if result.paired else "different transitions"
    lines = [
        f"{now.run} (n = {now.n} transitions of {now.episodes} episodes) against {before.run} (n = {before.n} of "
        f"{before.episodes}): {how}; all intervals together {result.limits.confidence:.0%}"
    ]
    lines += [f"{'':<52}{'reference':>10}{'now':>10}{'change':>10}  {'interval':<20}{'limit':>8}  verdict"]
    return "\n".join([*lines, *map(row, result.checks)])


def row(check: Check) -> str:
    """One line of the table."""
    interval = f"[{check.low:.3g}, {check.high:.3g}]"
    numbers = f"{check.reference:>10.4g}{check.now:>10.4g}{check.change:>10.3g}  {interval:<20}{check.limit:>8.3g}"
    return f"{check.name:<52}{numbers}  {check.verdict}"
