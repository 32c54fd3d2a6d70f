"""loopwm study"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from loopwm.commands.arguments import leading, parse
from loopwm.studies.config import AdaptiveStudyConfig, DeferredStudyConfig, StudyConfig

NAME = arg(metavar="[NAME]", help="Which: billiards (the default), adaptive, deferred. Each has options of its own.")


@dataclass(frozen=True)
class Study:
    """Repeat a measurement that this repository publishes: from nothing to its numbers, over several seeds.

    Takes hours. An interrupted study goes on where it stopped when the command is given again."""

    name: Annotated[Positional[Literal["billiards"]], NAME] = "billiards"
    settings: Annotated[StudyConfig, arg(name="")] = field(default_factory=StudyConfig)


@dataclass(frozen=True)
class DeferredStudy:
    """Decoding every step of a window against decoding its end only: same data, windows, updates and seeds.

    Takes hours. An interrupted study goes on where it stopped when the command is given again."""

    name: Annotated[Positional[Literal["deferred"]], NAME] = "deferred"
    settings: Annotated[DeferredStudyConfig, arg(name="")] = field(default_factory=DeferredStudyConfig)


@dataclass(frozen=True)
class AdaptiveStudy:
    """What leaving the loop early saves at a calibrated excess error, and who gets the loops.

    On the looped runs of `loopwm study billiards`, which are trained if they are not there. Takes the better part of an
    hour, with them."""

    name: Annotated[Positional[Literal["adaptive"]], NAME] = "adaptive"
    settings: Annotated[AdaptiveStudyConfig, arg(name="")] = field(default_factory=AdaptiveStudyConfig)


def main(words: list[str]) -> None:
    """Parse, measure, print."""
    # Imported where it is run because torch takes seconds, and mistakes in the options are answered before.
    if leading(words, "billiards") == "adaptive":
        settings = parse(AdaptiveStudy, words, "study").settings
        from loopwm.studies.adaptive import run_adaptive_study

        print(f"Written: {run_adaptive_study(settings)}")
        return
    if leading(words, "billiards") == "deferred":
        settings = parse(DeferredStudy, words, "study").settings
        from loopwm.studies.deferred import run_deferred_study

        print(f"Written: {run_deferred_study(settings)}")
        return
    settings = parse(Study, words, "study").settings
    from loopwm.studies.billiards import run_study

    print(f"Written: {run_study(settings)}")
