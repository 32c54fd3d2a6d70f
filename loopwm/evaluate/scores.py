"""How far a predicted observation is from the real one: one number per transition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from loopwm.spaces import ObservationSpec

if TYPE_CHECKING:
    from loopwm.model.world_model import WorldModel

Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Scorer:
    """Errors of observations (..., *S), averaged over entities and over the features that ever change.

    Features that never change within an episode (which disc is the cue) would be predicted for free, so they are left
    out of every score.

    Attributes:
        spec: what the observation is.
        mean, std: (F,) for entities, (S,) for a vector, over the training episodes.
        changing: same shape, whether the feature is scored.
    """

    spec: ObservationSpec
    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    changing: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, model: WorldModel) -> Scorer:
        """Scores in the units the model was trained in: its statistics travel with its weights."""
        names = ("observation_mean", "observation_std", "observation_changes")
        mean, std, changes = (model.get_buffer(name).cpu().numpy() for name in names)
        return cls(model.observation, mean.astype(np.float64), std.astype(np.float64), changes.astype(bool))

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Scored features by kind: `position` and `velocity` where the world names rates, `other` for the rest."""
        names = self.spec.names
        position = {names.index(value) for value, _ in self.spec.rates}
        velocity = {names.index(rate) for _, rate in self.spec.rates}
        scored = set(np.flatnonzero(self.changing).tolist())
        found = {
            "position": position & scored,
            "velocity": (velocity - position) & scored,
            "other": scored - position - velocity,
        }
        return {name: tuple(sorted(features)) for name, features in found.items() if features}

    def normalise(self, observation: Array) -> npt.NDArray[np.float64]:
        """Observations (..., *S) with zero mean and unit variance per feature over the training episodes."""
        return (np.asarray(observation, np.float64) - self.mean) / self.std

    def restore(self, normalised: Array) -> npt.NDArray[np.float64]:
        """The inverse of `normalise`."""
        return np.asarray(normalised, np.float64) * self.std + self.mean

    def normalised_error(self, predicted: Array, target: Array) -> npt.NDArray[np.float64]:
        """Normalised mean squared error (...) of observations (..., *S); 1 is about as bad as the training mean.

        A prediction that is not finite has an infinite error, so that it can never be averaged away.
        """
        error = (self.normalise(predicted) - self.normalise(target))[..., self.changing] ** 2
        return _finite_or_infinite(error.mean(axis=self._feature_axes))

    def group_error(self, predicted: Array, target: Array, group: str) -> npt.NDArray[np.float64]:
        """Mean squared error (...) per coordinate of one group, in environment units squared."""
        features = list(self.groups[group])
        error = (np.asarray(predicted, np.float64)[..., features] - np.asarray(target, np.float64)[..., features]) ** 2
        return _finite_or_infinite(error.mean(axis=self._feature_axes))

    def target_norm(self, before: Array, after: Array) -> npt.NDArray[np.float64]:
        """Size of the change to be predicted, (...): root mean square of the normalised change from `before`."""
        return np.sqrt(self.normalised_error(before, after))

    @property
    def _feature_axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.spec.shape), 0))


def _finite_or_infinite(error: Array) -> npt.NDArray[np.float64]:
    return np.where(np.isfinite(error), error, np.inf)
