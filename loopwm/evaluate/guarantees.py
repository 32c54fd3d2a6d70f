"""What a report says of guarantees that lie beside a run: its certificate, and its calibrated exit threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loopwm.calibrate.calibration import read_calibration
from loopwm.certify.certificate import FILE as CERTIFICATE
from loopwm.certify.certificate import check
from loopwm.certify.words import summary
from loopwm.errors import UserError
from loopwm.evaluate.figures import Figure
from loopwm.evaluate.plots import MUTED, SERIES, Axis, Line, line_figure


@dataclass(frozen=True)
class CertificateNote:
    """RUN/certificate.json in words, and whether it holds for the weights that are there now."""

    holds: bool
    lines: tuple[str, ...]


def certificate_note(run: Path) -> CertificateNote | None:
    """The certificate of a run, checked anew against its weights; None if it has none."""
    path = Path(run) / CERTIFICATE
    if not path.is_file():
        return None
    try:
        return CertificateNote(True, tuple(summary(check(Path(run), path)).splitlines()))
    except UserError as error:
        return CertificateNote(False, (str(error),))


def calibration_figure(run: Path) -> Figure | None:
    """Excess error against mean loops of the thresholds in RUN/calibration.json; None if the run is not calibrated.

    Raises:
        UserError: the file cannot be read.
    """
    found = read_calibration(run)
    if found is None:
        return None
    tried = sorted(found.candidates, key=lambda one: one.loops)
    loops = [one.loops for one in tried]
    lines = [
        Line(measure, loops, [one.excess[measure] for one in tried], color, marker="o")
        for measure, color in zip(found.full, SERIES, strict=False)
    ]
    lines.append(Line("tolerated", [loops[0], loops[-1]], [found.excess] * 2, MUTED, dash=":"))
    chosen = next(one for one in tried if one.threshold == found.exit.threshold)
    return Figure(
        "calibration",
        "Calibrated exit",
        line_figure("calibration", lines, Axis("mean loops per imagined step"), Axis("excess error over full depth")),
        f"{found.claim} Chosen: {chosen.loops:.2f} loops, {found.loops_share:.0%} of full depth. Shown: every "
        "threshold that was tried, from the most careful on, until one was not accepted; 95% intervals over episodes.",
        "a chosen threshold close to the tolerance, and intervals so wide that more episodes would buy fewer loops.",
    )
