"""The report's section on how a run loops, against the reference stored when its training ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loopwm.evaluate.figures import Figure
from loopwm.evaluate.findings import number
from loopwm.evaluate.plots import MUTED, SERIES, Axis, Line, line_figure
from loopwm.evaluate.tables import Cell, Table
from loopwm.monitor.checks import Check
from loopwm.monitor.monitor import Monitoring, Side, read_monitoring
from loopwm.monitor.reference import FILE, read_reference


@dataclass(frozen=True)
class MonitorSection:
    """What the page shows: a sentence, figures, and a table where there is a comparison."""

    text: str
    figures: tuple[Figure, ...]
    table: Table | None


def monitor_section(run: Path) -> MonitorSection | None:
    """Of RUN/monitor.json, or of RUN/reference.json alone; None where there is neither.

    Raises:
        UserError: a file is there and cannot be read.
    """
    compared = read_monitoring(run)
    if compared is not None:
        return MonitorSection(_verdict(compared), _figures(compared.now, compared.reference), _table(compared))
    if not (Path(run) / FILE).is_file():
        return None
    found = read_reference(run)
    text = (
        f"How the run looped when its training ended, on {found.profile.n:,} {found.sample.split} transitions. "
        "loopwm monitor compares later models, and later recordings, with this."
    )
    return MonitorSection(text, _figures(Side.of(found), None), None)


def _verdict(compared: Monitoring) -> str:
    now, before = compared.now, compared.reference
    what = f"{now.run}, n = {now.n:,} transitions of {now.episodes} episodes, against the reference of {before.run}"
    if not compared.changed:
        return f"{what}: none of {len(compared.checks)} properties is beyond its limit."
    reasons = "; ".join(check.reason for check in compared.changed)
    return f"{what}: {len(compared.changed)} of {len(compared.checks)} properties are beyond their limits. {reasons}."


def _table(compared: Monitoring) -> Table:
    return Table(
        ("reference", "now", "change", "limit", "verdict"),
        tuple((check.name, _cells(check)) for check in compared.checks),
    )


def _cells(check: Check) -> tuple[Cell, ...]:
    change = Cell(number(check.change), f"{check.kind}, {number(check.low)}\u2013{number(check.high)}")
    return (
        Cell(number(check.reference)),
        Cell(number(check.now)),
        change,
        Cell(number(check.limit)),
        Cell(check.verdict),
    )


def _figures(now: Side, before: Side | None) -> tuple[Figure, ...]:
    sides = [(now, "now" if before else "", SERIES[0])]
    if before is not None:
        sides.append((before, "reference", MUTED))
    loops = range(1, len(now.residual) + 1)
    residual = [Line(label, loops, side.residual, colour) for side, label, colour in sides]
    most = max(index + 1 for side, _, _ in sides for index, share in enumerate(side.halting) if share)
    used = [Line(label, range(1, most + 1), side.halting[:most], colour, marker="o") for side, label, colour in sides]
    ticks = tuple((float(loop), str(loop)) for loop in now.grid)
    return (
        Figure(
            "monitor-residual",
            "How far each loop moves the latent",
            line_figure(
                "monitor-residual",
                residual,
                Axis("loop", log=True, ticks=ticks),
                Axis("relative change (geometric mean)", log=True),
            ),
            f"Mean over n = {now.n:,} transitions; the model was trained around {now.mu} loops.",
            "a curve that no longer falls, or that left its reference.",
        ),
        Figure(
            "monitor-halting",
            "Loops used under the exit rule",
            line_figure("monitor-halting", used, Axis("loops used"), Axis("share of transitions")),
            "Each transition leaves the loop when the exit rule lets it go.",
            "all transitions at one number of loops, or a histogram that left its reference.",
        ),
    )
