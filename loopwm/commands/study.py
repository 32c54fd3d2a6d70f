"""loopwm study"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Annotated, Any, Literal

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


@dataclass(frozen=True)
class Measurement:
    """A study: how it is typed, and the function that does it."""

    words: type
    module: str
    function: str


MEASUREMENTS = {
    "billiards": Measurement(Study, "billiards", "run_study"),
    "adaptive": Measurement(AdaptiveStudy, "adaptive", "run_adaptive_study"),
    "stability": Measurement(StabilityStudy, "stability", "run_stability_study"),
    "deferred": Measurement(DeferredStudy, "deferred", "run_deferred_study"),
    "world": Measurement(WorldStudy, "world", "run_world_study"),
    "capacity": Measurement(CapacityStudy, "capacity", "run_capacity_study"),
    "text": Measurement(TextStudy, "text", "run_text_study"),
    "gather": Measurement(Gather, "gather", "gather"),
}


def chosen(words: list[str]) -> tuple[Measurement, Any]:
    """Which study, and its settings."""
    measurement = MEASUREMENTS.get(leading(words, "billiards"), MEASUREMENTS["billiards"])
    return measurement, parse(measurement.words, words, "study").settings


def main(words: list[str]) -> None:
    """Parse, measure, print."""
    measurement, settings = chosen(words)
    # Imported after parsing because torch takes seconds, and mistakes in the options are answered before.
    module = import_module(f"loopwm.studies.{measurement.module}")
    print(f"Written: {getattr(module, measurement.function)(settings)}")
