"""Residuals, tokens and very long rollouts against values worked out another way."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from loopwm.data.statistics import compute_statistics
from loopwm.evaluate.config import SpeedConfig
from loopwm.evaluate.diagnostics import (
    effective_rank,
    retention_spread,
    settling,
    stability,
    token_correlation,
    token_health,
)
from loopwm.evaluate.segments import Segments, rollouts, tile
from loopwm.evaluate.speed import processor, step_times
from loopwm.model.config import LoopConfig, ModelConfig, System
from loopwm.model.core import LoopedCore
from loopwm.model.world_model import WorldModel


def make(
    billiards_columns,
    system: System = "looped",
    mu: int = 3,
    width: int = 16,
    start: Literal["input", "zero", "previous"] = "input",
) -> WorldModel:
    torch.manual_seed(0)
    meta = billiards_columns.meta
    config = ModelConfig(system=system, width=width, heads=2, loop=LoopConfig(mu=mu, abar=0.5, start=start, settle=0.0))
    statistics = compute_statistics(billiards_columns, np.arange(40))
    return WorldModel(config, meta.observation, meta.action, statistics).eval()


@pytest.fixture(scope="module")
def segments(billiards_columns) -> Segments:
    return tile(billiards_columns, np.arange(6), 1)


def test_tokens_that_have_collapsed_are_fully_correlated_and_of_rank_one():
    h = torch.randn(5, 1, 8).expand(5, 4, 8)
    assert float(token_correlation(h)) == pytest.approx(1.0)
    assert float(effective_rank(h)) == pytest.approx(1.0, abs=1e-5)


def test_orthogonal_tokens_are_uncorrelated_and_of_full_rank():
    h = 3.0 * torch.linalg.qr(torch.randn(5, 8, 8))[0][:, :4]
    assert float(token_correlation(h)) == pytest.approx(0.0, abs=1e-6)
    assert float(effective_rank(h)) == pytest.approx(4.0, abs=1e-5)


def test_token_correlation_is_the_mean_cosine_of_pairs():
    h = torch.randn(3, 4, 6, dtype=torch.float64)
    pairs = [torch.cosine_similarity(h[:, i], h[:, j]) for i in range(4) for j in range(4) if i != j]
    assert float(token_correlation(h)) == pytest.approx(float(torch.stack(pairs).mean()))


def test_effective_rank_of_known_singular_values():
    h = torch.zeros(1, 3, 5)
    h[0, 0, 0], h[0, 1, 1], h[0, 2, 2] = 3.0, 1.0, 0.0
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert float(effective_rank(h)) == pytest.approx(np.exp(entropy), rel=1e-6)


def test_token_health_looks_at_observed_latents(billiards_columns, segments):
    model = make(billiards_columns)
    found = token_health(model, segments)
    with torch.no_grad():
        e = model.encode(torch.tensor(segments.observations[:, 0]))
        h = model.step(model.initial(len(segments)), torch.tensor(segments.actions[:, 0]), e)
    assert found.correlation == pytest.approx(float(token_correlation(h)), rel=1e-4)
    assert (found.tokens, found.n) == (6, len(segments))


def test_residuals_equal_the_loop_run_by_hand(billiards_columns, segments):
    model = make(billiards_columns)
    found = settling(model, segments, 4)
    assert found is not None
    core = model.core
    assert isinstance(core, LoopedCore)
    with torch.no_grad():
        action = (torch.tensor(segments.actions[:, 0]) - model.get_buffer("action_mean")) / model.get_buffer(
            "action_std"
        )
        e = core.prelude(
            model.initial(len(segments)),
            model.encode(torch.tensor(segments.observations[:, 0])),
            model.action_encoder(action),
        )
        h, held = core.start(model.initial(len(segments)), e), core.held_input(e)
        for loop in range(4):
            after = core.moved(h, e, held, torch.tensor([loop]))
            change = (after - h).flatten(1).norm(dim=1) / after.flatten(1).norm(dim=1)
            assert found.median[loop] == pytest.approx(float(np.quantile(change.numpy(), 0.5)), rel=1e-3)
            assert found.high[loop] == pytest.approx(float(np.quantile(change.numpy(), 0.9)), rel=1e-3)
            h = after


def test_a_loop_that_starts_at_zero_moves_by_all_of_its_latent_at_once(billiards_columns, segments):
    found = settling(make(billiards_columns, start="zero"), segments, 4)
    assert found is not None and found.median[0] == pytest.approx(1.0)


def test_the_settling_rate_is_the_retention_of_a_loop_that_only_retains(billiards_columns, segments):
    model = make(billiards_columns)
    core = model.core
    assert isinstance(core, LoopedCore)
    with torch.no_grad():
        # A block that adds nothing leaves h' = Abar h + (1 - Abar) B e, which approaches B e by Abar per loop.
        for layer in core.block.blocks:
            for part in layer.modules():
                if isinstance(part, torch.nn.Linear):
                    part.weight.zero_()
    found = settling(model, segments, 12)
    assert found is not None
    assert found.rate == pytest.approx(0.5, rel=0.02)


def test_abar_starts_where_it_was_asked_to(billiards_columns):
    found = retention_spread(make(billiards_columns))
    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-5)


def test_a_stack_has_no_loop_to_look_into(billiards_columns, segments):
    stack = make(billiards_columns, "stack-equal-flops")
    assert settling(stack, segments, 8) is None
    assert retention_spread(stack) is None
    assert token_health(stack, segments).tokens == 6


def test_a_long_rollout_stays_bounded_and_finite(billiards_columns):
    model = make(billiards_columns)
    starts = rollouts(billiards_columns, np.arange(10), 10)
    found = stability(model, starts, steps=500, rollouts=3)
    assert found.nonfinite == 0
    assert len(found.norm_high) == len(found.reach) == 100
    # The carried latent leaves an RMSNorm of unit gain.
    assert 0.99 < min(found.norm_low) <= max(found.norm_high) < 1.01
    assert found.recorded_reach == pytest.approx(
        np.abs(model.normalise(torch.tensor(starts.observations)).numpy()[..., :4]).max(), rel=1e-4
    )


def test_steps_that_do_not_divide_evenly_are_all_made(billiards_columns):
    found = stability(make(billiards_columns), rollouts(billiards_columns, np.arange(4), 5), steps=257)
    assert (found.steps, found.every, len(found.norm_high)) == (257, 2, 129)


def test_numbers_that_are_not_finite_are_counted(billiards_columns):
    model = make(billiards_columns)
    with torch.no_grad():
        model.reward_head.read.bias.fill_(torch.inf)
    starts = rollouts(billiards_columns, np.arange(4), 5)
    assert stability(model, starts, steps=30, rollouts=2).nonfinite == 30 * 2


def test_more_loops_take_longer_and_models_take_turns(billiards_columns):
    quick, slow = make(billiards_columns, mu=1), make(billiards_columns, mu=24)
    config = SpeedConfig(batches=(1, 16), rounds=3, seconds=0.005)
    (quick_one, quick_many), (slow_one, slow_many) = step_times([quick, slow], config)
    assert slow_one.median > 2 * quick_one.median
    assert slow_many.median > 2 * quick_many.median
    assert (quick_many.batch, quick_many.rounds) == (16, 3)
    assert quick_one.low <= quick_one.median <= quick_one.high
    assert quick_one.decoded_median > quick_one.median
    assert "torch thread" in processor()
