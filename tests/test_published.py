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
from loopwm.files import file_digest
from loopwm.studies import text_page
from loopwm.text.benchmark.benchmark import BenchmarkConfig, prepare
from loopwm.text.benchmark.sources import read_world
from loopwm.text.benchmark.windows import WindowConfig, sample_windows
from loopwm.text.joining import join
from loopwm.text.recording import read_recording
from loopwm.text.simulator import TextSimulator
from loopwm.text.vocabulary import plain
from loopwm.train.checkpoint import NAME, read_checkpoint
from loopwm.train.journal import most_memory, read_log
from loopwm.train.published import folders
from loopwm.train.start import Start

ROOT = Path(__file__).parents[1]
STACKS = ("equal_params", "equal_flops")
PUBLISHED = sorted(one.name for one in (ROOT / "weights").glob("*"))
STRAYED, GOLD = "scienceworld-noisy-small", "scienceworld-small"
RECORDING = ROOT / "recordings" / "scienceworld.parquet"
MORE = ROOT / "recordings" / "scienceworld-more.parquet"
NOISY = ROOT / "recordings" / "scienceworld-noisy.parquet"
NOISY_VALIDATION = ROOT / "recordings" / "scienceworld-noisy-validation.parquet"

scienceworld = pytest.mark.skipif(
    not (ROOT / "results" / "scienceworld.json").exists(), reason="ScienceWorld has not been published yet"
)


def test_the_page_on_text_worlds_shows_the_stored_results() -> None:
    studies = ("scienceworld", "alfworld", "alfworld-bottleneck")
    results = text_page.read_results([ROOT / "results" / f"{study}.json" for study in studies])
    assert text_page.page(results) in (ROOT / "docs" / "text-results.md").read_text()


@pytest.mark.parametrize("name", [one for one in PUBLISHED if one != STRAYED])
def test_a_card_shows_what_was_measured_with_the_weights_beside_it(name: str) -> None:
    folder, result = folders()[name], ROOT / "results" / f"{name.removesuffix('-small')}.json"
    assert (folder / NAME).stat().st_size < 20e6
    assert text_page.card(text_page.read_results([result])) in (folder / "README.md").read_text()
    measured, state = json.loads(result.read_text()), read_checkpoint(folder / NAME, ()).state
    assert measured["updates"] == state["update"]
    assert state["data_digest"] in measured["recordings"].values()
    assert loopwm.load(name).num_parameters() == measured["figures"]["params"] <= 10e6


def test_what_is_said_of_stacks_is_what_was_stored() -> None:
    text = " ".join((ROOT / "docs" / "text-results.md").read_text().split())
    science, alf = (
        json.loads((ROOT / "results" / f"{name}.json").read_text())["figures"] for name in ("scienceworld", "alfworld")
    )

    def behind(found: dict[str, float]) -> dict[tuple[str, str], str]:
        """Where the looped model is clearly behind a stack, by how much; it is nowhere clearly ahead."""
        clear = {}
        for track in ("markov", "history", "full", "one_step", "one_step_full"):
            for stack in STACKS:
                mean, low, high = (found[f"lead{part}_{track}_{stack}"] for part in ("", "_low", "_high"))
                assert low <= 0
                if high < 0:
                    clear[track, stack] = f"{-mean:.1f} [{-high:.1f}, {-low:.1f}]"
        return clear

    clear = behind(science)
    assert not behind(alf) and set(clear) == {("history", "equal_params"), ("one_step", "equal_flops")}
    assert f"on `history` by {clear['history', 'equal_params']} points behind the stack of equal parameters" in text
    assert f"on `one-step` by {clear['one_step', 'equal_flops']} behind that of equal FLOPs" in text
    for found, share in ((science, "in ScienceWorld 83%"), (alf, "in ALFWorld the model has 82%")):
        assert share.endswith(f"{100 * found['params'] / found['params_equal_flops']:.0f}%") and share in text
        assert 100 * found["flops_step_equal_params"] / found["flops_step"] == pytest.approx(56, abs=0.5)
    needed = science["peak_memory_gib"]
    assert f"needed {needed:.1f} GiB, or {needed * 2**30 / 1e9:.1f} GB, at most" in text


def test_what_is_said_of_the_latent_alone_is_what_was_stored() -> None:
    text = " ".join((ROOT / "docs" / "text-results.md").read_text().split())
    result = json.loads((ROOT / "results" / "alfworld-bottleneck.json").read_text())
    found, track = result["figures"], result["tracks"]["history"]["systems"]
    assert result["head"] == "bottleneck" and {
        round(found[f"em_{one}"], 1) for one in ("markov", "history", "full")
    } == {68.9}
    assert "EM is 68.9 on `markov`, `history` and `full` alike" in text
    assert {round(found[f"em_at_{loops}_loops"], 1) for loops in (2, 4, 8, 16)} == {67.3}
    looped, rules = (track[name]["by_answer"]["as before"]["mean"] for name in ("looped-seed0", "all rules"))
    assert f"answered as before, {100 * looped:.0f}% are hit on `history`, and rules, which look that up, hit" in text
    assert f"hit {100 * rules:.0f}%. ALFWorld" in text
    missed = 100 * track["looped-seed0"]["misses"]["other words"]["mix"]["mean"]
    assert f"only {missed:.1f}% were missed that could have been known" in text
    stacks = [
        f"{track}_{kind}" for track in ("markov", "history", "full", "one_step", "one_step_full") for kind in STACKS
    ]
    assert all(found[f"lead_low_{one}"] <= 0 <= found[f"lead_high_{one}"] for one in stacks)


def interval(found: dict[str, float], form: str = ".1f") -> str:
    mean, low, high = (format(100 * found[name], form) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


@pytest.mark.parametrize("page", ["docs/text-results.md", f"weights/{STRAYED}/README.md"])
def test_a_page_shows_what_straying_episodes_cost_and_gave(page: str) -> None:
    text, frozen = (ROOT / page).read_text(), (RECORDING, MORE, NOISY, NOISY_VALIDATION)
    digests = {path.name: read_recording(path)[0].digest for path in frozen}
    weights = {name: file_digest(folders()[name] / NAME) for name in (STRAYED, GOLD)}
    for actor, whose in (("gold", "gold paths"), ("noisy", "straying expert")):
        for track in ("one-step", "history"):
            result = json.loads((ROOT / "results" / "noise" / f"{actor}-{track}.json").read_text())
            assert result["recordings"].items() <= digests.items() and result["config"]["windows"]["actors"] == [actor]
            assert {name: run["checkpoint"] for name, run in result["runs"].items()} == weights
            systems = result["systems"]
            names = (STRAYED, GOLD, "all rules")
            both, gold, rules = (interval(systems[name]["steps"][-1]["em"]["mix"]) for name in names)
            lead = interval(systems[STRAYED]["against"][GOLD]["mix"], "+.1f")
            assert f"| {whose} | {track} | {both} | {gold} | {lead} | {rules} |" in text


def test_what_is_said_of_straying_is_what_was_stored() -> None:
    text = " ".join((ROOT / "docs" / "text-results.md").read_text().split())
    stored = {
        name: json.loads((ROOT / "results" / "noise" / f"{name}.json").read_text())["systems"]
        for name in ("gold-one-step", "gold-history", "noisy-one-step", "noisy-history")
    }

    def missed(name: str, system: str, cause: str) -> str:
        return f"{100 * stored[name][system]['misses'][cause]['mix']['mean']:.1f}%"

    def lead(name: str, system: str = STRAYED) -> dict[str, float]:
        return stored[name][system]["against"]["all rules"]["mix"]

    both, gold = (missed("noisy-one-step", one, "another answer") for one in (STRAYED, GOLD))
    assert f"in {gold} of the windows, and in {both} for the model that went on" in text
    assert f"by {interval(lead('noisy-one-step'))} points one step ahead" in text
    assert f"over five steps its lead is {interval(lead('noisy-history'))}, " in text
    for track in ("one-step", "history"):
        apart = stored[f"gold-{track}"][STRAYED]["against"][GOLD]["mix"]
        assert apart["low"] < 0 < apart["high"]
        assert stored[f"noisy-{track}"][STRAYED]["against"][GOLD]["mix"]["low"] > 0
    assert all(lead(f"noisy-{track}", GOLD)["high"] < 0 for track in ("one-step", "history"))


def test_the_model_that_saw_straying_episodes_is_what_its_card_says(tmp_path: Path) -> None:
    result = json.loads((ROOT / "results" / "noise" / "noisy-one-step.json").read_text())
    state = read_checkpoint(folders()[STRAYED] / NAME, ()).state
    assert f"{state['update']:,} updates" in (folders()[STRAYED] / "README.md").read_text()
    assert loopwm.load(STRAYED).num_parameters() == result["parameters"][STRAYED] <= 10e6
    assert (folders()[STRAYED] / NAME).stat().st_size < 20e6
    join([RECORDING, MORE, NOISY], tmp_path / "all.parquet")
    assert state["data_digest"] == read_recording(tmp_path / "all.parquet")[0].digest
    assert state["started_from"] == Start.read(folders()[GOLD]).digest
    hours = [read_checkpoint(folders()[name] / NAME, ()).state["seconds"] / 3600 for name in (STRAYED, GOLD)]
    text = " ".join((ROOT / "docs" / "text-results.md").read_text().split())
    assert f"took {hours[0]:.2f} hours on two cores and" in text and f"so {sum(hours):.2f} hours in all" in text
    assert f"and {most_memory(read_log(folders()[STRAYED])):.1f} GiB, with matrix products in float32" in text


@scienceworld
def test_the_frozen_recordings_are_what_was_measured_on(tmp_path: Path) -> None:
    manifest = join([RECORDING, MORE], tmp_path / "joined.parquet")
    assert list(json.loads((ROOT / "results" / "scienceworld.json").read_text())["recordings"].values()) == [
        manifest.digest
    ]


def test_more_gold_paths_change_nothing_that_is_asked() -> None:
    gold, more = (read_recording(path)[1] for path in (RECORDING, MORE))
    assert {(one.split, one.actor) for one in more} == {("train", "gold")}
    assert not {one.game for one in more} & {one.game for one in gold}


def test_the_page_counts_the_answers_with_words_that_no_training_episode_has() -> None:
    gold, more = (read_recording(path)[1] for path in (RECORDING, MORE))
    known = {
        word
        for one in (*gold, *more)
        if one.split == "train"
        for text in (*one.observations, *one.actions, one.initial)
        for word in re.findall("[A-Za-z]+", text)
    }
    asked = [text for one in gold if one.split == "test" for text in one.observations[1:]]
    unseen = [text for text in asked if not known.issuperset(re.findall("[A-Za-z]+", text))]
    page = " ".join((ROOT / "docs" / "text-results.md").read_text().split())
    assert f"in {len(unseen)} of the {len(asked):,} test answers" in page


def test_what_a_noisy_expert_did_changes_nothing_that_is_asked(tmp_path: Path) -> None:
    gold, strayed, held_out = (read_recording(path)[1] for path in (RECORDING, NOISY, NOISY_VALIDATION))
    assert {(one.split, one.actor) for one in strayed} == {("train", "noisy")}
    assert {(one.split, one.actor) for one in held_out} == {("validation", "noisy")}
    assert not {one.game for one in held_out} & {one.game for one in [*gold, *strayed] if one.split == "train"}
    join([RECORDING, NOISY], tmp_path / "both.parquet")
    both = read_recording(tmp_path / "both.parquet")[1]
    assert len(both) == len(gold) + len(strayed)
    for split in ("validation", "test"):
        config = WindowConfig(split=split, per_type=20)
        assert sample_windows(both, config) == sample_windows(gold, config)


@scienceworld
@pytest.mark.parametrize(
    ("name", "recordings"), [("scienceworld-small", (RECORDING,)), (STRAYED, (RECORDING, NOISY_VALIDATION))]
)
def test_a_published_model_answers_real_windows(name: str, recordings: tuple[Path, ...]) -> None:
    _, _, episodes = read_world(recordings)
    actors = ("noisy",) if name == STRAYED else ("gold",)
    asked = WindowConfig(track="one-step", split="validation", per_type=1, actors=actors)
    windows = prepare(episodes, BenchmarkConfig(windows=asked))[0]
    answers = TextSimulator.from_run(folders()[name]).predict(windows)
    hits = sum(plain(said[-1]) == plain(one.targets[-1]) for said, one in zip(answers, windows, strict=True))
    assert len(windows) == 14 and hits >= 10


@scienceworld
def test_a_published_model_is_measured_by_its_name(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    join((RECORDING, MORE), tmp_path / "gold.parquet")
    words = [
        "--benchmark",
        "scienceworld",
        "--track",
        "one-step",
        "--split",
        "validation",
        "--per-type",
        "1",
        "--no-rules",
    ]
    assert main(["evaluate", "scienceworld-small", *words, "--data", str(RECORDING)]) == 2
    assert "was trained on data/scienceworld-gold.parquet, which is not here" in capsys.readouterr().err
    assert main(["evaluate", "scienceworld-small", *words, "--data", "gold.parquet"]) == 0
    stored = json.loads((tmp_path / "benchmark-one-step-validation.json").read_text())
    assert set(stored["systems"]) == {"scienceworld-small"}
    assert stored["parameters"]["scienceworld-small"] == loopwm.load("scienceworld-small").num_parameters()
    # A report is of run folders, and there is none.
    assert "next:" not in capsys.readouterr().out
    assert not list((ROOT / "weights" / "scienceworld-small").glob("benchmark*"))


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


@scienceworld
@pytest.mark.parametrize("page", ["README.md", f"weights/{STRAYED}/README.md"])
def test_the_world_that_newcomers_are_told_to_play_in_knows_what_is_there_and_what_no_expert_does(
    page: str, capsys, monkeypatch
) -> None:
    blocks = re.findall(r"```bash no-run\n(.*?)```", (ROOT / page).read_text(), re.S)
    (line,) = (one for one in "\n".join(blocks).splitlines() if one.startswith(f"loopwm imagine {STRAYED}"))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.stdin", io.StringIO("look around\nopen door to hallway\nconnect bed to table\n"))
    assert main(shlex.split(line, comments=True)[1:]) == 0
    begins, looked, opened, connected = " ".join(capsys.readouterr().out.split()).split("> ")
    # The words of the room it was shown, and not one more.
    room = looked.partition(" [4 loops")[0]
    assert room.startswith("This room is called the bedroom.") and room in begins
    assert opened.startswith("The door is now open.")
    assert connected.startswith("terminal 1 on bed is now connected to terminal 1 on table")


def test_the_frozen_recording_sets_rooms_apart_as_collecting_does() -> None:
    for one in read_recording(RECORDING)[1]:
        rooms = re.findall(r"(?:^|\n\n)This (?:room|outside location) is called the [a-z ]+\.", one.initial)
        assert len(rooms) == len(re.findall(r"called the [a-z ]+\.", one.initial)) == 10
