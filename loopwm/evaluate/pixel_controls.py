"""A linear forecast of images, to know what an error of pixels is worth.

A regression from all pixels onto all pixels has hundreds of millions of coefficients, which no recording determines. So
images are reduced to their principal components, and those are forecast.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from loopwm.evaluate.controls import Array, encoded, ridge_regression, with_one
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments
from loopwm.spaces import ActionSpec

COMPONENTS = 64
"""Principal components that are kept."""
IMAGES = 2000
"""Images that they are found in."""


class LinearComponents:
    """One ridge regression per horizon k, of the components of o_{k+1} on those of two images and on a_0..a_k.

    Two images, because speeds show in their difference. What lies outside the components is forecast as its mean.

    Args:
        segments: training segments with a warm-up of a transition or more; predictions reach as far as they do.
        ridge: penalty per sample on coefficients of standardised inputs.
        seed: of the images that the components are found in.
    """

    name = "linear, principal components"
    images = 2

    def __init__(
        self, segments: Segments, scorer: Scorer, action: ActionSpec, ridge: float = 1e-3, seed: int = 0
    ) -> None:
        self.scorer, self.action = scorer, action
        self.mean, self.axes = principal_axes(scorer, segments, seed)
        begin = segments.warmup
        codes = np.stack([self.code(segments.observations[:, k]) for k in range(begin - 1, segments.length + 1)], 1)
        shown, actions = codes[:, :2].reshape(len(codes), -1), segments.actions[:, begin:]
        self.weights: list[Array] = []
        for k in range(segments.length - begin):
            rows = segments.valid[:, begin + k]
            inputs = self._inputs(shown[rows], actions[rows, : k + 1])
            self.weights.append(ridge_regression(inputs, codes[rows, k + 2], ridge))

    def code(self, images: Array) -> npt.NDArray[np.float32]:
        """Images (B, H, W, C) -> their components (B, R)."""
        return np.asarray((self._flat(images) - self.mean) @ self.axes, np.float32)

    def predict(self, observation: Array, actions: Array) -> Array:
        """Two images (B, 2, H, W, C) and actions (B, K, A) -> the K images that follow, in environment units."""
        shown = np.concatenate([self.code(observation[:, 0]), self.code(observation[:, 1])], axis=1)
        codes = np.stack(
            [with_one(self._inputs(shown, actions[:, : k + 1])) @ self.weights[k] for k in range(actions.shape[1])],
            axis=1,
        )
        flat = codes.astype(np.float32) @ self.axes.T + self.mean
        return self.scorer.restore(flat.reshape(*actions.shape[:2], *self.scorer.spec.shape))

    def _inputs(self, shown: Array, actions: Array) -> Array:
        acted = encoded(self.action, actions)
        return np.concatenate([shown, acted.reshape(len(shown), acted.shape[1] * acted.shape[2])], axis=1)

    def _flat(self, images: Array) -> npt.NDArray[np.float32]:
        return self.scorer.normalise(images).astype(np.float32).reshape(len(images), -1)


def principal_axes(
    scorer: Scorer, segments: Segments, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Mean (I,) and leading principal axes (I, R) of the images in `segments`, normalised and flattened."""
    b, k = np.nonzero(segments.valid)
    drawn = np.random.default_rng(seed).permutation(len(b))[:IMAGES]
    images = scorer.normalise(segments.observations[b[drawn], k[drawn]]).astype(np.float32).reshape(len(drawn), -1)
    mean = images.mean(axis=0)
    images -= mean
    # Fewer images than pixels: the axes come cheapest from the products of images with each other.
    values, vectors = np.linalg.eigh((images @ images.T).astype(np.float64))
    kept = np.flatnonzero(values > 1e-9 * values[-1])[::-1][:COMPONENTS]
    axes = images.T @ (vectors[:, kept] / np.sqrt(values[kept])).astype(np.float32)
    return mean, axes
