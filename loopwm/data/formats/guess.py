"""What observations and actions are, guessed from arrays of logs that do not say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec, channel_names


def observation_spec(observations: np.ndarray) -> ObservationSpec:
    """(L+1, S) is a vector, (L+1, M, F) a set of entities, (L+1, H, W, C) of bytes an image.

    Raises:
        UserError: any other array.
    """
    shape = observations.shape[1:]
    if observations.ndim == 4 and observations.dtype == np.uint8:
        return ObservationSpec("image", shape, channel_names(shape[-1]))
    if observations.ndim not in (2, 3) or not np.issubdtype(observations.dtype, np.number):
        raise UserError(
            f"observations of shape {observations.shape} and type {observations.dtype} are neither vectors (L+1, S) "
            "nor sets of entities (L+1, M, F)."
        )
    kind = "vector" if observations.ndim == 2 else "entities"
    return ObservationSpec(kind, shape, tuple(f"feature{i}" for i in range(shape[-1])))


@dataclass(frozen=True)
class ActionRange:
    """What one episode says about the action space: how many numbers, whether whole, and the largest of each."""

    size: int
    whole: bool
    high: tuple[float, ...]

    @classmethod
    def of(cls, actions: np.ndarray) -> ActionRange:
        """Of actions (L,) or (L, A)."""
        rows = actions.reshape(len(actions), int(np.prod(actions.shape[1:])))
        high = rows.max(axis=0, initial=0) if len(rows) else np.zeros(rows.shape[1])
        return cls(rows.shape[1], bool(np.issubdtype(actions.dtype, np.integer)), tuple(high.tolist()))


def action_spec(ranges: Iterable[ActionRange]) -> ActionSpec:
    """Whole numbers are choices counted from 0, as many as occur anywhere; other numbers are continuous, unbounded.

    Raises:
        UserError: there are none.
    """
    found = list(ranges)
    if not found or not found[0].size:
        raise UserError("there are no actions.")
    high = np.max([one.high for one in found], axis=0)
    if not all(one.whole for one in found):
        return ActionSpec("continuous", len(high), (-np.inf,) * len(high), (np.inf,) * len(high))
    if len(high) == 1:
        return ActionSpec("discrete", int(high[0]) + 1)
    return ActionSpec("multi-discrete", int(high.sum()) + len(high), (0.0,) * len(high), tuple(map(float, high)))
