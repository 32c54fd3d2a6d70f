"""loopwm imagine"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from loopwm.commands.arguments import parse
from loopwm.text.simulator import SimulatorConfig


@dataclass(frozen=True)
class Imagine:
    """Play a text world that a model has learned: type actions, read what the model says they lead to.

    A game begins as a recorded episode does. An empty line takes the recorded action, `undo` takes one back, and `quit`
    ends; everything else is an action."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, or the name of a model that comes with loopwm."""
    data: Annotated[Path | None, arg(metavar="FILE")] = None
    """The text recording to take a game from; what the run was trained on when left out."""
    game: str | None = None
    """The game to begin as, such as `boil/12`; a held-out one when left out."""
    against_real: Annotated[bool, FlagCreatePairsOff] = False
    """Show beside every answer what the recorded episode says, as long as its actions are taken, and let the model go
    on from that."""
    initial: Annotated[bool, FlagCreatePairsOff] = False
    """Show the model the complete initial state, where it is recorded."""
    settings: Annotated[SimulatorConfig, arg(name="")] = field(default_factory=SimulatorConfig)


def main(words: list[str]) -> None:
    """Parse, play."""
    arguments = parse(Imagine, words, "imagine")
    from rich.console import Console

    from loopwm.text.playing import Player, game_of
    from loopwm.text.simulator import TextSimulator

    simulator = TextSimulator.from_run(arguments.run, arguments.settings)
    episode = game_of(arguments.run, arguments.data, arguments.game)
    player = Player(simulator, episode, arguments.against_real, arguments.initial)
    console = Console(highlight=False)
    console.print(player.opening(), markup=False)
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except EOFError:
            break
        if line in ("quit", "exit"):
            break
        console.print(player.take(line), markup=False)
