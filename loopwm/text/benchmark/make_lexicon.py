"""Write the lists of names that ship with the package: python -m loopwm.text.benchmark.make_lexicon WORLD ...

    scienceworld [--variations N]   from the object trees of the simulator, N training variations of each of the 30 tasks,
                                    at the start and after the plants and animals have grown
    alfworld GAMES                  from the PDDL problems of the games in a JSON lines file, xz-compressed or not

Needs what recording these worlds needs. The result is the same every time for the same versions and games.
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loopwm.files import atomic_write

FOLDER = Path(__file__).parent / "lexicons"
GROWN = (0, 30, 60)
"""Times, in iterations of `wait1`, at which names are read; creatures change theirs as they grow."""


def main(words: Sequence[str] | None = None) -> None:
    """Parse, collect, write."""
    parser = argparse.ArgumentParser(prog="python -m loopwm.text.benchmark.make_lexicon")
    worlds = parser.add_subparsers(dest="world", required=True)
    science = worlds.add_parser("scienceworld")
    science.add_argument("--variations", type=int, default=8)
    alf = worlds.add_parser("alfworld")
    alf.add_argument("games", type=Path)
    options = parser.parse_args(words)
    if options.world == "scienceworld":
        names = set(scienceworld_names(options.variations))
        source = f"the object trees of ScienceWorld 1.2.3, {options.variations} training variations of every task"
    else:
        names = set(alfworld_names(options.games))
        source = "the objects of the PDDL problems of ALFWorld's games"
    write(options.world, names, source)


def write(world: str, names: set[str], source: str) -> None:
    """Replace the list of one world."""
    head = f"# Names of things, from {source}.\n"
    with atomic_write(FOLDER / f"{world}.txt") as aside:
        aside.write_text(head + "\n".join(sorted(names)) + "\n", encoding="utf-8")


def scienceworld_names(variations: int) -> Iterator[str]:
    """Every name in the object trees, in lower case; repeats are possible."""
    from scienceworld import ScienceWorldEnv

    env = ScienceWorldEnv("")
    try:
        for task in env.get_task_names():
            env.load(task, 0, "")
            known = list(env.get_variations_train())
            # Spread over the variations, as neighbours resemble each other.
            chosen = known[:: max(1, len(known) // variations)][:variations]
            for variation in chosen:
                env.load(task, variation, "")
                env.server.reset()
                waited = 0
                for until in GROWN:
                    for _ in range(until - waited):
                        env.server.step("wait1")
                    waited = until
                    yield from names_in(env.getObjectTree())
    finally:
        env.close()


def names_in(tree: dict[str, Any]) -> Iterator[str]:
    """Names of the objects of a tree, and of what they are made of."""
    yield tree["name"].lower()
    material = tree.get("propMaterial")
    if material:
        yield material["substanceName"].lower()
    for inside in (tree.get("contents") or {}).values():
        yield from names_in(inside)


def alfworld_names(games: Path) -> Iterator[str]:
    """Types of objects and receptacles in the games' PDDL problems, in lower case; repeats are possible."""
    opener = lzma.open if games.suffix == ".xz" else open
    with opener(games, "rt", encoding="utf-8") as lines:
        for line in lines:
            problem = json.loads(line)["pddl_problem"]
            yield from (name.lower() for name in re.findall(r"\b([A-Za-z]+)Type - [or]type\b", problem))


if __name__ == "__main__":
    main()
