"""What cannot be known from what a track shows, counted: the ceiling beside every result.

A target shows something for the first time if it is

    first look      a room, a receptacle or the inside of one (`look around`, `go to shelf 1`, `open fridge 1`) of which
                    nothing in view has shown the same;
    first reading   a temperature, a position or a time that the same action on the same thing has not read in view,
                    nor the earliest observation in view, whose action is not known, in the same words;
    first contents  any other answer that lists contents, to an action that nothing in view is an answer to.

In view are the observations of the context. Where the track shows the complete initial state, looks and contents are
the first only if they name something that nothing in view names: ScienceWorld's initial state does not show the inside
of closed containers, ALFWorld's does. Much of what is shown for the first time is what is usually shown there, so of
these targets

    unusual   differ from the most frequent training observation after that action, and from the most frequent pattern
    novel     never occurred in training, word for word

`1 - unusual` is what a predictor would reach that knows everything that was shown, and guesses the rest by frequency:
an estimate of the ceiling, which one that guesses better may pass. `1 - novel` grants it every guess that training
offers. Replay noise, the share of steps that differ when the same actions are replayed, is beside both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from loopwm.text.benchmark.candidates import habit, situations, template
from loopwm.text.benchmark.habits import Habits
from loopwm.text.benchmark.lexicon import Lexicon
from loopwm.text.benchmark.listings import normalised
from loopwm.text.benchmark.patterns import place_shown, read_action, without_numbers
from loopwm.text.benchmark.windows import Window
from loopwm.text.recording import TextEpisode

CAUSES = ("first look", "first reading", "first contents")
COLUMNS = (
    *CAUSES,
    *(f"unusual {cause}" for cause in CAUSES),
    *(f"novel {cause}" for cause in CAUSES),
    "unusual",
    "novel",
)
"""What `unknowable` counts, in order."""

_READING = re.compile(r"\d(?=% down| degrees| ticks)")
_RECEPTACLE = re.compile(r"(?:On|In) the ([a-z]+ \d+), you see|The ([a-z]+ \d+) is (?:open|closed)")
_LISTS = re.compile(r"\(containing (?!nothing)| is: (?!nothing)|you see:? an? |^Ambiguous request")
_STATES = frozenset(("solid", "liquid", "gas", "gaseous"))


def unknowable(windows: Sequence[Window], training: Iterable[TextEpisode], lexicon: Lexicon) -> npt.NDArray[np.float64]:
    """Whether each target is shown for the first time, and is unusual or novel; 1 or 0.

    Args:
        windows: n windows of K steps.
        training: the episodes that a predictor may have learned from.
        lexicon: the names of things in this world.

    Returns:
        (n, K, len(COLUMNS)).
    """
    episodes = list(training)
    habits = Habits(episodes)
    known = {normalised(text) for episode in episodes for text in episode.observations}
    rows = [[_row(*found, known) for found in _causes(window, habits, lexicon)] for window in windows]
    return np.array(rows, dtype=np.float64)


def cause_of(action: str, target: str, window: Window, lexicon: Lexicon, done: Sequence[str] = ()) -> str:
    """Which of `CAUSES` applies to a target, or nothing.

    Args:
        done: actions of the window before this one.
    """
    context = window.context
    pairs = [*zip(("", *context.actions), context.observations, strict=True)]
    if is_reading(target):
        return "" if any(_reads_alike(target, action, *pair) for pair in pairs) else CAUSES[1]
    look = _look(action, target)
    if look is not None:
        cause, seen = CAUSES[0], any(_look(a, o) == look for a, o in pairs)
    elif _LISTS.search(target):
        cause, seen = CAUSES[2], any(a == action for a, _ in pairs)
    else:
        return ""
    before = "\n".join((context.initial, *context.observations, *context.actions, *done, action))
    told = bool(context.initial) and _names(target, lexicon) <= _names(before, lexicon)
    return "" if seen or told else cause


def _names(text: str, lexicon: Lexicon) -> set[str]:
    return {name for name in lexicon.entities(text) if not name[0].isdigit()}


def is_reading(text: str) -> bool:
    """Whether a text reads a temperature, a position or a time."""
    return _READING.search(text) is not None


def _causes(window: Window, habits: Habits, lexicon: Lexicon) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """Of each step the cause, the target, and what one would guess by frequency."""
    asked = situations(habits, window.context, window.actions)
    for step, (situation, target) in enumerate(zip(asked, window.targets, strict=True)):
        cause = cause_of(situation.text, target, window, lexicon, window.actions[:step])
        guesses = (habit(situation), template(situation)) if cause else ()
        yield cause, target, tuple(normalised(one) for one in guesses if one is not None)


def _row(cause: str, target: str, guesses: tuple[str, ...], known: set[str]) -> list[float]:
    text = normalised(target)
    unusual = bool(cause) and text not in guesses
    novel = bool(cause) and text not in known
    per_cause = [cause == one for one in CAUSES]
    return [
        *map(float, per_cause),
        *(float(one and unusual) for one in per_cause),
        *(float(one and novel) for one in per_cause),
        float(unusual),
        float(novel),
    ]


def _look(action: str, answer: str) -> tuple[str, str] | None:
    """What a look shows, and from where; None for any other answer."""
    room = place_shown(answer)
    if room:
        return "room", room
    found = _RECEPTACLE.search(answer)
    if not found or (action and action.split()[0] not in ("go", "open", "examine", "look")):
        return None
    inside = "outside" if "is closed" in answer else "inside"
    return inside, found[1] or found[2]


def _subject(action: str) -> frozenset[str]:
    """The words of what an action is about; what melts stays the same thing."""
    return frozenset(" ".join(read_action(action).arguments).split()) - _STATES


def _reads_alike(target: str, action: str, before: str, answer: str) -> bool:
    """Whether `answer` has read the same thing, which of what was read earliest only its words tell."""
    if not is_reading(answer):
        return False
    if not before:
        return without_numbers(normalised(answer)) == without_numbers(normalised(target))
    first, second = _subject(action), _subject(before)
    return first <= second or second <= first
