"""loopwm report"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from loopwm.commands.arguments import parse
from loopwm.errors import UserError


@dataclass(frozen=True)
class Report:
    """Write report.html and report.json about one or more evaluated runs.

    The page stands alone: no network, readable on a phone. The looped run is compared with the others. Runs that
    learned a text world are reported from what loopwm evaluate RUN --benchmark has stored beside them."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]")]
    """Run folders."""
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs/report")
    """Where the two files go."""
    device: str = "auto"
    """Where the time of a step is measured: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`; of text runs nothing is."""


def main(words: list[str]) -> None:
    """Parse, write, print."""
    arguments = parse(Report, words, "report")
    if not arguments.runs:
        raise UserError("There is nothing to report on; name one or more run folders: loopwm report RUN [RUN ...]")
    from loopwm.evaluate.report import write_report
    from loopwm.text.report.report import all_text, write_text_report

    again = shlex.join(["loopwm", "report", *words])
    if all_text(arguments.runs):
        report = write_text_report(arguments.runs, arguments.out, again)
    else:
        report = write_report(arguments.runs, arguments.out, again, device=arguments.device)
    for line in report.lines:
        print(f"  - {line.text}")
    print(f"report: {report.html}\nevery number: {report.json}")
