"""loopwm study"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from loopwm.commands.arguments import parse
from loopwm.studies.config import StudyConfig


@dataclass(frozen=True)
class Study:
    """Repeat a measurement that this repository publishes: from nothing to its numbers, over several seeds.

    Takes hours. An interrupted study goes on where it stopped when the command is given again."""

    name: Annotated[Positional[Literal["billiards"]], arg(metavar="[NAME]", help="Which: billiards.")] = "billiards"
    settings: Annotated[StudyConfig, arg(name="")] = field(default_factory=StudyConfig)


def main(words: list[str]) -> None:
    """Parse, measure, print."""
    settings = parse(Study, words, "study").settings
    # Imported here because torch takes seconds, and mistakes in the options are answered before.
    from loopwm.studies.billiards import run_study

    print(f"Written: {run_study(settings)}")
