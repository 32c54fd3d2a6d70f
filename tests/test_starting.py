"""Training that goes on from a model: it begins where that model was, in its scales, and with its words."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from debug_run import debug
from safetensors.torch import load_file

from loopwm.cli import main
from loopwm.commands.train import parse_train
from loopwm.data.collect import collect
from loopwm.data.config import CollectConfig
from loopwm.data.store import Store, write_store
from loopwm.errors import UserError
from loopwm.presets import RunConfig
from loopwm.train.checkpoint import NAME, load, read_checkpoint
from loopwm.train.runs import resume, train
from loopwm.train.trainer import Interrupted, Trainer


@pytest.fixture(scope="module")
def wider(billiards_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same world in other units, so that its own scales are others."""
    path = tmp_path_factory.mktemp("wider") / "wider.h5"
    with Store.open(billiards_store) as store:
        found = [store.episode(index) for index in range(store.num_episodes)]
        write_store(path, [replace(one, observations=3 * one.observations + 1) for one in found], store.meta)
    return path


class StoppedAt:
    """Progress of a training that gets Ctrl-C after so many updates."""

    def __init__(self, update: int) -> None:
        self.update = update

    def advance(self, done: int, total: int, **fields: float) -> None:
        if done == self.update:
            os.kill(os.getpid(), signal.SIGINT)


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_it_begins_as_the_model_that_it_goes_on_from(trained: Path, wider: Path, tmp_path: Path) -> None:
    trainer = Trainer(replace(debug(wider), start=trained), tmp_path / "on")
    source = load(trained).state_dict()
    # Scales, too: its weights mean nothing in those of another recording.
    assert same_weights(trainer.model.state_dict(), source)
    assert same_weights(trainer.average.model.state_dict(), source)
    assert trainer.statistics.reward_std == pytest.approx(float(source["reward_head.std"]))
    fresh = Trainer(debug(wider), tmp_path / "new").model.state_dict()
    assert not torch.equal(fresh["observation_std"], source["observation_std"])


def test_what_was_learned_is_not_learned_again(toy_run: Path, toy_recording: Path, tmp_path: Path) -> None:
    from toy_text import tiny

    new, on = tiny(toy_recording, 10), replace(tiny(toy_recording, 10), start=toy_run)
    sure = [train(config, tmp_path / str(config.start is None)).validation["one_step_sure"] for config in (new, on)]
    assert sure[0] < 0.2 and sure[1] > 0.5


def test_it_is_resumed_bit_for_bit(trained: Path, billiards_store: Path, tmp_path: Path) -> None:
    config = replace(debug(billiards_store, updates=12), start=trained)
    train(config, tmp_path / "whole")
    with pytest.raises(Interrupted, match="update 5 of 12"):
        train(config, tmp_path / "cut", StoppedAt(5))
    assert resume(tmp_path / "cut").updates == 12
    assert same_weights(*(load_file(tmp_path / name / NAME) for name in ("whole", "cut")))


def test_it_is_not_resumed_over_another_start(trained: Path, billiards_store: Path, tmp_path: Path) -> None:
    start, run = tmp_path / "start", tmp_path / "run"
    shutil.copytree(trained, start)
    with pytest.raises(Interrupted):
        train(replace(debug(billiards_store, updates=12), start=start), run, StoppedAt(5))
    kept = (run / NAME).read_bytes()
    train(debug(billiards_store, seed=3), tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / NAME, start / NAME)
    with pytest.raises(UserError, match=r"no longer the model that .* was started from"):
        resume(run)
    shutil.rmtree(start)
    with pytest.raises(UserError, match="no checkpoint at"):
        resume(run)
    assert (run / NAME).read_bytes() == kept


def test_a_checkpoint_from_before_there_were_starts_is_resumed(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(trained, run)
    stored = read_checkpoint(run / NAME)
    assert stored.state.pop("started_from") == ""
    trainer = Trainer(debug(Path(parsed_data(run))), run)
    trainer.restore(stored)
    assert trainer.update == stored.state["update"]


def parsed_data(run: Path) -> str:
    return str(parse_train(["debug", "--config", str(run / "config.yaml")]).settings.data)


def test_the_command_takes_the_model_from_what_it_starts_from(
    trained: Path, billiards_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # `billiards` is another size, and nothing is said of sizes here.
    words = ["billiards", "--start", str(trained), "--data", str(billiards_store)]
    assert parse_train(words).settings.model == debug(billiards_store).model
    short = ["--train.updates", "2", "--optim.warmup", "1", "--train.no-compile", "--run", str(tmp_path / "run")]
    assert main(["train", *words, *short]) == 0
    capsys.readouterr()
    assert main(["train", *words, *short[:-1], str(tmp_path / "no"), "--model.loop.mu", "3"]) == 2
    told = capsys.readouterr().err
    assert "model.loop.mu = " in told and "3 is asked for" in told and told.count("\n") == 1
    assert not (tmp_path / "no").exists()


def refused(config: RunConfig, run: Path) -> str:
    with pytest.raises(UserError) as error:
        train(config, run)
    assert not run.exists()
    return str(error.value)


def test_another_world_is_refused(trained: Path, billiards_store: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.h5"
    collect(CollectConfig("gym:CartPole-v1", episodes=20, max_steps=20, workers=1), more)
    assert "has other observations (vector (4,)" in refused(replace(debug(more), start=trained), tmp_path / "run")


def test_no_model_is_refused(billiards_store: Path, tmp_path: Path) -> None:
    config = replace(debug(billiards_store), start=tmp_path / "nowhere")
    assert "There is no checkpoint at" in refused(config, tmp_path / "run")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10" * 100)
    config = replace(config, start=tmp_path / "torn.safetensors")
    assert "cannot be read as a checkpoint" in refused(config, tmp_path / "run")


def test_a_world_of_words_is_gone_on_with_in_the_words_that_are_known(toy_run: Path, tmp_path: Path) -> None:
    from toy_text import episodes, tiny

    from loopwm.text.recording import TextManifest, write_recording
    from loopwm.text.vocabulary import Vocabulary

    recording = tmp_path / "attic.parquet"
    longer = "This room is called the attic. " + "It is dark. " * 20

    def moved(text: str) -> str:
        return longer if "cellar" in text else text

    told = [
        replace(
            one,
            observations=tuple(moved(text) for text in one.observations),
            actions=tuple(text.replace("go", "go where you have not been yet") for text in one.actions),
        )
        for one in episodes()
    ]
    write_recording(recording, told, TextManifest("scienceworld", "toy"))
    source = load(toy_run)
    config = replace(tiny(recording), start=toy_run)
    trainer = Trainer(config, tmp_path / "run")
    assert trainer.model.observation.names == source.observation.names
    # The attic has no token, and comes in pieces that have; new texts are longer than any before.
    words = Vocabulary(source.observation.names)
    assert "\u2581attic" not in words.words
    assert trainer.model.observation.shape > source.observation.shape
    assert trainer.model.action.size > source.action.size
    own, theirs = (dict(model.state_dict()) for model in (trainer.model, source))
    for name in ("action_mean", "action_std"):
        assert own.pop(name).shape != theirs.pop(name).shape
    assert same_weights(own, theirs)
    window = trainer.draw()
    assert int(window.observations.max()) < len(words)
    # What is saved is loaded again.
    train(config, tmp_path / "run")
    assert load(tmp_path / "run").action == trainer.model.action
    assert longer.strip() in {words.decode([t for t in row.tolist() if t]) for row in window.observations.flatten(0, 1)}


def test_texts_may_be_shorter_than_those_a_model_can_write(toy_run: Path, tmp_path: Path) -> None:
    from toy_text import episodes, tiny

    from loopwm.text.recording import TextManifest, write_recording

    recording = tmp_path / "short.parquet"
    told = [replace(one, observations=tuple("The box." for _ in one.observations)) for one in episodes()]
    write_recording(recording, told, TextManifest("scienceworld", "toy"))
    trainer = Trainer(replace(tiny(recording), start=toy_run), tmp_path / "run")
    assert trainer.model.observation.shape == load(toy_run).observation.shape
    assert trainer.model.action == load(toy_run).action
    assert same_weights(trainer.model.state_dict(), load(toy_run).state_dict())
