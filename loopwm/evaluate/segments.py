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
from loopwm.spaces import ObservationSpec


@dataclass(frozen=True)
class Segments:
    """B stretches of up to K transitions.

    Where one observation does not tell enough, as an image, a segment begins with a warm-up: transitions that a model
    watches and that no prediction is asked for.

    Attributes:
        observations: (B, K+1, *S); past the end of the episode the final observation is repeated.
        actions: (B, K, A); zero past the end.
        rewards, continues: (B, K).
        labels: name -> (B, K) difficulty labels.
        valid: (B, K), whether the transition exists and counts. The terminating one does, nothing after it does.
        episode: (B,) episode index in the store.
        start: (B,) transition of the episode that the segment begins with.
        warmup: leading transitions that do not count.
    """

    observations: npt.NDArray[np.float32]
    actions: npt.NDArray[np.float32]
    rewards: npt.NDArray[np.float32]
    continues: npt.NDArray[np.float32]
    labels: dict[str, npt.NDArray[np.float32]]
    valid: npt.NDArray[np.bool_]
    episode: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    warmup: int = 0

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
            warmup=self.warmup,
        )

    @property
    def ahead(self) -> Segments:
        """The same segments without their warm-up: what a rollout with eyes shut has before it."""
        skip = self.warmup
        return Segments(
            observations=self.observations[:, skip:],
            actions=self.actions[:, skip:],
            rewards=self.rewards[:, skip:],
            continues=self.continues[:, skip:],
            labels={name: column[:, skip:] for name, column in self.labels.items()},
            valid=self.valid[:, skip:],
            episode=self.episode,
            start=self.start + skip,
        )

    def masked(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Values (B, K) with NaN where the transition does not exist."""
        return np.where(self.valid, values, np.nan)


def rows_at_once(spec: ObservationSpec, steps: int, most: int = 512) -> int:
    """Segments of `steps` transitions that are predicted together: `most`, or fewer where they are images, so that
    predictions stay below some 32 MiB."""
    return max(1, min(most, 2**22 // (steps * spec.size))) if spec.kind == "image" else most


def affordable(columns: Columns, steps: int, wanted: int) -> int:
    """How many segments of `steps` transitions are looked at: `wanted`, or as many as half a GiB holds."""
    bytes_an_observation = columns.meta.observation.size * columns.observation.itemsize
    return max(1, min(wanted, 2**29 // ((steps + 1) * bytes_an_observation)))


def cut(
    columns: Columns,
    episode: npt.NDArray[np.int64],
    start: npt.NDArray[np.int64],
    length: int,
    warmup: int = 0,
) -> Segments:
    """Segments of `length` transitions that begin at transition `start` (B,) of episode `episode` (B,).

    Args:
        warmup: transitions in front of them that come along and do not count.
    """
    episode, start = np.asarray(episode, np.int64), np.asarray(start, np.int64) - warmup
    length = length + warmup
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
        valid=(steps[:, :-1] < ends[:, None]) & (np.arange(length) >= warmup),
        episode=episode,
        start=start,
        warmup=warmup,
    )


def tile(
    columns: Columns,
    episodes: npt.NDArray[np.integer],
    length: int,
    *,
    transitions: int | None = None,
    seed: int = 0,
    warmup: int = 0,
) -> Segments:
    """Segments that cover every transition of `episodes` exactly once, thinned evenly at random if there are too many.

    With a warm-up the leading transitions of an episode, which have none in front of them, are not covered.

    Args:
        length: K; a transition is predicted from at most K-1 earlier steps of its segment.
        transitions: about how many transitions to keep; all when None.
        seed: the same seed keeps the same segments.
        warmup: transitions to be watched in front of those that count.

    Raises:
        UserError: there are no episodes, or none outlasts the warm-up.
    """
    episode, start = _starts(columns, episodes, length, warmup)
    if transitions is not None and len(start) > (keep := max(1, round(transitions / length))):
        chosen = np.sort(np.random.default_rng(seed).choice(len(start), keep, replace=False))
        episode, start = episode[chosen], start[chosen]
    return cut(columns, episode, start, length, warmup)


def rollouts(
    columns: Columns,
    episodes: npt.NDArray[np.integer],
    horizon: int,
    *,
    stride: int = 20,
    rows: int | None = None,
    seed: int = 0,
    warmup: int = 0,
) -> Segments:
    """Segments of `horizon` transitions that begin at transition 0, stride, 2 stride, ... of every episode.

    Args:
        rows: keep at most this many segments, chosen evenly at random.
        warmup: transitions to be watched in front of the segments, which then begin so much later.

    Raises:
        UserError: there are no episodes, or none outlasts the warm-up.
    """
    episode, start = _starts(columns, episodes, stride, warmup)
    if rows is not None and len(start) > rows:
        chosen = np.sort(np.random.default_rng(seed).choice(len(start), rows, replace=False))
        episode, start = episode[chosen], start[chosen]
    return cut(columns, episode, start, horizon, warmup)


def _starts(
    columns: Columns, episodes: npt.NDArray[np.integer], stride: int, warmup: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    if len(episodes) == 0:
        raise UserError("There are no episodes to evaluate on; record more, or choose another split.")
    pairs = [(int(e), s) for e in episodes for s in range(warmup, int(columns.ep_len[e]), stride)]
    if not pairs:
        raise UserError(
            f"No episode is longer than the {warmup} transitions that are watched before predictions count; record "
            "longer ones, or ask for a shorter --warmup."
        )
    episode, start = np.array(pairs, np.int64).T
    return episode, start
