"""Error against the number of loops and against difficulty, checked against plain averages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from loopwm.data.statistics import compute_statistics
from loopwm.evaluate.bootstrap import Bootstrap
from loopwm.evaluate.depth import by_difficulty, depth_curve, depth_grid, depth_sweep, task_scores
from loopwm.evaluate.rollout import StepErrors, one_step
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments, tile
from loopwm.model.config import LoopConfig, ModelConfig, System
from loopwm.model.world_model import WorldModel


def make(billiards_columns, system: System = "looped", mu: int = 3) -> WorldModel:
    torch.manual_seed(0)
    meta = billiards_columns.meta
    config = ModelConfig(system=system, width=16, heads=2, loop=LoopConfig(mu=mu))
    statistics = compute_statistics(billiards_columns, np.arange(40))
    return WorldModel(config, meta.observation, meta.action, statistics).eval()


@pytest.fixture(scope="module")
def segments(billiards_columns) -> Segments:
    return tile(billiards_columns, np.arange(30), 4)


@pytest.fixture(scope="module")
def sweep(billiards_columns, segments) -> dict[int, StepErrors]:
    return depth_sweep(make(billiards_columns), segments, (1, 3, 12))


@pytest.fixture(scope="module")
def bootstrap(segments) -> Bootstrap:
    return Bootstrap(segments.transition_episode, resamples=100)


@pytest.mark.parametrize(
    ("mu", "grid"), [(1, (1, 2, 4, 8)), (3, (1, 2, 3, 4, 6, 12, 24)), (6, (1, 2, 4, 6, 12, 24, 48))]
)
def test_the_grid_holds_one_two_four_and_multiples_of_mu(billiards_columns, mu, grid):
    assert depth_grid(make(billiards_columns, mu=mu)) == grid


def test_a_stack_is_measured_at_its_only_depth(billiards_columns, segments):
    stack = make(billiards_columns, "stack-equal-flops")
    assert depth_grid(stack) == (1,)
    found = depth_sweep(stack, segments, depth_grid(stack))
    assert found[1].observation == pytest.approx(one_step(stack, segments).observation, nan_ok=True)


def test_the_curve_is_the_plain_mean_and_its_ratio_to_mu(sweep, segments, bootstrap):
    curve = depth_curve(sweep, segments, 3, bootstrap)
    assert [point.loops for point in curve] == [1, 3, 12]
    for point in curve:
        error = np.nanmean(sweep[point.loops].observation)
        assert point.error.mean == pytest.approx(error)
        assert point.relative.mean == pytest.approx(error / np.nanmean(sweep[3].observation))
        assert point.reward.mean == pytest.approx(np.nanmean(sweep[point.loops].reward))
        probability = sweep[point.loops].continue_probability[segments.valid]
        assert point.brier.mean == pytest.approx(np.mean((probability - segments.continues[segments.valid]) ** 2))
        assert point.error.n == segments.valid.sum()
    assert (curve[1].relative.low, curve[1].relative.high) == pytest.approx((1.0, 1.0))
    assert curve[0].relative.mean != pytest.approx(1.0, abs=1e-3)


def test_the_bins_of_a_label_partition_the_transitions(billiards_columns, sweep, segments, bootstrap):
    scorer = Scorer.of(make(billiards_columns))
    contacts = segments.labels["contacts"][segments.valid]
    table = by_difficulty(scorer, sweep, segments, 3, "contacts", bootstrap)
    assert table.loops == (1, 3, 12)
    assert [bin.name for bin in table.bins[:4]] == ["0", "1", "2", "3"]
    assert [bin.n for bin in table.bins[:4]] == [int((contacts == count).sum()) for count in range(4)]
    assert sum(bin.n for bin in table.bins) == len(contacts)
    for at, loops in enumerate(table.loops):
        pooled = sum(bin.n * bin.error[at].mean for bin in table.bins) / len(contacts)
        assert pooled == pytest.approx(np.nanmean(sweep[loops].observation))
    one = contacts == 1
    shallow, deep = (sweep[loops].observation[segments.valid][one].mean() for loops in (1, 3))
    gain = table.bins[1].gain
    assert gain is not None and gain.mean == pytest.approx(deep / shallow)


def test_the_target_norm_is_that_of_the_normalised_change(billiards_columns, sweep, segments, bootstrap):
    model = make(billiards_columns)
    normalised = model.normalise(torch.tensor(segments.observations)).double().numpy()[..., :4]
    norm = np.sqrt(((normalised[:, 1:] - normalised[:, :-1]) ** 2).mean(axis=(-1, -2)))[segments.valid]
    hard = segments.labels["contacts"][segments.valid] >= 6
    table = by_difficulty(Scorer.of(model), sweep, segments, 3, "contacts", bootstrap)
    assert table.bins[-1].name == "6+"
    assert table.bins[-1].target_norm.mean == pytest.approx(norm[hard].mean(), rel=1e-4)
    # Long chains of contacts change more: this is the confound that matching is there for.
    assert table.bins[-1].target_norm.low > 2 * table.bins[0].target_norm.high
    relative = table.bins[2].relative_norm
    assert relative is not None and relative.mean == pytest.approx(1.0, abs=0.1)


def test_a_continue_head_that_knows_scores_perfectly_and_one_that_does_not_scores_half(sweep, segments, bootstrap):
    perfect = replace(sweep[3], continue_probability=segments.masked(0.2 + 0.7 * segments.continues))
    scores = task_scores(perfect, segments, bootstrap)
    assert scores.auc is not None and scores.auc.mean == 1.0
    ended = int((segments.continues[segments.valid] == 0).sum())
    assert scores.terminations == ended > 0
    rate = ended / segments.valid.sum()
    assert scores.brier.mean == pytest.approx((1 - rate) * 0.01 + rate * 0.04)
    assert scores.brier_base == pytest.approx(rate * (1 - rate))
    ignorant = replace(sweep[3], continue_probability=segments.masked(np.full(segments.valid.shape, 0.5)))
    found = task_scores(ignorant, segments, bootstrap)
    assert found.auc is not None and found.auc.mean == 0.5
    assert found.brier.mean == pytest.approx(0.25)


def test_the_reward_is_compared_with_always_guessing_its_mean(sweep, segments, bootstrap):
    rewards = segments.rewards[segments.valid]
    guess = replace(sweep[3], reward=segments.masked((segments.rewards - rewards.mean()) ** 2))
    scores = task_scores(guess, segments, bootstrap)
    assert scores.reward.mean == pytest.approx(scores.reward_variance)
    assert scores.reward_variance > 0
