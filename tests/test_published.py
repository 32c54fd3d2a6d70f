"""The small models that come with loopwm: what their cards and pages say is what was measured, and they do it."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')
pytest.importorskip("sacrebleu", reason='the benchmark needs pip install "loopwm[text]"')

import loopwm
from loopwm.cli import main
from loopwm.studies import text_page
from loopwm.text.benchmark.benchmark import BenchmarkConfig, prepare
from loopwm.text.benchmark.sources import read_world
from loopwm.text.benchmark.windows import WindowConfig, sample_windows
from loopwm.text.joining import join
from loopwm.text.recording import read_recording
from loopwm.text.simulator import TextSimulator
from loopwm.text.vocabulary import plain
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.published import folders

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted(one.name for one in (ROOT / "weights").glob("*"))
RECORDING = ROOT / "recordings" / "scienceworld.parquet"
NOISY = ROOT / "recordings" / "scienceworld-noisy.parquet"

scienceworld = pytest.mark.skipif(
    not (ROOT / "results" / "scienceworld.json").exists(), reason="ScienceWorld has not been published yet"
)


def test_the_page_on_text_worlds_shows_the_stored_results() -> None:
    studies = ("scienceworld", "alfworld")
    results = text_page.read_results([ROOT / "results" / f"{study}.json" for study in studies])
    assert text_page.page(results) in (ROOT / "docs" / "text-results.md").read_text()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_card_shows_what_was_measured_with_the_weights_beside_it(name: str) -> None:
    folder, result = folders()[name], ROOT / "results" / f"{name.removesuffix('-small')}.json"
    assert (folder / NAME).stat().st_size < 20e6
    assert text_page.card(text_page.read_results([result])) in (folder / "README.md").read_text()
    measured, state = json.loads(result.read_text()), read_checkpoint(folder / NAME, ()).state
    assert measured["updates"] == state["update"]
    assert state["data_digest"] in measured["recordings"].values()
    assert loopwm.load(name).num_parameters() == measured["figures"]["params"] <= 10e6


@scienceworld
def test_the_frozen_recording_is_what_was_measured_on() -> None:
    digest = read_recording(RECORDING)[0].digest
    measured = json.loads((ROOT / "results" / "scienceworld.json").read_text())
    assert digest in measured["recordings"].values()


def test_what_a_noisy_expert_did_changes_nothing_that_is_asked(tmp_path: Path) -> None:
    gold, strayed = read_recording(RECORDING)[1], read_recording(NOISY)[1]
    assert {(one.split, one.actor) for one in strayed} == {("train", "noisy")}
    join([RECORDING, NOISY], tmp_path / "both.parquet")
    both = read_recording(tmp_path / "both.parquet")[1]
    assert len(both) == len(gold) + len(strayed)
    for split in ("validation", "test"):
        config = WindowConfig(split=split, per_type=20)
        assert sample_windows(both, config) == sample_windows(gold, config)


@scienceworld
def test_a_published_model_answers_real_windows() -> None:
    _, _, episodes = read_world((RECORDING,))
    asked = WindowConfig(track="one-step", split="validation", per_type=1)
    windows = prepare(episodes, BenchmarkConfig(windows=asked))[0]
    answers = TextSimulator.from_run(folders()["scienceworld-small"]).predict(windows)
    hits = sum(plain(said[-1]) == plain(one.targets[-1]) for said, one in zip(answers, windows, strict=True))
    assert len(windows) == 14 and hits >= 10


@pytest.mark.parametrize("page", ["README.md", "weights/alfworld-small/README.md"])
def test_what_newcomers_are_told_to_type_is_answered_sensibly(page: str, capsys, monkeypatch) -> None:
    blocks = re.findall(r"```bash no-run\n(.*?)```", (ROOT / page).read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    (line,) = (one for one in lines if one.startswith("loopwm imagine alfworld-small"))
    monkeypatch.setattr("sys.stdin", io.StringIO("go to cabinet 1\nopen cabinet 1\ngo to fridge 1\n"))
    assert main(shlex.split(line, comments=True)[1:]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "> The cabinet 1 is closed." in said and "> The fridge 1 is closed." in said
    assert "> You open the cabinet 1. The cabinet 1 is open. In it, you see" in said


def test_the_frozen_recording_sets_rooms_apart_as_collecting_does() -> None:
    for one in read_recording(RECORDING)[1]:
        rooms = re.findall(r"(?:^|\n\n)This (?:room|outside location) is called the [a-z ]+\.", one.initial)
        assert len(rooms) == len(re.findall(r"called the [a-z ]+\.", one.initial)) == 10
