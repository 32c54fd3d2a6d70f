"""`loopwm study text`: three systems, every track, one file; what is done is not done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')
pytest.importorskip("sacrebleu", reason='the benchmark needs pip install "loopwm[text]"')

from timed_once import timed_once
from toy_text import play, tiny

from loopwm.errors import LoopwmError, UserError
from loopwm.files import file_digest
from loopwm.presets import PRESETS
from loopwm.studies import text as study
from loopwm.studies import text_page
from loopwm.studies.config import TextStudyConfig
from loopwm.studies.text_earlier import threads_of
from loopwm.text.benchmark.replaying import replay_noise
from loopwm.text.benchmark.windows import TRACKS
from loopwm.train.checkpoint import NAME
from loopwm.train.config import TrainConfig


@pytest.fixture(scope="module")
def studied(toy_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextStudyConfig]:
    """The preset as it is, but small; done once."""
    config = tiny(toy_recording, 4)
    settings = replace(config, train=replace(TrainConfig(), precision="float32", compile=False))
    done = TextStudyConfig(
        data=toy_recording, updates=4, batch=4, window=5, per_type=4, looping_per_type=3, beam=2, decode=True,
        folder=tmp_path_factory.mktemp("done") / "study",
        systems=("looped", "stack-equal-params"),
    )  # fmt: skip
    windows_of = study.windows_of
    with timed_once() as patch:
        patch.setitem(PRESETS, "text", replace(PRESETS["text"], config=settings))
        # Figures are compared with one another, whatever the rules know and the intervals are.
        patch.setattr(study, "windows_of", lambda *asked: replace(windows_of(*asked), compared=12, resamples=60))
        study.run_text_study(done)
        yield done


@pytest.fixture
def small(studied: TextStudyConfig, tmp_path: Path) -> TextStudyConfig:
    """The same in a folder of the test's own."""
    shutil.copytree(studied.folder, tmp_path / "study")
    return replace(studied, folder=tmp_path / "study")


def test_a_study_measures_every_system_on_every_track(small: TextStudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    result = small.result
    found = json.loads(result.read_text())
    assert found["command"].startswith("loopwm study text scienceworld --data ")
    assert set(found["tracks"]) == set(TRACKS)
    figures = found["figures"]
    for track in ("history", "markov", "full", "one_step", "one_step_full"):
        assert figures[f"low_{track}"] <= figures[f"em_{track}"] <= figures[f"high_{track}"]
        assert {f"em_rules_{track}", f"em_{track}_equal_params", f"lead_{track}_equal_params"} <= set(figures)
        assert figures[f"lead_{track}_rules"] == pytest.approx(
            figures[f"em_{track}"] - figures[f"em_rules_{track}"], abs=0.02
        )
    assert (
        figures["params"] < 1e7
        and figures["window_ms"] > 0
        and 0.1 < figures["peak_memory_gib"] < 8
        and figures["em_at_1_loops"] >= 0
    )
    assert all(isinstance(value, int | float) for value in figures.values())
    # The page says the same: hits in the track's row, the lead over rules, and what to type.
    said = text_page.page([found])
    em = f"{figures['em_history']:.1f} [{figures['low_history']:.1f}, {figures['high_history']:.1f}]"
    rules = (
        f"{figures['em_rules_history']:.1f} [{figures['low_rules_history']:.1f}, {figures['high_rules_history']:.1f}]"
    )
    row = next(line for line in said.splitlines() if line.startswith("| history |"))
    assert row.startswith(f"| history | {em} |") and f"| {rules} |" in row
    assert f"{figures['lead_history_rules']:+.1f} [" in said and found["command"] in said
    # What is aimed for is called reached, near or missed by the figures, with the ceiling where that is lower.
    for low, em, high, verdict in ((70, 78, 80, "reached"), (70, 77, 79, "missed; the interval holds it")):
        other = found | {"figures": figures | {"low_history": low, "em_history": em, "high_history": high}}
        goal = next(line for line in text_page.goals(other) if line.startswith("| EM, history |"))
        assert goal.startswith(f"| EM, history | 78 | {em:.1f} [{low:.1f}, {high:.1f}] | {verdict}")
    took = {"window_ms": 51.0, "window_live_ms": 49.0, "window_answered_ms": 300.0}
    slow = text_page.goals(found | {"figures": figures | took})[-3:]
    assert [line.split(" | ")[-1] for line in slow] == ["missed |", "reached |", "missed |"]
    assert "with a beam of 2, every text read again and all loops: " in said
    # How far the world repeats itself stands beside what is hit.
    recorded = play(0, "test")
    again = {0: replace(recorded, observations=(*recorded.observations[:-1], "It is dark."))}
    replay = {"noise": asdict(replay_noise([recorded], again, {}, resamples=20)), "command": "loopwm benchmark replay"}
    share = f"{100 / recorded.length:.1f}"
    assert f"answers {share} [{share}, {share}] percent of the steps differently" in text_page.page(
        [found | {"replay": replay}]
    )
    # A decoder that reads the latent alone is a study of its own, told apart.
    alone = replace(small, head="bottleneck")
    assert study.settings_of(alone).model.text.head == "bottleneck" and "--head bottleneck" in alone.command
    assert alone.home != small.home and alone.result.name == "scienceworld-bottleneck.json"
    assert "## ScienceWorld, the latent alone" in text_page.page([found | {"head": "bottleneck"}])
    assert text_page.page([found]).startswith("## ScienceWorld\n")
    # Again from what is there: nothing is trained or asked twice.
    result.unlink()
    monkeypatch.setattr(study, "run_benchmark", None)
    monkeypatch.setattr(study, "looping", None)
    assert json.loads(study.run_text_study(small).read_text())["figures"] == figures
    assert found["recorded_by"] == {small.data.name: "toy"} and "\ntoy\nloopwm study text" in said
    # With other weights, or a system more, everything is asked again: what is there says nothing of them.
    for run in (small.home / "looped-seed0", small.home / "stack-equal-params-seed0"):
        assert found["tracks"]["history"]["weights"][run.name] == file_digest(run / NAME)
    with pytest.raises(UserError, match="stack-equal-flops-seed0"):
        study.asked(small, "markov", [], [small.home / "looped-seed0", small.home / "stack-equal-flops-seed0"])
    (small.home / "looped-seed0" / NAME).write_bytes(b"others")
    with pytest.raises(LoopwmError, match="looped-seed0"):
        study.asked(small, "markov", [], [small.home / "looped-seed0"])


def test_a_system_is_added_to_a_result_as_if_all_had_been_asked_together(small: TextStudyConfig) -> None:
    together = json.loads(small.result.read_text())
    alone = replace(small, systems=("looped",), folder=small.folder / "alone")
    shutil.copytree(small.home / "looped-seed0", alone.home / "looped-seed0")
    leading = json.loads(study.run_text_study(alone).read_text())
    # Results once had one number for all systems, and at the very first none, when each had one thread.
    alone.result.write_text(json.dumps(leading | {"threads": 2}))
    assert threads_of({"systems": ["looped"]}) == {"looped": 1}
    added = replace(
        small,
        systems=("stack-equal-params",),
        folder=small.folder / "added",
        beside=alone.result,
        out=small.folder / "new",
    )
    shutil.copytree(small.home / "stack-equal-params-seed0", added.home / "stack-equal-params-seed0")
    # One that was trained elsewhere says with how many threads, and whoever goes on with it keeps them.
    told = added.home / "stack-equal-params-seed0" / "info.json"
    told.write_text(told.read_text().replace('"threads": 1', '"threads": 3'))
    found = json.loads(study.run_text_study(added).read_text())
    assert not (added.home / "looped-seed0").exists()
    timed = {name for name in found["figures"] if "_ms" in name}
    assert {k: v for k, v in found["figures"].items() if k not in timed} == {
        k: v for k, v in together["figures"].items() if k not in timed
    }
    for track, asked in found["tracks"].items():
        assert {name: one["against"] for name, one in asked["systems"].items()} == {
            name: one["against"] for name, one in together["tracks"][track]["systems"].items()
        }
        assert asked["weights"] == together["tracks"][track]["weights"]
    assert found["systems"] == together["systems"] and found["looping"] == leading["looping"]
    assert found["precision"] == {"looped-seed0": "float32", "stack-equal-params-seed0": "float32"}
    # Both commands are told, with what each of them measured.
    assert [one["systems"] for one in found["earlier"]] == [["looped"]]
    said = text_page.page([found])
    assert leading["command"] in said and found["command"] in said and f"--beside {alone.result}" in found["command"]
    assert "with matrix products in float32." in said
    assert found["threads"] == {"looped": 2, "stack-equal-params": 3}
    hours = [found["figures"][name] for name in ("hours", "hours_equal_params")]
    assert f"{hours[0]:.2f}, 2 cores |" in said and f"{hours[1]:.2f}, 3 cores |" in said
    assert "| training, 2 cores | 3 hours |" in said
    assert "| hours of training, one core |" in text_page.page([together])
    # What is not alike, or measured already, is refused before anything is trained.
    for other, reason in (
        (replace(added, updates=5), r"made with updates = 4, not 5"),
        (replace(added, spell=0.2), r"made with train\.spell = 0\.3, not 0\.2"),
        (replace(added, beam=3), r"made with beam = 2, not 3"),
        (replace(added, systems=("looped",)), r"has measured looped; name others by --systems"),
        (replace(added, beside=small.folder / "none.json"), r"no result at .*none\.json"),
        (replace(added, beside=small.data), r"is not a result of `loopwm study text`"),
    ):
        with pytest.raises(UserError, match=reason):
            study.run_text_study(replace(other, out=small.folder / "refused", folder=small.folder / "refusing"))
    assert not (small.folder / "refusing").exists()
    strange = alone.result.with_name("strange.json")
    strange.write_text(json.dumps(leading | {"recordings": {"toy.parquet": "0" * 32}}))
    with pytest.raises(UserError, match="was measured on another recording"):
        study.run_text_study(replace(added, beside=strange, out=small.folder / "refused"))
    strange.write_text(json.dumps(found | {"systems": ["stack-equal-flops"]}))
    with pytest.raises(UserError, match="has no looped system to compare with"):
        study.run_text_study(replace(added, beside=strange, out=small.folder / "refused"))


def test_a_recording_of_another_world_and_an_existing_result_are_refused(small: TextStudyConfig) -> None:
    with pytest.raises(UserError, match="recorded in scienceworld, not in alfworld"):
        study.run_text_study(replace(small, world="alfworld"))
    with pytest.raises(UserError, match="--out"):
        study.run_text_study(small)


def test_a_study_without_the_looped_system_is_refused() -> None:
    with pytest.raises(UserError, match="compares stacks with the looped system"):
        TextStudyConfig(systems=("stack-equal-flops",))


def test_a_run_without_a_thread_is_refused() -> None:
    with pytest.raises(UserError, match="threads must be at least 1, got 0"):
        TextStudyConfig(threads=0)


def test_a_result_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result at .*alfworld\.json; make it with: loopwm study text alfworld"):
        text_page.read_results([tmp_path / "alfworld.json"])
