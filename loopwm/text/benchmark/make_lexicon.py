"""Write the lists of names that ship with the package: python -m loopwm.text.benchmark.make_lexicon WORLD ...

    scienceworld [--variations N]   from the simulator's types of objects, and the object trees and referents at the
                                    start of at most N training variations of each of the 30 tasks
    alfworld GAMES                  from the PDDL problems of the games in a JSON lines file, xz-compressed or not

Needs what recording these worlds needs. The result is the same every time for the same versions and games.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loopwm.files import atomic_write

FOLDER = Path(__file__).parent / "lexicons"
GENERAL = frozenset(
    ("component", "living thing", "location", "object", "organism", "plane", "portal", "room", "self", "substance")
)
"""Names that the simulator has for kinds of things, and that its sentences use otherwise (`This room is called`)."""
RELATIONS = frozenset(("in", "on", "to", "at", "containing", "terminal", "should"))
"""Words of referents that name one thing by another (`seed in seed jar`), or none at all."""


def main(words: Sequence[str] | None = None) -> None:
    """Parse, collect, write."""
    parser = argparse.ArgumentParser(prog="python -m loopwm.text.benchmark.make_lexicon")
    worlds = parser.add_subparsers(dest="world", required=True)
    science = worlds.add_parser("scienceworld")
    science.add_argument("--variations", type=int, default=60)
    alf = worlds.add_parser("alfworld")
    alf.add_argument("games", type=Path)
    options = parser.parse_args(words)
    if options.world == "scienceworld":
        names = set(scienceworld_names(options.variations))
        source = (
            f"the types, object trees and referents of ScienceWorld {version('scienceworld')}, at most "
            f"{options.variations} training variations of every task"
        )
    else:
        names = set(alfworld_names(options.games))
        source = "the objects of the PDDL problems of ALFWorld's games"
    write(options.world, names, source)


def write(world: str, names: set[str], source: str) -> None:
    """Replace the list of one world."""
    head = f"# Names of things, from {source}.\n"
    names = names - GENERAL
    with atomic_write(FOLDER / f"{world}.txt") as aside:
        aside.write_text(head + "\n".join(sorted(names)) + "\n", encoding="utf-8")


def scienceworld_names(variations: int) -> Iterator[str]:
    """Names of types, of objects in the trees, and referents, in lower case; repeats are possible."""
    from scienceworld import ScienceWorldEnv  # pyright: ignore

    # Any: what stands in the JVM has no types.
    env: Any = ScienceWorldEnv("")
    try:
        for task in env.get_task_names():
            env.load(task, 0, "")
            yield from map(type_name, env.get_object_types())
            known = list(env.get_variations_train())
            # Spread over the variations, as neighbours resemble each other.
            for variation in known[:: max(1, len(known) // variations)][:variations]:
                env.load(task, variation, "")
                env.server.reset()
                yield from names_in(env.getObjectTree())
                yield from referents(env.get_all_object_ids_types_referents_LUTJSON())
    finally:
        env.close()


def type_name(path: str) -> str:
    """`scienceworld.objects.substance.food.AppleJuice` as `apple juice`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", path.rpartition(".")[2]).lower()


def names_in(tree: dict[str, Any]) -> Iterator[str]:
    """Names of the objects of a tree, and of what they are made of."""
    yield tree["name"].lower()
    material = tree.get("propMaterial")
    if material:
        yield material["substanceName"].lower()
    for inside in (tree.get("contents") or {}).values():
        yield from names_in(inside)


def referents(objects: dict[str, Any]) -> Iterator[str]:
    """What the simulator lets one call its objects, but for names by way of another object."""
    for one in objects.values():
        for referent in one["referents"]:
            name = referent.lower()
            if RELATIONS.isdisjoint(name.split()):
                yield name


def alfworld_names(games: Path) -> Iterator[str]:
    """Types of objects and receptacles in the games' PDDL problems, in lower case; repeats are possible."""
    opener = lzma.open if games.suffix == ".xz" else open
    with opener(games, "rt", encoding="utf-8") as lines:
        for line in lines:
            problem = json.loads(line)["pddl_problem"]
            yield from (name.lower() for name in re.findall(r"\b([A-Za-z]+)Type - [or]type\b", problem))


if __name__ == "__main__":
    main()
