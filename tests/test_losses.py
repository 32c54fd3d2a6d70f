"""Eq. 10: which prediction is compared with which observation, and what is shown to the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from loopwm.data.cache import Columns
from loopwm.data.statistics import compute_statistics
from loopwm.data.windows import Windows, WindowSampler
from loopwm.model.config import LoopConfig, ModelConfig
from loopwm.model.world_model import WorldModel
from loopwm.train.config import LossConfig
from loopwm.train.losses import unroll, visible_steps, window_loss


@pytest.fixture(scope="module")
def model(billiards_columns: Columns) -> WorldModel:
    torch.manual_seed(0)
    statistics = compute_statistics(billiards_columns, torch.arange(30).numpy())
    config = ModelConfig(width=16, heads=2, loop=LoopConfig(mu=2))
    meta = billiards_columns.meta
    return WorldModel(config, meta.observation, meta.action, statistics).requires_grad_(False)


@pytest.fixture(scope="module")
def windows(billiards_columns: Columns) -> Windows:
    return WindowSampler(billiards_columns, torch.arange(30).numpy(), seed=0).sample(16, 5)


def test_the_loss_compares_h_k_with_the_observation_that_follows_a_k(model: WorldModel, windows: Windows) -> None:
    """By hand, one transition at a time; a target shifted by one step must give another number."""
    latents = model.observe(windows.observations[:, :-1], windows.actions)
    config, std = LossConfig(reward=0.3, continues=0.7), 0.2
    terms = window_loss(model, windows, latents, config, std)
    observation = reward = continues = 0.0
    for b in range(16):
        for k in range(5):
            prediction = model.decode(latents[b, k])
            error = (prediction.observation - windows.observations[b, k + 1]) / model.observation_std
            # x, y, vx, vy of every disc; which disc is the cue never changes.
            error = error[:, :4]
            observation += float(error.square().mean()) / 80
            reward += float((prediction.reward - windows.rewards[b, k]) / std) ** 2 / 80
            probability, flag = float(prediction.continue_probability), float(windows.continues[b, k])
            continues -= float(torch.tensor(probability if flag else 1 - probability).log()) / 80
    assert float(terms.observation) == pytest.approx(observation, rel=1e-4)
    assert float(terms.reward) == pytest.approx(reward, rel=1e-4)
    assert float(terms.continues) == pytest.approx(continues, rel=1e-4)
    assert float(terms.total) == pytest.approx(observation + 0.3 * reward + 0.7 * continues, rel=1e-4)
    shifted = replace(windows, observations=windows.observations.roll(1, dims=1))
    assert abs(float(window_loss(model, shifted, latents, config, std).observation) - observation) > 0.01


def test_features_that_never_change_cost_nothing(model: WorldModel, windows: Windows) -> None:
    latents = model.observe(windows.observations[:, :-1], windows.actions)
    before = window_loss(model, windows, latents, LossConfig(), 1.0)
    tampered = windows.observations.clone()
    tampered[..., 4] += 10
    relabelled = window_loss(model, replace(windows, observations=tampered), latents, LossConfig(), 1.0)
    assert float(relabelled.total) == float(before.total)
    tampered[..., 3] += 10
    moved = window_loss(model, replace(windows, observations=tampered), latents, LossConfig(), 1.0)
    assert float(moved.observation) > 2 * float(before.observation)


def test_showing_everything_is_observing_and_showing_only_the_start_is_imagining(
    model: WorldModel, windows: Windows
) -> None:
    everything = torch.ones(16, 5, dtype=torch.bool)
    only_start = everything & (torch.arange(5) == 0)
    torch.testing.assert_close(
        unroll(model, windows, everything, 3), model.observe(windows.observations[:, :-1], windows.actions, num_loops=3)
    )
    torch.testing.assert_close(
        unroll(model, windows, only_start, 3),
        model.imagine(windows.actions, observation=windows.observations[:, 0], num_loops=3),
    )


def test_a_hidden_observation_cannot_be_seen(model: WorldModel, windows: Windows) -> None:
    visible = torch.ones(16, 5, dtype=torch.bool)
    visible[:, 2:] = False
    tampered = windows.observations.clone()
    tampered[:, 2:5] += 10
    latents = unroll(model, windows, visible, 2)
    torch.testing.assert_close(latents, unroll(model, replace(windows, observations=tampered), visible, 2))


@settings(max_examples=50, deadline=None)
@given(batch=st.integers(1, 200), window=st.integers(1, 12), observed=st.floats(0, 1), seed=st.integers(0, 1000))
def test_every_window_shows_its_start_and_then_a_prefix(batch: int, window: int, observed: float, seed: int) -> None:
    visible = visible_steps(batch, window, observed, torch.Generator().manual_seed(seed))
    assert visible.shape == (batch, window)
    assert bool(visible[:, 0].all())
    assert bool((visible[:, :-1] >= visible[:, 1:]).all())


def test_the_share_of_fully_shown_windows_is_the_configured_one() -> None:
    visible = visible_steps(40_000, 8, 0.5, torch.Generator().manual_seed(0))
    # Of the windows that are not forced, one in eight draws the full prefix anyway.
    assert float(visible.all(1).float().mean()) == pytest.approx(0.5 + 0.5 / 8, abs=0.01)


def test_the_continue_term_is_torchs_cross_entropy(model: WorldModel, windows: Windows) -> None:
    latents = model.observe(windows.observations[:, :-1], windows.actions)
    logits = model.decode(latents).continue_logit
    wanted = functional.binary_cross_entropy_with_logits(logits, windows.continues)
    got = window_loss(model, windows, latents, LossConfig(), 1.0).continues
    torch.testing.assert_close(got, wanted)
