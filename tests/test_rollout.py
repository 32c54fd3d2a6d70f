"""One-step and open-loop errors against the verbs called by hand, on real billiards."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from loopwm.data.statistics import compute_statistics
from loopwm.evaluate.controls import CopyLast
from loopwm.evaluate.rollout import control_errors, imagined_observations, one_step, open_loop
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments, tile
from loopwm.model.config import LoopConfig, ModelConfig
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ObservationSpec


@pytest.fixture(scope="module")
def model(billiards_columns) -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(width=16, heads=2, loop=LoopConfig(mu=3))
    meta = billiards_columns.meta
    statistics = compute_statistics(billiards_columns, np.arange(40))
    return WorldModel(config, meta.observation, meta.action, statistics).eval()


@pytest.fixture(scope="module")
def segments(billiards_columns) -> Segments:
    """Every transition of a few episodes, some segments padded."""
    found = tile(billiards_columns, np.arange(8), 9)
    assert not found.valid.all()
    return found


def score_by_hand(model: WorldModel, predicted: np.ndarray, true: np.ndarray) -> float:
    """Normalised squared error of one observation (6, 5), in plain loops over x, y, vx, vy."""
    mean, std = model.get_buffer("observation_mean").numpy(), model.get_buffer("observation_std").numpy()
    total = 0.0
    for disc in range(6):
        for feature in range(4):
            total += (
                (predicted[disc, feature] - mean[feature]) / std[feature]
                - (true[disc, feature] - mean[feature]) / std[feature]
            ) ** 2
    return total / 24


@pytest.mark.parametrize("loops", [1, None, 7])
def test_one_step_is_observe_then_decode(model, segments, loops):
    errors = one_step(model, segments, loops)
    row, h = 4, model.initial(1)
    with torch.no_grad():
        for k in range(int(segments.valid[row].sum())):
            observation = torch.tensor(segments.observations[row : row + 1, k])
            action = torch.tensor(segments.actions[row : row + 1, k])
            h = model.step(h, action, model.encode(observation), num_loops=loops)
            prediction = model.decode(h)
            expected = score_by_hand(model, prediction.observation[0].numpy(), segments.observations[row, k + 1])
            assert errors.observation[row, k] == pytest.approx(expected, rel=1e-4)
            squared = (float(prediction.reward[0]) - segments.rewards[row, k]) ** 2
            assert errors.reward[row, k] == pytest.approx(squared, rel=1e-3, abs=1e-7)
            assert errors.continue_probability[row, k] == pytest.approx(
                float(prediction.continue_probability[0]), rel=1e-4
            )


def test_open_loop_sees_only_the_opening_observation(model, segments):
    errors = open_loop(model, segments)
    row = int(np.flatnonzero(segments.valid.all(axis=1))[0])
    with torch.no_grad():
        h = model.encode(torch.tensor(segments.observations[row : row + 1, 0]))
        embedding, h = h, model.initial(1)
        for k in range(segments.length):
            h = model.step(h, torch.tensor(segments.actions[row : row + 1, k]), embedding)
            embedding = None
            expected = score_by_hand(model, model.decode(h).observation[0].numpy(), segments.observations[row, k + 1])
            assert errors.observation[row, k] == pytest.approx(expected, rel=1e-4)
    blinded = replace(segments, observations=segments.observations.copy())
    blinded.observations[:, 1:] += 1.0
    assert (imagined_observations(model, blinded)[0] == imagined_observations(model, segments)[0]).all()


def test_the_opening_step_is_the_same_blind_or_not(model, segments):
    assert open_loop(model, segments).observation[:, 0] == pytest.approx(one_step(model, segments).observation[:, 0])
    assert open_loop(model, segments).observation[0, 1] != pytest.approx(one_step(model, segments).observation[0, 1])


def test_batches_change_nothing(model, segments):
    whole, parts = one_step(model, segments), one_step(model, segments, batch=5)
    assert parts.observation == pytest.approx(whole.observation, rel=1e-4, nan_ok=True)
    assert parts.groups["velocity"] == pytest.approx(whole.groups["velocity"], rel=1e-4, nan_ok=True)


def test_nothing_after_the_end_of_an_episode_counts(model, segments):
    errors = one_step(model, segments)
    for values in (errors.observation, errors.reward, errors.continue_probability, *errors.groups.values()):
        assert (np.isnan(values) == ~segments.valid).all()
    garbage = replace(segments, observations=segments.observations.copy(), rewards=segments.rewards.copy())
    garbage.rewards[~segments.valid] = 1e9
    later = np.concatenate([np.zeros((len(segments), 1), bool), ~segments.valid], axis=1)
    garbage.observations[later] = 1e9
    again = one_step(model, garbage)
    assert np.array_equal(again.observation, errors.observation, equal_nan=True)
    assert np.array_equal(again.reward, errors.reward, equal_nan=True)


def test_groups_are_in_environment_units(model, segments):
    errors = control_errors(CopyLast(), segments, Scorer.of(model))
    assert set(errors.groups) == {"position", "velocity"}
    before, after = segments.observations[2, 0], segments.observations[2, 1]
    assert errors.groups["position"][2, 0] == pytest.approx(((after - before)[:, :2] ** 2).mean(), rel=1e-5)
    assert errors.groups["velocity"][2, 0] == pytest.approx(((after - before)[:, 2:4] ** 2).mean(), rel=1e-5)


def test_knowing_the_answer_scores_zero_and_the_training_mean_about_one(billiards_columns, model):
    scorer = Scorer.of(model)
    everything = tile(billiards_columns, np.arange(40), 1).observations[:, 1]
    assert (scorer.normalised_error(everything, everything) == 0).all()
    mean = np.broadcast_to(scorer.mean, everything.shape)
    assert scorer.normalised_error(mean, everything).mean() == pytest.approx(1.0, abs=0.1)


def test_what_never_changes_is_not_scored(model):
    scorer = Scorer.of(model)
    true = np.zeros((6, 5))
    wrong_flag = true.copy()
    wrong_flag[:, 4] = 100.0
    assert scorer.normalised_error(wrong_flag, true) == 0
    assert scorer.groups == {"position": (0, 1), "velocity": (2, 3)}


def test_features_without_rates_are_one_group():
    spec = ObservationSpec("vector", (3,), ("a", "b", "c"))
    scorer = Scorer(spec, np.zeros(3), np.ones(3), np.array([True, False, True]))
    assert scorer.groups == {"other": (0, 2)}
    assert scorer.normalised_error(np.array([1.0, 9.0, 3.0]), np.zeros(3)) == pytest.approx(5.0)


def test_predictions_that_are_not_finite_are_counted_and_infinitely_wrong(model, segments):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.observation_head.read.bias[2] = torch.nan
    errors = one_step(broken, segments)
    valid = int(segments.valid.sum())
    assert errors.nonfinite == valid * 6
    assert np.isinf(errors.observation[segments.valid]).all()
    assert np.isfinite(errors.groups["position"][segments.valid]).all()


def test_a_trace_sees_every_loop_of_every_step(model, segments):
    trace = Trace()
    one_step(model, segments, 5, batch=len(segments), trace=trace)
    assert trace.residual.shape == (5, len(segments), segments.length)
    with pytest.raises(ValueError, match="one batch"):
        one_step(model, segments, 5, batch=3, trace=Trace())
