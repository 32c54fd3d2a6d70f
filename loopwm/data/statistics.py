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
    All pixels of an image share one scale per channel, (C,). Entities that are not there do not count.

    A spread is never 0: what does not vary has spread 1, so dividing by it is safe. A discrete action is an index and
    keeps mean 0 and spread 1.

    Attributes:
        observation_mean, observation_std: (F,), (S,) or (C,) float32.
        observation_changes: (F,), (S,) or (C,) bool, does this feature ever change within an episode? What never does
            is left out of every score.
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
    changed, at_once = np.zeros(features, dtype=bool), columns.meta.rows_at_once
    # Blocks keep the comparison of large stores from needing another copy of the column.
    for block in np.array_split(steps, max(1, len(steps) // at_once)):
        moved = columns.observation[block + 1] != columns.observation[block]
        changed |= moved.reshape(-1, features).any(axis=0)
        if changed.all():
            break
    if indices := len(columns.meta.action.choices):
        action_mean, action_std = np.zeros(indices, dtype=np.float32), np.ones(indices, dtype=np.float32)
    else:
        action_mean, action_std = _moments(columns.action[steps])
    if columns.observation.dtype == np.uint8:
        observation_mean, observation_std = _moments_of_bytes(columns.observation, rows, at_once)
    else:
        seen = columns.observation[rows].reshape(-1, features)
        presence = columns.meta.observation.presence
        observation_mean, observation_std = _moments(seen if presence is None else seen[seen[:, presence] > 0])
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
    return _divisors(mean, values.std(axis=0, dtype=np.float64))


def _moments_of_bytes(column: np.ndarray, rows: np.ndarray, at_once: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of `rows` of images (rows, H, W, C) uint8 per channel, block by block; sums of integers are exact."""
    sums, squares = (np.zeros(column.shape[1:], dtype=np.int64) for _ in range(2))
    for block in np.array_split(rows, max(1, -(-len(rows) // at_once))):
        images = column[block]
        sums += images.sum(axis=0, dtype=np.uint32)
        # A square of a byte fits into 16 bits, and 65536 of them into 32.
        squares += np.square(images, dtype=np.uint16).sum(axis=0, dtype=np.uint32)
    pixels = len(rows) * sums[..., 0].size
    mean = sums.sum(axis=(0, 1)) / pixels
    return _divisors(mean, np.sqrt(squares.sum(axis=(0, 1)) / pixels - mean**2))


def _divisors(mean: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and spread in float32, the spread fit to be divided by."""
    # Rounding gives a constant a spread of about 1e-8 times its size, which must not become a divisor.
    constant = std <= 1e-6 * np.maximum(1.0, np.abs(mean))
    return mean.astype(np.float32), np.where(constant, 1.0, std).astype(np.float32)


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, ..., start + count - 1 of every pair, concatenated."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)
