"""The published measurement: what its numbers are made of, and that README shows them and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store
from loopwm.errors import UserError
from loopwm.evaluate.evaluation import Evaluation, read_evaluation
from loopwm.model.config import SYSTEMS
from loopwm.studies.billiards import run_study
from loopwm.studies.config import StudyConfig
from loopwm.studies.markdown import BEGIN, END, adaptive_tables, results_table, with_table
from loopwm.studies.runs import Runs, worst_against_controls
from loopwm.studies.throughput import ThroughputConfig, throughput

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudyConfig, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("study")
    config = StudyConfig(
        preset="debug",
        seeds=(0, 1),
        recording_seed=5,
        long_updates=25,
        long_seeds=(0,),
        stability_steps=30,
        folder=folder / "runs",
    )
    config = replace(config, out=folder / "result.json")
    # How it is measured has a test of its own.
    few = ThroughputConfig(rounds=3, updates=1, warmup=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loopwm.studies.billiards.throughput", lambda base: throughput(base, few))
        run_study(config)
        yield config, json.loads(config.out.read_text())


def evaluations(config: StudyConfig, system: str) -> list[Evaluation]:
    return [read_evaluation(config.folder / f"{system}-20-seed{seed}") for seed in config.seeds]


def test_an_error_is_the_mean_over_seeds_of_the_mean_over_transitions(study: tuple[StudyConfig, dict]) -> None:
    config, result = study
    for system, key in zip(SYSTEMS, ("mse_looped", "mse_equal_params", "mse_equal_flops"), strict=True):
        means = [one.one_step.mean for one in evaluations(config, system)]
        assert result["figures"][key] == pytest.approx(np.mean(means), rel=1e-5)
        interval = result["intervals"][key]
        assert interval["mean"] == pytest.approx(np.mean(means), rel=1e-5)
        assert interval["low"] < interval["mean"] < interval["high"]


def test_ratios_pair_the_systems_and_depth_is_read_at_eight_mu(study: tuple[StudyConfig, dict]) -> None:
    config, result = study
    figures = result["figures"]
    assert figures["mse_looped_over_equal_flops"] == pytest.approx(
        figures["mse_looped"] / figures["mse_equal_flops"], rel=1e-5
    )
    at_16 = [next(p for p in one.depth if p.loops == 16).error.mean for one in evaluations(config, "looped")]
    assert figures["mse_looped_8mu"] == pytest.approx(np.mean(at_16), rel=1e-5)


def test_the_result_says_what_is_needed_to_make_it_again(study: tuple[StudyConfig, dict]) -> None:
    config, result = study
    assert result["command"] == config.command
    assert result["seeds"] == [0, 1] and result["long_seeds"] == [0]
    assert {"python", "torch", "loopwm"} <= result["versions"].keys()
    assert len(result["runs"]) == 3 * 2 + 2 * 1
    assert result["figures"]["nonfinite_10k"] == sum(run["nonfinite_10k"] for run in result["runs"])
    assert set(result["learning_rates"]["picked"]) == set(SYSTEMS)
    assert all(isinstance(value, int | float) for value in result["figures"].values())


def test_the_worst_ratio_against_controls_is_taken_over_horizons_and_seeds(study: tuple[StudyConfig, dict]) -> None:
    config, _ = study
    runs = Runs("looped", tuple(evaluations(config, "looped")))
    by_hand = []
    for one in runs.evaluations:
        curves = {curve.name: [step.mean for step in curve.error[:10]] for curve in one.horizon}
        controls = [curves[curve.name] for curve in one.horizon if curve.kind == "control"]
        by_hand.append((np.array(curves["imagined"]) / np.min(controls, axis=0)).max())
    assert worst_against_controls(runs, 10) == pytest.approx(max(by_hand))


def test_a_finished_study_is_not_done_again(study: tuple[StudyConfig, dict]) -> None:
    config, result = study
    before = {path: path.stat().st_mtime_ns for path in config.folder.rglob("checkpoint.safetensors")}
    with pytest.raises(UserError, match=r"result\.json already exists"):
        run_study(config)
    run_study(replace(config, out=config.folder / "again.json"))
    assert before == {path: path.stat().st_mtime_ns for path in config.folder.rglob("checkpoint.safetensors")}
    again = json.loads((config.folder / "again.json").read_text())
    assert again["intervals"] == result["intervals"]


def test_the_recording_is_the_one_of_its_seed(study: tuple[StudyConfig, dict], tmp_path: Path) -> None:
    config, result = study
    collect(CollectConfig(episodes=60, seed=5), tmp_path / "again.h5")
    with Store.open(tmp_path / "again.h5") as store:
        assert result["data"] == {"world": "billiards", "episodes": 60, "recording_seed": 5, "digest": store.digest}
    assert "--recording-seed 5" in result["command"]
    with pytest.raises(UserError, match=r"billiards\.h5 was recorded with seed 5 instead of 0; choose another folder"):
        run_study(replace(config, recording_seed=0, out=tmp_path / "other.json"))
    with pytest.raises(UserError, match="must not be negative"):
        replace(config, recording_seed=-1)


def test_the_table_shows_the_figures(study: tuple[StudyConfig, dict]) -> None:
    _, result = study
    table = results_table(result)
    for key in ("mse_looped", "mse_equal_flops", "mse_equal_params", "mse_looped_long"):
        assert f"{result['figures'][key]:.3f}" in table
    assert f"{result['figures']['params_looped']:,}" in table


def test_the_training_speed_benchmark_runs_for_anyone(billiards_store: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "training_speed.py"), str(billiards_store), "--no-compile"]
    command += ["--rounds", "2", "--updates", "1", "--warmup", "1"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    looped, stack, ratio = (float(line.split()[1]) for line in shown.splitlines()[:3])
    assert looped > 0 and stack > 0 and 0.1 < ratio < 10
    assert 0.1 < float(shown.splitlines()[3].removeprefix("fixed-depth ratio")) < 10


def test_a_document_without_the_markers_is_refused() -> None:
    with pytest.raises(UserError, match="needs the lines"):
        with_table("# nothing here", "table")


def test_the_page_on_adaptive_depth_shows_the_stored_results() -> None:
    result = json.loads((ROOT / "results" / "adaptive-depth.json").read_text())
    shown = (ROOT / "docs" / "adaptive-depth.md").read_text().split(BEGIN)[1].split(END)[0].strip()
    assert shown == adaptive_tables(result)


def test_readme_shows_the_stored_results() -> None:
    result = json.loads((ROOT / "results" / "billiards.json").read_text())
    shown = (ROOT / "README.md").read_text().split(BEGIN)[1].split(END)[0].strip()
    assert shown == results_table(result)
