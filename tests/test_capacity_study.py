"""One model for several worlds against one for each, at its smallest; and entities that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from loopwm.cli import main
from loopwm.data.cache import open_memmap
from loopwm.data.mix import filled
from loopwm.data.statistics import compute_statistics
from loopwm.data.store import Store
from loopwm.data.windows import all_windows
from loopwm.errors import UserError
from loopwm.evaluate.bootstrap import Bootstrap
from loopwm.evaluate.scores import Scorer
from loopwm.model.config import ModelConfig
from loopwm.model.world_model import WorldModel
from loopwm.spaces import ObservationSpec
from loopwm.studies import worlds_page
from loopwm.studies.capacity_scores import Errors, Scores, figures_of
from loopwm.studies.config import CapacityStudyConfig
from loopwm.train.checkpoint import load
from loopwm.train.losses import observation_errors

WORDS = ["study", "capacity", "--worlds", "billiards", "gym:Pendulum-v1", "--preset", "debug", "--seeds", "0"]
SIZES = ["--recorded", "4000", "--steps", "3000", "--updates", "6", "--rate-updates", "2", "--windows", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("capacity")
    where = ["--recordings", str(folder / "worlds"), "--folder", str(folder), "--out", str(folder / "capacity.json")]
    assert main([*WORDS, *SIZES, *where]) == 0
    return folder


def test_shared_and_single_models_are_measured_on_the_same_transitions_of_every_world(folder: Path) -> None:
    found = json.loads((folder / "capacity.json").read_text())
    assert found["command"].startswith("loopwm study capacity --worlds billiards gym:Pendulum-v1 --preset debug")
    intervals, figures = found["intervals"], found["figures"]
    for key in ("one_step", "open_loop"):
        for world in found["worlds"]:
            ours = intervals[f"{key} shared {world}"]
            for other in ("each", "parts", "shared-equal-flops", "shared-equal-params"):
                theirs = intervals[f"{key} {other} {world}"]
                assert (ours["n"], ours["episodes"]) == (theirs["n"], theirs["episodes"])
                ratio = intervals[f"{key} shared/{other} {world}"]["mean"]
                assert ratio == pytest.approx(ours["mean"] / theirs["mean"], rel=1e-6)
    # Small models of all worlds together have about the parameters of the shared one, at these widths within a third.
    parts = sum(figures[f"params parts {world}"] for world in found["worlds"])
    assert parts == pytest.approx(figures["params shared"], rel=0.34)
    assert figures["params each billiards"] == figures["params shared"]
    # A model of one world sees as many of its windows as the shared model does.
    assert found["config"]["train"]["batch"] == 4 * 2


def test_a_study_interrupted_while_it_measures_goes_on_with_what_is_measured(folder: Path) -> None:
    measured = sorted((folder / "scores").glob("*.json"))
    assert len(measured) == 7  # three shared ones, and two kinds for each of two worlds
    before, found = {path: path.stat().st_mtime_ns for path in measured}, (folder / "capacity.json").read_text()
    (folder / "capacity.json").unlink()
    measured[0].unlink()
    where = ["--recordings", str(folder / "worlds"), "--folder", str(folder), "--out", str(folder / "capacity.json")]
    assert main([*WORDS, *SIZES, *where]) == 0
    assert (folder / "capacity.json").read_text() == found
    assert [path for path in measured if path.stat().st_mtime_ns != before[path]] == measured[:1]


def test_errors_are_those_of_the_entities_that_are_there_in_units_of_their_world(folder: Path) -> None:
    found = json.loads((folder / "capacity.json").read_text())
    model = load(Path(found["runs"]["shared"][0]))
    with Store.open(folder / "data" / "gym-Pendulum-v1.h5") as store:
        columns, test = open_memmap(store), store.split("test")
    windows = all_windows(columns, test, length=1)
    seen = torch.from_numpy(filled(windows.observations.numpy(), store.meta.observation.names, 6))
    with torch.no_grad():
        e = model.encode(seen[:, 0])
        predicted = model.decode_observation(model.step(model.initial(len(windows)), windows.actions[:, 0], e))
    # A pendulum is one entity of three numbers: cos, sin, angular velocity; the rest of the set is filling.
    alone = (predicted - seen[:, 1])[:, 0, :3].square().mean()
    every = found["intervals"]["one_step shared gym:Pendulum-v1"]
    # The study predicts from up to four steps, of which this repeats those that have nothing before them.
    assert 0.5 < float(alone) / every["mean"] < 2


def test_other_mixtures_and_finished_studies_are_not_touched(folder: Path) -> None:
    where = ["--recordings", str(folder / "worlds"), "--folder", str(folder)]
    assert main([*WORDS, *SIZES, *where, "--out", str(folder / "capacity.json")]) == 2
    other = [word if word != "3000" else "900" for word in SIZES]
    assert main([*WORDS, *other, *where, "--out", str(folder / "other.json")]) == 2
    with pytest.raises(UserError, match="two worlds"):
        CapacityStudyConfig(worlds=("billiards",))
    with pytest.raises(UserError, match=r"steps \(50\) cannot exceed"):
        CapacityStudyConfig(recorded=40, steps=50)


def test_the_mean_over_worlds_counts_every_world_alike() -> None:
    episode = np.repeat(np.arange(20), 5)
    noise = np.random.default_rng(0).uniform(0.5, 1.5, 100)

    def scores(**errors: float) -> Scores:
        parts = {world: Errors(level * noise, episode) for world, level in errors.items()}
        return Scores((), 1, 1, 0.0, parts, parts, {})

    hard_and_easy = {"shared": scores(a=100.0, b=0.4), "other": scores(a=50.0, b=0.1)}
    found = figures_of(hard_and_easy, ("a", "b"))["one_step shared/other mean"]
    assert found.mean == pytest.approx((2 * 4) ** 0.5)
    # Paired: what both have in common leaves no spread.
    assert found.high - found.low < 1e-9
    assert figures_of(hard_and_easy, ("a", "b"))["one_step shared a"] == Bootstrap(episode).mean(100 * noise)


def test_entities_that_are_not_there_count_in_no_statistic_loss_or_score(folder: Path) -> None:
    spec = ObservationSpec("entities", (3, 2), ("x", "present"))
    observation = torch.tensor([[[1.0, 1.0], [3.0, 1.0], [0.0, 0.0]], [[5.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])
    assert spec.weights(observation)[..., 0].tolist() == [[1.5, 1.5, 0.0], [3.0, 0.0, 0.0]]
    scorer = Scorer(spec, np.zeros(2), np.ones(2), np.array([True, False]))
    off = observation.numpy() + np.array([2.0, 0.0])
    # Wherever all that is there is off by 2, the error is 4, however much filling there is.
    np.testing.assert_allclose(scorer.normalised_error(off, observation.numpy()), [4.0, 4.0])
    with Store.open(folder / "data" / "mixed.h5") as store:
        columns, training = open_memmap(store), store.split("train")
        statistics, spec, action = compute_statistics(columns, training), store.meta.observation, store.meta.action
    rows = np.concatenate([np.arange(o, o + n + 1) for o, n in zip(columns.ep_offset, columns.ep_len, strict=True)])
    kept = rows[np.isin(np.searchsorted(columns.ep_offset, rows, "right") - 1, training)]
    seen = columns.observation[kept].reshape(-1, spec.num_features)
    there = seen[seen[:, spec.names.index("present")] == 1]
    np.testing.assert_allclose(statistics.observation_mean, there.mean(0), atol=1e-5)
    model = WorldModel(ModelConfig(width=16, heads=2), spec, action, statistics)
    windows = all_windows(columns, training, length=1, most=40)
    with torch.no_grad():
        latents = torch.randn(len(windows), 1, *model.initial(1).shape[1:])
        errors = observation_errors(model, latents, windows.observations[:, 1:])
        error = (model.normalise(model.decode_observation(latents)) - model.normalise(windows.observations[:, 1:])) ** 2
    present = windows.observations[:, 1:, :, spec.names.index("present")] == 1
    by_hand = [error[row, 0, present[row, 0]][:, model.observation_changes].mean() for row in range(len(windows))]
    torch.testing.assert_close(errors.flatten(1).mean(1), torch.stack(by_hand))


def test_the_page_shows_the_answer(folder: Path) -> None:
    found = json.loads((folder / "capacity.json").read_text())
    text = worlds_page.capacity(found)
    assert f"{found['intervals']['one_step shared/each mean']['mean']:.3f}" in text
    assert found["command"] in text
