"""What of a long past still says something: of all that was answered alike to the same action, the latest.

A state that is known in full stays known only together with everything since. Of a hundred readings of a thermometer
one is enough for that, so that a window can be told a long past in a few texts, in training as in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HEADING = 6
"""Tokens that an answer begins with, by which its kind is known: `this room is called the kitchen`."""


@dataclass(frozen=True)
class Told:
    """What a model is told of a world, in tokens: J texts and actions of the past, then what it follows one by one."""

    seen: list[np.ndarray]
    done: list[np.ndarray]
    past: int = 0

    @classmethod
    def of(
        cls,
        seen: Sequence[np.ndarray],
        done: Sequence[np.ndarray],
        start: int,
        task: np.ndarray,
        state: np.ndarray | None = None,
    ) -> Told:
        """Of an episode that is followed from o_start on.

        Args:
            seen: o_0 ... o_t. done: a_0 ... a_{t-1}.
            task: opens what is followed, so that latents know of it.
            state: the task and the complete initial state, which open o_0. The past is forgotten when None.
        """
        if state is None:
            return cls([np.concatenate([task, seen[start]]), *seen[start + 1 :]], list(done[start:]))
        past = standing(done[:start], seen[1 : start + 1])
        texts = [np.concatenate([state, seen[0]]), *(seen[k + 1] for k in past), *seen[start + 1 :]]
        if past:
            texts[len(past)] = np.concatenate([task, texts[len(past)]])
        return cls(texts, [*(done[k] for k in past), *done[start:]], len(past))


def standing(actions: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> list[int]:
    """Which transitions are the latest of their kind, in order; the very last always is.

    Args:
        actions, answers: the tokens of a_k and of o_{k+1}, one after the other.
    """
    latest: dict[tuple[bytes, bytes], int] = {}
    for k, (action, answer) in enumerate(zip(actions, answers, strict=True)):
        latest[action.tobytes(), answer[:HEADING].tobytes()] = k
    return sorted(latest.values())


def aligned(worlds: Sequence[Told], ahead: int = 0) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]], int]:
    """Texts and actions of worlds that are followed side by side, for `ahead` steps at least, and J of all of them.

    Those with a shorter past begin, and those that are followed for fewer steps end, with texts that say nothing.
    """
    past = max(one.past for one in worlds)
    ahead = max(ahead, *(len(one.done) - one.past for one in worlds))
    seen, done = [], []
    for one in worlds:
        before, after = [_NOTHING] * (past - one.past), [_NOTHING] * (ahead - len(one.done) + one.past)
        seen.append([*before, *one.seen, *after])
        done.append([*before, *one.done, *after])
    return seen, done, past


_NOTHING = np.zeros(0, np.int32)
