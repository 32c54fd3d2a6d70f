"""loopwm collect"""

from __future__ import annotations

import difflib
import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from loopwm.commands import collect_text
from loopwm.commands.arguments import parse
from loopwm.data.config import CollectConfig
from loopwm.errors import UserError
from loopwm.progress import TerminalProgress
from loopwm.text.worlds.registry import TEXT_WORLDS


@dataclass(frozen=True)
class Collect(CollectConfig):
    """Record episodes of a world, or of any Gymnasium environment, into one HDF5 file.

    loopwm collect gym:CartPole-v1 --steps 100000. The file appears when it is complete. It depends on the seed, and not
    on the number of workers. Text worlds have options of their own: loopwm collect scienceworld --help."""

    world: Annotated[Positional[str], arg(metavar="[WORLD]")] = CollectConfig.world
    """Name of the world, gym:ID, or dmc:DOMAIN-TASK."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The new file; data/WORLD.h5 when left out."""


def main(words: list[str]) -> None:
    """Parse, record, print."""
    if words and words[0] in TEXT_WORLDS:
        collect_text.main(words[0], words[1:])
        return
    arguments = parse(Collect, words, "collect")
    config = CollectConfig(**{one.name: getattr(arguments, one.name) for one in fields(CollectConfig)})
    # As with `python script.py`: modules here can be imported, for policies and environments of one's own.
    sys.path.insert(0, "")
    out = arguments.out or Path("data") / f"{file_name(config.world)}.h5"
    # Imported here because the engines take a while, and mistakes in the options are answered before.
    from loopwm.data.collect import collect
    from loopwm.data.store import Store

    refuse_text_world(arguments.world)
    with TerminalProgress("recording", "transition" if config.steps else "episode") as progress:
        collect(config, out, progress.advance)
    with Store.open(out) as store:
        preset = "pixels " if store.meta.observation.kind == "image" else ""
        print(
            f"Recorded {store.num_episodes} episodes of {config.world} with {store.num_transitions} transitions: {out}"
        )
        if store.num_transitions < config.steps:
            print(f"Fewer than {config.steps} transitions: that many need more than --episodes {config.episodes}.")
    print(f"next: loopwm train {preset}--data {shlex.quote(str(out))}")


def refuse_text_world(name: str) -> None:
    """Say how to record a text world whose name is misspelt, or not the first word.

    Raises:
        UserError: `name` is meant to be one.
    """
    from loopwm.envs.registry import world_names

    if name in TEXT_WORLDS:
        raise UserError(f"The name of a text world comes first, before its options: loopwm collect {name} ...")
    near = difflib.get_close_matches(name, (*TEXT_WORLDS, *world_names()), n=1)
    if near and near[0] in TEXT_WORLDS and name not in world_names():
        raise UserError(f"There is no world called '{name}'; did you mean '{near[0]}'?")


def file_name(world: str) -> str:
    """A world's name without what a file name may not hold: `gym:ns/CartPole-v1` -> `CartPole-v1`."""
    return world.replace(":", "/").split("/")[-1]
