"""What observations and actions are, guessed from arrays of logs that do not say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopwm.data.meta import StoreMeta
from loopwm.errors import UserError
from loopwm.spaces import ActionSpec, ObservationSpec, channel_names, channels_first

Read = Callable[[], tuple[np.ndarray, np.ndarray, tuple[str, ...]]]
"""Reads observations (L+1, *S) and actions of an episode, and the names of its labels."""
MISNAMED = {"reward", "rewards", "done", "dones"}
"""Never labels, but something that a format calls otherwise; whether `done` is an ending or a time limit is unknown."""

MOST_CHOICES = 10_000
"""Whole numbers beyond are identifiers or measurements; an input per choice would make an enormous model of them."""


def guessed(path: Path, episodes: Iterable[tuple[str, Read]]) -> StoreMeta:
    """What the logs at `path` hold, which do not say. All of them are looked at, as any may hold the largest action.

    One that cannot be read is passed over: it is named when it is its turn, and others can be checked before.

    Args:
        episodes: where each of them is, for messages, and what reads it.

    Raises:
        UserError: none can be read, or one does not fit the first.
    """
    begin, spec, labels, ranges, negative = "", None, (), [], ""
    unreadable: UserError | None = None
    for where, read in episodes:
        try:
            observations, actions, names = read()
            found, acted = observation_spec(observations), ActionRange.of(actions)
        except UserError as error:
            unreadable = unreadable or UserError(f"{where}: {error}")
            continue
        if spec is None:
            begin, spec, labels = where, found, names
        ranges.append(acted)
        negative = negative or (where if acted.low < 0 else "")
        _refuse_misnamed(where, names)
        if (found.kind, found.shape) != (spec.kind, spec.shape):
            difference = f"observations of shape {spec.shape} and {where} of shape {found.shape}"
        elif acted.size != ranges[0].size:
            difference = f"{ranges[0].size} number(s) per action and {where} has {acted.size}"
        elif set(names) != set(labels):
            difference = f"the labels {sorted(labels)} and {where} has {sorted(names)}"
        else:
            continue
        raise UserError(f"{begin} has {difference}; one recording holds one world, all of it alike.")
    if spec is None:
        raise unreadable or UserError(f"{path} holds no rows.")
    action = action_spec(ranges)
    if negative and action.choices:
        raise UserError(
            f"{negative}: actions are whole numbers below 0, and choices are counted from 0; shift them, or store them "
            "as floating-point numbers if they are no choices."
        )
    if action.choices and action.size > MOST_CHOICES:
        raise UserError(
            f"{path} has whole-number actions up to {max(action.choices) - 1}, which would be {action.size} choices; "
            "store them as floating-point numbers if they are measured, or number the choices from 0."
        )
    return StoreMeta(f"logs:{path.resolve().name.removesuffix('.parquet')}", spec, action, labels)


def _refuse_misnamed(where: str, names: tuple[str, ...]) -> None:
    wrong = next((name for name in names if name in MISNAMED), None)
    if wrong is not None:
        raise UserError(
            f"{where}: '{wrong}' has no meaning here, and would be taken for a label; see the names in docs/formats.md."
        )


def observation_spec(observations: np.ndarray) -> ObservationSpec:
    """(L+1, S) is a vector, (L+1, M, F) a set of entities, (L+1, H, W, C) of bytes an image.

    Raises:
        UserError: any other array.
    """
    shape = observations.shape[1:]
    if observations.ndim == 4 and observations.dtype == np.uint8:
        if channels_first(shape):
            raise UserError(
                f"images of shape {shape} seem to have their channels first; store them as (height, width, channels)."
            )
        return ObservationSpec("image", shape, channel_names(shape[-1]))
    if observations.ndim not in (2, 3) or observations.dtype.kind not in "biuf":
        raise UserError(
            f"observations of shape {observations.shape} and type {observations.dtype} are neither vectors (L+1, S) "
            "nor sets of entities (L+1, M, F) nor images (L+1, H, W, C) of uint8."
        )
    kind = "vector" if observations.ndim == 2 else "entities"
    return ObservationSpec(kind, shape, tuple(f"feature{i}" for i in range(shape[-1])))


@dataclass(frozen=True)
class ActionRange:
    """What one episode says about the action space: how many numbers, whether whole, the largest of each, the smallest
    of all."""

    size: int
    whole: bool
    high: tuple[float, ...]
    low: float

    @classmethod
    def of(cls, actions: np.ndarray) -> ActionRange:
        """Of actions (L,) or (L, A).

        Raises:
            UserError: no numbers.
        """
        rows = actions.reshape(len(actions), int(np.prod(actions.shape[1:])))
        if actions.dtype.kind not in "biuf" or not rows.shape[1]:
            raise UserError(f"actions of shape {actions.shape} and type {actions.dtype} are no numbers (L, A) or (L,).")
        high = rows.max(axis=0, initial=0)
        return cls(rows.shape[1], actions.dtype.kind in "biu", tuple(map(float, high)), float(rows.min(initial=0)))


def action_spec(ranges: Iterable[ActionRange]) -> ActionSpec:
    """Whole numbers are choices counted from 0, as many as occur anywhere; other numbers are continuous, unbounded."""
    found = list(ranges)
    high = np.max([one.high for one in found], axis=0)
    if not all(one.whole for one in found):
        return ActionSpec("continuous", len(high), (-np.inf,) * len(high), (np.inf,) * len(high))
    if len(high) == 1:
        return ActionSpec("discrete", int(high[0]) + 1)
    return ActionSpec("multi-discrete", int(high.sum()) + len(high), (0.0,) * len(high), tuple(map(float, high)))
