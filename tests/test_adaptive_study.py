"""The study of adaptive depth, end to end with tiny numbers: what its figures are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopwm.data.cache import open_memmap
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.rollout import one_step
from loopwm.evaluate.segments import tile
from loopwm.model.config import LoopConfig
from loopwm.studies.adaptive import run_adaptive_study, with_gate
from loopwm.studies.config import AdaptiveStudyConfig
from loopwm.train.checkpoint import load


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[AdaptiveStudyConfig, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    config = AdaptiveStudyConfig(
        preset="debug",
        seeds=(0, 1),
        # With two loops there is no change of an output to watch.
        rules=("residual", "gate"),
        calibration_episodes=40,
        excess=0.9,
        confidence=0.6,
        horizon=3,
        resamplings=20,
        rounds=2,
        gate_updates=5,
        runs=folder / "runs",
        folder=folder / "adaptive",
        out=folder / "result.json",
    )
    run_adaptive_study(config)
    return config, json.loads(config.out.read_text())


def test_shares_and_errors_are_those_of_really_leaving_on_test_episodes(
    study: tuple[AdaptiveStudyConfig, dict[str, Any]],
) -> None:
    config, result = study
    with Store.open(config.runs / "billiards.h5") as store:
        steps = tile(open_memmap(store), store.split("test"), 1)
    shares, errors = [], []
    for seed in config.seeds:
        model = load(config.folder / f"looped-seed{seed}")
        assert model.exit is not None and model.exit.rule == config.rules[-1]
        early = one_step(model, steps, exit=model.exit)
        shares.append(float(np.nanmean(early.loops)) / model.default_loops)
        errors.append(float(np.nanmean(one_step(model, steps).observation)))
    measured = [one["share"]["mean"] for one in result["rules"][config.rules[-1]]]
    assert measured == pytest.approx(shares, rel=1e-6)
    assert result["figures"]["mse_mu"] == pytest.approx(np.mean(errors), rel=1e-6)


def test_the_error_far_beyond_mu_is_that_of_the_exponent_the_model_has(
    study: tuple[AdaptiveStudyConfig, dict[str, Any]],
) -> None:
    by_exponent, own = study[1]["mse_8mu_by_exponent"], LoopConfig().settle_eval
    assert study[1]["figures"]["mse_8mu"] == pytest.approx(by_exponent[f"{own:g}"], rel=1e-6)
    assert len(set(by_exponent.values())) == len(by_exponent)


def test_coverage_and_every_asked_figure_are_there(study: tuple[AdaptiveStudyConfig, dict[str, Any]]) -> None:
    figures = study[1]["figures"]
    names = ["mse_mu", "mse_8mu", "loops_share", "wall_share", "rank_impulse", "rank_impulse_matched", "coverage"]
    assert set(names) <= set(figures)
    assert 0 <= figures["coverage"] <= 1
    assert study[1]["command"].startswith("loopwm study adaptive --preset debug --seeds 0 1")


def test_the_runs_of_the_other_study_are_left_as_they_are(study: tuple[AdaptiveStudyConfig, dict[str, Any]]) -> None:
    config, _ = study
    plain = [load(run) for run in sorted(config.runs.glob("looped-*-seed*"))]
    assert plain and all(model.exit is None and model.gate is None for model in plain)


def test_a_gate_that_was_trained_otherwise_is_not_taken(study: tuple[AdaptiveStudyConfig, dict[str, Any]]) -> None:
    config, _ = study
    run, copy = sorted(config.runs.glob("looped-*-seed0"))[0], config.folder / "looped-seed0"
    assert with_gate(run, copy, config.gate_updates) == copy
    with pytest.raises(UserError, match=r"looped-seed0 has a gate of other weights or of other updates"):
        with_gate(run, copy, config.gate_updates + 1)
    other = sorted(config.runs.glob("looped-*-seed1"))[0]
    with pytest.raises(UserError, match="has a gate of other weights"):
        with_gate(other, copy, config.gate_updates)


def test_an_existing_result_is_not_overwritten(study: tuple[AdaptiveStudyConfig, dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="already exists"):
        run_adaptive_study(study[0])


def test_episodes_that_were_trained_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="calibration_seed must differ from recording_seed"):
        replace(AdaptiveStudyConfig(folder=tmp_path), calibration_seed=1)
