"""The ablation of deferred decoding, from nothing to its table at the smallest size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwm.cli import main
from loopwm.errors import UserError
from loopwm.evaluate.rollout import open_loop
from loopwm.presets import preset
from loopwm.studies.config import DeferredStudyConfig
from loopwm.studies.deferred import ARMS, futures, run_deferred_study, run_folder, with_arm
from loopwm.studies.deferred_cost import decoded_latents, kept_bytes
from loopwm.studies.markdown import deferred_table
from loopwm.train.checkpoint import load
from loopwm.train.journal import read_config


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[DeferredStudyConfig, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("study")
    config = DeferredStudyConfig(
        preset="debug",
        seeds=(0, 1),
        recording_seed=5,
        horizons=(1, 2, 10),
        rollouts=25,
        rounds=2,
        folder=folder / "runs",
    )
    config = replace(config, out=folder / "deferred.json")
    words = config.command.split()
    assert main(words[1:]) == 0
    return config, json.loads(config.out.read_text())


def runs(config: DeferredStudyConfig, result: dict[str, Any], arm: str) -> list[Path]:
    rate = result["learning_rates"]["picked"][arm]
    return [run_folder(config, arm, rate, seed) for seed in config.seeds]  # type: ignore[arg-type]


def test_the_arms_differ_in_their_loss_and_in_nothing_else() -> None:
    base = preset("debug").config
    each, deferred, bare, loose = (with_arm(base, arm, 0.01, 3) for arm in ARMS)
    assert [one.loss.decoding for one in (each, deferred, bare, loose)] == ["each", *["deferred"] * 3]
    assert all(one.loss.imagined for one in (each, deferred, bare, loose))
    assert (bare.loss.deferred.alpha, loose.loss.deferred.beta) == (0, 0)
    assert [one.model.summary for one in (each, deferred, bare, loose)] == [False, True, False, True]
    for one in (deferred, bare, loose):
        assert replace(one, model=each.model, loss=each.loss) == each


def test_the_ratio_at_k_is_that_of_the_errors_at_step_k(study: tuple[DeferredStudyConfig, dict]) -> None:
    config, result = study
    segments = futures(config.folder / "billiards.h5", config)
    for k in config.horizons:
        means = {}
        for arm, key in (("each", "each"), ("deferred", "deferred"), ("no-budget", "no_budget")):
            errors = [open_loop(load(run), segments).observation[:, k - 1] for run in runs(config, result, arm)]
            means[arm] = float(np.nanmean(np.mean(errors, axis=0)))
            assert result["figures"][f"mse_{key}_k{k}"] == pytest.approx(means[arm], rel=1e-5)
            assert result["per_seed"][arm][f"k{k}"] == pytest.approx([float(np.nanmean(e)) for e in errors], rel=1e-5)
        ratio = result["intervals"][f"dd_error_ratio_k{k}"]
        assert ratio["mean"] == pytest.approx(means["deferred"] / means["each"], rel=1e-5)
        assert ratio["low"] <= ratio["mean"] <= ratio["high"]
        assert result["figures"][f"dd_error_ratio_k{k}_high"] == ratio["high"]
        assert ratio["n"] == int(segments.valid[:, k - 1].sum())


def test_the_end_alone_is_decoded(study: tuple[DeferredStudyConfig, dict]) -> None:
    _, result = study
    costs, figures = result["costs"], result["figures"]
    assert (costs["horizon"], costs["decoded"]["each"], costs["decoded"]["deferred"]) == (20, 20, 1)
    assert figures["dd_decoder_calls_ratio"] == 1 / 20
    window = preset("debug").config.train.window
    assert (costs["training_decoded"]["each"], costs["training_decoded"]["deferred"]) == (window, 1)
    for name in ("dd_time_ratio", "dd_imagination_time_ratio", "dd_memory_ratio"):
        assert 0.05 < figures[name] < 20
    assert costs["update"]["unit"] == costs["imagination"]["unit"] == "seconds"
    assert all(isinstance(value, int | float) for value in figures.values())


def test_every_run_has_its_own_arm_and_the_result_says_how_to_make_it_again(
    study: tuple[DeferredStudyConfig, dict],
) -> None:
    config, result = study
    assert result["command"] == config.command
    base = replace(preset("debug").config, data=config.folder / "billiards.h5")
    for arm in ARMS:
        rate = result["learning_rates"]["picked"][arm]
        assert rate in result["learning_rates"]["grid"]
        for run, seed in zip(runs(config, result, arm), config.seeds, strict=True):
            assert read_config(run / "config.yaml") == with_arm(base, arm, rate, seed)


def test_summaries_are_read_at_every_horizon(study: tuple[DeferredStudyConfig, dict]) -> None:
    config, result = study
    assert list(result["reading"]) == [f"k{k}" for k in config.horizons]
    for k, read in result["reading"].items():
        assert read["error_over_decoded"]["mean"] == pytest.approx(
            read["error"]["mean"] / result["figures"][f"mse_deferred_{k}"], rel=1e-4
        )
        assert set(read["rmse"]) == {"x", "y", "vx", "vy"}
        assert -1 <= read["strangeness_rank_correlation"]["mean"] <= 1


def test_a_finished_study_is_not_done_again(study: tuple[DeferredStudyConfig, dict]) -> None:
    config, result = study
    before = {path: path.stat().st_mtime_ns for path in config.folder.rglob("checkpoint.safetensors")}
    with pytest.raises(UserError, match=r"deferred\.json already exists"):
        run_deferred_study(config)
    run_deferred_study(replace(config, out=config.folder / "again.json"))
    assert before == {path: path.stat().st_mtime_ns for path in config.folder.rglob("checkpoint.safetensors")}
    assert json.loads((config.folder / "again.json").read_text())["intervals"] == result["intervals"]


def test_the_table_shows_the_figures(study: tuple[DeferredStudyConfig, dict]) -> None:
    config, result = study
    table = deferred_table(result)
    for k in config.horizons:
        for key in (f"mse_each_k{k}", f"mse_deferred_k{k}", f"dd_error_ratio_k{k}"):
            assert f"{result['figures'][key]:.3f}" in table
    assert "1 latent is decoded instead of 20" in table and f"`{config.command}`" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {len(config.horizons) + 2}


def test_kept_bytes_are_those_of_the_tensors_the_backward_pass_needs() -> None:
    """A storage used twice counts once; weights, and what the backward pass does not need, do not count."""
    weight = torch.nn.Linear(8, 4, bias=False)

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = weight

    x, model = torch.randn(16, 8), Plain()
    # d(W x) needs x; the square of the product needs the product; the mean needs nothing.
    assert kept_bytes(model, lambda: weight(x).square().mean()) == 4 * (16 * 8 + 16 * 4)  # type: ignore[arg-type]
    assert kept_bytes(model, lambda: (weight(x) + weight(x)).sum()) == 4 * 16 * 8  # type: ignore[arg-type]


def test_latents_are_counted_where_they_are_decoded(study: tuple[DeferredStudyConfig, dict]) -> None:
    config, result = study
    model = load(runs(config, result, "each")[0])
    h = model.initial(6)
    assert decoded_latents(model, lambda: (model.decode(h), model.decode(h.unflatten(0, (2, 3))))) == 12
    assert decoded_latents(model, lambda: model.step(h, torch.zeros(6, 2))) == 0


def test_horizons_that_no_episode_has_are_refused(study: tuple[DeferredStudyConfig, dict]) -> None:
    config, _ = study
    with pytest.raises(UserError, match=r"longest test episode .* horizon 500; give shorter --horizons"):
        futures(config.folder / "billiards.h5", replace(config, horizons=(1, 500)))


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"seeds": ()}, "at least one seed"),
        ({"recording_seed": -1}, "must not be negative"),
        ({"horizons": (0, 1)}, "count steps from 1"),
        ({"rounds": 0}, "at least 1"),
    ],
)
def test_impossible_studies_are_refused(bad: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        DeferredStudyConfig(**bad)
