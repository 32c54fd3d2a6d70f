"""`loopwm evaluate RUN --benchmark`: a trained text model beside rules, and what looping buys."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')
pytest.importorskip("pyarrow", reason='text recordings need pip install "loopwm[text]"')
pytest.importorskip("sacrebleu", reason='the benchmark needs pip install "loopwm[text]"')

from timed_once import timed_once
from toy_text import episodes, play, tiny

from loopwm.cli import main
from loopwm.text.benchmark.looping import KINDS, LoopingConfig, _took, kind_of, looping
from loopwm.text.benchmark.windows import TRACKS, WindowConfig, cut, sample_windows
from loopwm.text.recording import TextManifest, write_recording
from loopwm.text.simulator import TextSimulator
from loopwm.text.vocabulary import plain
from loopwm.train.runs import train


@pytest.fixture(scope="module")
def runs(toy_recording: Path, toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A looped run, and a stack that has hardly learned anything."""
    folder = tmp_path_factory.mktemp("text-runs")
    shutil.copytree(toy_run, folder / "looped")
    config = tiny(toy_recording, 3)
    train(replace(config, model=replace(config.model, system="stack-equal-params")), folder / "stack-equal-params")
    return [folder / "looped", folder / "stack-equal-params"]


def test_a_run_is_measured_beside_rules_and_another_run(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(runs[0]), "--benchmark", "scienceworld", "--against", str(runs[1]), "--resamples", "50"]
    words += ["--per-type", "6"]
    with timed_once():
        assert main([*words, "--track", "markov", "--looping"]) == 0
    said = capsys.readouterr().out
    found = json.loads((runs[0] / "benchmark-markov-validation.json").read_text())
    assert set(found["systems"]) >= {"looped", "stack-equal-params", "last action"}
    assert set(found["figures"]) >= {"em_looped", "low_looped", "high_looped", "ceiling_unusual"}
    assert found["parameters"]["looped"] < 1e6
    assert set(found["looping"]["depth"]) == {"1", "2", "3", "4", "6", "12"}
    assert "indicative: protocol not published" in said
    assert "what looping buys" in said
    # The same windows with all of T = mu loops, asked twice.
    assert 100 * found["looping"]["depth"]["3"]["mean"] == pytest.approx(found["figures"]["em_looped"], abs=0.01)


@pytest.mark.parametrize("track", ["full", "one-step-full"])
def test_the_complete_initial_state_is_read(runs: list[Path], track: str, tmp_path: Path) -> None:
    words = ["evaluate", str(runs[0]), "--benchmark", "scienceworld", "--no-rules", "--track", track]
    assert main([*words, "--per-type", "5", "--resamples", "10", "--out", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["windows"] == 5


def test_predicted_texts_are_read_before_the_next_action_where_that_is_asked_for(
    runs: list[Path], tmp_path: Path
) -> None:
    words = ["evaluate", str(runs[0]), "--benchmark", "scienceworld", "--no-rules", "--per-type", "6"]
    words += ["--resamples", "10", "--decode", "--out", str(tmp_path / "found.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "found.json").read_text())["systems"]["looped"]["steps"]
    windows = sample_windows(episodes(), WindowConfig(per_type=6))
    simulator = TextSimulator.from_run(runs[0])
    # Step by step, as if each answer had been what the world said.
    hits = np.zeros(5)
    for window in windows:
        for step in range(5):
            said = simulator.predict([replace(window, actions=window.actions[:1])])[0][0]
            hits[step] += plain(said) == plain(window.targets[step])
            seen = window.context
            further = replace(seen, observations=(*seen.observations, said), actions=(*seen.actions, window.actions[0]))
            window = replace(window, context=further, actions=(*window.actions[1:], ""), targets=window.targets)
    assert [step["em"]["micro"]["mean"] for step in found] == pytest.approx(list(hits / len(windows)))


def test_observations_are_sorted_by_what_it_takes_to_know_them() -> None:
    episode = play(3, "validation", 9)
    observations = (
        "A.", "The counter says 1.", "The counter says 2.", "A.", "B.", "C.", "The counter says 2.", "D 3.", "E.", "F."
    )  # fmt: skip
    window = cut(replace(episode, observations=observations), 0, 1, TRACKS["history"])
    assert [kind_of(window, step) for step in range(5)] == ["number", "copy", "change", "change", "copy"]


def test_loops_are_counted_where_they_are_used(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    threads, on_cores = torch.get_num_threads(), []
    monkeypatch.setattr(
        "loopwm.text.benchmark.looping._took", lambda work: on_cores.append(torch.get_num_threads()) or _took(work)
    )
    simulator = TextSimulator.from_run(runs[0])
    windows = sample_windows(episodes(), WindowConfig(per_type=6))
    found = looping(simulator.model, "scienceworld", windows, LoopingConfig(thresholds=(1e-6, 1e6), timed=3), 20)
    never, at_once = found.early
    assert (never.loops, never.cost.mean) == (3, 0)
    assert at_once.loops == 1
    decoding = LoopingConfig(rule="output_delta", thresholds=(1e6,), timed=1)
    # How much an output changes is known after two.
    assert looping(simulator.model, "scienceworld", windows[:2], decoding, 20).early[0].loops == 2
    assert found.depth[3].mean == found.latent[-1].mean
    assert sum(found.shares.values()) == pytest.approx(1)
    assert set(found.loops_by_kind) <= set(KINDS)
    differences = np.array([a.mean - b.mean for a, b in zip(found.latent, found.words, strict=True)])
    assert differences == pytest.approx([one.mean for one in found.difference])
    # Nothing that was decoded has been read again before the first answer.
    assert found.difference[0].mean == 0
    took = found.milliseconds
    spent = (took.last, took.live, took.all, took.words, took.answered)
    assert all(one is not None and 0 < one[1] <= one[0] <= one[2] for one in spent)
    assert set(on_cores) == {1} and torch.get_num_threads() == threads


# ---- bad input ----


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["evaluate", *words]) == 2
    return capsys.readouterr().err


def test_bad_input_is_answered_in_a_sentence(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    run = str(runs[0])
    assert "There is no track 'past'" in refused(capsys, run, "--benchmark", "scienceworld", "--track", "past")
    assert "give --benchmark scienceworld" in refused(capsys, run, "--benchmark", "alfworld")
    assert "a recording of texts" in refused(capsys, run)
    same = refused(capsys, run, "--benchmark", "scienceworld", "--against", run, "--out", "x.json")
    assert "Two of the runs are called 'looped'" in same
    alone = [str(runs[1]), "--benchmark", "scienceworld"]
    assert "A stack has no loop to be measured" in refused(capsys, *alone, "--looping", "--out", "x.json")


def test_windows_of_games_that_were_trained_on_are_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other recording calls validation what the run has learned from."""
    moved = [replace(one, split="validation" if one.split == "train" else "train") for one in episodes()]
    other = tmp_path / "other.parquet"
    write_recording(other, moved, TextManifest("scienceworld", "toy"))
    said = refused(
        capsys, str(runs[0]), "--benchmark", "scienceworld", "--data", str(other), "--out", str(tmp_path / "x.json")
    )
    assert "are among the training episodes" in said
    gone = tmp_path / "gone"
    shutil.copytree(runs[0], gone)
    config = (gone / "config.yaml").read_text().replace("toy.parquet", "nowhere.parquet")
    (gone / "config.yaml").write_text(config)
    said = refused(capsys, str(gone), "--benchmark", "scienceworld", "--data", str(other), "--out", str(tmp_path / "y"))
    assert "which is not here, so that nobody can say which games are new to it" in said
