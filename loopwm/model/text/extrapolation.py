"""What would be read next if numbers went on as they did: the answers to one action, continued along a line.

Who writes digit by digit carries badly, and a line is easy to draw. Whether it holds is for the decoder to say, which
may repeat what is offered here as it may repeat what was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loopwm.model.text.numbers import digits
from loopwm.text.lines import along, rounded
from loopwm.text.vocabulary import OPENERS, SPACE

POINTS = 17
"""The most readings that a line goes through, the latest: all that a window of 16 transitions holds."""
LINES = 3
"""One through all readings, one through the last two of them, and one instead of both where they say the same."""
NUMBER, OPENING = -1, -2
"""Stand in a form for a number inside a word, and for one that begins it."""


@dataclass(frozen=True)
class Told:
    """The words of o_k, or of a_k where it was `done`, in a window. `step` is k."""

    step: int
    done: bool
    words: list[int]


@dataclass(frozen=True)
class Numerals:
    """How a vocabulary writes whole numbers: digit by digit.

    Attributes:
        digit: token -> its digit. opening: which tokens begin a word.
        inside, first: the tokens of 0 ... 9 within a word, and where they begin one.
        minus: the token of a sign before a number that begins a word; -1 where there is none.
    """

    digit: Mapping[int, int]
    opening: frozenset[int]
    inside: tuple[int, ...]
    first: tuple[int, ...]
    minus: int

    @classmethod
    def of(cls, words: Sequence[str]) -> Numerals:
        """Of the tokens in `words`."""
        rows = digits(words).tolist()
        known = {token: value for token, (value, _) in enumerate(rows) if value >= 0}
        opening = frozenset(token for token, (_, opens) in enumerate(rows) if opens)
        ordered = sorted(known, key=known.__getitem__)
        inside, first = (tuple(one for one in ordered if (one in opening) is opens) for opens in (False, True))
        return cls(known, opening, inside, first, words.index(SPACE + "-") if SPACE + "-" in words else -1)

    def apart(self, text: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
        """The form of a text, which has NUMBER or OPENING for every number, and these."""
        form, values, place = list[int](), list[int](), 0
        while place < len(text):
            token, begin = text[place], place
            # A sign belongs to the digits that follow it within the word.
            negative = token == self.minus and place + 1 < len(text) and text[place + 1] in self.inside
            place += negative
            if text[place] not in self.digit:
                form.append(token)
                place += 1
                continue
            value, place = self.digit[text[place]], place + 1
            while place < len(text) and text[place] in self.inside:
                value, place = 10 * value + self.digit[text[place]], place + 1
            form.append(OPENING if text[begin] in self.opening else NUMBER)
            values.append(-value if negative else value)
        return tuple(form), values

    def together(self, form: Sequence[int], values: Sequence[int]) -> list[int]:
        """The inverse of `apart`; no words where a number cannot be written."""
        text, left = list[int](), iter(values)
        for token in form:
            if token not in (NUMBER, OPENING):
                text.append(token)
                continue
            value = next(left)
            figures = [int(figure) for figure in str(abs(value))]
            if value < 0:
                if token == NUMBER or self.minus < 0:
                    return []
                text += [self.minus, *(self.inside[one] for one in figures)]
            else:
                begins = self.first if token == OPENING else self.inside
                text += [begins[figures[0]], *(self.inside[one] for one in figures[1:])]
        return text


def gone_on(
    windows: Sequence[Sequence[Told]], steps: Sequence[Sequence[int]], numerals: Numerals, past: int = 0
) -> list[list[tuple[list[int], list[int]]]]:
    """For every window, and for LINES of every step k: o_{k+1} as it would be, and a_k; no words where there is none.

    A line goes through the latest answers to the same action that have one form, if there are two and not all the same.

    Args:
        windows: what each was told. steps: (B, K), each k. past: J, a step before which only the order is known.
    """
    return [_of_window(told, at, numerals, past) for told, at in zip(windows, steps, strict=True)]


def _of_window(
    told: Sequence[Told], steps: Sequence[int], numerals: Numerals, past: int
) -> list[tuple[list[int], list[int]]]:
    done = {one.step: one.words for one in told if one.done and one.step >= past - 1}
    answers: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    for one in sorted((one for one in told if not one.done and one.step >= past), key=lambda one: one.step):
        if one.step - 1 in done:
            answers.setdefault(tuple(done[one.step - 1]), []).append((one.step, _without_opening(one.words)))
    found: list[tuple[list[int], list[int]]] = []
    for step in steps:
        action = done.get(step, [])
        known = [(time, text) for time, text in answers.get(tuple(action), []) if time <= step]
        readings = _alike(known, numerals)
        offered = _on_lines(readings, step + 1, numerals) if readings and readings.changing else [[]] * LINES
        found += [(text, action if text else []) for text in offered]
    return found


def _on_lines(readings: _Readings, at: int, numerals: Numerals) -> list[list[int]]:
    through = [
        numerals.together(
            readings.form, [rounded(value) for value in along(readings.times[-n:], readings.values[-n:], at)]
        )
        for n in (POINTS, 2)
    ]
    return [[], [], through[0]] if through[0] == through[1] else [*through, []]


@dataclass(frozen=True)
class _Readings:
    form: tuple[int, ...]
    times: list[int]
    values: list[list[int]]

    @property
    def changing(self) -> bool:
        return any(one != self.values[-1] for one in self.values)


def _alike(known: Sequence[tuple[int, list[int]]], numerals: Numerals) -> _Readings | None:
    """The latest of the answers that have one form, with numbers in it; None if there are fewer than two."""
    if len(known) < 2:
        return None
    form, latest = numerals.apart(known[-1][1])
    times, values = [known[-1][0]], [latest]
    for time, text in reversed(known[-POINTS:-1]):
        other, read = numerals.apart(text)
        if other != form:
            break
        times.append(time)
        values.append(read)
    return _Readings(form, times[::-1], values[::-1]) if latest and len(times) > 1 else None


def _without_opening(words: list[int]) -> list[int]:
    """What was read, without the task or the initial state before it."""
    last = max((place for place, word in enumerate(words) if word in OPENERS), default=-1)
    return words[last + 1 :]
