"""What usually follows an action, counted over training episodes: the memory of the rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from loopwm.text.benchmark.patterns import (
    destination,
    numbers,
    opening,
    pattern,
    place_shown,
    read_action,
    without_numbers,
)
from loopwm.text.recording import TextEpisode

Key = TypeVar("Key", bound=Hashable)


class MostFrequent(Generic[Key]):
    """The text that was counted most often for a key; among equals the first in the alphabet."""

    def __init__(self) -> None:
        self._counts: dict[Key, Counter[str]] = defaultdict(Counter)
        self._top: dict[Key, str] = {}

    def count(self, key: Key, text: str) -> None:
        """One more for this text."""
        self._counts[key][text] += 1
        self._top.pop(key, None)

    def get(self, key: Key) -> str | None:
        """The text, or None for a key without any."""
        if key not in self._top:
            if key not in self._counts:
                return None
            self._top[key] = min(self._counts[key].items(), key=lambda one: (-one[1], one[0]))[0]
        return self._top[key]


class Habits:
    """Counts over episodes.

    Attributes:
        answer: action -> observation.
        answer_here: (action, place) -> observation.
        answer_after: (previous action, action) -> observation.
        form: shape of the action -> pattern.
        form_after: (shape of the previous action, shape) -> pattern with the arguments of both, the previous ones last.
        form_again: (shape, pattern of the latest answer to this very action) -> pattern.
        form_about: (shape, shape of the latest action on the same thing) -> pattern.
        beyond: form of a reading -> pattern of what follows when it does not go on.
    """

    def __init__(self, episodes: Iterable[TextEpisode]):
        self.answer: MostFrequent[str] = MostFrequent()
        self.answer_here: MostFrequent[tuple[str, str]] = MostFrequent()
        self.answer_after: MostFrequent[tuple[str, str]] = MostFrequent()
        self.form: MostFrequent[str] = MostFrequent()
        self.form_after: MostFrequent[tuple[str, str]] = MostFrequent()
        self.form_again: MostFrequent[tuple[str, str]] = MostFrequent()
        self.form_about: MostFrequent[tuple[str, str]] = MostFrequent()
        self.beyond: MostFrequent[str] = MostFrequent()
        self.by_verb: MostFrequent[str] = MostFrequent()
        self._openings: dict[str, Counter[str]] = defaultdict(Counter)
        self._limits: dict[str, tuple[list[int], list[int]]] = {}
        for episode in episodes:
            self._count(episode)

    def answers(self, observation: str, action: str) -> bool:
        """Whether `observation` is of a kind that has answered such actions more than once."""
        one = read_action(action)
        return self._openings[one.shape][opening(observation, one.arguments)] > 1

    def leaves_range(self, form: str, values: Sequence[float]) -> bool:
        """Whether a number is beyond all that were ever read in such an answer."""
        if form not in self._limits:
            return False
        low, high = self._limits[form]
        return any(v < lo - 0.5 or v >= hi + 0.5 for v, lo, hi in zip(values, low, high, strict=True))

    def _count(self, episode: TextEpisode) -> None:
        place = place_shown(episode.observations[0])
        latest: dict[str, str] = {}
        about: dict[str, str] = {}
        previous = ""
        for action, answer in zip(episode.actions, episode.observations[1:], strict=True):
            place = destination(action) or place_shown(answer) or place
            one = read_action(action)
            form = pattern(answer, one.arguments)
            self.answer.count(action, answer)
            self.by_verb.count(one.verb, answer)
            self.form.count(one.shape, form)
            self._openings[one.shape][opening(answer, one.arguments)] += 1
            self._widen(form)
            if place:
                self.answer_here.count((action, place), answer)
            if previous:
                self.answer_after.count((previous, action), answer)
                before = read_action(previous)
                both = one.arguments + before.arguments
                self.form_after.count((before.shape, one.shape), pattern(answer, both))
            if action in latest:
                was = pattern(latest[action], one.arguments)
                self.form_again.count((one.shape, was), form)
                if without_numbers(was) != without_numbers(form):
                    self.beyond.count(without_numbers(was), form)
            if one.arguments:
                if one.arguments[-1] in about:
                    self.form_about.count((one.shape, about[one.arguments[-1]]), form)
                about[one.arguments[-1]] = one.shape
            latest[action] = answer
            previous = action

    def _widen(self, form: str) -> None:
        found = numbers(form)
        if not found:
            return
        key = without_numbers(form)
        low, high = self._limits.get(key, (found, found))
        self._limits[key] = ([*map(min, low, found)], [*map(max, high, found)])
