"""The benchmark as a whole: averages with their intervals, ceilings, results, tables and the command."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from rich.console import Console
from visits import CLOSED, OPENED, SHELF, visit, window

from loopwm.cli import main
from loopwm.errors import LoopwmError, UserError
from loopwm.evaluate.bootstrap import Bootstrap
from loopwm.text.benchmark.aggregate import REPORT_MIX, Aggregator
from loopwm.text.benchmark.benchmark import BenchmarkConfig, BenchmarkResult, prepare, run_benchmark
from loopwm.text.benchmark.errors import ANSWERS, MISSES, answered, misses
from loopwm.text.benchmark.predictor import windows_digest
from loopwm.text.benchmark.replaying import replay_noise
from loopwm.text.benchmark.sources import read_world
from loopwm.text.benchmark.tables import INDICATIVE, reported, tables
from loopwm.text.benchmark.windows import WindowConfig, sample_windows
from loopwm.text.recording import TextEpisode, TextManifest, write_recording

pytest.importorskip("sacrebleu", reason="BLEU is sacrebleu's")


@pytest.fixture(scope="module")
def visits() -> list[TextEpisode]:
    """Training and held-out walks of two task types."""
    training = [visit(k, "train", "pick" if k % 2 else "clean") for k in range(20)]
    return training + [visit(k, "validation", "pick" if k % 2 else "clean") for k in range(20, 32)]


@pytest.fixture(scope="module")
def result(visits: list[TextEpisode]) -> BenchmarkResult:
    """The rules on those walks, and one system that knows everything."""
    config = BenchmarkConfig(windows=WindowConfig(per_type=0), resamples=200)
    return run_benchmark("alfworld", visits, {"oracle": Oracle()}, config)


class Oracle:
    """Answers with the targets."""

    def predict(self, windows) -> list[list[str]]:
        return [list(window.targets) for window in windows]


class Forgetful:
    """Knows everything of every other window, and nothing of the rest."""

    def predict(self, windows) -> list[list[str]]:
        return [
            list(one.targets) if k % 2 else ["Nothing happens."] * len(one.targets) for k, one in enumerate(windows)
        ]


def test_averages_weigh_windows_types_or_the_mix():
    types = ["Boil"] * 4 + ["Find"] * 2
    scores = np.array([[1.0], [1], [1], [0], [1], [0]])
    (found,) = Aggregator(types, [0, 0, 1, 1, 2, 3], {"Boil": 9, "Find": 1, "Melt": 90}).aggregate(scores)
    assert found.micro.mean == pytest.approx(4 / 6)
    assert found.macro.mean == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.mix is not None
    assert found.mix.mean == pytest.approx((9 * 3 / 4 + 1 * 1 / 2) / 10)
    assert {name: one.mean for name, one in found.by_type.items()} == {"Boil": 0.75, "Find": 0.5}
    assert (found.micro.n, found.micro.episodes, found.by_type["Find"].n) == (6, 4, 2)


def test_without_a_mix_there_is_no_figure_for_it():
    (found,) = Aggregator(["coin"] * 2, [0, 1], {}).aggregate(np.array([[1.0], [0]]))
    assert found.mix is None


def test_of_one_type_the_interval_is_the_bootstraps_own():
    rng = np.random.default_rng(0)
    episodes = rng.integers(0, 12, 80)
    scores = rng.random((80, 1))
    (found,) = Aggregator(["Boil"] * 80, episodes.tolist(), {"Boil": 1}, resamples=500, seed=4).aggregate(scores)
    own = Bootstrap(episodes, resamples=500, seed=4).mean(scores[:, 0])
    for interval in (found.micro, found.macro, found.mix, found.by_type["Boil"]):
        assert interval is not None
        assert (interval.mean, interval.low, interval.high) == pytest.approx((own.mean, own.low, own.high))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        # Two types of 25 episodes; windows of one episode share its luck.
        luck = rng.random(50)
        scores = (rng.random((50, 6)) < luck[:, None]).astype(float).reshape(-1, 1)
        types = ["Boil"] * 150 + ["Find"] * 150
        (found,) = Aggregator(types, np.repeat(np.arange(50), 6).tolist(), {}, resamples=200).aggregate(scores)
        hits += found.macro.low <= 0.5 <= found.macro.high
    assert 0.88 <= hits / 200 <= 0.99


@given(st.integers(0, 2**16))
def test_the_average_of_a_difference_is_the_difference_of_averages(seed: int):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, 30, 1))
    aggregator = Aggregator(["Boil"] * 20 + ["Find"] * 10, rng.integers(0, 9, 30).tolist(), {"Boil": 3, "Find": 1})
    one, two, both = (aggregator.aggregate(scores)[0] for scores in (first, second, first - second))
    for name in ("micro", "macro", "mix"):
        assert getattr(both, name).mean == pytest.approx(getattr(one, name).mean - getattr(two, name).mean)
    assert both.micro.low <= both.micro.mean <= both.micro.high


def test_the_reports_mix_has_as_many_windows_as_the_report():
    assert {world: sum(mix.values()) for world, mix in REPORT_MIX.items()} == {"scienceworld": 500, "alfworld": 500}


def test_all_systems_answer_the_same_windows_and_the_oracle_is_always_right(result: BenchmarkResult):
    assert list(result.systems) == ["last action", "templates", "history", "all rules", "oracle"]
    assert (result.windows, result.types, result.episodes) == (48, {"clean": 24, "pick": 24}, {"clean": 6, "pick": 6})
    for averages in result.systems["oracle"].steps:
        for name, average in averages.items():
            assert average.micro.mean == pytest.approx(1.0), name
    assert len(result.systems["history"].steps) == 5
    means = [result.systems[name].steps[-1]["em"].micro.mean for name in ("last action", "history", "oracle")]
    assert means == sorted(means)
    gain = result.systems["oracle"].against["last action"].micro
    assert gain.mean == pytest.approx(1 - means[0])
    assert gain.low <= gain.mean <= gain.high


def test_history_reaches_what_was_shown_and_the_ceiling_says_so(result: BenchmarkResult):
    ceiling = 1 - result.ceiling["unusual"].micro.mean
    assert result.systems["history"].steps[-1]["em"].micro.mean == pytest.approx(ceiling, abs=0.1)
    assert ceiling < 1


def test_every_wrong_answer_has_one_cause(result: BenchmarkResult):
    for system in result.systems.values():
        wrong = sum(one.micro.mean for one in system.misses.values())
        assert wrong == pytest.approx(1 - system.steps[-1]["em"].micro.mean)


@pytest.mark.parametrize(
    ("action", "predicted", "target", "unusual", "cause"),
    [
        ("go to shelf 1", SHELF, f"{SHELF} ", 0, None),
        ("go to shelf 1", "On the shelf 1, you see a pen 1, and a cd 2.", SHELF, 1, "list order"),
        ("go to shelf 1", "On the shelf 1, you see nothing.", SHELF, 1, "not shown"),
        ("go to shelf 1", "On the shelf 1, you see a cd 3, and a pen 1.", SHELF, 0, "numbers"),
        ("go to drawer 1", "You close the drawer 1.", CLOSED, 0, "another answer"),
        ("go to shelf 1", "On the shelf 1, you see nothing.", SHELF, 0, "other words"),
    ],
)
def test_causes_of_wrong_answers(action: str, predicted: str, target: str, unusual: int, cause: str | None):
    asked = replace(window(), actions=(action,), targets=(target,))
    (found,) = misses([asked], [[predicted]], np.array([float(unusual)]))
    assert found.tolist() == [float(name == cause) for name in MISSES]


def test_an_action_is_answered_as_before_or_otherwise():
    seen = window(("go to shelf 1", SHELF), ("open drawer 1", OPENED), ("go to shelf 1", SHELF))
    asked = {
        "new": ("open drawer 2", OPENED),
        "as before": ("go to shelf 1", SHELF + " "),
        "otherwise": ("go to shelf 1", "On the shelf 1, you see nothing."),
    }
    assert tuple(asked) == ANSWERS
    for kind, (action, target) in asked.items():
        assert answered(replace(seen, actions=(action,), targets=(target,))) == kind
    # What a window's own steps answer counts as well, the latest of all.
    again = replace(seen, actions=("go to shelf 1", "go to shelf 1"), targets=("A pen fell down.", SHELF))
    assert answered(again) == "otherwise"


def test_em_is_told_apart_by_what_was_answered_before(result: BenchmarkResult, visits: list[TextEpisode]):
    windows, _ = prepare(visits, result.config)
    kinds = [answered(one) for one in windows]
    for system in result.systems.values():
        counts = {kind: one.n for kind, one in system.by_answer.items()}
        assert counts == {kind: kinds.count(kind) for kind in set(kinds)}
        whole = sum(one.mean * one.n for one in system.by_answer.values()) / len(windows)
        assert whole == pytest.approx(system.steps[-1]["em"].micro.mean)


def test_a_result_is_the_same_again_and_fits_into_json(result: BenchmarkResult, visits: list[TextEpisode]):
    again = run_benchmark("alfworld", visits, {"oracle": Oracle()}, result.config)
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == json.loads(json.dumps(again.to_json()))
    figures = result.to_json()["figures"]
    assert figures["em_oracle"] == 100.0
    assert figures["low_history"] <= figures["em_history"] <= figures["high_history"]


def test_systems_that_were_asked_before_are_compared_with_as_if_asked_now(visits: list[TextEpisode]):
    config = BenchmarkConfig(windows=WindowConfig(per_type=0), resamples=50, rules=("templates",))
    both = run_benchmark("alfworld", visits, {"oracle": Oracle(), "forgetful": Forgetful()}, config).to_json()
    alone = run_benchmark("alfworld", visits, {"oracle": Oracle()}, config)
    stored = TypeAdapter(BenchmarkResult).validate_python(json.loads(json.dumps(alone.to_json())))
    later = run_benchmark("alfworld", visits, {"forgetful": Forgetful()}, config, earlier=[stored]).to_json()
    assert later == both
    assert 0 < later["systems"]["forgetful"]["hits"].count("0") < both["windows"]
    assert set(later["systems"]["oracle"]["against"]) == {"templates", "forgetful"}
    # Asked again, what was known before does not count.
    again = run_benchmark("alfworld", visits, {"oracle": Forgetful()}, config, earlier=[stored])
    assert again.systems["oracle"].hits == both["systems"]["forgetful"]["hits"]
    with pytest.raises(UserError, match="earlier result on track history is of other windows; ask oracle again"):
        run_benchmark("alfworld", visits[:-1], {}, config, earlier=[stored])
    silent = replace(stored, systems={name: replace(one, hits="") for name, one in stored.systems.items()})
    with pytest.raises(UserError, match="does not say which windows oracle hit"):
        run_benchmark("alfworld", visits, {}, config, earlier=[silent])


def test_the_digest_tells_frozen_samples_apart(visits: list[TextEpisode]):
    windows = sample_windows(visits, WindowConfig())
    assert windows_digest(windows) == windows_digest(sample_windows(visits, WindowConfig()))
    changed = [replace(windows[0], targets=("x",) * 5), *windows[1:]]
    assert windows_digest(changed) != windows_digest(windows)


def test_a_one_step_benchmark_has_one_step(visits: list[TextEpisode]):
    config = BenchmarkConfig(windows=WindowConfig(track="one-step"), resamples=50, rules=("history",))
    found = run_benchmark("alfworld", visits, config=config)
    assert len(found.systems["history"].steps) == 1
    assert shown(found).count("EM by step") == 0


@pytest.mark.parametrize(("track", "steps"), [("full", 5), ("one-step-full", 1)])
def test_with_the_initial_state_what_it_names_is_no_first_look(visits: list[TextEpisode], track: str, steps: int):
    def firsts(initial: str) -> float:
        told = [replace(one, initial=initial) for one in visits]
        config = BenchmarkConfig(windows=WindowConfig(track=track), resamples=50, rules=("all rules",))
        found = run_benchmark("alfworld", told, config=config)
        assert len(found.systems["all rules"].steps) == steps
        return found.ceiling["first look"].micro.mean

    named = (f"{thing} {number}" for thing in ("drawer", "shelf", "key", "cd", "pen") for number in range(1, 6))
    assert firsts(f"In the drawer 1, you see {', '.join(named)}.") == 0
    assert firsts("There is a drawer 1 and a shelf 1.") > 0


class Short:
    """Forgets the last step."""

    def predict(self, windows) -> list[list[str]]:
        return [list(window.targets[:-1]) for window in windows]


def test_what_cannot_be_measured_is_refused(visits: list[TextEpisode]):
    same = [replace(episode, split="validation") for episode in visits[:2]]
    with pytest.raises(UserError, match="2 of the games asked about are among the training episodes"):
        run_benchmark("alfworld", [*visits, *same])
    # Rules are counted on episodes of other actors, but a model may have been trained on these.
    played = [replace(episode, split="train", actor="noisy") for episode in visits if episode.split == "validation"]
    with pytest.raises(UserError, match="12 of the games asked about are among the training episodes"):
        run_benchmark("alfworld", [*visits, *played])
    with pytest.raises(UserError, match="no lexicon of the world 'zork'"):
        run_benchmark("zork", visits)
    with pytest.raises(LoopwmError, match="'short' did not give one answer for each step"):
        run_benchmark("alfworld", visits, {"short": Short()}, BenchmarkConfig(rules=()))
    with pytest.raises(UserError, match="no system of rules 'magic'"):
        BenchmarkConfig(rules=("magic",))
    with pytest.raises(UserError, match="0 resamples"):
        BenchmarkConfig(resamples=0)


def shown(result: BenchmarkResult) -> str:
    """The tables as a wide terminal would show them."""
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(tables(result))
    return console.export_text()


def test_tables_show_every_system_the_ceiling_and_the_report_marked_as_indicative(result: BenchmarkResult):
    text = shown(result)
    for words in (*result.systems, "ceiling", "first look", "paired differences", "LoopWM (about 1B)", "51.6"):
        assert words in text
    marked = [line for line in text.splitlines() if "about 1B" in line]
    assert marked
    assert all(INDICATIVE in line for line in marked)


def test_the_reports_figures_are_those_it_printed():
    text = (files("loopwm.text.benchmark") / "reported.csv").read_text()
    assert len(reported("scienceworld")) + len(reported("alfworld")) == len(list(csv.DictReader(text.splitlines())))
    headline = {
        row.step: row.em for row in reported("scienceworld") if row.task_type == "overall" and "1B" in row.system
    }
    assert headline == {1: 67.2, 2: 68.6, 3: 68.0, 4: 68.4, 5: 68.4}
    assert reported("textworld") == []


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, visits: list[TextEpisode]) -> Path:
    """The walks as a file."""
    pytest.importorskip("pyarrow", reason="text recordings are Parquet files")
    path = tmp_path_factory.mktemp("text") / "alfworld.parquet"
    write_recording(path, visits, TextManifest("alfworld", "by hand"))
    return path


def test_the_command_prints_tables_and_writes_every_number(recording: Path, tmp_path: Path, capsys):
    out = tmp_path / "rules.json"
    words = ["benchmark", "rules", "--data", str(recording), "--resamples", "50", "--per-type", "20"]
    episodes = read_world([recording])[2]
    noise = replay_noise(episodes, dict(enumerate(episodes)), {}, resamples=20)
    told = tmp_path / "noise.json"
    told.write_text(
        json.dumps({"noise": asdict(noise), "recordings": read_world([recording])[1], "split": "validation"})
    )
    assert main([*words, "--out", str(out), "--replay", str(told)]) == 0
    printed = capsys.readouterr()
    assert INDICATIVE in printed.out
    assert "measuring: history" in printed.err
    written = json.loads(out.read_text())
    assert written["figures"]["windows"] == 40
    assert {name: one["mean"] for name, one in written["replay"]["differs"]["by_type"].items()} == {
        "clean": 0,
        "pick": 0,
    }
    assert "replay noise of all steps" in printed.out
    assert set(written["recordings"]) == {"alfworld.parquet"}
    assert main([*words, "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_the_command_holds_out_games_of_a_recording_that_has_only_training_episodes(tmp_path: Path, visits, capsys):
    pytest.importorskip("pyarrow", reason="text recordings are Parquet files")
    path = tmp_path / "train.parquet"
    write_recording(path, [one for one in visits if one.split == "train"], TextManifest("alfworld", "by hand"))
    words = ["benchmark", "rules", "--data", str(path), "--resamples", "50"]
    assert main(words) == 2
    assert "choose another split" in capsys.readouterr().err
    assert main([*words, "--hold-out", "0.3"]) == 0


def test_recordings_of_different_worlds_are_not_mixed(recording: Path, tmp_path: Path, visits: list[TextEpisode]):
    other = tmp_path / "science.parquet"
    write_recording(other, visits, TextManifest("scienceworld", "by hand"))
    with pytest.raises(
        UserError, match=r"different worlds: .*\(alfworld\) and .*\(scienceworld\); give recordings of one"
    ):
        read_world([recording, other])
    (tmp_path / "again").mkdir()
    shutil.copy(recording, tmp_path / "again" / recording.name)
    with pytest.raises(UserError, match=r"Two of the recordings are called alfworld\.parquet; rename one"):
        read_world([recording, tmp_path / "again" / recording.name])
    world, digests, episodes = read_world([recording])
    assert (world, len(episodes), list(digests)) == ("alfworld", len(visits), ["alfworld.parquet"])
