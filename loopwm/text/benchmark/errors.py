"""Why answers are wrong, and what kinds of targets there are: for the analysis of a system, by counting.

A wrong answer has the first of these causes that applies:

    list order       right but for the order within lists
    not shown        the target was shown for the first time and is unusual (loopwm/text/benchmark/ceiling.py)
    numbers          right but for numbers
    another answer   of another kind: the first three words differ, numbers and the action's own words aside
    other words      the same kind of answer with other words: contents, states, spelling
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from loopwm.text.benchmark.listings import normalised, unordered
from loopwm.text.benchmark.patterns import opening, read_action, without_numbers
from loopwm.text.benchmark.windows import Window

MISSES = ("list order", "not shown", "numbers", "another answer", "other words")
ANSWERS = ("new", "as before", "otherwise")
"""To an action that was not taken before, and to one that was, with the same answer or with another."""


def misses(
    windows: Sequence[Window], predicted: Sequence[Sequence[str]], unusual: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Causes of the wrong answers at the last step.

    Args:
        windows: n windows of K steps.
        predicted: K texts for each.
        unusual: (n,) whether the last target is a first and unusual.

    Returns:
        (n, len(MISSES)), 1 for the cause of a wrong answer; a right answer has none.
    """
    found = np.zeros((len(windows), len(MISSES)))
    for row, (window, texts) in enumerate(zip(windows, predicted, strict=True)):
        cause = _miss(window.actions[-1], texts[-1], window.targets[-1], bool(unusual[row]))
        if cause:
            found[row, MISSES.index(cause)] = 1
    return found


def answered(window: Window) -> str:
    """Which of `ANSWERS` the last target is, against all that was read before it.

    What is answered otherwise than before tells a world model from a memory: something has changed in between.
    """
    actions = [*window.context.actions, *window.actions[:-1]]
    texts = [*window.context.observations[1:], *window.targets[:-1]]
    before = [text for action, text in zip(actions, texts, strict=True) if action == window.actions[-1]]
    if not before:
        return "new"
    return "as before" if normalised(before[-1]) == normalised(window.targets[-1]) else "otherwise"


def _miss(action: str, predicted: str, target: str, unusual: bool) -> str:
    answer, truth = normalised(predicted), normalised(target)
    if answer == truth:
        return ""
    if unordered(predicted) == unordered(target):
        return "list order"
    if unusual:
        return "not shown"
    if without_numbers(answer) == without_numbers(truth):
        return "numbers"
    arguments = read_action(action).arguments
    return "another answer" if opening(answer, arguments) != opening(truth, arguments) else "other words"
