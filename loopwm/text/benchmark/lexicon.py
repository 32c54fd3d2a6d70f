"""What counts as an entity: names of things, and numbers. A frozen list of names per world ships with the package.

ScienceWorld: every name in its object trees, matched longest first and without regard to case (`Apples` is no match for
`apple`), and every number that is no part of such a name. ALFWorld: a name followed by its number, `drawer 3`.
`python -m loopwm.text.benchmark.make_lexicon` writes the lists anew.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib.resources import files

from loopwm.errors import UserError

WORLDS = ("scienceworld", "alfworld")

_WORD = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+(?:'[^\W\d_]+)*")


class Lexicon:
    """Finds the entities in a text.

    Args:
        names: names of things, each of one or more words.
        numbered: a name is an entity only together with a number after it, and no number is one by itself.
    """

    def __init__(self, names: Iterable[str], *, numbered: bool):
        self.numbered = numbered
        self.names = frozenset(" ".join(_WORD.findall(name.lower())) for name in names) - {""}
        by_first: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for name in sorted(self.names):
            words = tuple(name.split())
            by_first[words[0]].append(words)
        self._by_first = {first: sorted(found, key=len, reverse=True) for first, found in by_first.items()}

    def entities(self, text: str) -> list[str]:
        """Entities in lower case, in the order in which they are mentioned, each as often as it is."""
        words = _WORD.findall(text.lower())
        found: list[str] = []
        at = 0
        while at < len(words):
            name = next((name for name in self._by_first.get(words[at], ()) if self._is_at(words, at, name)), None)
            if name is not None:
                end = at + len(name) + self.numbered
                found.append(" ".join(words[at:end]))
                at = end
                continue
            if not self.numbered and words[at][0].isdigit():
                found.append(words[at])
            at += 1
        return found

    def _is_at(self, words: list[str], at: int, name: tuple[str, ...]) -> bool:
        end = at + len(name)
        if tuple(words[at:end]) != name:
            return False
        return not self.numbered or (end < len(words) and words[end].isdigit())


@cache
def load_lexicon(world: str) -> Lexicon:
    """The lexicon of a world that ships with the package.

    Raises:
        UserError: there is none for that world.
    """
    if world not in WORLDS:
        raise UserError(f"There is no lexicon of the world '{world}'; choose one of {', '.join(WORLDS)}.")
    text = (files("loopwm.text.benchmark") / "lexicons" / f"{world}.txt").read_text(encoding="utf-8")
    names = [line for line in text.splitlines() if line and not line.startswith("#")]
    return Lexicon(names, numbered=world == "alfworld")
