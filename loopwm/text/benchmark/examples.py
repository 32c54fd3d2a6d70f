"""A few windows with what was answered to them, drawn and not chosen, for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loopwm.errors import UserError
from loopwm.text.benchmark.metrics import exact_match
from loopwm.text.benchmark.windows import Window
from loopwm.text.simulator import Foreseen, TextSimulator

CUT = " [...]"
"""Ends a text that goes on."""


@dataclass(frozen=True)
class ExamplesConfig:
    """How many windows, and how much of a text.

    Attributes:
        count: windows drawn; half of them, if there are as many, are answered right by the leading run at step K, and
            half wrong.
        length: characters of a text that are kept.
        seed: of the draw.
    """

    count: int = 12
    length: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.length < 1:
            raise UserError(f"{self.count} windows of {self.length} characters are no examples; ask for some.")


@dataclass(frozen=True)
class Said:
    """What one run answered to a window of K actions.

    Attributes:
        texts: K answers, cut. right: whether each, uncut, is an exact match.
        confidence: the probability that the run gives to each, word for word.
        loops: of each step; None of a stack.
        loops_early: the same where the loop may be left early; None where that was not tried.
    """

    texts: list[str]
    right: list[bool]
    confidence: list[float]
    loops: list[int] | None = None
    loops_early: list[int] | None = None


@dataclass(frozen=True)
class Example:
    """A window and its answers.

    Attributes:
        game, task_type, time: which window.
        description, now: the task, and o_t, both cut; the context of most tracks holds more.
        actions: K. targets: K texts, cut.
        answers: run -> what it said.
    """

    game: str
    task_type: str
    time: int
    description: str
    now: str
    actions: list[str]
    targets: list[str]
    answers: dict[str, Said]


@dataclass(frozen=True)
class Examples:
    """The draw.

    Attributes:
        config: how it was made.
        leading: the run whose right and wrong answers were drawn from.
        right, wrong: how many windows there are of each.
        windows: what was drawn, in the order of the recording.
    """

    config: ExamplesConfig
    leading: str
    right: int
    wrong: int
    windows: list[Example]


class Remembering:
    """A simulator that is asked by the benchmark, and keeps what it foresaw.

    Attributes:
        foreseen: of the windows that were asked about last; None before.
    """

    def __init__(self, simulator: TextSimulator) -> None:
        self.simulator = simulator
        self.foreseen: Foreseen | None = None

    def predict(self, windows: Sequence[Window]) -> list[list[str]]:
        """The K observations of every window."""
        self.foreseen = self.simulator.foresee_all(windows)
        return self.foreseen.texts


def draw(
    windows: Sequence[Window],
    asked: Mapping[str, Remembering],
    early: TextSimulator | None = None,
    config: ExamplesConfig | None = None,
) -> Examples:
    """Examples among windows that all of `asked` have answered; the run that is named first leads.

    Args:
        early: the leading run with an exit, to say how many loops it needs.
    """
    config, leading = config or ExamplesConfig(), next(iter(asked))
    answers = {name: one.foreseen or one.simulator.foresee_all(windows) for name, one in asked.items()}
    right = np.array(
        [
            exact_match(texts[-1], window.targets[-1]) == 1
            for texts, window in zip(answers[leading].texts, windows, strict=True)
        ]
    )
    rows = _drawn(right, config)
    shown = [windows[row] for row in rows]
    needed = early.foresee_all(shown).loops.tolist() if early is not None and shown else None
    found = []
    for place, (row, window) in enumerate(zip(rows, shown, strict=True)):
        said = {
            name: _said(
                window,
                answers[name],
                row,
                one.simulator.model.core.loopable,
                config.length,
                needed[place] if needed is not None and name == leading else None,
            )
            for name, one in asked.items()
        }
        found.append(
            Example(
                game=window.game,
                task_type=window.task_type,
                time=window.time,
                description=shortened(window.context.description, config.length),
                now=shortened(window.context.now, config.length),
                actions=list(window.actions),
                targets=[shortened(text, config.length) for text in window.targets],
                answers=said,
            )
        )
    return Examples(config, leading, int(right.sum()), int((~right).sum()), found)


def shortened(text: str, length: int) -> str:
    """At most `length` characters, and a mark where there were more."""
    return text if len(text) <= length else text[:length] + CUT


def _drawn(right: np.ndarray, config: ExamplesConfig) -> list[int]:
    """Rows of `right` (n,), half of either kind as far as there are as many."""
    rng = np.random.default_rng(config.seed)
    good, bad = (rng.permutation(np.flatnonzero(kind)) for kind in (right, ~right))
    half = config.count // 2
    wrong = min(len(bad), max(config.count - half, config.count - len(good)))
    return sorted(int(row) for row in (*bad[:wrong], *good[: config.count - wrong]))


def _said(window: Window, answers: Foreseen, row: int, loopable: bool, length: int, early: list[float] | None) -> Said:
    texts = answers.texts[row]
    return Said(
        texts=[shortened(text, length) for text in texts],
        right=[exact_match(text, target) == 1 for text, target in zip(texts, window.targets, strict=True)],
        confidence=[float(value) for value in answers.confidence[row]],
        loops=[int(value) for value in answers.loops[row]] if loopable else None,
        loops_early=[int(value) for value in early] if early is not None and loopable else None,
    )
