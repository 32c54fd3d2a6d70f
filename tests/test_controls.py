"""Controls against closed forms, least squares and the real engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loopwm.data.store import Store
from loopwm.envs.physics.billiards import Billiards, BilliardsConfig
from loopwm.errors import UserError
from loopwm.evaluate.controls import (
    ConstantVelocity,
    CopyLast,
    LinearDirect,
    LinearOneStep,
    encoded,
    fit_controls,
    ridge_regression,
)
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments, rollouts, tile
from loopwm.spaces import ActionSpec, ObservationSpec

ACTION = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
VECTOR = ObservationSpec("vector", (3,), ("a", "b", "c"))


def linear_world(episodes: int, length: int, noise: float = 0.0) -> tuple[Segments, np.ndarray, np.ndarray]:
    """Segments of o' = M o + N a (+ noise), with M and N."""
    rng = np.random.default_rng(0)
    M = np.array([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.0, 0.8]])
    N = rng.normal(size=(3, 2))
    observations, actions = np.zeros((episodes, length + 1, 3)), rng.normal(size=(episodes, length, 2))
    observations[:, 0] = rng.normal(size=(episodes, 3))
    for k in range(length):
        observations[:, k + 1] = observations[:, k] @ M.T + actions[:, k] @ N.T
        observations[:, k + 1] += noise * rng.normal(size=(episodes, 3))
    shape = (episodes, length)
    segments = Segments(
        observations=observations.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=np.zeros(shape, np.float32),
        continues=np.ones(shape, np.float32),
        labels={},
        valid=np.ones(shape, bool),
        episode=np.arange(episodes),
        start=np.zeros(episodes, np.int64),
    )
    return segments, M, N


def unit_scorer(spec: ObservationSpec) -> Scorer:
    features = spec.num_features
    return Scorer(spec, np.full(features, 0.3), np.full(features, 2.0), np.ones(features, bool))


def test_copy_last_repeats_the_opening_observation():
    opening = np.arange(12.0).reshape(2, 6)
    predicted = CopyLast().predict(opening, np.zeros((2, 5, 1)))
    assert predicted.shape == (2, 5, 6)
    assert (predicted == opening[:, None]).all()


def test_constant_velocity_is_the_engine_without_contacts_and_pushes():
    config = BilliardsConfig(discs=2, damping=1.0, max_steps=0)
    world = Billiards(config)
    world.reset(seed=0)
    opening = np.array([[-0.5, -0.5, 0.3, 0.1, 1], [0.5, 0.4, -0.1, 0.2, 0]], np.float32)
    world.set_state(opening)
    real = np.stack([world.step(np.zeros(2, np.float32))[0] for _ in range(4)])
    names = ("x", "y", "vx", "vy", "cue")
    spec = ObservationSpec("entities", (2, 5), names, (("x", "vx"), ("y", "vy")), config.dt)
    predicted = ConstantVelocity(spec).predict(opening[None], np.zeros((1, 4, 2)))[0]
    assert predicted == pytest.approx(real, abs=1e-4)
    # The opening moved far enough for the agreement to mean something.
    assert np.abs(real[-1, :, :2] - opening[:, :2]).max() > 0.25


def test_constant_velocity_needs_rates_and_a_time_step():
    with pytest.raises(UserError, match="rates"):
        ConstantVelocity(VECTOR)


def test_ridge_without_penalty_is_least_squares_and_ignores_constant_inputs():
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(2.0, 3.0, (200, 4)), rng.normal(size=(200, 2))
    inputs[:, 2] = 7.0
    weights = ridge_regression(inputs, targets, 1e-12)
    informative = np.concatenate([inputs[:, [0, 1, 3]], np.ones((200, 1))], axis=1)
    expected = np.linalg.lstsq(informative, targets, rcond=None)[0]
    assert weights[[0, 1, 3, 4]] == pytest.approx(expected, abs=1e-6)
    assert weights[2] == pytest.approx(np.zeros(2), abs=1e-9)


def test_a_heavy_penalty_leaves_only_the_mean():
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(100, 3)), rng.normal(5.0, 1.0, (100, 1))
    weights = ridge_regression(inputs, targets, 1e9)
    assert np.abs(weights[:3]).max() < 1e-6
    assert weights[3] == pytest.approx(targets.mean())


@pytest.mark.parametrize("control", [LinearOneStep, LinearDirect])
def test_linear_controls_solve_a_linear_world_at_every_horizon(control):
    training, M, N = linear_world(400, 8)
    opening, actions = np.array([[1.0, -2.0, 0.5]]), np.random.default_rng(1).normal(size=(1, 8, 2))
    state, expected = opening[0], []
    for action in actions[0]:
        state = M @ state + N @ action
        expected.append(state)
    predicted = control(training, unit_scorer(VECTOR), ACTION, ridge=1e-10).predict(opening, actions)[0]
    assert predicted == pytest.approx(np.array(expected), abs=2e-3)


def test_the_direct_control_refuses_horizons_it_was_not_fitted_for():
    training, _, _ = linear_world(50, 4)
    control = LinearDirect(training, unit_scorer(VECTOR), ACTION)
    with pytest.raises(UserError, match="fitted for 4 steps and asked for 5"):
        control.predict(np.zeros((1, 3)), np.zeros((1, 5, 2)))


def test_padding_is_not_fitted():
    training, _, _ = linear_world(200, 6)
    valid = np.ones((200, 6), bool)
    valid[100:, 3:] = False
    spoiled = training.observations.copy()
    spoiled[100:, 4:] = 1e6
    padded = Segments(
        spoiled, training.actions, training.rewards, training.continues, {}, valid, training.episode, training.start
    )
    for control in (LinearOneStep, LinearDirect):
        predicted = control(padded, unit_scorer(VECTOR), ACTION).predict(np.ones((1, 3)), np.zeros((1, 6, 2)))
        assert np.abs(predicted).max() < 10


def test_where_nothing_reaches_as_far_nothing_is_forecast_to_change():
    training, _, _ = linear_world(50, 3)
    valid = np.ones((50, 3), bool)
    valid[:, 2] = False
    short = replace(training, valid=valid)
    predicted = LinearDirect(short, unit_scorer(VECTOR), ACTION).predict(np.ones((1, 3)), np.zeros((1, 3, 2)))
    np.testing.assert_allclose(predicted[0, 2], np.ones(3))
    assert np.isfinite(predicted).all()


def test_a_discrete_action_becomes_one_hot():
    found = encoded(ActionSpec("discrete", 3), np.array([[[0.0], [2.0]]]))
    assert found.tolist() == [[[1, 0, 0], [0, 0, 1]]]


def test_fitted_controls_beat_copying_on_episodes_they_have_not_seen(billiards_store, billiards_columns):
    with Store.open(billiards_store) as store:
        training, held_out = store.split("train"), store.split("test")
    columns = billiards_columns
    rows = columns.observation[:, :, :4].reshape(-1, 4)
    changing = np.array([True, True, True, True, False])
    mean, std = np.append(rows.mean(0), 0.0), np.append(rows.std(0), 1.0)
    scorer = Scorer(columns.meta.observation, mean, std, changing)
    controls = fit_controls(rollouts(columns, training, 10, stride=1), scorer, columns.meta.action)
    assert [control.name for control in controls] == [
        "copy last",
        "constant velocity",
        "linear, iterated",
        "linear, direct",
    ]
    steps = tile(columns, held_out, 1)
    error = {
        control.name: scorer.normalised_error(
            control.predict(steps.observations[:, 0], steps.actions), steps.observations[:, 1:]
        ).mean()
        for control in controls
    }
    assert 0.1 < error["linear, iterated"] < 0.9 * error["copy last"]
    assert error["linear, direct"] == pytest.approx(error["linear, iterated"], rel=0.1)
