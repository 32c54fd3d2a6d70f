"""Calibrated exits: what is chosen, where it is kept, what it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from loopwm.calibrate.calibration import FILE, Calibration, calibrate, read_calibration
from loopwm.calibrate.config import CalibrateConfig
from loopwm.cli import main
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.evaluation import read_evaluation
from loopwm.evaluate.guarantees import calibration_figure
from loopwm.evaluate.rollout import open_loop
from loopwm.evaluate.segments import tile
from loopwm.model.config import ExitConfig, LoopConfig, ModelConfig
from loopwm.model.trace import Trace
from loopwm.presets import preset
from loopwm.train.checkpoint import NAME, load, read_checkpoint, save_checkpoint
from loopwm.train.journal import read_config
from loopwm.train.runs import resume, train

LENIENT = CalibrateConfig(excess=0.5, confidence=0.9, method="normal", horizon=3, candidates=4)


def trained(store: Path, run: Path, model: ModelConfig | None = None) -> Path:
    config = preset("debug").config
    model = model or replace(config.model, loop=LoopConfig(mu=4))
    train(replace(config, data=store, model=model, train=replace(config.train, updates=60)), run)
    return run


@pytest.fixture(scope="module")
def bare(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run. Copy it, never change it."""
    return trained(billiards_store, tmp_path_factory.mktemp("bare") / "run")


@pytest.fixture
def run(bare: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bare, tmp_path / "run"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fresh") / "fresh.h5"
    collect(CollectConfig(episodes=30, max_steps=40, workers=1, seed=8), path)
    return path


def test_the_calibrated_exit_travels_with_the_checkpoint_and_keeps_its_tolerance(run: Path) -> None:
    result = calibrate(run, LENIENT)
    model = load(run)
    assert model.exit == result.exit == ExitConfig("output_delta", result.exit.threshold, calibrated_loops=4)
    chosen = next(one for one in result.candidates if one.threshold == result.exit.threshold)
    assert chosen.accepted
    assert all(part.mean < 0.5 for part in chosen.excess.values())
    assert result.loops_share < 1
    assert (run / FILE).is_file()


def test_the_errors_behind_the_choice_are_those_of_really_leaving(run: Path, billiards_store: Path) -> None:
    result, model = calibrate(run, LENIENT), load(run)
    with Store.open(billiards_store) as store:
        from loopwm.data.cache import open_memmap

        columns, episodes = open_memmap(store), store.split("validation")
    chosen = next(one for one in result.candidates if one.threshold == result.exit.threshold)
    for measure, length in (("one step ahead", 1), ("own rollout", 3)):
        segments, wanted = tile(columns, episodes, length), []
        for exit in (None, model.exit):
            errors = open_loop(model, segments, exit=exit).observation
            means = [
                errors[segments.episode == e][segments.valid[segments.episode == e]].mean()
                for e in np.unique(segments.episode)
            ]
            wanted.append(np.mean(means))
        assert chosen.excess[measure].mean == pytest.approx(wanted[1] / wanted[0] - 1, abs=1e-6)
        assert result.full[measure] == pytest.approx(wanted[0], rel=1e-6)


def test_nothing_but_the_exit_changes_in_the_checkpoint(run: Path) -> None:
    before = read_checkpoint(run / NAME)
    calibrate(run, LENIENT)
    after = read_checkpoint(run / NAME)
    assert before.state == after.state
    assert before.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(before.tensors[name], after.tensors[name]) for name in before.tensors)
    assert resume(run).updates == before.state["update"]
    assert load(run).exit is not None


def test_full_depth_stays_the_default_of_the_verbs(run: Path) -> None:
    calibrate(run, LENIENT)
    model, trace = load(run), Trace()
    model.step(model.initial(3), torch.zeros(3, model.action.stored_size), trace=trace)
    assert trace.loops.tolist() == [[4], [4], [4]]


def test_a_maximum_below_the_calibrated_one_is_refused(run: Path) -> None:
    calibrate(run, LENIENT)
    model = load(run)
    action = torch.zeros(1, model.action.stored_size)
    with pytest.raises(UserError, match="calibrated with up to 4 loops a step; num_loops = 3"):
        model.step(model.initial(1), action, num_loops=3, exit=model.exit)
    model.step(model.initial(1), action, num_loops=5, exit=model.exit)


def test_an_exit_calibrated_for_other_weights_is_refused_and_can_be_calibrated_anew(run: Path) -> None:
    calibrate(run, LENIENT)
    checkpoint = read_checkpoint(run / NAME)
    tensors = checkpoint.tensors | {"ema.core.B.weight": 1.01 * checkpoint.tensors["ema.core.B.weight"]}
    save_checkpoint(run / NAME, checkpoint.blueprint, tensors, checkpoint.state, checkpoint.extras)
    with pytest.raises(UserError, match=r"calibrated for other weights; calibrate it again with: loopwm calibrate"):
        load(run)
    calibrate(run, LENIENT, overwrite=True)
    assert load(run).exit is not None


def test_a_second_calibration_is_refused_unless_asked_for(run: Path) -> None:
    calibrate(run, LENIENT)
    with pytest.raises(UserError, match="holds a calibrated exit already; add --overwrite"):
        calibrate(run, LENIENT)


def test_too_few_episodes_for_the_claim_are_refused_with_the_number_needed(run: Path) -> None:
    with pytest.raises(UserError, match=r"do not support an excess below 0\.10% .* at least \d+ episodes are needed"):
        calibrate(run, replace(LENIENT, excess=0.001, method="betting"))
    assert load(run).exit is None
    assert not (run / FILE).exists()


def test_episodes_the_run_was_trained_on_are_refused_by_hash(run: Path, billiards_store: Path, tmp_path: Path) -> None:
    with Store.open(billiards_store) as store:
        trained_on = len(store.split("train"))
    copied = Path(shutil.copy(billiards_store, tmp_path / "renamed.h5"))
    with pytest.raises(UserError, match=f"{trained_on} of the 60 episodes in .*renamed.h5 are ones that"):
        calibrate(run, LENIENT, copied)


def test_fresh_episodes_are_used_as_a_whole(run: Path, fresh: Path) -> None:
    assert calibrate(run, LENIENT, fresh).episodes == 30


def test_a_missing_training_recording_is_named(run: Path, fresh: Path) -> None:
    config = read_config(run / "config.yaml")
    text = (run / "config.yaml").read_text().replace(str(config.data), str(fresh))
    (run / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"is not the recording that .* was trained on"):
        calibrate(run, LENIENT)


def test_a_stack_has_nothing_to_calibrate(billiards_store: Path, tmp_path: Path) -> None:
    model = replace(preset("debug").config.model, system="stack-equal-flops")
    with pytest.raises(UserError, match="A stack has no loop to leave early"):
        calibrate(trained(billiards_store, tmp_path / "stack", model), LENIENT)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("excess", "0", "excess must lie between 0 and 1"),
        ("excess", "1.5", "excess must lie between 0 and 1"),
        ("confidence", "1", "confidence must lie between 0 and 1"),
        ("confidence", "nan", "confidence must lie between 0 and 1"),
        ("rule", "fixed", "'fixed' never leaves early"),
        ("rule", "certified", "needs a certified core"),
        ("horizon", "0", "horizon must be at least 1"),
        ("split", "train", ""),
    ],
)
def test_impossible_wishes_are_refused_in_one_sentence(
    run: Path, option: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["calibrate", str(run), f"--{option}", value])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_the_command_prints_the_claim(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--excess", "0.5", "--confidence", "0.9", "--method", "normal", "--horizon", "3", "--candidates", "4"]
    assert main(["calibrate", str(run), *words]) == 0
    printed = capsys.readouterr().out
    assert "<- chosen" in printed
    assert "With probability 0.9 (by the central limit theorem, an approximation), leaving by 'output_delta'" in printed


def test_evaluate_measures_the_calibrated_exit_when_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(run), "--calibrated", "--transitions", "100", "--horizon", "3", "--rollouts", "5"]
    assert main(words) == 2
    assert "has no calibrated exit; make one with: loopwm calibrate" in " ".join(capsys.readouterr().err.split())
    result = calibrate(run, LENIENT)
    assert main([*words, "--exit.rule", "residual"]) == 2
    assert "not both" in capsys.readouterr().err
    assert main([*words, "--stability-steps", "10", "--training-rollouts", "50", "--resamples", "50"]) == 0
    early = read_evaluation(run).early
    assert early is not None and early.exit == result.exit


def test_the_report_draws_the_thresholds_that_were_tried(run: Path) -> None:
    assert calibration_figure(run) is None
    result = calibrate(run, LENIENT)
    figure = calibration_figure(run)
    assert figure is not None
    assert result.claim in figure.caption
    assert f"{result.loops_share:.0%} of full depth" in figure.caption
    assert ">own rollout</text>" in figure.svg
    assert read_calibration(run) == result


@pytest.mark.parametrize("content", ["{", "[]", '{"candidates": 3}'])
def test_a_damaged_calibration_is_named(run: Path, content: str) -> None:
    (run / FILE).write_text(content)
    with pytest.raises(UserError, match="is not a calibration; make one with: loopwm calibrate"):
        calibration_figure(run)


def test_a_claim_by_betting_says_nothing_of_an_approximation(run: Path) -> None:
    result = calibrate(run, LENIENT)
    assert "approximation" in result.claim
    exact: Calibration = replace(result, method="betting")
    assert "approximation" not in exact.claim
