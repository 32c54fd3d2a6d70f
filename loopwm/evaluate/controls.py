"""Predictors without a world model, to know what an error is worth.

Each control predicts o_{k+1} for k = 0..K-1 from o_0 and the actions, as an imagined rollout does.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from loopwm.errors import UserError
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments
from loopwm.spaces import ActionSpec, ObservationSpec

Array = npt.NDArray[np.floating]


class Control(Protocol):
    """Anything that predicts from the opening observation and the actions alone.

    A control of images may have `images`, the number of them that it is shown; they then come as one array.
    """

    name: str

    def predict(self, observation: Array, actions: Array) -> Array:
        """o_0 (B, *S) and actions (B, K, A) -> predicted o_1..o_K (B, K, *S), in environment units."""
        ...


class CopyLast:
    """Nothing ever changes."""

    name = "copy last"

    def predict(self, observation: Array, actions: Array) -> Array:
        """See `Control.predict`."""
        return np.repeat(observation[:, None], actions.shape[1], axis=1)


class ConstantVelocity:
    """Everything keeps moving as it does: x_k = x_0 + k dt v_0. Walls, contacts and actions are ignored.

    Raises:
        UserError: the observation names no rates, or no time step.
    """

    name = "constant velocity"

    def __init__(self, spec: ObservationSpec):
        if not spec.rates or spec.dt <= 0:
            raise UserError("The constant-velocity control needs `rates` and a positive `dt` in the observation spec.")
        self.pairs = [(spec.names.index(value), spec.names.index(rate)) for value, rate in spec.rates]
        self.dt = spec.dt

    def predict(self, observation: Array, actions: Array) -> Array:
        """See `Control.predict`."""
        predicted = np.repeat(observation[:, None], actions.shape[1], axis=1).astype(np.float64)
        steps = np.arange(1, actions.shape[1] + 1).reshape(1, -1, *[1] * (observation.ndim - 2))
        for value, rate in self.pairs:
            predicted[..., value] += steps * self.dt * observation[:, None, ..., rate]
        return predicted


class LinearOneStep:
    """Ridge regression of the change over one step on (o_k, a_k), applied again and again.

    Args:
        segments: training segments.
        ridge: penalty per sample on coefficients of standardised inputs.
    """

    name = "linear, iterated"

    def __init__(self, segments: Segments, scorer: Scorer, action: ActionSpec, ridge: float = 1e-4):
        self.scorer, self.action = scorer, action
        before = flat(scorer, segments.observations[:, :-1])[segments.valid]
        after = flat(scorer, segments.observations[:, 1:])[segments.valid]
        inputs = np.concatenate([before, encoded(action, segments.actions)[segments.valid]], axis=1)
        self.weights = ridge_regression(inputs, after - before, ridge)

    def predict(self, observation: Array, actions: Array) -> Array:
        """See `Control.predict`."""
        state, encoded_actions = flat(self.scorer, observation), encoded(self.action, actions)
        states = []
        for k in range(actions.shape[1]):
            inputs = np.concatenate([state, encoded_actions[:, k]], axis=1)
            state = state + with_one(inputs) @ self.weights
            states.append(state)
        return self.scorer.restore(np.stack(states, axis=1).reshape(*actions.shape[:2], *self.scorer.spec.shape))


class LinearDirect:
    """One ridge regression per horizon k, of o_{k+1} - o_0 on (o_0, a_0..a_k): the best a linear map can do.

    Args:
        segments: training segments; predictions reach as far as they do.
        ridge: penalty per sample on coefficients of standardised inputs.
    """

    name = "linear, direct"

    def __init__(self, segments: Segments, scorer: Scorer, action: ActionSpec, ridge: float = 1e-3):
        self.scorer, self.action = scorer, action
        self.weights = [self._fit(segments, k, ridge) for k in range(segments.length)]

    def _fit(self, segments: Segments, k: int, ridge: float) -> Array:
        rows = segments.valid[:, k]
        opening = flat(self.scorer, segments.observations[rows, 0])
        change = flat(self.scorer, segments.observations[rows, k + 1]) - opening
        return ridge_regression(self._inputs(opening, segments.actions[rows, : k + 1]), change, ridge)

    def _inputs(self, opening: Array, actions: Array) -> Array:
        acted = encoded(self.action, actions)
        # There may be no row at all, where the training episodes are short.
        return np.concatenate([opening, acted.reshape(len(opening), acted.shape[1] * acted.shape[2])], axis=1)

    def predict(self, observation: Array, actions: Array) -> Array:
        """See `Control.predict`.

        Raises:
            UserError: more steps than it was fitted for.
        """
        if actions.shape[1] > len(self.weights):
            raise UserError(
                f"The direct linear control was fitted for {len(self.weights)} steps and asked for {actions.shape[1]}; "
                "fit it on longer segments."
            )
        opening = flat(self.scorer, observation)
        states = [
            opening + with_one(self._inputs(opening, actions[:, : k + 1])) @ self.weights[k]
            for k in range(actions.shape[1])
        ]
        return self.scorer.restore(np.stack(states, axis=1).reshape(*actions.shape[:2], *self.scorer.spec.shape))


def fit_controls(training: Segments, scorer: Scorer, action: ActionSpec) -> list[Control]:
    """Every control that makes sense for this world, fitted on segments of the training split.

    Images name no rates, so nothing is said of constant velocity; their linear control has a module of its own.
    """
    found: list[Control] = [CopyLast()]
    if scorer.spec.kind == "image" and not training.warmup:
        # Of a single image no speed is known, and there is no other in view.
        return found
    if scorer.spec.kind == "image":
        from loopwm.evaluate.pixel_controls import LinearComponents

        return [*found, LinearComponents(training, scorer, action)]
    if scorer.spec.rates and scorer.spec.dt > 0:
        found.append(ConstantVelocity(scorer.spec))
    return [*found, LinearOneStep(training, scorer, action), LinearDirect(training, scorer, action)]


def ridge_regression(inputs: Array, targets: Array, ridge: float) -> Array:
    """Coefficients (I+1, O) of targets (n, O) on inputs (n, I) and a constant; the constant is not penalised.

    Inputs are standardised for the penalty, so that their units do not matter.
    """
    if not len(inputs):
        return np.zeros((inputs.shape[1] + 1, targets.shape[1]))
    mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
    std = inputs.std(axis=0)
    # A constant input (the cue flag in a fixed slot) carries nothing; any positive scale leaves its weight at zero.
    std = np.where(std > 1e-8, std, 1.0)
    scaled = (inputs - mean) / std
    gram = scaled.T @ scaled + ridge * len(inputs) * np.eye(inputs.shape[1])
    slope = np.linalg.solve(gram, scaled.T @ (targets - target_mean)) / std[:, None]
    return np.concatenate([slope, (target_mean - mean @ slope)[None]])


def encoded(action: ActionSpec, actions: Array) -> npt.NDArray[np.float64]:
    """Stored actions (..., A) as regression inputs: themselves, or one-hot when they are indices."""
    if action.kind == "continuous":
        return np.asarray(actions, np.float64)
    index = np.asarray(actions).astype(np.int64)
    return np.concatenate([np.eye(count)[index[..., part]] for part, count in enumerate(action.choices)], axis=-1)


def flat(scorer: Scorer, observations: Array) -> npt.NDArray[np.float64]:
    """Observations (..., *S) normalised and flattened to (..., I)."""
    lead = observations.shape[: observations.ndim - len(scorer.spec.shape)]
    return scorer.normalise(observations).reshape(*lead, math.prod(scorer.spec.shape))


def with_one(inputs: Array) -> Array:
    """Inputs (n, I) with a constant column appended."""
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
