"""Predictions without learning: what a model has to beat.

Four systems, each a superset of the one before:

    last action     what most often followed the last action in training
    templates       the same with the action's own words in place of others', or a copy of o_t
    history         or what the same action was answered before: its numbers continued along a line, its list without
                    what was taken since and with what was put
    all rules       or what usually follows in this place, after the previous action, after such an answer to the same
                    action, after such an action on the same thing

All rules of a system propose an answer. Which of them is believed is decided by counting, for every shape of an action
and every pattern of agreement among the proposals, which rule was right most often in training episodes that the
proposals were not made from. Nothing else is fitted.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from loopwm.errors import UserError
from loopwm.text.benchmark.candidates import (
    Situation,
    copy,
    edited,
    habit,
    habit_after,
    habit_here,
    linear,
    recall,
    recall_here,
    situations,
    template,
    template_about,
    template_after,
    template_again,
    trend,
)
from loopwm.text.benchmark.habits import Habits
from loopwm.text.benchmark.listings import normalised
from loopwm.text.benchmark.windows import Context, Track, Window, WindowConfig, sample_windows
from loopwm.text.recording import TextEpisode

Rule = Callable[[Situation], str | None]

LAST_ACTION: tuple[Rule, ...] = (habit,)
TEMPLATES: tuple[Rule, ...] = (*LAST_ACTION, template, copy)
HISTORY: tuple[Rule, ...] = (*TEMPLATES, recall, recall_here, linear, trend, edited)
ALL: tuple[Rule, ...] = (*HISTORY, habit_here, habit_after, template_after, template_again, template_about)
SYSTEMS = {"last action": LAST_ACTION, "templates": TEMPLATES, "history": HISTORY, "all rules": ALL}

ENOUGH = (8, 8, 1)
"""How often a kind of situation must have occurred for its count to be trusted, from the most specific kind on."""


@dataclass(frozen=True)
class RulesConfig:
    """Which rules, fitted on how much.

    Attributes:
        system: a name of `SYSTEMS`.
        per_type: training windows of every task type on which rules are compared.
    """

    system: str = "history"
    per_type: int = 600

    def __post_init__(self) -> None:
        if self.system not in SYSTEMS:
            raise UserError(f"There is no system of rules '{self.system}'; choose one of {', '.join(SYSTEMS)}.")


class Rules:
    """Rules with the counts they need.

    Args:
        training: episodes, of which only those of the split `train` are used.
        track: what the rules may see.
        config: which rules.

    Raises:
        UserError: fewer than two training episodes.
    """

    def __init__(self, training: Sequence[TextEpisode], track: Track, config: RulesConfig | None = None):
        self.config = config or RulesConfig()
        self._rules = SYSTEMS[self.config.system]
        training = [episode for episode in training if episode.split == "train"]
        if len(training) < 2:
            raise UserError(
                f"The rules are counted on training episodes, of which there are {len(training)}; record at least two."
            )
        comparison = self._compare(training, track)
        self._choice, self._reliable = comparison.choice(), comparison.reliable()
        self._habits = Habits(training)

    def predict(self, windows: Sequence[Window]) -> list[list[str]]:
        """K answers for each window."""
        return [self.predict_one(window.context, window.actions) for window in windows]

    def predict_one(self, context: Context, actions: Sequence[str]) -> list[str]:
        """One answer for each action."""
        return [self._answer(situation) for situation in situations(self._habits, context, actions)]

    def _answer(self, situation: Situation) -> str:
        proposals = _proposals(self._rules, situation)
        for choice, kind in zip(self._choice, _kinds(situation, proposals), strict=True):
            answer = proposals[choice[kind]] if kind in choice else None
            if answer is not None:
                return answer
        for rule in self._reliable:
            answer = proposals[rule]
            if answer is not None:
                return answer
        return self._habits.by_verb.get(situation.action.verb) or situation.context.now

    def _compare(self, training: Sequence[TextEpisode], track: Track) -> _Comparison:
        """Ask all rules about half of the episodes, counted on the other half, and the other way round."""
        comparison = _Comparison(len(self._rules))
        windows = WindowConfig(track=track.name, split="train", actors=(), per_type=self.config.per_type)
        usable = [episode for episode in training if episode.initial or not track.initial]
        halves = _halves(usable)
        for half in (0, 1):
            # What was counted on an episode is right about it too often to be compared there.
            habits = Habits(halves[half])
            asked = halves[1 - half]
            if not any(episode.length >= track.steps for episode in asked):
                continue
            for window in sample_windows(asked, windows):
                for situation, target in zip(
                    situations(habits, window.context, window.actions), window.targets, strict=True
                ):
                    comparison.add(situation, _proposals(self._rules, situation), target)
        return comparison


class _Comparison:
    """How often each rule was right, by kind of situation."""

    def __init__(self, rules: int):
        self._right: list[dict[Hashable, list[int]]] = [defaultdict(lambda: [0] * rules) for _ in ENOUGH]
        self._seen: list[dict[Hashable, int]] = [defaultdict(int) for _ in ENOUGH]
        self._proposed = [0] * rules
        self._hits = [0] * rules

    def add(self, situation: Situation, proposals: Sequence[str | None], target: str) -> None:
        """Count one target."""
        truth = normalised(target)
        right = [one is not None and normalised(one) == truth for one in proposals]
        for level, kind in enumerate(_kinds(situation, proposals)):
            self._seen[level][kind] += 1
            counts = self._right[level][kind]
            for rule, hit in enumerate(right):
                counts[rule] += hit
        for rule, one in enumerate(proposals):
            self._proposed[rule] += one is not None
            self._hits[rule] += right[rule]

    def choice(self) -> list[dict[Hashable, int]]:
        """For each level of detail: kind of situation -> the rule that was right most often, the earlier of equals."""
        return [
            {
                kind: max(range(len(hits)), key=hits.__getitem__)
                for kind, hits in self._right[level].items()
                if self._seen[level][kind] >= enough
            }
            for level, enough in enumerate(ENOUGH)
        ]

    def reliable(self) -> list[int]:
        """Rules from the one that is right most often when it says something, for situations of a new kind."""
        share = [hits / max(proposed, 1) for hits, proposed in zip(self._hits, self._proposed, strict=True)]
        return sorted(range(len(share)), key=lambda rule: -share[rule])


def _halves(episodes: Sequence[TextEpisode]) -> tuple[list[TextEpisode], list[TextEpisode]]:
    """Episodes in two parts without a game in common, whatever their order."""
    # By a digest, as recordings may alternate between kinds of games.
    games = sorted(
        {episode.game for episode in episodes}, key=lambda game: hashlib.blake2b(game.encode(), digest_size=8).digest()
    )
    first = set(games[::2])
    return [one for one in episodes if one.game in first], [one for one in episodes if one.game not in first]


def _proposals(rules: Sequence[Rule], situation: Situation) -> list[str | None]:
    return [rule(situation) for rule in rules]


def _kinds(situation: Situation, proposals: Sequence[str | None]) -> tuple[Hashable, ...]:
    """What kind of situation it is, from specific to general: which proposals there are, and which are the same."""
    first: dict[str, int] = {}
    agreement = tuple(-1 if one is None else first.setdefault(one, number) for number, one in enumerate(proposals))
    present = tuple(one is not None for one in proposals)
    return (situation.action.shape, agreement), (situation.action.verb, present), present
