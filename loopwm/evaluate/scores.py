"""How far a predicted observation is from the real one: one number per transition."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    out of every score, and so are entities that are not there.

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
        """Scored features by kind: `position` and `velocity` where the world names rates, `other` for the rest; of an
        image `pixel`."""
        names = self.spec.names
        position = {names.index(value) for value, _ in self.spec.rates}
        velocity = {names.index(rate) for _, rate in self.spec.rates}
        scored = set(np.flatnonzero(self.changing).tolist())
        found = {
            "position": position & scored,
            "velocity": (velocity - position) & scored,
            "other": scored - position - velocity,
        }
        if self.spec.kind == "image":
            found = {"pixel": scored}
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

        def squared(predicted: Array, target: Array) -> Array:
            error = (self.normalise(predicted) - self.normalise(target))[..., self.changing] ** 2
            return self._weighted(error, target)

        return _finite_or_infinite(self._mean_of(squared, predicted, target))

    def group_error(self, predicted: Array, target: Array, group: str) -> npt.NDArray[np.float64]:
        """Mean squared error (...) per coordinate of one group, in environment units squared."""
        features = list(self.groups[group])

        def squared(predicted: Array, target: Array) -> Array:
            error = (np.asarray(predicted, np.float64) - np.asarray(target, np.float64))[..., features] ** 2
            return self._weighted(error, target)

        return _finite_or_infinite(self._mean_of(squared, predicted, target))

    def target_norm(self, before: Array, after: Array) -> npt.NDArray[np.float64]:
        """Size of the change to be predicted, (...): root mean square of the normalised change from `before`."""
        return np.sqrt(self.normalised_error(before, after))

    def reach(self, observations: Array) -> float:
        """The largest scored number among observations (..., *S), in standard deviations."""
        leading = tuple(range(observations.ndim - 1))
        ends = np.stack([observations.min(axis=leading), observations.max(axis=leading)])
        return float(np.abs(self.normalise(ends))[..., self.changing].max())

    def _weighted(self, error: Array, target: Array) -> Array:
        return error if self.spec.presence is None else error * self.spec.weights(np.asarray(target, np.float64))

    def _mean_of(self, squared: Callable[[Array, Array], Array], predicted: Array, target: Array) -> Array:
        """The mean of `squared` over an observation, (...); images in blocks, as one in double precision is large."""
        if self.spec.kind != "image":
            return squared(predicted, target).mean(axis=self._feature_axes)
        lead = predicted.shape[: predicted.ndim - len(self.spec.shape)]
        pairs = predicted.reshape(-1, *self.spec.shape), target.reshape(-1, *self.spec.shape)
        means, block = np.empty(len(pairs[0])), max(1, 2**21 // self.spec.size)
        for first in range(0, len(means), block):
            rows = slice(first, first + block)
            means[rows] = squared(pairs[0][rows], pairs[1][rows]).mean(axis=self._feature_axes)
        return means.reshape(lead)

    @property
    def _feature_axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.spec.shape), 0))


def psnr(rmse: float) -> float:
    """Peak signal-to-noise ratio in dB of a root mean square error of pixels, of 255."""
    return 20 * math.log10(255 / rmse) if rmse > 0 else math.inf


def _finite_or_infinite(error: Array) -> npt.NDArray[np.float64]:
    return np.where(np.isfinite(error), error, np.inf)
