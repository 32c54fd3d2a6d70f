"""Residuals, tokens and very long rollouts against values worked out another way."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from loopwm.data.statistics import compute_statistics
from loopwm.evaluate.config import SpeedConfig
from loopwm.evaluate.diagnostics import (
    contraction,
    effective_rank,
    jacobian_gains,
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
    config = ModelConfig(
        system=system, width=width, heads=2, loop=LoopConfig(mu=mu, abar=0.5, start=start, settle_eval=0.0)
    )
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


def perturbed(billiards_columns, retention: Literal["zoh", "euler"]) -> tuple[WorldModel, LoopedCore]:
    """A tiny model in double precision, away from its initialisation, at which a = 0 and B = 1."""
    torch.manual_seed(1)
    meta = billiards_columns.meta
    config = ModelConfig(width=8, heads=2, loop=LoopConfig(mu=2, retention=retention))
    statistics = compute_statistics(billiards_columns, np.arange(40))
    model = WorldModel(config, meta.observation, meta.action, statistics).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert isinstance(model.core, LoopedCore)
    return model, model.core


@pytest.mark.parametrize("retention", ["zoh", "euler"])
@pytest.mark.parametrize("length", [1, 3])
def test_contraction_is_that_of_the_explicit_jacobian(billiards_columns, retention, length):
    model, core = perturbed(billiards_columns, retention)
    few = tile(billiards_columns, np.arange(3), length, transitions=6)
    found = contraction(model, few, 7, states=100, iterations=600)
    assert found is not None
    norms, radii = [], []
    for row, column in np.argwhere(few.valid):
        # The same state again, alone, by the verbs of the model.
        upto = torch.tensor(few.observations[row, :column])[None], torch.tensor(few.actions[row, :column])[None]
        with torch.no_grad():
            h = model.observe(*upto)[:, -1] if column else model.initial(1)
            embedding = model.encode(torch.tensor(few.observations[row, column])[None])
            e = core.prelude(h, embedding, model.encode_action(torch.tensor(few.actions[row, column])[None]))
            held, h = core.held_input(e), core.start(torch.zeros_like(e), e)
            for loop in range(7):
                h = core.moved(h, e, held, torch.tensor([loop]))
        phase = core.phases(torch.tensor([7]))
        jacobian = torch.autograd.functional.jacobian(
            lambda x, e=e, held=held, phase=phase: core.update(x, e, held, phase), h
        )
        assert isinstance(jacobian, torch.Tensor)
        square = jacobian.reshape(h.numel(), h.numel())
        norms.append(float(torch.linalg.matrix_norm(square, 2)))
        radii.append(float(torch.linalg.eigvals(square).abs().max()))
    assert (found.loops, found.n) == (7, len(norms))
    assert found.expanding == sum(radius >= 1 for radius in radii)
    for spread, values, tolerance in ((found.norm, norms, 1e-3), (found.radius, radii, 5e-3)):
        expected = np.quantile(values, (0.1, 0.5, 0.9, 1.0))
        assert (spread.low, spread.median, spread.high, spread.largest) == pytest.approx(expected, rel=tolerance)
    # Norm and radius are different things here, so taking one for the other would be noticed.
    assert found.norm.median > 1.04 * found.radius.median


def test_a_loop_that_only_retains_contracts_by_its_retention(billiards_columns, segments):
    model = make(billiards_columns)
    assert isinstance(model.core, LoopedCore)
    with torch.no_grad():
        for part in model.core.block.modules():
            if isinstance(part, torch.nn.Linear):
                part.weight.zero_()
    found = contraction(model, segments, 6, states=5)
    assert found is not None
    for spread in (found.norm, found.radius):
        assert (spread.low, spread.median, spread.high, spread.largest) == pytest.approx([0.5] * 4, rel=1e-4)
    assert (found.n, found.expanding) == (5, 0)


def test_norm_and_radius_of_known_linear_maps():
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    shear = torch.tensor([[0.5, 3.0], [0.0, 0.5]], dtype=torch.float64)
    # A rotation has no real eigenvector to settle on; a shear stretches by far more than it does in the long run.
    maps = torch.stack([1.2 * turn, 0.9 * turn, torch.diag(torch.tensor([0.3, -0.7]).double()), shear, 0 * turn])
    h = torch.zeros(5, 1, 2, dtype=torch.float64)
    norm, radius = jacobian_gains(lambda x: x @ maps.mT, h, torch.Generator().manual_seed(0), iterations=400)
    assert norm.tolist() == pytest.approx([1.2, 0.9, 0.7, float(torch.linalg.matrix_norm(shear, 2)), 0.0])
    assert radius.tolist() == pytest.approx([1.2, 0.9, 0.7, 0.5, 0.0], rel=0.01)


def test_abar_starts_where_it_was_asked_to(billiards_columns):
    found = retention_spread(make(billiards_columns))
    assert found is not None
    assert (found.low, found.mean, found.high) == pytest.approx((0.5, 0.5, 0.5), abs=1e-5)


def test_a_stack_has_no_loop_to_look_into(billiards_columns, segments):
    stack = make(billiards_columns, "stack-equal-flops")
    assert settling(stack, segments, 8) is None
    assert contraction(stack, segments, 8) is None
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
    assert "torch thread" in processor(torch.device("cpu"))
