"""Stretches of recorded episodes to evaluate on, padded at the end so that no episode is too short to count.

Training windows lie fully inside an episode. For evaluation that would keep only the episodes that survive the longest
horizon; so a segment may run past the end of its episode, and `valid` says which transitions are real.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loopwm.data.cache import Columns
from loopwm.errors import UserError


@dataclass(frozen=True)
class Segments:
    """B stretches of up to K transitions.

    Attributes:
        observations: (B, K+1, *S); past the end of the episode the final observation is repeated.
        actions: (B, K, A); zero past the end.
        rewards, continues: (B, K).
        labels: name -> (B, K) difficulty labels.
        valid: (B, K), whether the transition exists. The terminating transition does, nothing after it does.
        episode: (B,) episode index in the store.
        start: (B,) transition of the episode that the segment begins with.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    continues: npt.NDArray[np.float32]
    labels: dict[str, npt.NDArray[np.float32]]
    valid: npt.NDArray[np.bool_]
    episode: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def length(self) -> int:
        """K."""
        return self.actions.shape[1]

    @property
    def transition_episode(self) -> npt.NDArray[np.int64]:
        """(n,) episode of every valid transition, in the order of `values[valid]`."""
        return np.broadcast_to(self.episode[:, None], self.valid.shape)[self.valid]

    def rows(self, rows: slice | npt.NDArray[np.integer]) -> Segments:
        """Some of the segments."""
        return Segments(
            observations=self.observations[rows],
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            continues=self.continues[rows],
            labels={name: column[rows] for name, column in self.labels.items()},
            valid=self.valid[rows],
            episode=self.episode[rows],
            start=self.start[rows],
        )

    def masked(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Values (B, K) with NaN where the transition does not exist."""
        return np.where(self.valid, values, np.nan)


def cut(columns: Columns, episode: npt.NDArray[np.int64], start: npt.NDArray[np.int64], length: int) -> Segments:
    """Segments of `length` transitions that begin at transition `start` (B,) of episode `episode` (B,)."""
    episode, start = np.asarray(episode, np.int64), np.asarray(start, np.int64)
    ends = columns.ep_len[episode]
    steps = start[:, None] + np.arange(length + 1)
    rows = columns.ep_offset[episode][:, None] + np.minimum(steps, ends[:, None])
    # Transition columns of an episode's final row are zero, so reading them as padding is harmless.
    transitions = rows[:, :-1]
    return Segments(
        observations=np.asarray(columns.observation[rows]),
        actions=np.asarray(columns.action[transitions]),
        rewards=np.asarray(columns.reward[transitions]),
        continues=np.asarray(columns.continues[transitions]),
        labels={name: np.asarray(column[transitions]) for name, column in columns.labels.items()},
        valid=steps[:, :-1] < ends[:, None],
        episode=episode,
        start=start,
    )


def tile(
    columns: Columns, episodes: npt.NDArray[np.integer], length: int, *, transitions: int | None = None, seed: int = 0
) -> Segments:
    """Segments that cover every transition of `episodes` exactly once, thinned evenly at random if there are too many.

    Args:
        length: K; a transition is predicted from at most K-1 earlier steps of its segment.
        transitions: about how many transitions to keep; all when None.
        seed: the same seed keeps the same segments.

    Raises:
        UserError: there are no episodes.
    """
    episode, start = _starts(columns, episodes, length)
    if transitions is not None and len(start) > (keep := max(1, round(transitions / length))):
        chosen = np.sort(np.random.default_rng(seed).choice(len(start), keep, replace=False))
        episode, start = episode[chosen], start[chosen]
    return cut(columns, episode, start, length)


def rollouts(
    columns: Columns,
    episodes: npt.NDArray[np.integer],
    horizon: int,
    *,
    stride: int = 20,
    rows: int | None = None,
    seed: int = 0,
) -> Segments:
    """Segments of `horizon` transitions that begin at transition 0, stride, 2 stride, ... of every episode.

    Args:
        rows: keep at most this many segments, chosen evenly at random.

    Raises:
        UserError: there are no episodes.
    """
    episode, start = _starts(columns, episodes, stride)
    if rows is not None and len(start) > rows:
        chosen = np.sort(np.random.default_rng(seed).choice(len(start), rows, replace=False))
        episode, start = episode[chosen], start[chosen]
    return cut(columns, episode, start, horizon)


def _starts(
    columns: Columns, episodes: npt.NDArray[np.integer], stride: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if len(episodes) == 0:
        raise UserError("There are no episodes to evaluate on; record more, or choose another split.")
    pairs = [(int(e), s) for e in episodes for s in range(0, int(columns.ep_len[e]), stride)]
    episode, start = np.array(pairs, np.int64).T
    return episode, start
