"""The PDDL problem of an ALFWorld game, read without the engine: what things are called and where they are at first."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

_FACT = re.compile(r"\((\w+)((?:\s+\w+)+)\s*\)")
_OBJECT_STATES = (
    (("ishot", "isclean"), "a hot and clean"),
    (("iscool", "isclean"), "a cool and clean"),
    (("ishot",), "a hot"),
    (("isclean",), "a clean"),
    (("iscool",), "a cold"),
)
"""What examining an object says of it, by the facts that have to hold; the first that applies counts."""


@dataclass(frozen=True)
class AlfredProblem:
    """What a PDDL problem says about the start of a game.

    Attributes:
        facts: predicate -> its arguments wherever it holds at the start, sorted as the engine sorts them; all in lower
            case.
        names: identifier of a thing -> what the game calls it, such as `drawer 3`.
    """

    facts: dict[str, list[tuple[str, ...]]]
    names: dict[str, str]


def read_problem(text: str) -> AlfredProblem:
    """The facts between `(:init` and `(:goal`.

    Raises:
        ValueError: there is no such part.
    """
    lowered = text.lower()
    start, end = lowered.index("(:init"), lowered.rindex("(:goal")
    facts: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
    for predicate, arguments in _FACT.findall(lowered[start:end]):
        facts[predicate].append(tuple(arguments.split()))
    found = {name: sorted(set(arguments)) for name, arguments in facts.items()}
    return AlfredProblem(found, number_things(one for all_of in found.values() for args in all_of for one in args))


def number_things(identifiers: Iterable[str]) -> dict[str, str]:
    """What the game calls things whose identifiers are `TYPE_bar_POSITION`, as alfworld's `AlfredDemangler` does.

    Of n things of a type, the first in alphabetical order of the identifiers has the number n and the last has 1.
    """
    kinds = {}
    for one in sorted(set(identifiers)):
        kind, bar, _ = one.partition("_bar_")
        if bar:
            kinds[one] = f"{kind}basin" if "basin" in one else kind
    left = Counter(kinds.values())
    names = {}
    for one, kind in kinds.items():
        names[one] = f"{kind} {left[kind]}"
        left[kind] -= 1
    return names


def initial_state(problem: AlfredProblem) -> str:
    """The complete state at the start, in sentences of the game, with things in the order in which it lists them.

    One sentence or two for every receptacle: `On the shelf 1, you see a cd 2, and a book 1.` is what going there
    answers; `The drawer 1 is closed. In it, you see nothing.` says what opening it will show. Then the receptacles that
    are reached together, and the objects of which examining would say something special. Each is a paragraph, as models
    read paragraphs on their own, as they read answers.
    """
    inside: defaultdict[str, list[str]] = defaultdict(list)
    for content, receptacle in problem.facts.get("inreceptacle", ()):
        inside[receptacle].append(problem.names[content])
    openable = {one for (one,) in problem.facts.get("openable", ())}
    places: defaultdict[str, list[str]] = defaultdict(list)
    sentences = []
    for receptacle, location in problem.facts.get("receptacleatlocation", ()):
        name = problem.names[receptacle]
        places[location].append(name)
        lead = f"The {name} is closed. In it" if receptacle in openable else f"On the {name}"
        sentences.append(f"{lead}, you see {listed(inside[receptacle])}.")
    sentences += [f"You are facing the {join(names)}." for names in places.values() if len(names) > 1]
    return "\n\n".join(sentences + _special(problem))


def listed(names: list[str]) -> str:
    """`a cd 2, and a book 1`, or `nothing`."""
    return join([f"a {name}" for name in names]) if names else "nothing"


def join(names: list[str]) -> str:
    """`cd 2, book 2, and book 1`; the game has the comma even between two."""
    return ", and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _special(problem: AlfredProblem) -> list[str]:
    """What examining says of objects that are not as such objects usually are, and of lamps."""
    holds: defaultdict[str, set[str]] = defaultdict(set)
    for predicate in ("ishot", "iscool", "isclean", "issliced", "toggleable", "istoggled"):
        for (one,) in problem.facts.get(predicate, ()):
            holds[one].add(predicate)
    within: defaultdict[str, list[str]] = defaultdict(list)
    for inner, outer in problem.facts.get("inreceptacleobject", ()):
        within[outer].append(problem.names[inner])
    receptacles = {one for (one,) in problem.facts.get("isreceptacleobject", ())}
    sentences = []
    for one in sorted(holds.keys() | within.keys()):
        name, facts = problem.names[one], holds[one]
        sliced = "sliced " if "issliced" in facts else ""
        how = next((words for needed, words in _OBJECT_STATES if facts.issuperset(needed)), "a" if sliced else "")
        if one in receptacles:
            if within[one]:
                sentences.append(f"This is a normal {name}. In it, you see {listed(within[one])}.")
        elif how:
            sentences.append(f"This is {how} {sliced}{name}.")
        elif "toggleable" in facts:
            sentences.append(f"This {name} is {'on' if 'istoggled' in facts else 'off'}.")
    return sentences
