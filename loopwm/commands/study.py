"""loopwm study"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from loopwm.commands.arguments import leading, parse
from loopwm.studies.config import (
    AdaptiveStudyConfig,
    CapacityStudyConfig,
    DeferredStudyConfig,
    GatherConfig,
    StabilityStudyConfig,
    StudyConfig,
    TextStudyConfig,
    WorldStudyConfig,
)

NAME = arg(
    metavar="[NAME]",
    help="Which: billiards (the default), adaptive, stability, deferred, world, capacity, text, or gather. Options "
    "differ.",
)


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


@dataclass(frozen=True)
class StabilityStudy:
    """Certified loops beside ordinary ones: error, attempts to break the certificate, 10,000 imagined steps, chaos.

    On the looped runs of `loopwm study billiards`, which are trained if they are not there, and on certified runs."""

    name: Annotated[Positional[Literal["stability"]], NAME] = "stability"
    settings: Annotated[StabilityStudyConfig, arg(name="")] = field(default_factory=StabilityStudyConfig)


@dataclass(frozen=True)
class WorldStudy:
    """The looped model and both stacks on any world that `loopwm collect` knows, by the same yardsticks.

    Takes from a quarter of an hour to hours, depending on the world. Goes on where it was interrupted."""

    name: Annotated[Positional[Literal["world"]], NAME]
    settings: Annotated[WorldStudyConfig, arg(name="")] = field(default_factory=WorldStudyConfig)


@dataclass(frozen=True)
class TextStudy:
    """The looped model and both stacks on a text world, beside rules, on every track; and what looping buys.

    Takes hours. An interrupted study goes on where it stopped when the command is given again."""

    name: Annotated[Positional[Literal["text"]], NAME]
    settings: Annotated[TextStudyConfig, arg(name="")] = field(default_factory=TextStudyConfig)


@dataclass(frozen=True)
class CapacityStudy:
    """Can one shared block learn several kinds of physics at once? Against one model for each, and ordinary stacks.

    Takes hours. An interrupted study goes on where it stopped when the command is given again."""

    name: Annotated[Positional[Literal["capacity"]], NAME]
    settings: Annotated[CapacityStudyConfig, arg(name="")] = field(default_factory=CapacityStudyConfig)


@dataclass(frozen=True)
class Gather:
    """Put the results of several studies into one file."""

    name: Annotated[Positional[Literal["gather"]], NAME]
    settings: Annotated[GatherConfig, arg(name="")]


def main(words: list[str]) -> None:
    """Parse, measure, print."""
    # Studies are imported where they are run because torch takes seconds, and mistakes in the options are answered
    # before.
    name = leading(words, "billiards")
    if name == "adaptive":
        adaptive = parse(AdaptiveStudy, words, "study").settings
        from loopwm.studies.adaptive import run_adaptive_study

        written = run_adaptive_study(adaptive)
    elif name == "stability":
        stability = parse(StabilityStudy, words, "study").settings
        from loopwm.studies.stability import run_stability_study

        written = run_stability_study(stability)
    elif name == "deferred":
        deferred = parse(DeferredStudy, words, "study").settings
        from loopwm.studies.deferred import run_deferred_study

        written = run_deferred_study(deferred)
    elif name == "world":
        world = parse(WorldStudy, words, "study").settings
        from loopwm.studies.world import run_world_study

        written = run_world_study(world)
    elif name == "text":
        text = parse(TextStudy, words, "study").settings
        from loopwm.studies.text import run_text_study

        written = run_text_study(text)
    elif name == "capacity":
        capacity = parse(CapacityStudy, words, "study").settings
        from loopwm.studies.capacity import run_capacity_study

        written = run_capacity_study(capacity)
    elif name == "gather":
        from loopwm.studies.gather import gather

        written = gather(parse(Gather, words, "study").settings)
    else:
        billiards = parse(Study, words, "study").settings
        from loopwm.studies.billiards import run_study

        written = run_study(billiards)
    print(f"Written: {written}")
