"""Playing in a learned text world: in the terminal, and as a Gymnasium environment."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from rich.console import Console

pytest.importorskip("tokenizers", reason='text needs pip install "loopwm[text]"')

import loopwm
from loopwm.cli import main
from loopwm.commands.imagine import real_world
from loopwm.envs.imagined_text import ImaginedTextConfig, TextWorldModelEnv
from loopwm.errors import LoopwmError, UserError
from loopwm.text.config import SimulatorConfig
from loopwm.text.playing import GameOver, Player, recorded_beginning
from loopwm.text.recording import read_recording
from loopwm.text.simulator import TextSimulator
from loopwm.train import published
from loopwm.train.checkpoint import NAME
from loopwm.train.journal import read_log
from loopwm.train.runs import finished

# ---- in the terminal ----


def type_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], typed: str) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["imagine", *words]) == 0
    return capsys.readouterr().out


def test_a_game_is_played_from_the_keyboard(
    toy_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = type_in(monkeypatch, capsys, [str(toy_run)], "open box\nundo\nundo\n\nquit\n")
    assert "Your task is to read the counter." in said
    assert "The box is now open." in said
    assert "3 loops" in said and "% sure of these words" in said
    assert "Back one action." in said and "This is the beginning." in said


def test_what_was_recorded_stands_beside_what_is_imagined(toy_run: Path) -> None:
    game = recorded_beginning(toy_run, game="toy/44")
    player = Player(TextSimulator.from_run(toy_run, SimulatorConfig(memory=16)), game, against=True, initial=False)
    assert player.opening().startswith("toy/44 (Find, validation)")
    for step, (action, true) in enumerate(zip(game.actions, game.observations, strict=True)):
        lines = player.take("").splitlines()
        assert lines[0] == f"> {action}"
        assert lines[-1] == ("  [as recorded]" if lines[1] == true else f"  [recorded: {true}]")
        assert int(player.moments[-1][0].scenes.memory.step.max()) == step + 1
    assert "Nothing was recorded from here on" in player.take("")


def test_off_the_recorded_path_nothing_is_said_of_the_recording(toy_run: Path) -> None:
    game = recorded_beginning(toy_run)
    player = Player(TextSimulator.from_run(toy_run), game, against=True, initial=False)
    other = next(action for action in ("go", "look", "open box") if action != game.actions[0])
    assert "recorded" not in player.take(other)
    assert "recorded" not in player.take(game.actions[1])


def test_off_the_recorded_path_the_real_world_is_asked(toy_run: Path) -> None:
    asked: list[list[str]] = []

    def real(actions: Sequence[str]) -> str:
        asked.append(list(actions))
        return "It is dark."

    game = recorded_beginning(toy_run)
    player = Player(TextSimulator.from_run(toy_run), game, against=True, initial=False, real=real)
    player.take("")
    other = next(action for action in ("go", "look", "open box") if action != game.actions[1])
    assert player.take(other).splitlines()[-1] == "  [real: It is dark.]"
    player.take("undo")
    player.take(other)
    assert asked == [[game.actions[0], other]] * 2


def test_a_real_world_that_fails_is_not_asked_again_and_the_game_goes_on(toy_run: Path) -> None:
    calls = 0

    def real(actions: Sequence[str]) -> str:
        nonlocal calls
        calls += 1
        raise LoopwmError("The simulator died.")

    game = recorded_beginning(toy_run)
    player = Player(TextSimulator.from_run(toy_run), game, against=True, initial=False, real=real)
    other = next(action for action in ("go", "look", "open box") if action != game.actions[0])
    said = player.take(other).splitlines()
    assert "% sure of these words" in said[1]
    assert said[2] == "  [the real world is not asked any more: The simulator died.]"
    assert "real" not in player.take(other) and calls == 1


def test_after_the_end_of_the_real_game_it_is_asked_again_once_that_is_taken_back(toy_run: Path) -> None:
    def real(actions: Sequence[str]) -> str:
        if len(actions) > 1:
            raise GameOver("the real game has ended")
        return "You have won."

    game = recorded_beginning(toy_run)
    player = Player(TextSimulator.from_run(toy_run), game, against=True, initial=False, real=real)
    other = next(action for action in ("go", "look", "open box") if action != game.actions[0])
    assert player.take(other).splitlines()[-1] == "  [real: You have won.]"
    assert player.take("look").splitlines()[-1] == "  [the real game has ended]"
    player.take("undo")
    player.take("undo")
    assert player.take(other).splitlines()[-1] == "  [real: You have won.]"


def test_the_real_world_of_a_recording_stands_beside_what_is_imagined(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("textworld", reason="TextWorld's games need its engine")
    data = tmp_path / "coins.parquet"
    words = ["--kind", "coin", "--level", "2", "--train", "0", "--test", "0", "--validation", "1"]
    assert main(["collect", "textworld", *words, "--out", str(data)]) == 0
    capsys.readouterr()
    said = type_in(monkeypatch, capsys, [str(toy_run), "--data", str(data), "--against-real"], "look\n")
    assert "[real: -= " in said and "You should try going south.]" in said
    # What is done after the end of the game has no answer.
    game = recorded_beginning(toy_run, data)
    with contextlib.ExitStack() as stack:
        real = real_world(game, None, stack, Console())
        assert real is not None and "*** The End ***" in real(game.actions)
        with pytest.raises(GameOver, match="the real game has ended"):
            real([*game.actions, "look"])


def test_games_are_given_where_a_world_has_them_in_files(
    toy_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["imagine", str(toy_run), "--against-real", "--games", str(tmp_path)]) == 2
    assert "The games of scienceworld are not files; leave --games out." in capsys.readouterr().err


def test_what_cannot_be_read_is_said_and_the_game_goes_on(toy_run: Path) -> None:
    player = Player(TextSimulator.from_run(toy_run), recorded_beginning(toy_run), against=False, initial=True)
    assert "reads actions of 1 to" in player.take("go " * 100)
    assert len(player.moments) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--games", "games"], "add --against-real"),
        (["--description", "Find it."], "begins with --observation: give that as well"),
        (["--observation", "A hall.", "--game", "toy/44"], "give one of both"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    toy_run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["imagine", str(toy_run), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_game_that_was_not_recorded_is_refused(toy_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imagine", str(toy_run), "--game", "toy/444"]) == 2
    assert "There is no game 'toy/444'" in capsys.readouterr().err
    game = replace(recorded_beginning(toy_run), initial="")
    with pytest.raises(UserError, match="was not recorded"):
        Player(TextSimulator.from_run(toy_run), game, against=False, initial=True)
    with pytest.raises(UserError, match="Nothing was recorded to compare"):
        Player(TextSimulator.from_run(toy_run), replace(game, actions=()), against=True, initial=False)


# ---- models that come with loopwm ----


def test_a_published_model_is_loaded_by_its_name_and_played(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "card.md").write_text("# A toy")
    words = [str(toy_run), str(tmp_path / "weights" / "toy-small"), "--card", str(tmp_path / "card.md")]
    assert published.main(words) == 0
    assert published.main(words) == 2
    assert (tmp_path / "weights" / "toy-small" / "README.md").read_text() == "# A toy"
    small = tmp_path / "weights" / "toy-small" / NAME
    # What measures runs can measure it: how long it was trained and with what settings is there.
    result, original = finished(small.parent), finished(toy_run)
    assert result is not None and original is not None
    assert (result.updates, result.seconds) == (original.updates, original.seconds)
    assert read_log(small.parent) == read_log(toy_run)
    assert small.stat().st_size < (toy_run / NAME).stat().st_size / 5
    monkeypatch.setattr(published, "__file__", str(tmp_path / "loopwm" / "train" / "published.py"))
    with pytest.raises(UserError, match="There is no checkpoint"):
        loopwm.load("toy-large")
    whole, rounded = loopwm.load(toy_run).state_dict(), loopwm.load("toy-small").state_dict()
    for name, value in whole.items():
        assert rounded[name].dtype == value.dtype
        assert torch.allclose(rounded[name], value, rtol=2**-8, atol=1e-30, equal_nan=True), name
    capsys.readouterr()
    said = type_in(monkeypatch, capsys, ["toy-small", "--observation", "You are in the kitchen."], "open box\n")
    assert "You are in the kitchen." in said and "% sure of these words" in said
    assert main(["imagine", "toy-small"]) == 2
    assert "say how a game begins with --observation" in capsys.readouterr().err


# ---- as an environment ----


def test_gymnasium_finds_nothing_wrong(toy_run: Path) -> None:
    env = TextWorldModelEnv.from_run(toy_run, max_steps=5)
    check_env(env, skip_render_check=True)


def test_an_episode_is_what_the_simulator_says(toy_run: Path) -> None:
    env = loopwm.TextWorldModelEnv.from_run(toy_run, split="validation", end_below=0)
    said, info = env.reset(seed=1, options={"game": "toy/45"})
    scene = TextSimulator.from_run(toy_run).begin(said, info["description"])
    for action in ("go", "open box", "read counter"):
        said, reward, terminated, truncated, info = env.step(action)
        scene, answer = scene.act(action)
        assert (said, reward) == (answer.observation, answer.reward)
        assert info == {"loops": 3, "confidence": answer.confidence, "continue_probability": answer.goes_on}
        assert not terminated and not truncated


def test_episodes_end_when_the_model_says_so_or_after_the_last_step(toy_run: Path) -> None:
    ending = TextWorldModelEnv.from_run(toy_run, end_below=1)
    ending.reset(seed=0)
    assert ending.step("look")[2]
    short = TextWorldModelEnv.from_run(toy_run, end_below=0, max_steps=2)
    short.reset(seed=0)
    assert [short.step("look")[3] for _ in range(2)] == [False, True]


def test_episodes_begin_alike_with_the_same_seed(toy_run: Path) -> None:
    env = TextWorldModelEnv.from_run(toy_run)
    begun = [env.reset(seed=seed)[1]["game"] for seed in (3, 3, 4, 5, 6)]
    assert begun[0] == begun[1] and len(set(begun)) > 1


def test_an_episode_can_begin_with_an_observation_of_ones_own(toy_run: Path) -> None:
    env = TextWorldModelEnv.from_run(toy_run, num_loops=2, end_below=0)
    told = {"observation": "You are in the kitchen.", "description": "Your task is to read the counter."}
    said, info = env.reset(seed=0, options=told)
    assert said == told["observation"] and info == {"game": "", "description": told["description"]}
    simulator = TextSimulator.from_run(toy_run, SimulatorConfig(num_loops=2))
    _, answer = simulator.begin(said, told["description"]).act("open box")
    said, _, _, _, info = env.step("open box")
    assert (said, info["loops"], info["confidence"]) == (answer.observation, 2, answer.confidence)


def test_what_the_environment_does_not_know_is_refused(toy_run: Path) -> None:
    with pytest.raises(UserError, match="There is no setting 'steps'; choose from beam, decode, end_below"):
        TextWorldModelEnv.from_run(toy_run, steps=3)
    with pytest.raises(UserError, match=r"reset knows the options game, or observation.*, not task"):
        TextWorldModelEnv.from_run(toy_run).reset(options={"task": "boil"})
    without = TextWorldModelEnv(TextSimulator.from_run(toy_run), ())
    with pytest.raises(UserError, match="There is no recording to begin from"):
        without.reset()
    assert without.reset(options={"observation": "You are in the cellar."})[0] == "You are in the cellar."


@pytest.mark.parametrize("action", ["😀" * 9, "a😀" * 9, "go " * 60, "", "look"])
def test_any_action_is_cut_to_what_can_be_read(toy_run: Path, action: str) -> None:
    simulator = TextSimulator.from_run(toy_run)
    readable = simulator.readable(action)
    assert 0 < len(simulator.vocabulary.encode([readable])[0]) <= simulator.model.action.size
    assert readable == "?" or action.startswith(readable)
    simulator.begin("You are in the cellar.").act(readable)


def test_several_worlds_are_stepped_together(toy_run: Path) -> None:
    envs = SyncVectorEnv([lambda: TextWorldModelEnv.from_run(toy_run)] * 2)
    said, _ = envs.reset(seed=0)
    assert len(said) == 2
    said, rewards, *_ = envs.step(("look", "go"))
    assert len(said) == 2 and rewards.shape == (2,)
    envs.close()


def test_an_environment_without_a_beginning_is_refused(toy_run: Path, toy_recording: Path) -> None:
    with pytest.raises(UserError, match="no episode of the split test"):
        TextWorldModelEnv.from_run(toy_run, split="test")
    env = TextWorldModelEnv.from_run(toy_run)
    with pytest.raises(UserError, match="Call reset"):
        env.step("look")
    with pytest.raises(UserError, match="None of the starts"):
        env.reset(options={"game": "nowhere"})
    with pytest.raises(UserError, match="The option initial goes with an observation of your own"):
        env.reset(options={"initial": "The box is open."})
    with pytest.raises(UserError, match="begins with its own observation; give one of the two"):
        env.reset(options={"game": "toy/44", "observation": "You are in the cellar."})
    episodes = [replace(one, initial="") for one in read_recording(toy_recording)[1]]
    with pytest.raises(UserError, match="was not recorded"):
        TextWorldModelEnv(TextSimulator.from_run(toy_run), episodes, ImaginedTextConfig(initial=True))
