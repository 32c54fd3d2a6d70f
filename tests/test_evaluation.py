"""`evaluate` and `compare` on runs that were really trained, and what they refuse."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loopwm.data.store import Store, StoreMeta, write_store
from loopwm.errors import UserError
from loopwm.evaluate.comparison import compare, paired
from loopwm.evaluate.config import EvaluateConfig, SpeedConfig
from loopwm.evaluate.evaluation import FILE, Evaluation, evaluate, plain, read_evaluation
from loopwm.model.config import ExitConfig, System
from loopwm.presets import PRESETS
from loopwm.train.checkpoint import NAME, read_checkpoint, save_checkpoint
from loopwm.train.hardware import resolve_device
from loopwm.train.runs import train

SPEED = SpeedConfig(batches=(1, 8), rounds=2, seconds=0.001)
SMALL = EvaluateConfig(
    transitions=300, horizon=12, rollouts=8, training_rollouts=300, stability_steps=60, resamples=50, speed=SPEED
)


def trained(folder: Path, store: Path, system: System) -> Path:
    config = PRESETS["debug"].config
    config = replace(
        config,
        data=store,
        model=replace(config.model, system=system),
        train=replace(config.train, updates=6, validate_every=3),
    )
    train(config, folder / system)
    return folder / system


@pytest.fixture(scope="module")
def runs(tmp_path_factory, billiards_store) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [trained(folder, billiards_store, system) for system in ("looped", "stack-equal-flops")]


@pytest.fixture(scope="module")
def evaluations(runs) -> list[Evaluation]:
    return [evaluate(run, config=SMALL) for run in runs]


def test_everything_asked_for_is_measured_on_held_out_episodes(evaluations, billiards_store):
    looped, stack = evaluations
    with Store.open(billiards_store) as store:
        held_out = store.split("test")
        assert looped.run.data_digest == store.digest
        assert looped.run.transitions == store.ep_len[held_out].sum()
    assert set(looped.one_step_episodes.episode) <= set(held_out.tolist())
    assert [point.loops for point in looped.depth] == [1, 2, 4, 8, 16]
    assert [table.label for table in looped.difficulty] == ["impulse", "contacts", "ball_contacts"]
    kinds = [curve.kind for curve in looped.horizon]
    assert kinds == ["model", "floor", "control", "control", "control", "control"]
    assert all(len(curve.error) == 12 and set(curve.rmse) == {"position", "velocity"} for curve in looped.horizon)
    assert looped.settling is not None and looped.retention is not None and looped.contraction is not None
    assert (looped.contraction.n, looped.contraction.loops) == (64, 8)
    assert looped.frontier is not None and looped.exit_speed is not None and looped.early is None
    assert stack.frontier is None and stack.exit_speed is None and stack.early is None
    assert looped.frontier.mu == looped.run.loops and looped.frontier.tolerance == SMALL.tolerance
    assert looped.frontier.curves[0].points[1].error.mean == pytest.approx(looped.one_step.mean)
    assert stack.settling is None and stack.retention is None and stack.contraction is None and len(stack.depth) == 1
    assert looped.nonfinite == looped.stability.nonfinite == 0
    assert (looped.run.updates, looped.run.seed, looped.run.loops) == (6, 0, 2)


def test_one_step_and_the_depth_curve_agree_at_mu(evaluations):
    for one in evaluations:
        at_mu = next(point for point in one.depth if point.loops == one.run.loops)
        assert at_mu.error == one.one_step
        assert one.one_step.n == sum(one.one_step_episodes.count)
        assert one.one_step.mean == pytest.approx(sum(one.one_step_episodes.error_sum) / one.one_step.n)


def test_the_horizon_loses_rollouts_only_to_the_ends_of_episodes(evaluations):
    counts = [interval.n for interval in evaluations[0].horizon[0].error]
    assert counts[0] == 8
    assert counts == sorted(counts, reverse=True)


def test_the_file_gives_back_what_was_measured(runs, evaluations):
    for run, one in zip(runs, evaluations, strict=True):
        again = read_evaluation(run)
        assert again.run == one.run
        assert again.config == one.config
        assert again.one_step.mean == pytest.approx(one.one_step.mean, rel=1e-6)
        assert len(again.horizon) == len(one.horizon)
        json.loads((run / FILE).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_evaluating_twice_gives_the_same_numbers(runs, evaluations):
    again = evaluate(runs[0], config=SMALL, existing="replace")
    assert plain(replace(again, speed=(), exit_speed=None)) == plain(replace(evaluations[0], speed=(), exit_speed=None))


def test_an_exit_is_measured_beside_all_loops_and_survives_the_file(runs, evaluations, tmp_path):
    run = Path(shutil.copytree(runs[0], tmp_path / "looped"))
    other = replace(SMALL, exit=ExitConfig("residual", 1e9), tolerance=0.05)
    said = "with exit.rule fixed instead of residual, with exit.threshold 0.0 instead of 1000000000.0, with tolerance"
    with pytest.raises(UserError, match=said):
        evaluate(run, config=other)
    found = evaluate(run, config=other, existing="replace")
    assert found.early is not None and found.early.loops.mean == found.early.open_loop_loops.mean == 1
    # The numbers at all loops stay what they were, and one loop for everybody is what the depth curve says it is.
    assert found.one_step == evaluations[0].one_step
    assert found.early.one_step.mean == pytest.approx(found.depth[0].error.mean)
    assert plain(read_evaluation(run)) == plain(found)


def test_an_exit_the_run_cannot_follow_is_refused_before_anything_is_measured(runs):
    refused = (
        (runs[1], ExitConfig("residual", 0.1), "stack has no"),
        (runs[0], ExitConfig("certified"), "certified core"),
    )
    for run, exit, words in refused:
        with pytest.raises(UserError, match=words):
            evaluate(run, config=replace(SMALL, exit=exit))


@pytest.fixture
def evaluated(runs, evaluations, tmp_path) -> Path:
    """A copy of an evaluated run."""
    return Path(shutil.copytree(runs[0], tmp_path / "looped"))


def test_the_same_evaluation_is_not_made_again_unasked(evaluated):
    before = (evaluated / FILE).stat().st_mtime_ns
    with pytest.raises(UserError, match=r"evaluation\.json holds just this evaluation, .* add --overwrite"):
        evaluate(evaluated, config=SMALL)
    assert plain(evaluate(evaluated, config=SMALL, existing="reuse")) == plain(read_evaluation(evaluated))
    assert (evaluated / FILE).stat().st_mtime_ns == before
    evaluate(evaluated, config=SMALL, existing="replace")
    assert (evaluated / FILE).stat().st_mtime_ns > before


def test_an_evaluation_of_other_settings_is_not_lost_unasked(evaluated):
    other = replace(SMALL, horizon=9, training_rollouts=200, speed=replace(SPEED, rounds=1))
    before = (evaluated / FILE).read_bytes()
    said = (
        "was made with horizon 12 instead of 9, with training-rollouts 300 instead of 200, with speed.rounds 2 instead"
    )
    with pytest.raises(UserError, match=said):
        evaluate(evaluated, config=other)
    assert (evaluated / FILE).read_bytes() == before
    assert evaluate(evaluated, config=other, existing="reuse").config == other == read_evaluation(evaluated).config


def test_an_evaluation_of_another_checkpoint_is_neither_lost_nor_taken_for_the_present_one(evaluated):
    stored = read_checkpoint(evaluated / NAME)
    moved = {name: value + 0.01 if name.endswith("weight") else value for name, value in stored.tensors.items()}
    save_checkpoint(evaluated / NAME, stored.blueprint, moved, stored.state)
    before = read_evaluation(evaluated)
    with pytest.raises(UserError, match="was made from another checkpoint, and is not overwritten"):
        evaluate(evaluated, config=SMALL)
    again = evaluate(evaluated, config=SMALL, existing="reuse")
    assert again.one_step.mean != pytest.approx(before.one_step.mean, rel=1e-4)
    assert again.run.checkpoint != before.run.checkpoint


def test_an_evaluation_of_another_recording_is_told_apart(evaluated, tmp_path, billiards_store):
    with Store.open(billiards_store) as store:
        episodes = [store.episode(index) for index in range(50)]
        write_store(tmp_path / "fewer.h5", episodes, store.meta)
    with pytest.raises(UserError, match="was made on another recording, and is not overwritten"):
        evaluate(evaluated, tmp_path / "fewer.h5", SMALL)


def test_an_evaluation_that_cannot_be_read_is_not_lost_unasked(evaluated):
    (evaluated / FILE).write_text('{"one_step": "of another version"}')
    with pytest.raises(UserError, match=r"not an evaluation this loopwm reads, and is not overwritten; .*--overwrite"):
        evaluate(evaluated, config=SMALL)
    assert (evaluated / FILE).read_text() == '{"one_step": "of another version"}'
    evaluate(evaluated, config=SMALL, existing="reuse")
    assert read_evaluation(evaluated).config == SMALL


def test_a_device_that_is_not_there_is_refused(runs, evaluations):
    assert evaluations[0].run.device == str(resolve_device("auto"))
    with pytest.raises(UserError, match="Device 'cuda:77' is not available here"):
        evaluate(runs[0], config=SMALL, device="cuda:77")
    with pytest.raises(UserError, match="Device 'cuda:77' is not available here"):
        compare(runs, SPEED, device="cuda:77")


def test_numbers_that_are_not_finite_survive_the_file(tmp_path, evaluations):
    broken = replace(evaluations[0].one_step, mean=math.inf, high=math.inf, low=math.nan)
    replace(evaluations[0], one_step=broken).save(tmp_path / FILE)
    again = read_evaluation(tmp_path).one_step
    assert again.mean == again.high == math.inf
    assert math.isnan(again.low)


def test_runs_are_compared_on_the_same_transitions(runs, evaluations):
    comparison = compare(runs, SPEED)
    (pair,) = comparison.pairs
    assert pair.ratio is not None and pair.open_loop is not None
    looped, stack = evaluations
    assert pair.ratio.mean == pytest.approx(looped.one_step.mean / stack.one_step.mean, rel=1e-5)
    assert pair.ratio.low < pair.ratio.mean < pair.ratio.high
    sums = [np.sum(one.open_loop_episodes.error_sum) for one in evaluations]
    assert pair.open_loop.mean == pytest.approx(sums[0] / sums[1], rel=1e-5)
    assert len(comparison.speed) == 2
    assert [time.batch for time in comparison.speed[0]] == [1, 8]


def test_a_run_against_itself_is_a_sure_tie(evaluations):
    ratio = paired(evaluations[0], evaluations[0]).ratio
    assert ratio is not None
    assert (ratio.low, ratio.mean, ratio.high) == pytest.approx((1.0, 1.0, 1.0))


def test_other_data_or_another_sample_is_not_paired(evaluations):
    looped, stack = evaluations
    elsewhere = replace(stack, run=replace(stack.run, data_digest="0" * 32))
    resampled = replace(stack, config=replace(stack.config, seed=1))
    # Errors are in standard deviations of what a run was trained on.
    in_other_units = replace(stack, run=replace(stack.run, trained_on="0" * 32))
    for other in (elsewhere, resampled, in_other_units):
        pair = paired(looped, other)
        assert (pair.ratio, pair.open_loop) == (None, None)


def test_a_run_that_was_not_evaluated_is_named_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match="has not been evaluated; run: loopwm evaluate"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"run": 3}', "\x00\xff"])
def test_a_damaged_evaluation_is_refused(tmp_path, text):
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"not an evaluation this loopwm reads; .*loopwm evaluate \S+ --overwrite$"):
        read_evaluation(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        evaluate(tmp_path / "nowhere")


def test_a_recording_of_another_world_is_refused(runs, tmp_path, billiards_store):
    with Store.open(billiards_store) as store:
        meta, episodes = store.meta, [store.episode(index) for index in range(30)]
    smaller = replace(meta.observation, shape=(5, 5))
    other = StoreMeta("other", smaller, meta.action, meta.label_names)
    cropped = (replace(episode, observations=episode.observations[:, :5]) for episode in episodes)
    write_store(tmp_path / "other.h5", cropped, other)
    run = tmp_path / "run"
    shutil.copytree(runs[0], run, ignore=shutil.ignore_patterns(FILE))
    with pytest.raises(UserError, match="trained on another world than 'other'"):
        evaluate(run, tmp_path / "other.h5", SMALL)
    assert not (run / FILE).exists()


def test_a_recording_too_small_to_be_split_is_refused(runs, tmp_path, billiards_store):
    with Store.open(billiards_store) as store:
        lone = store.episode(int(store.split("test")[0]))
        write_store(tmp_path / "lone.h5", [lone], store.meta)
    with pytest.raises(UserError, match="has 1 test episodes to measure on and 0 train episodes"):
        evaluate(runs[0], tmp_path / "lone.h5", SMALL)


@pytest.mark.parametrize("name", ["context", "transitions", "horizon", "rollouts", "stability_steps", "resamples"])
def test_amounts_below_one_are_refused(name):
    with pytest.raises(UserError, match=rf"evaluate\.{name} must be at least 1, got 0"):
        replace(SMALL, **{name: 0})


def test_speed_settings_that_measure_nothing_are_refused():
    with pytest.raises(UserError, match="positive numbers"):
        SpeedConfig(batches=())
    with pytest.raises(UserError, match="rounds"):
        SpeedConfig(rounds=0)
