"""Training on texts, and using what was learned: resumption, refusals, prediction of windows and of single steps."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')
pytest.importorskip("pyarrow", reason='text recordings need pip install "loopwm[text]"')

from toy_text import episodes, play, tiny

from loopwm.cli import main
from loopwm.data.cache import Columns
from loopwm.data.statistics import compute_statistics
from loopwm.errors import UserError
from loopwm.model.config import ExitConfig, ModelConfig
from loopwm.model.world_model import WorldModel
from loopwm.text.benchmark.windows import TRACKS, Window, cut
from loopwm.text.config import SimulatorConfig
from loopwm.text.corpus import TextCorpus, text_windows
from loopwm.text.recording import TextManifest, write_recording
from loopwm.text.sampling import TextSampler
from loopwm.text.scenes import Scenes
from loopwm.text.simulator import Scene, TextSimulator
from loopwm.train.checkpoint import NAME, load
from loopwm.train.journal import read_log
from loopwm.train.runs import train
from loopwm.train.text import validate_text
from loopwm.train.trainer import Trainer
from loopwm.train.validation import validate

# ---- learning ----


def test_a_toy_world_is_learned(toy_run: Path) -> None:
    validation = [row["validation"] for row in read_log(toy_run) if "validation" in row][-1]
    # Of five answers, all but the number on the counter can be known word for word, most of the time.
    assert validation["one_step_sure"] > 0.6
    assert validation["one_step"] < validation["open_loop"]


def test_what_was_seen_a_step_late_is_worse(toy_recording: Path, toy_run: Path) -> None:
    """The time convention: a_k and o_k go into h_k, which tells o_{k+1}."""
    simulator = TextSimulator.from_run(toy_run)
    windows = [one for one in questions("one-step", 6) if one.context.actions and one.actions[0].endswith("box")]
    late = [replace(one, actions=one.context.actions[-1:]) for one in windows]
    simulator = TextSimulator.from_run(toy_run)
    assert right(simulator, windows) > 0.6
    assert right(simulator, late) < 0.5


def right(simulator: TextSimulator, windows: list[Window]) -> float:
    answers = simulator.predict(windows)
    return sum(texts[-1] == one.targets[-1] for texts, one in zip(answers, windows, strict=True)) / len(windows)


@pytest.mark.parametrize("told", [{}, {"trust": True, "touched": True, "expect": True}])
def test_training_on_texts_resumes_bit_for_bit(told: dict[str, bool], toy_recording: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    config = tiny(toy_recording, 6)
    config = replace(config, model=replace(config.model, text=replace(config.model.text, **told)))
    train(config, whole)
    first = Trainer(config, halves)
    halves.mkdir()
    first.settle_precision()
    for _ in range(3):
        first.advance()
    first.save()
    from loopwm.train.checkpoint import read_checkpoint

    second = Trainer(config, halves)
    second.restore(read_checkpoint(halves / NAME))
    for _ in range(3):
        second.advance()
    weights = load_file(whole / NAME)
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, weights[f"model.{name}"]), name


def test_what_was_learned_is_said_with_what_it_is_of_and_how_to_go_on(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy_run, run)
    assert main(["train", "--resume", str(run)]) == 0
    said = capsys.readouterr().out
    found = read_log(run)[-1]["validation"]
    assert f"one-step loss of a word {found['one_step']:.4f}" in said
    assert f"one-step texts surely right {100 * found['one_step_sure']:.1f}%" in said and "error" not in said
    assert said.splitlines()[-1] == f"next: loopwm evaluate {run} --benchmark scienceworld"


def test_nothing_of_an_update_is_kept_through_the_next(toy_recording: Path, tmp_path: Path) -> None:
    def derived() -> int:
        gc.collect()
        return sum(type(one) is torch.Tensor and one.grad_fn is not None for one in gc.get_objects())

    trainer, before = Trainer(tiny(toy_recording, 6), tmp_path), derived()
    trainer.advance()
    assert derived() == before


@pytest.mark.parametrize("decoding", ["each", "deferred"])
@pytest.mark.parametrize("system", ["looped", "stack-equal-params", "stack-equal-flops"])
def test_every_system_learns_from_texts_in_both_ways_of_decoding(
    toy_recording: Path, tmp_path: Path, system: str, decoding: str
) -> None:
    config = tiny(toy_recording, 2)
    model = replace(config.model, system=system, summary=decoding == "deferred")
    loss = replace(config.loss, decoding=decoding)
    result = train(replace(config, model=model, loss=loss), tmp_path / "run")
    assert result.skipped == 0
    restored = load(tmp_path / "run")
    assert restored.observation.names[0] == "<pad>"


def test_deferred_terms_are_of_the_transitions_that_there_are(toy_recording: Path, tmp_path: Path) -> None:
    config = tiny(toy_recording)
    config = replace(config, model=replace(config.model, summary=True), loss=replace(config.loss, decoding="deferred"))
    trainer, corpus = Trainer(config, tmp_path), TextCorpus.read(toy_recording)
    terms, generator = [], torch.Generator()
    # Of episode 0, which has 3 transitions, a window of 3 and one that goes on for as many that do not exist.
    for length in (3, 6):
        windows = text_windows(corpus, np.array([0]), np.array([0]), length)
        latents = trainer.objective.unroll(trainer.model, windows, 3, generator)
        found = trainer.objective.terms(trainer.model, windows, latents)
        terms.append({"total": found.total.item()} | {name: one.item() for name, one in found.further.items()})
    whole, padded = terms
    assert whole["consistency"] > 0 and whole["drift"] > 0
    assert padded == pytest.approx(whole, rel=1e-5)


def test_validation_looks_a_second_time_with_an_exit(toy_run: Path, toy_recording: Path) -> None:
    corpus, device = TextCorpus.read(toy_recording), torch.device("cpu")
    windows = TextSampler(corpus, corpus.split("validation"), 0).draw(0, 40, 6)
    model = load(toy_run)
    plain = validate(model, windows, device)
    early = validate(model, windows, device, ExitConfig("residual", 1e9))
    assert {name: early[name] for name in plain} == plain
    assert early["exit_one_step_loops"] == early["exit_open_loop_loops"] == 1
    one_loop = validate_text(model, windows, device, ExitConfig("residual", 1e9))
    assert early["exit_one_step"] == one_loop["one_step"] != plain["one_step"]


def test_the_words_of_a_run_are_kept_with_it(toy_recording: Path, toy_run: Path) -> None:
    simulator = TextSimulator.from_run(toy_run)
    texts = [text for one in episodes() if one.split == "train" for text in one.observations]
    assert [simulator.vocabulary.decode(one) for one in simulator.vocabulary.encode(texts)] == texts


# ---- predicting ----


def questions(track: str, per_episode: int = 2) -> list[Window]:
    held_out = [one for one in episodes() if one.split == "validation"]
    return [
        cut(one, number, time, TRACKS[track])
        for number, one in enumerate(held_out)
        for time in range(min(per_episode, one.length - TRACKS[track].steps + 1))
    ]


@pytest.mark.parametrize("track", TRACKS)
def test_answers_do_not_depend_on_what_else_is_asked(toy_run: Path, track: str) -> None:
    # So short a memory that there is a past before it, of other lengths in other windows.
    simulator = TextSimulator.from_run(toy_run, SimulatorConfig(memory=2))
    windows = questions(track, per_episode=2 if not TRACKS[track].initial else 6)
    together = simulator.predict(windows)
    assert [len(texts) for texts in together] == [len(one.targets) for one in windows]
    for number in (0, len(windows) // 2, len(windows) - 1):
        assert simulator.predict([windows[number]]) == [together[number]]


def test_playing_step_by_step_gives_what_windows_give(toy_run: Path) -> None:
    simulator = TextSimulator.from_run(toy_run)
    for window in questions("history", per_episode=4)[::3]:
        foreseen = simulator.foresee([window])
        scene = simulator.begin(window.context.observations[0], window.context.description)
        for action, observation in zip(window.context.actions, window.context.observations[1:], strict=True):
            scene = scene.act(action)[0].saw(observation)
        for step, action in enumerate(window.actions):
            scene, answer = scene.act(action)
            assert answer.observation == foreseen.texts[0][step]
            assert answer.confidence == pytest.approx(float(foreseen.confidence[0, step]), rel=1e-3, abs=1e-6)
            assert answer.loops == int(foreseen.loops[0, step]) == 3
            assert 0 <= answer.goes_on <= 1


def test_answers_that_are_read_again_are_those_of_a_window_in_which_they_were_seen(toy_run: Path) -> None:
    # Longer than the windows of the run, so that nothing is forgotten.
    simulator = TextSimulator.from_run(toy_run, SimulatorConfig(decode=True, memory=16))
    windows = questions("history", per_episode=4)
    found = simulator.foresee_all(windows)
    assert [texts[-1:] for texts in found.texts] == simulator.foresee(windows, last=True).texts
    for row, window in enumerate(windows):
        for step, action in enumerate(window.actions):
            seen, done = (*window.context.observations, *found.texts[row][:step]), window.actions[:step]
            context = replace(window.context, observations=seen, actions=(*window.context.actions, *done))
            anew = simulator.foresee([replace(window, context=context, actions=(action,))])
            assert anew.texts == [[found.texts[row][step]]]
            assert float(anew.confidence) == pytest.approx(float(found.confidence[row, step]), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("decode", [False, True])
def test_what_will_be_done_later_changes_no_answer(toy_run: Path, decode: bool) -> None:
    """Actions are read together, but their words may be copied after they were done alone."""
    simulator = TextSimulator.from_run(toy_run, SimulatorConfig(decode=decode))
    windows = questions("history", per_episode=2)
    whole = simulator.foresee(windows)
    for steps in range(1, len(windows[0].actions)):
        shorter = simulator.foresee([replace(window, actions=window.actions[:steps]) for window in windows])
        assert shorter.texts == [row[:steps] for row in whole.texts]
        assert shorter.confidence.tolist() == [
            pytest.approx(row[:steps], rel=1e-3, abs=1e-6) for row in whole.confidence.tolist()
        ]


def test_a_scene_can_be_left_in_two_ways(toy_run: Path) -> None:
    scene = TextSimulator.from_run(toy_run).begin("You are in the kitchen.", "Your task is to read the counter.")
    first, second = scene.act("go")[1], scene.act("open box")[1]
    assert first == scene.act("go")[1]
    assert first.observation != second.observation


def test_reading_what_was_imagined_is_another_way_of_going_on(toy_run: Path) -> None:
    """Decoding every step feeds back words; the latent way does not."""
    window = questions("history")[0]
    own, fed = (TextSimulator.from_run(toy_run, SimulatorConfig(decode=decode)) for decode in (False, True))
    described = window.context.description
    latent, scene = (one.begin(window.context.now, described) for one in (own, fed))
    for action in window.actions:
        latent, scene = latent.act(action)[0], scene.act(action)[0]
    assert int(latent.scenes.memory.window) < int(scene.scenes.memory.window)
    assert scene.scenes.unread is not None and latent.scenes.unread is None
    answers = fed.predict([window])[0]
    replay: Scene = fed.begin(window.context.now, described)
    for action, expected in zip(window.actions, answers, strict=True):
        replay, answer = replay.act(action)
        assert answer.observation == expected


def test_what_was_written_last_is_not_read_again(toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, saw = [], Scenes.saw
    monkeypatch.setattr(Scenes, "saw", lambda self, tokens: read.append(tokens) or saw(self, tokens))
    TextSimulator.from_run(toy_run, SimulatorConfig(decode=True)).predict(questions("history")[:2])
    assert len(read) == TRACKS["history"].steps - 1


def test_an_exit_is_followed(toy_run: Path) -> None:
    simulator = TextSimulator.from_run(toy_run, SimulatorConfig(exit=ExitConfig("residual", 1e9)))
    scene = simulator.begin("You are in the kitchen.")
    assert (scene.act("look")[1].loops or 3) < 3


# ---- bad input ----


def test_a_model_of_numbers_simulates_no_text(billiards_columns: Columns) -> None:
    meta = billiards_columns.meta
    statistics = compute_statistics(billiards_columns, np.arange(3))
    model = WorldModel(ModelConfig(width=16, heads=2), meta.observation, meta.action, statistics)
    with pytest.raises(UserError, match="entities, not text"):
        TextSimulator(model)


@pytest.mark.parametrize("action", ["", "go " * 60])
def test_an_action_that_cannot_be_read_is_named(toy_run: Path, action: str) -> None:
    scene = TextSimulator.from_run(toy_run).begin("You are in the kitchen.")
    with pytest.raises(UserError, match=r"reads actions of 1 to \d+"):
        scene.act(action)


def test_both_splits_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "training.parquet"
    write_recording(path, [play(k, "train") for k in range(5)], TextManifest("scienceworld", "toy"))
    with pytest.raises(UserError, match="5 training and 0 validation"):
        train(tiny(path), tmp_path / "run")


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("loss", {"objective": "embed"}, "of texts, leave it at 'decode'"),
        ("train", {"shift": 2}, "train.shift moves images"),
        ("halt", {"mode": "act"}, "of texts, leave it 'off'"),
    ],
)
def test_what_is_for_numbers_alone_is_refused(
    toy_recording: Path, tmp_path: Path, part: str, change: dict[str, object], sentence: str
) -> None:
    config = tiny(toy_recording)
    config = replace(
        config,
        model=replace(config.model, summary=part == "loss"),
        **{part: replace(getattr(config, part), **change)},
    )
    with pytest.raises(UserError, match=sentence):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recording_that_was_changed_is_refused(toy_recording: Path, tmp_path: Path, capsys) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(toy_recording)
    column = table.schema.get_field_index("observation")
    changed = table.set_column(column, "observation", table.column("observation").take(list(range(len(table)))[::-1]))
    pq.write_table(changed, tmp_path / "changed.parquet")
    code = main(["train", "text", "--data", str(tmp_path / "changed.parquet"), "--run", str(tmp_path / "run")])
    assert code == 2
    assert "digest differs from its manifest" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
