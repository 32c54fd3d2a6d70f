"""Exit rules measured from one pass at full depth: the same as really leaving, and read off where rules are equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loopwm.data.cache import Columns
from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Bootstrap
from loopwm.evaluate.config import EvaluateConfig, SpeedConfig
from loopwm.evaluate.early import early_errors
from loopwm.evaluate.frontier import LEADING_LABEL, Frontier, frontier, read_off, thresholds
from loopwm.evaluate.rollout import one_step, open_loop
from loopwm.evaluate.scores import Scorer
from loopwm.evaluate.segments import Segments, rollouts, tile
from loopwm.evaluate.signals import LoopRecord, record_loops
from loopwm.evaluate.speed import exit_time
from loopwm.model.config import CERTIFIED_LOOP, EXIT_RULES, ExitConfig, LoopConfig
from loopwm.model.trace import Trace
from loopwm.model.world_model import WorldModel
from loopwm.presets import PRESETS
from loopwm.train.checkpoint import load
from loopwm.train.runs import train

MU = 5
EARLY = ("residual", "acceleration", "output_delta")


def trained(folder: Path, store: Path, loop: LoopConfig) -> WorldModel:
    config = PRESETS["debug"].config
    config = replace(
        config,
        data=store,
        model=replace(config.model, loop=replace(loop, mu=MU)),
        train=replace(config.train, updates=8, validate_every=8),
    )
    train(config, folder)
    return load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory, billiards_store) -> WorldModel:
    return trained(tmp_path_factory.mktemp("runs") / "looped", billiards_store, LoopConfig())


@pytest.fixture(scope="module")
def certified(tmp_path_factory, billiards_store) -> WorldModel:
    return trained(tmp_path_factory.mktemp("runs") / "certified", billiards_store, CERTIFIED_LOOP)


@pytest.fixture(scope="module")
def steps(billiards_columns: Columns) -> Segments:
    return tile(billiards_columns, np.arange(12), 1, transitions=400)


@pytest.fixture(scope="module")
def record(model, steps) -> LoopRecord:
    return record_loops(model, steps, 2 * MU, batch=150)


@pytest.fixture(scope="module")
def found(model, steps) -> Frontier:
    measured = frontier(model, steps, 0.02, resamples=60)
    assert measured is not None
    return measured


def middle_thresholds(record: LoopRecord, rule: str) -> list[float]:
    """Thresholds at which some transitions leave and others do not."""
    lowest = np.fmin.reduce(record.signals[rule][: MU - 1], axis=0)
    return [float(np.quantile(lowest[np.isfinite(lowest)], share)) for share in (0.2, 0.5, 0.9)]


# ---- one pass for all thresholds ----


@pytest.mark.parametrize("cap", [MU, 2 * MU])
@pytest.mark.parametrize("rule", EARLY)
def test_what_is_read_off_one_pass_is_what_really_leaving_gives(model, steps, record, rule, cap):
    for threshold in middle_thresholds(record, rule):
        real = one_step(model, steps, cap, exit=ExitConfig(rule, threshold))
        loops = record.loops(rule, threshold, cap)
        assert len(np.unique(loops)) > 1
        np.testing.assert_array_equal(loops, real.loops[steps.valid])
        np.testing.assert_allclose(record.error_after(loops), real.observation[steps.valid], rtol=1e-3, atol=1e-6)


def test_the_certified_signal_is_read_off_as_well(certified, steps):
    record = record_loops(certified, steps, 2 * MU)
    (threshold,) = np.quantile(record.signals["certified"][MU - 2], [0.5])
    real = one_step(certified, steps, MU, exit=ExitConfig("certified", float(threshold)))
    np.testing.assert_array_equal(record.loops("certified", float(threshold), MU), real.loops[steps.valid])
    assert set(record.signals) == {*EARLY, "certified"} and "certified" not in record.refused


def test_without_an_exit_the_record_is_the_fixed_number_of_loops(model, steps, record):
    for depth in (1, MU, 2 * MU):
        fixed = one_step(model, steps, depth)
        np.testing.assert_allclose(record.error[depth - 1], fixed.observation[steps.valid], rtol=1e-3, atol=1e-6)
        assert set(fixed.loops[steps.valid]) == {depth}
        assert set(record.loops("residual", 0.0, depth)) == {depth}


def test_with_more_context_the_steps_before_make_all_their_loops(model, billiards_columns):
    pairs = tile(billiards_columns, np.arange(6), 2, transitions=200)
    record = record_loops(model, pairs, MU)
    rule = ExitConfig("residual", middle_thresholds(record, "residual")[1])
    observations, actions = torch.as_tensor(pairs.observations), torch.as_tensor(pairs.actions)
    trace = Trace()
    with torch.no_grad():
        h = model.observe(observations[:, :1], actions[:, :1])[:, 0]
        model.step(h, actions[:, 1], model.encode(observations[:, 1]), exit=rule, trace=trace)
    loops = np.full(pairs.valid.shape, np.nan)
    loops[pairs.valid] = record.loops("residual", rule.threshold, MU)
    second = pairs.valid[:, 1]
    np.testing.assert_array_equal(loops[second, 1], trace.loops.numpy()[second, 0])


def test_a_rule_the_model_cannot_follow_is_left_out_with_the_reason(record, found):
    assert set(record.signals) == set(EARLY)
    assert "needs a certified core" in record.refused["certified"] and found.refused == record.refused
    assert {*record.signals, *record.refused, "fixed"} == set(EXIT_RULES)


# ---- the frontier ----


def test_every_rule_is_read_off_within_the_tolerance_and_the_one_with_fewest_loops_is_named(found):
    assert [(curve.rule, curve.cap) for curve in found.curves] == [
        ("fixed", 2 * MU),
        *((rule, cap) for rule in EARLY for cap in (MU, 2 * MU)),
    ]
    best = [curve.best for curve in found.curves if curve.best is not None]
    assert all(one.point.excess.mean <= found.tolerance + 1e-9 for one in best)
    assert all(one.share == pytest.approx(one.point.loops.mean / MU) for one in best)
    assert found.fewest_loops_share == min(one.share for one in best) == found.winner.share
    assert found.winner.allocation[0].label == LEADING_LABEL == "impulse"
    for curve in found.curves:
        if curve.best is not None:
            cheaper = [p for p in curve.points if p.loops.mean < curve.best.point.loops.mean - 1e-9]
            # The drawn points are a part of those that the best was chosen from, up to rounding of thresholds.
            assert sum(point.excess.mean <= found.tolerance for point in cheaper) <= 1


def test_the_named_rule_can_be_asked_for_and_gives_the_same(model, steps, found):
    real = one_step(model, steps, found.fewest_loops_cap, exit=found.fewest_loops)
    full = one_step(model, steps)
    valid, point = steps.valid, found.winner.point
    assert real.loops[valid].mean() == point.loops.mean
    assert real.observation[valid].mean() / full.observation[valid].mean() - 1 == pytest.approx(
        point.excess.mean, abs=1e-4
    )


def test_the_fixed_curve_is_the_error_at_every_depth(model, steps, found):
    full = one_step(model, steps).observation[steps.valid].mean()
    for depth in (1, 3, MU, 2 * MU):
        point = found.curves[0].points[depth - 1]
        assert (point.cap, point.loops.mean) == (depth, depth)
        error = one_step(model, steps, depth).observation[steps.valid].mean()
        assert point.excess.mean == pytest.approx(error / full - 1, abs=1e-4)
        assert point.excess.low <= point.excess.mean <= point.excess.high
    assert found.curves[0].points[MU - 1].excess.mean == 0


def made_up(impulse: np.ndarray) -> LoopRecord:
    """Errors that halve with every loop; a signal that knows them, and one that knows nothing about the row."""
    halving = 0.5 ** np.arange(1, 2 * MU + 1)[:, None]
    error = 0.05 + halving * (0.01 + impulse)
    blind = np.broadcast_to(halving, error.shape)
    signals = {"residual": (error - 0.05).astype(np.float32), "acceleration": blind.astype(np.float32)}
    return LoopRecord(signals, error, {"certified": "no"})


def test_a_rule_that_knows_the_error_wins_over_one_that_treats_all_alike(steps):
    impulse = steps.labels["impulse"][steps.valid].astype(np.float64)
    bootstrap = Bootstrap(steps.transition_episode, resamples=60)
    record = made_up(impulse)
    found = read_off(record, MU, 0.02, bootstrap, {"impulse": impulse}, impulse)
    assert (found.fewest_loops.rule, found.fewest_loops_cap) == ("residual", 2 * MU)
    best = {(curve.rule, curve.cap): curve.best for curve in found.curves}
    alike, fixed = best["acceleration", 2 * MU], best["fixed", 2 * MU]
    assert alike is not None and fixed is not None
    # Nothing is gained by a signal that is the same for all: it picks a number of loops for everybody.
    assert alike.point.loops.mean == fixed.point.loops.mean > found.winner.point.loops.mean
    shares = [(record.error[depth].mean() / record.error[MU - 1].mean() - 1, depth + 1) for depth in range(2 * MU)]
    assert fixed.point.cap == min(depth for excess, depth in shares if excess <= 0.02)
    assert np.isnan(alike.allocation[0].rank.mean) and found.winner.allocation[0].rank.mean > 0.9


def test_who_gets_the_loops_agrees_with_a_count_of_their_own(model, steps):
    impulse = steps.labels["impulse"][steps.valid].astype(np.float64)
    record = made_up(impulse)
    norm = Scorer.of(model).target_norm(steps.observations[:, 0], steps.observations[:, 1])[steps.valid[:, 0]]
    bootstrap = Bootstrap(steps.transition_episode, resamples=60)
    found = read_off(record, MU, 0.02, bootstrap, {"impulse": impulse}, norm)
    loops = record.loops("residual", found.fewest_loops.threshold, found.fewest_loops_cap)
    told = found.winner.allocation[0]
    assert len(np.unique(loops)) > 2
    assert told.easiest is not None and told.easiest.mean == pytest.approx(loops[impulse == 0].mean())
    assert told.hardest.mean == pytest.approx(loops[impulse >= np.quantile(impulse, 0.9)].mean())
    assert sum(one.n for one in told.bins) == len(loops)
    assert sum(one.n * one.loops.mean for one in told.bins) == pytest.approx(loops.sum())
    assert told.rank.mean == pytest.approx(np.corrcoef(mean_ranks(impulse), mean_ranks(loops))[0, 1])
    assert told.matched_rank.mean == pytest.approx(matched_by_hand(impulse, loops, norm))


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks by comparing everything with everything."""
    return (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2


def matched_by_hand(impulse: np.ndarray, loops: np.ndarray, norm: np.ndarray) -> float:
    """Correlation of ranks within groups of about 60 neighbours in target norm, centred group by group."""
    groups = len(norm) // 60
    cuts = np.quantile(norm, np.linspace(0, 1, groups + 1)[1:-1])
    group = (norm[:, None] >= cuts).sum(1)
    x, y = np.zeros(len(loops)), np.zeros(len(loops))
    for g in range(groups):
        member = group == g
        for source, target in ((impulse, x), (loops, y)):
            ranked = mean_ranks(source[member]) / member.sum()
            target[member] = ranked - ranked.mean()
    return float(np.corrcoef(x, y)[0, 1])


def test_the_scatter_shows_loops_above_those_of_equally_large_changes(found):
    cloud = found.scatter
    assert cloud is not None and cloud.label == "impulse"
    assert len(cloud.rank) == len(cloud.extra) == min(400, found.n)
    assert min(cloud.rank) >= 0 and max(cloud.rank) <= 1
    bins = [one for one in cloud.bins if one is not None]
    # Every stratum is centred, so all transitions together are neither above nor below.
    assert sum(one.n for one in bins) == found.n
    assert sum(one.n * one.mean for one in bins) == pytest.approx(0, abs=1e-6 * found.n)


def test_a_stack_and_a_world_without_labels(model, steps, tmp_path, billiards_store):
    bare = replace(steps, labels={})
    without = frontier(model, bare, 0.02, resamples=10)
    assert without is not None and without.scatter is None and without.winner.allocation == ()
    config = PRESETS["debug"].config
    config = replace(
        config,
        data=billiards_store,
        model=replace(config.model, system="stack-equal-params"),
        train=replace(config.train, updates=1),
        optim=replace(config.optim, warmup=0),
    )
    train(config, tmp_path / "stack")
    assert frontier(load(tmp_path / "stack"), steps, 0.02) is None


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=40), st.integers(2, 20))
def test_thresholds_ascend_and_can_be_written_down(numbers, count):
    found = thresholds(np.array([numbers, [np.inf] * len(numbers)], np.float32), count)
    assert found == sorted(set(found)) and len(found) <= count
    assert found == [float(f"{value:g}") for value in found]
    usable = [value for value in numbers if value > 0]
    assert bool(found) == bool(usable)
    if usable:
        assert found[0] > 0 and found[-1] > max(numbers)


# ---- an exit in earnest ----


def test_errors_with_an_exit_stand_beside_those_of_all_loops(model, steps, billiards_columns, record):
    config = EvaluateConfig(resamples=40, exit=ExitConfig("residual", middle_thresholds(record, "residual")[1]))
    long = rollouts(billiards_columns, np.arange(12), 8, rows=20)
    full, blind = one_step(model, steps), open_loop(model, long)
    early = early_errors(model, steps, full, long, blind, config)
    assert early is not None and early.exit == config.exit and early.nonfinite == 0
    real, far = one_step(model, steps, exit=config.exit), open_loop(model, long, exit=config.exit)
    assert early.one_step.mean == pytest.approx(np.nanmean(real.observation))
    assert early.loops.mean == pytest.approx(np.nanmean(real.loops)) and 1 < early.loops.mean < MU
    assert early.excess.mean == pytest.approx(np.nanmean(real.observation) / np.nanmean(full.observation) - 1)
    assert early.open_loop_excess.mean == pytest.approx(np.nanmean(far.observation) / np.nanmean(blind.observation) - 1)
    assert [one.mean for one in early.open_loop] == pytest.approx(np.nanmean(far.observation, axis=0).tolist())
    assert early.open_loop_loops.mean == pytest.approx(np.nanmean(far.loops))
    assert early_errors(model, steps, full, long, blind, replace(config, exit=ExitConfig())) is None


def test_time_is_taken_with_and_without_the_exit_on_the_same_starts(model, billiards_columns, record):
    long = rollouts(billiards_columns, np.arange(12), 8, rows=20)
    speed = SpeedConfig(batches=(1, 64), rounds=4, seconds=0.001)
    slack = exit_time(model, long, ExitConfig("residual", 1e9), MU, speed)
    assert (slack.batch, slack.steps, slack.rounds, slack.loops) == (64, 3, 4, 1.0)
    assert 0 < slack.full_low <= slack.full_median <= slack.full_high
    assert slack.share_low <= slack.share <= slack.share_high
    rule = ExitConfig("residual", middle_thresholds(record, "residual")[1])
    some = exit_time(model, long, rule, MU, speed, steps=2)
    trace = Trace()
    rows = np.resize(np.arange(20), 64)
    with torch.no_grad():
        start, actions = torch.as_tensor(long.observations[rows, 0]), torch.as_tensor(long.actions[rows, :2])
        model.imagine(actions, observation=start, exit=rule, trace=trace)
    assert some.loops == pytest.approx(float(trace.loops.double().mean()))


def test_a_rule_is_refused_before_anything_is_measured(model, certified):
    with pytest.raises(UserError, match="needs a certified core"):
        model.exit_rule(ExitConfig("certified", 0.1))
    assert certified.exit_rule(ExitConfig("certified", 0.1)) is not None
    assert model.exit_rule(ExitConfig()) is None


def test_a_tolerance_is_a_share():
    for value in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"evaluate\.tolerance is a share in \(0, 1\)"):
            EvaluateConfig(tolerance=value)
