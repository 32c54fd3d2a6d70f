"""What of a long past still says something: of all that was answered alike to the same action, the latest.

A state that is known in full stays known only together with everything since. Of a hundred readings of a thermometer
one is enough for that, so that a window can be told a long past in a few texts, in training as in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HEADING = 6
"""Words that an answer begins with, by which its kind is known: `this room is called the kitchen`."""


def standing(actions: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> list[int]:
    """Which transitions are the latest of their kind, in order; the very last always is.

    Args:
        actions, answers: the tokens of a_k and of o_{k+1}, one after the other.
    """
    latest: dict[tuple[bytes, bytes], int] = {}
    for k, (action, answer) in enumerate(zip(actions, answers, strict=True)):
        latest[action.tobytes(), answer[:HEADING].tobytes()] = k
    return sorted(latest.values())
