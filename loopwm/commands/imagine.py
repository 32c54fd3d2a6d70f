"""loopwm imagine"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from loopwm.commands.arguments import parse
from loopwm.errors import LoopwmError, UserError
from loopwm.text.config import SimulatorConfig

if TYPE_CHECKING:
    from rich.console import Console

    from loopwm.text.playing import Beginning, Player, Real


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
    observation: str | None = None
    """Begin with this text instead of a recorded game."""
    description: str = ""
    """The task, where a game begins with --observation."""
    against_real: Annotated[bool, FlagCreatePairsOff] = False
    """Show the true answer beside every imagined one, and let the model go on from that: what was recorded, as long as
    the recorded actions are taken, and then what the real world says, where it is installed."""
    games: Annotated[Path | None, arg(metavar="PATH")] = None
    """With --against-real and a game of ALFWorld: where its games are, as in `loopwm collect alfworld --games`."""
    initial: Annotated[bool, FlagCreatePairsOff] = False
    """Show the model the complete initial state, where it is recorded."""
    settings: Annotated[SimulatorConfig, arg(name="")] = field(default_factory=SimulatorConfig)


def main(words: list[str]) -> None:
    """Parse, play."""
    arguments = parse(Imagine, words, "imagine")
    from rich.console import Console

    from loopwm.text.playing import Beginning, Player, recorded_beginning
    from loopwm.text.simulator import TextSimulator

    refuse_ignored(arguments)
    simulator = TextSimulator.from_run(arguments.run, arguments.settings)
    if arguments.observation is not None:
        game = Beginning(arguments.observation, arguments.description)
    else:
        game = recorded_beginning(arguments.run, arguments.data, arguments.game)
    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:
        real = real_world(game, arguments.games, stack, console) if arguments.against_real else None
        play(Player(simulator, game, arguments.against_real, arguments.initial, real), console)


def refuse_ignored(arguments: Imagine) -> None:
    """Raise UserError for options that say nothing beside the others."""
    if arguments.games is not None and not arguments.against_real:
        raise UserError("--games says where the real world's games are: add --against-real.")
    if arguments.observation is None and arguments.description:
        raise UserError("--description is the task of a game that begins with --observation: give that as well.")
    if arguments.observation is not None and (arguments.game is not None or arguments.data is not None):
        raise UserError(
            "A game begins with --observation, or as one of a recording (--game, --data): give one of both."
        )


def real_world(game: Beginning, games: Path | None, stack: contextlib.ExitStack, console: Console) -> Real | None:
    """The world that a game was recorded in; None where it cannot be played here, which is said.

    Raises:
        UserError: `games` are given, and the world has none to be found.
    """
    from loopwm.text.playing import GameOver
    from loopwm.text.worlds.registry import TEXT_WORLDS, where

    if game.world not in TEXT_WORLDS:
        return None
    config = where(game.world, games)
    try:
        world = TEXT_WORLDS[game.world].make(config)
        stack.callback(world.close)
        # Asked for nothing, to find out now whether it can be played.
        world.replay(game.name, ())
    except LoopwmError as error:
        console.print(f"(only recorded answers are shown: {error})", markup=False)
        return None

    def asked(actions: Sequence[str]) -> str:
        answers = world.replay(game.name, actions)
        if len(answers) < len(actions):
            raise GameOver("the real game has ended")
        return answers[-1]

    return asked


def play(player: Player, console: Console) -> None:
    """Until the end of the input, or `quit`."""
    console.print(player.opening(), markup=False)
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except EOFError:
            break
        if line in ("quit", "exit"):
            break
        console.print(player.take(line), markup=False)
