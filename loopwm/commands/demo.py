"""loopwm demo"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from loopwm.commands.arguments import parse
from loopwm.presets import PRESETS, preset


@dataclass(frozen=True)
class Demo:
    """Everything in one go: record billiards, train the looped model and two ordinary stacks on the same windows,
    evaluate all three on episodes they have never seen, and write a report.

    'demo' takes about ten minutes on two cores; 'debug' less than one, with numbers too small to mean anything."""

    preset: Annotated[Positional[str], arg(metavar="[PRESET]", help=f"One of {', '.join(PRESETS)}.")] = "demo"
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs/demo")
    """Where everything goes."""


def main(words: list[str]) -> None:
    """Parse, run the demo, print."""
    arguments = parse(Demo, words, "demo")
    preset(arguments.preset)
    from loopwm.studies.demo import run_demo

    run_demo(arguments.preset, arguments.out)
