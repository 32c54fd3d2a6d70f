"""What would be read next if numbers went on as they did: the answers to one action, continued along a line.

Who writes digit by digit carries badly, and a line is easy to draw. Whether it holds is for the decoder to say, which
may repeat what is offered here as it may repeat what was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loopwm.model.text.numbers import digits
from loopwm.text.lines import Line, rounded
from loopwm.text.vocabulary import OPENERS, SPACE

POINTS = 17
"""The most readings that a line goes through, the latest: as many as the rules of the benchmark do."""
MANY = 4, 6
"""Readings from which on a line may be trusted otherwise than one with fewer, as more leave less to rounding."""
LINES = len(MANY) + 1
"""Kinds of lines, by how many readings lie on them."""
APART = 0.75
"""Readings further from it, more than rounding takes them, do not lie on a line."""
NUMBER, OPENING = -1, -2
"""Stand in a form for a number inside a word, and for one that begins it."""
_FIGURES = 15
"""The longest number that is exact where lines are drawn."""


@dataclass(frozen=True)
class Passage:
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
        """The form of a text, which has NUMBER or OPENING for every whole number, and these.

        What leads with a zero, as after a decimal point, or is too long stays as it is written.
        """
        form, values, place = list[int](), list[int](), 0
        while place < len(text):
            # A sign belongs to the digits that follow it within the word.
            negative = text[place] == self.minus and place + 1 < len(text) and text[place + 1] in self.inside
            begin = place + negative
            if text[begin] not in self.digit:
                form.append(text[place])
                place += 1
                continue
            end = begin + 1
            while end < len(text) and text[end] in self.inside:
                end += 1
            figures = [self.digit[token] for token in text[begin:end]]
            if len(figures) > _FIGURES or (len(figures) > 1 and figures[0] == 0):
                form += text[place:end]
            else:
                form.append(OPENING if text[place] in self.opening else NUMBER)
                value = int("".join(map(str, figures)))
                values.append(-value if negative else value)
            place = end
        return tuple(form), values

    def together(self, form: Sequence[int], values: Sequence[int]) -> list[int]:
        """The inverse of `apart`, but that 0 has no sign; no words where a number cannot be written."""
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
    windows: Sequence[Sequence[Passage]], steps: Sequence[Sequence[int]], numerals: Numerals, past: int = 0
) -> list[list[tuple[list[int], list[int]]]]:
    """For every window, and for LINES of every step k: o_{k+1} as it would be, and a_k; words for one of them at most.

    A line goes through as many of the latest answers to the same action as have one form and lie on it, if there are
    two and not all are the same.

    Args:
        windows: what each was told. steps: (B, K), each k. past: J, a step before which only the order is known.
    """
    return [_of_window(told, at, numerals, past) for told, at in zip(windows, steps, strict=True)]


def _of_window(
    told: Sequence[Passage], steps: Sequence[int], numerals: Numerals, past: int
) -> list[tuple[list[int], list[int]]]:
    done = {one.step: tuple(one.words) for one in told if one.done and one.step >= past - 1}
    answers: dict[tuple[int, ...], list[Passage]] = {done[step]: [] for step in steps if step in done}
    for one in sorted((one for one in told if not one.done and one.step >= past), key=lambda one: one.step):
        if (action := done.get(one.step - 1)) in answers:
            answers[action].append(one)
    readings = {action: _read(texts, numerals) for action, texts in answers.items() if len(texts) > 1}
    found: list[tuple[list[int], list[int]]] = []
    for step in steps:
        action = done.get(step, ())
        offered = _on_lines([one for one in readings.get(action, []) if one.step <= step], step + 1, numerals)
        found += [(text, list(action) if text else []) for text in offered]
    return found


@dataclass(frozen=True)
class _Reading:
    """What an answer of step k says, apart from its numbers, and these."""

    step: int
    form: tuple[int, ...]
    values: list[int]


def _read(texts: Sequence[Passage], numerals: Numerals) -> list[_Reading]:
    return [_Reading(one.step, *numerals.apart(_without_opening(one.words))) for one in texts]


def _on_lines(known: Sequence[_Reading], at: int, numerals: Numerals) -> list[list[int]]:
    """Of LINES the one that the latest readings lie on, if there is one."""
    offered: list[list[int]] = [[] for _ in range(LINES)]
    line, count = None, 1
    for many in range(2, min(len(known), POINTS) + 1):
        latest = known[-many:]
        if latest[0].form != latest[-1].form:
            break
        through = Line.through([one.step for one in latest], [one.values for one in latest])
        if through.furthest > APART:
            break
        line, count = through, many
    if line is not None and any(one.values != known[-1].values for one in known[-count:]):
        kind = sum(count >= least for least in MANY)
        offered[kind] = numerals.together(known[-1].form, [rounded(value) for value in line.at(at)])
    return offered


def _without_opening(words: list[int]) -> list[int]:
    """What was read, without the task or the initial state before it."""
    last = max((place for place, word in enumerate(words) if word in OPENERS), default=-1)
    return words[last + 1 :]
