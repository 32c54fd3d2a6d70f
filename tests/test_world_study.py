"""One world studied end to end at its smallest, and the page that is written from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loopwm.cli import main
from loopwm.errors import UserError
from loopwm.studies import worlds_page
from loopwm.studies.config import WorldStudyConfig
from loopwm.studies.world import recording, run_world_study

ROOT = Path(__file__).parents[1]
SMALL = ["--preset", "debug", "--seeds", "0", "--steps", "1500", "--updates", "10", "--rate-updates", "4"]
SAMPLE = ["--transitions", "150"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    words = ["study", "world", "gym:CartPole-v1", *SMALL, *SAMPLE, "--batch", "8", "--rounds", "2", "--folder", str(folder)]
    assert main(words) == 0
    return folder / "gym-CartPole-v1.json"


def test_a_study_of_a_world_says_what_was_measured_and_how_to_repeat_it(result: Path) -> None:
    found = json.loads(result.read_text())
    assert found["command"].startswith("loopwm study world gym:CartPole-v1 --preset debug --seeds 0 --steps 1500")
    assert found["data"]["transitions"] >= 1500
    assert found["data"]["observation"]["shape"] == [4]
    # As many transitions as the study asks for, which are not those of the preset.
    assert found["intervals"]["mse_looped"]["n"] == 150
    figures = found["figures"]
    assert figures["mse_looped_over_equal_flops"] == pytest.approx(
        found["intervals"]["mse_looped"]["mean"] / found["intervals"]["mse_equal_flops"]["mean"], rel=1e-3
    )
    assert figures["params_looped"] < figures["params_equal_flops"]
    assert {run["system"] for run in found["runs"]} == {"looped", "stack-equal-flops", "stack-equal-params"}
    # A world without labels says nothing about who gets the loops.
    assert found["allocation"][0]["labels"] == {}


def test_the_page_shows_the_worst_case_against_controls(result: Path) -> None:
    found = json.loads(result.read_text())
    run = next(run for run in found["runs"] if run["system"] == "looped")
    curves = dict(run["open_loop"])
    model = curves.pop("imagined")
    curves.pop(worlds_page.FLOOR)
    ratios = [model[k] / min(curve[k] for curve in curves.values()) for k in range(10)]
    assert found["figures"]["control_ratio_10"] == pytest.approx(max(ratios))
    assert worlds_page.control_ratio(found, 5) == pytest.approx(ratios[4])
    text = worlds_page.page(worlds_page.read_results(result.parent))
    assert f"{ratios[4]:.3f} | {ratios[9]:.3f} |" in text
    assert found["command"] in text


def test_a_recording_made_otherwise_is_not_taken_for_this_one(tmp_path: Path) -> None:
    made = WorldStudyConfig("gym:CartPole-v1", steps=60, folder=tmp_path)
    recording(made)
    with pytest.raises(
        UserError, match=r"is another recording \(loopwm collect gym:CartPole-v1 .*choose another --fol"
    ):
        recording(WorldStudyConfig("gym:CartPole-v1", steps=70, folder=tmp_path))


def test_a_finished_study_is_not_overwritten(result: Path) -> None:
    with pytest.raises(UserError, match=r"gym-CartPole-v1\.json already exists"):
        run_world_study(WorldStudyConfig("gym:CartPole-v1", folder=result.parent))


@pytest.mark.skipif(not list((ROOT / "results" / "worlds").glob("*.json")), reason="no world has been published yet")
def test_the_page_on_worlds_shows_the_stored_results() -> None:
    text = (ROOT / "docs" / "worlds.md").read_text()
    shared = worlds_page.read_shared(ROOT / "results" / "capacity.json")
    assert worlds_page.page(worlds_page.read_results(ROOT / "results" / "worlds"), shared) in text


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are no results in"):
        worlds_page.read_results(tmp_path)
