"""What a report says of guarantees that lie beside a run: its certificate, and its calibrated exit threshold."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loopwm.certify.certificate import FILE as CERTIFICATE
from loopwm.certify.certificate import check
from loopwm.certify.words import summary
from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Interval
from loopwm.evaluate.figures import Figure
from loopwm.evaluate.plots import MUTED, SERIES, Axis, Line, line_figure

CALIBRATION = "calibration.json"


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


@dataclass(frozen=True)
class Candidate:
    """One threshold that was considered: its mean loops and its excess error with what bounds it."""

    threshold: float
    loops: float
    excess: Interval
    chosen: bool


def calibration_figure(run: Path) -> Figure | None:
    """Excess error against mean loops of the thresholds in RUN/calibration.json; None if there is nothing to draw."""
    content = _read(Path(run) / CALIBRATION)
    found = sorted(_candidates(content), key=lambda one: one.loops)
    if not found:
        return None
    claim, chosen = content.get("claim"), [one for one in found if one.chosen]
    lines = [Line("candidates", [one.loops for one in found], [one.excess for one in found], SERIES[0], marker="o")]
    if chosen:
        lines.append(
            Line("chosen", [one.loops for one in chosen], [one.excess.mean for one in chosen], SERIES[1], "none", "D")
        )
    lines.append(Line("", [found[0].loops, found[-1].loops], [0.0, 0.0], MUTED, dash=":"))
    threshold = f"Chosen: threshold {chosen[0].threshold:g}, {chosen[0].loops:.2f} loops. " if chosen else ""
    return Figure(
        "calibration",
        "Calibrated threshold",
        line_figure("calibration", lines, Axis("mean loops"), Axis("excess error over all loops")),
        f"{claim if isinstance(claim, str) else ''} {threshold}Every threshold that was considered, with the interval "
        "that calibration gave its excess error, on episodes held out for it.".strip(),
        "a chosen threshold whose interval reaches above the tolerance of the claim.",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _candidates(content: dict[str, Any]) -> list[Candidate]:
    """Those entries that say what a drawing needs; anything else is left out."""
    found = []
    listed = content.get("candidates")
    for entry in listed if isinstance(listed, list) else []:
        try:
            loops = entry["loops"] if "loops" in entry else entry["mean_loops"]
            excess = entry["excess"] if isinstance(entry["excess"], dict) else entry | {"mean": entry["excess"]}
            numbers = [
                float(value) for value in (entry["threshold"], loops, *(excess[k] for k in ("mean", "low", "high")))
            ]
        except (KeyError, TypeError, ValueError):
            continue
        if all(math.isfinite(value) for value in numbers):
            interval = Interval(*numbers[2:], n=0, episodes=0)
            found.append(Candidate(numbers[0], numbers[1], interval, bool(entry.get("chosen"))))
    return found
