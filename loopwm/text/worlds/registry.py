"""Names of text worlds, what can be chosen about each, and how to make it.

A world's packages are imported when it is made, so listing the worlds costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from loopwm.errors import UserError
from loopwm.text.worlds import alfworld, scienceworld, textworld
from loopwm.text.worlds.world import TextWorld


@dataclass(frozen=True)
class TextWorldEntry:
    """A text world that can be recorded.

    Attributes:
        summary: one line for people.
        config: the dataclass that `make` takes; its fields are options of the command line.
        make: configuration -> the world.
        actors: who can act in it; the first one does where nobody is named.
    """

    summary: str
    config: type[Any]
    make: Callable[[Any], TextWorld]
    actors: tuple[str, ...]


TEXT_WORLDS: dict[str, TextWorldEntry] = {
    scienceworld.NAME: TextWorldEntry(
        "thirty tasks of elementary science in a house of ten rooms (ScienceWorld, Java)",
        scienceworld.ScienceWorldConfig,
        scienceworld.ScienceWorld,
        scienceworld.ACTORS,
    ),
    alfworld.NAME: TextWorldEntry(
        "household tasks (ALFWorld; its games are a separate download)",
        alfworld.AlfWorldConfig,
        alfworld.AlfWorld,
        alfworld.ACTORS,
    ),
    textworld.NAME: TextWorldEntry(
        "games that TextWorld makes from a seed: coins, cooking, treasure",
        textworld.MadeGamesConfig,
        textworld.MadeGames,
        textworld.ACTORS,
    ),
}


def maker(name: str, config: Any) -> Callable[[], TextWorld]:
    """What makes the world `name`, in this process or, pickled, in another.

    Raises:
        UserError: there is no such world.
    """
    if name not in TEXT_WORLDS:
        raise UserError(f"There is no text world called '{name}'; choose one of: {', '.join(TEXT_WORLDS)}.")
    return partial(TEXT_WORLDS[name].make, config)


def where(name: str, games: Path | None) -> Any:
    """The configuration of a world whose recorded games are played again.

    Args:
        games: where ALFWorld's are; as usual when None.

    Raises:
        UserError: games of another world are given.
    """
    entry = TEXT_WORLDS[name]
    if games is None:
        return entry.config()
    if name != alfworld.NAME:
        raise UserError(f"The games of {name} are not files; leave --games out.")
    return entry.config(games=games)


def actors_of(name: str, actors: tuple[str, ...]) -> tuple[str, ...]:
    """Those actors, or the world's first one where there are none.

    Raises:
        UserError: the world knows no such actor.
    """
    known = TEXT_WORLDS[name].actors
    for actor in actors:
        if actor not in known:
            raise UserError(f"Nobody called '{actor}' plays {name}; choose from: {', '.join(known)}.")
    return actors or known[:1]
