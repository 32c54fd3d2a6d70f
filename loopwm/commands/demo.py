"""loopwm demo"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from loopwm.commands.arguments import parse
from loopwm.errors import UserError
from loopwm.files import atomic_write
from loopwm.presets import PRESETS, preset

SHOWN = [name for name, one in PRESETS.items() if one.episodes and not one.config.model.loop.certified]
"""Presets that stacks can be trained by as well, on a world that is recorded for it."""
MARK = "preset.txt"
"""Says which preset a demo folder was made with."""


@dataclass(frozen=True)
class Demo:
    """Everything in one go: record billiards, train the looped model and two ordinary stacks on the same windows,
    evaluate all three on episodes they have never seen, and write a report.

    An interrupted demo goes on where it stopped when the command is given again."""

    preset: Annotated[Positional[str], arg(metavar="[PRESET]", help=f"One of {', '.join(SHOWN)}.")] = "demo"
    out: Annotated[Path, arg(metavar="FOLDER")] = Path("runs/demo")
    """Where everything goes. A demo of the debug preset makes room for the next one, any other is kept."""


def main(words: list[str]) -> None:
    """Parse, run the demo, print."""
    arguments = parse(Demo, words, "demo")
    name, out = arguments.preset, arguments.out
    # An unknown preset is refused before anything is touched.
    preset(name)
    if name not in SHOWN:
        raise UserError(
            f"The preset '{name}' has no demo, which compares with stacks on a world of numbers; choose one of "
            f"{', '.join(SHOWN)}."
        )
    make_room(name, out)
    from loopwm.studies.demo import run_demo

    result = run_demo(name, out)
    print(f"{name} demo, the lines that matter:")
    for line in result.lines:
        print(f"  - {line}")
    print(f"report: {result.html}\nevery number: {result.json}")


def make_room(name: str, out: Path) -> None:
    """Mark `out` as a demo of the preset `name`, clearing away a demo of `debug`, whose numbers mean nothing.

    Raises:
        UserError: `out` holds anything else that is not a demo of `name`.
    """
    mark = out / MARK
    if out.is_dir() and any(out.iterdir()):
        if not mark.is_file():
            raise UserError(f"{out} exists and holds no demo; choose another folder with --out.")
        before = mark.read_text().strip()
        if before == "debug" and (name != "debug" or (out / "report.json").is_file()):
            shutil.rmtree(out)
        elif before != name:
            raise UserError(f"{out} holds a demo of the preset '{before}'; choose another folder with --out.")
    with atomic_write(mark) as aside:
        aside.write_text(f"{name}\n")
