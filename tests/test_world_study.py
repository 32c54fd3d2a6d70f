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
from loopwm.studies.worlds_page import Published

ROOT = Path(__file__).parents[1]
SMALL = ["--preset", "debug", "--seeds", "0", "--steps", "1500", "--updates", "10", "--rate-updates", "4"]
SAMPLE = ["--transitions", "150"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    words = [
        "study",
        "world",
        "gym:CartPole-v1",
        *SMALL,
        *SAMPLE,
        "--batch",
        "8",
        "--window",
        "4",
        "--curriculum",
        "3",
        "--rounds",
        "2",
        "--folder",
        str(folder),
    ]
    assert main(words) == 0
    return folder / "gym-CartPole-v1.json"


def test_a_study_of_a_world_says_what_was_measured_and_how_to_repeat_it(result: Path) -> None:
    found = json.loads(result.read_text())
    assert found["command"].startswith("loopwm study world gym:CartPole-v1 --preset debug --seeds 0 --steps 1500")
    assert found["data"]["transitions"] >= 1500
    log = [
        json.loads(line) for line in (result.parent / "gym-CartPole-v1/looped-seed0/log.jsonl").read_text().splitlines()
    ]
    assert [line["window"] for line in log if "loss" in line] == [2, 4]  # of the 5th and the 10th update
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
    text = worlds_page.page(Published({"gym-CartPole-v1": found}))
    assert f"{ratios[4]:.3f} | {ratios[9]:.3f} |" in text
    assert found["command"] in text


def test_a_recording_made_otherwise_is_not_taken_for_this_one(tmp_path: Path) -> None:
    made = WorldStudyConfig("gym:CartPole-v1", steps=60, folder=tmp_path)
    recording(made)
    with pytest.raises(
        UserError, match=r"is another recording \(loopwm collect gym:CartPole-v1 .*choose another --fol"
    ):
        recording(WorldStudyConfig("gym:CartPole-v1", steps=70, folder=tmp_path))
    with pytest.raises(UserError, match="is another recording"):
        recording(WorldStudyConfig("gym:CartPole-v1", steps=60, hold=2, folder=tmp_path))


def test_a_finished_study_is_not_overwritten(result: Path) -> None:
    with pytest.raises(UserError, match=r"gym-CartPole-v1\.json already exists"):
        run_world_study(WorldStudyConfig("gym:CartPole-v1", folder=result.parent))


def test_the_page_on_worlds_shows_the_stored_results() -> None:
    assert worlds_page.page(Published.read(ROOT / "results")) in (ROOT / "docs" / "worlds.md").read_text()


def test_what_recording_and_reading_cost_is_on_the_page() -> None:
    one = {"world": "fluid", "recorded_per_s": 1234.4, "ratio": 0.871, "ratio_low": 0.85, "ratio_high": 0.9}
    waits = {"world": "billiards-pixels", "batch": 16, "update": 81.2, "share": 0.0123, "share_not_read_ahead": 0.2}
    store = {"images_bytes": 8e9, "limit_bytes": 2**31, "peak_own_bytes": 2**29}
    made = {"command": "python benchmarks/some.py", "processor": "a CPU, 1 torch thread"}
    took = {"examples": [{"example": "own_env", "seconds": 243.4, "plots": ["horizon.png"]}]}
    found = Published({}, None, {"worlds": [one]} | made, {"worlds": [waits]} | made, store | made, took | made)
    text = "\n".join(worlds_page.data(found))
    assert "| fluid | 1,234 | 0.87 (0.85 to 0.90) |" in text
    assert "| billiards-pixels | 16 | 81 ms | 1.23% | 20.00% |" in text
    assert "8.0 GB of images" in text and "2 GiB of its own memory, needed at most 0.50 GiB" in text
    assert text.count("Made by `python benchmarks/some.py` on a CPU, 1 torch thread.") == 4
    assert "in minutes: `examples/own_env.py` 4:03." in text
    assert worlds_page.data(Published({})) == []


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There are no results in"):
        Published.read(tmp_path)
