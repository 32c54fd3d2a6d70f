"""The answers that rules propose: each looks at what may be seen and says one thing, or nothing.

A `Situation` is one action of a window with what precedes it. Answers to the actions between o_t and it are not known;
the actions themselves are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loopwm.text.benchmark.habits import Habits
from loopwm.text.benchmark.patterns import (
    Action,
    destination,
    extrapolated,
    filled,
    pattern,
    place_shown,
    read_action,
    with_numbers,
    without_numbers,
)
from loopwm.text.benchmark.windows import Context

MANY = 17
"""Readings that a trend goes through: all that the track `history` can hold."""


@dataclass(frozen=True)
class Moment:
    """Something that happened: an action, its answer, and where; an unknown action is empty, an unknown answer None."""

    action: str
    answer: str | None
    place: str


@dataclass(frozen=True)
class Situation:
    """An action, and what is known when it is taken.

    Attributes:
        habits: of the training episodes.
        context: what may be read.
        past: o_{t-m} ... o_t with the actions before them, then the actions of the window so far.
        text: the action.
        action: the same, taken apart.
        place: where one is after the action, as far as that is known; empty if it is not.
    """

    habits: Habits
    context: Context
    past: Sequence[Moment]
    text: str
    action: Action
    place: str

    @property
    def time(self) -> int:
        """Index that the answer will have among the moments."""
        return len(self.past)

    def filled(self, form: str | None, arguments: tuple[str, ...] | None = None) -> str | None:
        """A pattern filled in with the arguments of the action, spelled as in what was read."""
        if form is None:
            return None
        seen = (self.context.description, *self.context.observations)
        return filled(form, self.action.arguments if arguments is None else arguments, seen)

    def same_action(self) -> list[tuple[int, str]]:
        """Times and answers of this very action in the past.

        An answer to an action that is not known counts if it could be one to this.
        """
        return [
            (time, moment.answer)
            for time, moment in enumerate(self.past)
            if moment.answer is not None
            and (moment.action == self.text or (not moment.action and self.habits.answers(moment.answer, self.text)))
        ]


def situations(habits: Habits, context: Context, actions: Sequence[str]) -> list[Situation]:
    """One for each action of a window."""
    past: list[Moment] = []
    place = ""
    for action, answer in zip(("", *context.actions), context.observations, strict=True):
        place = destination(action) or place_shown(answer) or place
        past.append(Moment(action, answer, place))
    result: list[Situation] = []
    for action in actions:
        place = destination(action) or place
        result.append(Situation(habits, context, tuple(past), action, read_action(action), place))
        past.append(Moment(action, None, place))
    return result


def habit(now: Situation) -> str | None:
    """What most often followed this action."""
    return now.habits.answer.get(now.text)


def template(now: Situation) -> str | None:
    """What most often followed such actions, about these things."""
    return now.filled(now.habits.form.get(now.action.shape))


def copy(now: Situation) -> str | None:
    """o_t again, if it is the kind of answer that such actions get, and one has not left the place."""
    answer = now.context.now
    left = any(destination(moment.action) for moment in now.past[len(now.context.observations) :])
    if (place_shown(answer) and (left or destination(now.text))) or not now.habits.answers(answer, now.text):
        return None
    return answer


def recall(now: Situation) -> str | None:
    """The latest answer to this very action."""
    found = now.same_action()
    return found[-1][1] if found else None


def recall_here(now: Situation) -> str | None:
    """The latest answer in this place of the kind that such actions get."""
    if not now.place:
        return None
    for moment in reversed(now.past):
        if moment.place == now.place and moment.answer is not None and now.habits.answers(moment.answer, now.text):
            return moment.answer
    return None


def linear(now: Situation) -> str | None:
    """The numbers of the two latest answers to this very action, continued along a line."""
    return _continued(now, points=2)


def trend(now: Situation) -> str | None:
    """The numbers of all answers to this very action that can be seen, continued along a line."""
    return _continued(now, points=MANY)


def habit_here(now: Situation) -> str | None:
    """What most often followed this action in this place."""
    return now.habits.answer_here.get((now.text, now.place))


def habit_after(now: Situation) -> str | None:
    """What most often followed this action when the previous one was the same as now."""
    return now.habits.answer_after.get((now.past[-1].action, now.text))


def template_after(now: Situation) -> str | None:
    """What most often followed such a pair of actions, about these things."""
    before = read_action(now.past[-1].action)
    form = now.habits.form_after.get((before.shape, now.action.shape))
    return now.filled(form, now.action.arguments + before.arguments)


def template_again(now: Situation) -> str | None:
    """What most often followed when this very action had last been answered as it was."""
    found = now.same_action()
    if not found:
        return None
    was = pattern(found[-1][1], now.action.arguments)
    return now.filled(now.habits.form_again.get((now.action.shape, was)))


def template_about(now: Situation) -> str | None:
    """What most often followed when the latest action on the same thing was such as it was."""
    if not now.action.arguments:
        return None
    thing = now.action.arguments[-1]
    for moment in reversed(now.past):
        before = read_action(moment.action)
        if before.arguments and before.arguments[-1] == thing:
            return now.filled(now.habits.form_about.get((now.action.shape, before.shape)))
    return None


def edited(now: Situation) -> str | None:
    """The latest answer to this very action, without what was taken since and with what was put."""
    found = now.same_action()
    if not found:
        return None
    since, answer = found[-1]
    for moment in now.past[since + 1 :]:
        before = read_action(moment.action)
        if before.shape in ("take {0} from {1}", "pick up {0}", "pick up {0} in {1}"):
            answer = without_element(answer, before.arguments[0])
        elif before.shape == "put {0} in/on {1}" and re.search(rf"\b{re.escape(before.arguments[1])}\b", answer):
            answer = with_element(answer, before.arguments[0])
    return answer


def without_element(listing: str, name: str) -> str:
    """A listing after `name` was taken from it: `you see a cup 1, and a pen 2.`, or lines such as `\\n\\ta cup`."""
    line = re.sub(rf"\n\t(?:an? )?{re.escape(name)}(?= \(|\n|$)[^\n]*", "", listing, count=1)
    if line != listing:
        return line
    return _relisted(listing, lambda names: [one for one in names if one != name])


def with_element(listing: str, name: str) -> str:
    """A listing after `name` was put into it, by name and then by falling number, as ALFWorld lists things."""

    def rank(one: str) -> tuple[str, int]:
        kind, _, number = one.rpartition(" ")
        return kind, -int(number) if number.isdigit() else 0

    return _relisted(listing, lambda names: sorted({*names, name}, key=rank))


def _relisted(listing: str, change: Callable[[list[str]], list[str]]) -> str:
    found = re.search(r"you see (nothing|an? [^.]*?)\.", listing)
    if not found:
        return listing
    names = [] if found[1] == "nothing" else [re.sub(r"^(?:and )?an? ", "", one) for one in found[1].split(", ")]
    names = [f"a {name}" for name in change(names)]
    words = ", and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else "nothing"
    return f"{listing[: found.start(1)]}{words}{listing[found.end(1) :]}"


def _continued(now: Situation, points: int) -> str | None:
    found = now.same_action()
    if not found:
        return None
    values = extrapolated(found, now.time, points)
    if values is None:
        return None
    form = without_numbers(found[-1][1])
    abstract = without_numbers(pattern(found[-1][1], now.action.arguments))
    if abstract.count("#") == len(values) and now.habits.leaves_range(abstract, values):
        return now.filled(now.habits.beyond.get(abstract))
    return with_numbers(form, values)
