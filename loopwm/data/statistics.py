"""Means and spreads that put observations, actions and rewards on a common scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loopwm.errors import UserError

if TYPE_CHECKING:
    from loopwm.data.cache import Columns


@dataclass(frozen=True)
class Statistics:
    """Taken from training episodes only. Entities share one scale per feature, so shapes are (F,), of a vector (S,).

    A spread is never 0: what does not vary has spread 1, so dividing by it is safe. A discrete action is an index and
    keeps mean 0 and spread 1.

    Attributes:
        observation_mean, observation_std: (F,) or (S,) float32.
        observation_changes: (F,) or (S,) bool, does this feature ever change within an episode? What never does is
            left out of every score.
        action_mean, action_std: (A,) float32.
        reward_mean, reward_std: numbers.
    """

    observation_mean: np.ndarray
    observation_std: np.ndarray
    observation_changes: np.ndarray
    action_mean: np.ndarray
    action_std: np.ndarray
    reward_mean: float
    reward_std: float


def compute_statistics(columns: Columns, episodes: np.ndarray) -> Statistics:
    """The statistics of `episodes` (indices); every observation counts, o_0 and o_L included.

    Raises:
        UserError: `episodes` is empty.
    """
    if len(episodes) == 0:
        raise UserError("There is no episode to take statistics from; record more episodes.")
    lengths, offsets = columns.ep_len[episodes], columns.ep_offset[episodes]
    rows = _ranges(offsets, lengths + 1)
    steps = _ranges(offsets, lengths)
    features = columns.observation.shape[-1]
    observation = columns.observation[rows].reshape(-1, features)
    changed = np.zeros(features, dtype=bool)
    # Blocks keep the comparison of large stores from needing another copy of the column.
    for block in np.array_split(steps, max(1, len(steps) // 2**16)):
        moved = columns.observation[block + 1] != columns.observation[block]
        changed |= moved.reshape(-1, features).any(axis=0)
    if indices := len(columns.meta.action.choices):
        action_mean, action_std = np.zeros(indices, dtype=np.float32), np.ones(indices, dtype=np.float32)
    else:
        action_mean, action_std = _moments(columns.action[steps])
    observation_mean, observation_std = _moments(observation)
    reward_mean, reward_std = _moments(columns.reward[steps][:, None])
    return Statistics(
        observation_mean,
        observation_std,
        changed,
        action_mean,
        action_std,
        float(reward_mean[0]),
        float(reward_std[0]),
    )


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread over the leading axis, accumulated in float64."""
    mean = values.mean(axis=0, dtype=np.float64)
    std = values.std(axis=0, dtype=np.float64)
    # Rounding gives a constant a spread of about 1e-8 times its size, which must not become a divisor.
    constant = std <= 1e-6 * np.maximum(1.0, np.abs(mean))
    return mean.astype(np.float32), np.where(constant, 1.0, std).astype(np.float32)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, ..., start + count - 1 of every pair, concatenated."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
