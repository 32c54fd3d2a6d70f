"""What rules see in a text: the shape of an action, an answer with the action's words left out, a place, numbers.

Actions of both environments are a verb and arguments between small words: `move metal pot to stove` has the shape
`move {0} to {1}` and the arguments `metal pot` and `stove`; `You move the metal pot to the stove.` is then the pattern
`You move the {0} to the {1}.`, which answers the same action on other things.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SMALL_WORDS = frozenset(
    (
        *("to", "in", "into", "on", "from", "with", "in/on", "of", "at", "up", "around", "door", "for"),
        *("terminal", "anode", "cathode", "containing"),
    )
)
"""Words of an action that belong to its shape, beside the verb it begins with."""
REMEMBERED = 200_000
"""Texts whose analysis is kept; a recording has fewer."""

# Not the number of a slot.
_NUMBER = re.compile(r"(?<![{\d])-?\d+")
_SLOT = re.compile(r"\{(\d+)\}")
_ROOM = re.compile(r"This (?:room|outside location) is called the (.+?)\.")


@dataclass(frozen=True)
class Action:
    """An action taken apart.

    Attributes:
        verb: its first word.
        shape: the action with `{0}`, `{1}` ... for its arguments.
        arguments: what stands in their places.
    """

    verb: str
    shape: str
    arguments: tuple[str, ...]


@lru_cache(REMEMBERED)
def read_action(text: str) -> Action:
    """The action in the words `text`."""
    shape: list[str] = []
    arguments: list[str] = []
    words = text.split()
    inside = False
    for number, word in enumerate(words):
        # `terminal 1` is one of two, as `anode` is; any other number names a thing.
        if number == 0 or word in SMALL_WORDS or (word in ("1", "2") and words[number - 1] == "terminal"):
            shape.append(word)
            inside = False
        elif inside:
            arguments[-1] += f" {word}"
        else:
            shape.append(f"{{{len(arguments)}}}")
            arguments.append(word)
            inside = True
    return Action(words[0] if words else "", " ".join(shape), tuple(arguments))


@lru_cache(REMEMBERED)
def pattern(answer: str, arguments: tuple[str, ...]) -> str:
    """The answer with `{0}`, `{1}` ... where it repeats an argument, in whatever case."""
    for number, argument in sorted(enumerate(arguments), key=lambda one: -len(one[1])):
        answer = re.sub(rf"(?<![\w{{]){re.escape(argument)}(?![\w}}])", f"{{{number}}}", answer, flags=re.IGNORECASE)
    return answer


def filled(form: str, arguments: tuple[str, ...], seen: Sequence[str] = ()) -> str | None:
    """A pattern with these arguments in it; None if it asks for more of them.

    An argument that occurs in `seen` is written as it is there: `inclined plane h` may be `inclined plane H`.
    """
    if any(int(slot) >= len(arguments) for slot in _SLOT.findall(form)):
        return None
    return _SLOT.sub(lambda slot: _as_written(arguments[int(slot[1])], seen), form)


@lru_cache(REMEMBERED)
def opening(answer: str, arguments: tuple[str, ...]) -> str:
    """What kind of answer it is: its first three words, numbers aside and arguments left out."""
    return " ".join(_NUMBER.sub("#", pattern(answer, arguments)).split()[:3])


@lru_cache(REMEMBERED)
def place_shown(answer: str) -> str:
    """The room that a description is of; empty for any other answer."""
    found = _ROOM.match(answer)
    return found[1] if found else ""


def destination(action: str) -> str:
    """Where an action leads; empty if it leads nowhere."""
    return action.removeprefix("go to ") if action.startswith("go to ") else ""


def numbers(text: str) -> list[int]:
    """Every whole number in the text."""
    return [int(number) for number in _NUMBER.findall(text)]


@lru_cache(REMEMBERED)
def without_numbers(text: str) -> str:
    """The text with `#` for every whole number: what readings of one quantity share."""
    return _NUMBER.sub("#", text)


def with_numbers(form: str, values: Sequence[float]) -> str:
    """The inverse of `without_numbers`, values rounded half up."""
    written = iter(values)
    return re.sub("#", lambda _: str(int(np.floor(next(written) + 0.5))), form)


def extrapolated(readings: Sequence[tuple[int, str]], at: int, points: int) -> list[float] | None:
    """Numbers at time `at`, by the line of least squares through the latest readings of one form.

    Args:
        readings: times and texts, oldest first.
        at: when they are asked for.
        points: the most readings to go through, at least 2.

    Returns:
        None if fewer than two of the latest readings have the same form, or the form has no numbers.
    """
    form = without_numbers(readings[-1][1])
    if "#" not in form:
        return None
    alike: list[tuple[int, str]] = []
    for reading in reversed(readings[-points:]):
        if without_numbers(reading[1]) != form:
            break
        alike.append(reading)
    if len(alike) < 2:
        return None
    times = np.array([time for time, _ in alike], dtype=np.float64)
    values = np.array([numbers(text) for _, text in alike], dtype=np.float64)
    middle = times.mean()
    slope = (times - middle) @ values / ((times - middle) ** 2).sum()
    return (values.mean(0) + slope * (at - middle)).tolist()


def _as_written(argument: str, seen: Sequence[str]) -> str:
    for text in reversed(seen):
        found = re.search(rf"(?<!\w){re.escape(argument)}(?!\w)", text, re.IGNORECASE)
        if found:
            return found[0]
    return argument
