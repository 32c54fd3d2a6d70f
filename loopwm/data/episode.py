"""One episode, the unit that is recorded, split and resampled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np

from loopwm.errors import UserError
from loopwm.spaces import ObservationSpec


@dataclass(frozen=True)
class Episode:
    """L transitions between L+1 observations, all float32; images are uint8.

    Transition k is (observations[k], actions[k]) -> (rewards[k], continues[k], observations[k + 1]).

    Attributes:
        observations: (L+1, *S).
        actions: (L, A); a discrete action is its index, (L, 1).
        rewards: (L,).
        terminated: the last transition ended the task. An episode that was merely cut short is not terminated.
        labels: name -> (L,), the difficulty of each transition as the engine measured it.
        seed: what the world was reset with; -1 when unknown.

    Raises:
        UserError: no transition, lengths that disagree, or a number that is not finite.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    seed: int = -1

    def __post_init__(self) -> None:
        columns = {"actions": self.actions, "rewards": self.rewards, **self.labels}
        for name, column in columns.items():
            if column.ndim != (2 if name == "actions" else 1):
                raise UserError(
                    "An episode needs actions of shape (L, A), and rewards and labels of shape (L,), got "
                    f"{name} of shape {column.shape}."
                )
        if self.length < 1 or len(self.observations) != self.length + 1:
            raise UserError(
                f"An episode of L >= 1 transitions holds L + 1 observations, got {self.length} actions and "
                f"{len(self.observations)} observations"
                + ("; the one after the last action is missing." if len(self.observations) == self.length else ".")
            )
        for name, column in columns.items():
            if len(column) != self.length:
                raise UserError(f"An episode with {self.length} actions has {len(column)} {name}; give one per action.")
        for name, column in {"observation": self.observations, **columns}.items():
            step = first_not_finite(column)
            if step is not None:
                which = f" with seed {self.seed}" if self.seed >= 0 else ""
                raise UserError(
                    f"Step {step} of the episode{which} has a NaN or an infinite number in '{name}'; repair the "
                    "environment or drop the episode."
                )

    @property
    def length(self) -> int:
        """L, the number of transitions."""
        return len(self.actions)

    @property
    def continues(self) -> np.ndarray:
        """c_k: (L,) float32, 0 where the episode terminated at transition k, else 1."""
        values = np.ones(self.length, dtype=np.float32)
        values[-1] = 0.0 if self.terminated else 1.0
        return values

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that depend on what happened (observations, actions, rewards, ending) and on nothing else."""
        digest = hashlib.blake2b(digest_size=16)
        seen = "u1" if is_image(self.observations) else "<f4"
        for column, kind in ((self.observations, seen), (self.actions, "<f4"), (self.rewards, "<f4")):
            digest.update(np.ascontiguousarray(column, dtype=kind).data)
        digest.update(bytes([self.terminated]))
        return digest.digest()


def identity(episode: Episode, spec: ObservationSpec) -> bytes:
    """The fingerprint of an episode without entities that are never there: filling up a set makes no other episode."""
    if spec.presence is None:
        return episode.fingerprint
    there = episode.observations[..., spec.presence].any(axis=0)
    return replace(episode, observations=episode.observations[:, there]).fingerprint


def is_image(observations: np.ndarray) -> bool:
    """Whether observations (L+1, *S) are images as they are recorded, (L+1, H, W, C) uint8."""
    return observations.dtype == np.uint8 and observations.ndim == 4


def first_not_finite(values: np.ndarray) -> int | None:
    """Index along the leading axis of the NaN or infinity that comes soonest, None if all is finite."""
    if values.dtype.kind in "iu":
        return None
    finite = np.isfinite(values)
    return None if finite.all() else int((~finite.reshape(len(values), -1).all(axis=1)).argmax())
