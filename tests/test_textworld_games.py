"""Games that TextWorld makes from a seed, in its real engine."""

from __future__ import annotations

import builtins
import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwm.errors import LoopwmError, UserError
from loopwm.text.recording import TextEpisode
from loopwm.text.worlds import textworld as made
from loopwm.text.worlds.textworld import ACTORS, MadeGames, MadeGamesConfig


@pytest.fixture(scope="module")
def world() -> Iterator[MadeGames]:
    """Coin games, the fastest ones."""
    pytest.importorskip("textworld")
    world = MadeGames(MadeGamesConfig(kind="coin", level=4, train=3, validation=1, test=2, noise=0.5, limit=25))
    yield world
    world.close()


@pytest.fixture(scope="module")
def episodes(world: MadeGames) -> dict[str, TextEpisode]:
    """One game, played by everybody."""
    return {actor: world.play(world.games()[0], actor, 3) for actor in ACTORS}


def test_games_of_splits_differ_and_a_larger_sample_holds_the_smaller_one(world: MadeGames) -> None:
    assert world.games() == [
        "train/coin-4/0",
        "validation/coin-4/1",
        "test/coin-4/2",
        "train/coin-4/3",
        "test/coin-4/5",
        "train/coin-4/6",
    ]
    more = MadeGames(MadeGamesConfig(kind="coin", level=4, train=9, validation=4, test=4)).games()
    assert set(world.games()) < set(more)
    assert len({name.partition("/")[2] for name in more}) == 17


def test_a_recorded_game_can_be_played_another_way(world: MadeGames, episodes: dict[str, TextEpisode]) -> None:
    gold = episodes["gold"]
    other = MadeGames()
    assert other.replay(gold.game, gold.actions[:2]) == list(gold.observations[1:3])
    assert len(other.replay(gold.game, ["dance", "look"])) == 2
    other.close()
    with pytest.raises(LoopwmError, match="There is no game 'coin'"):
        world.replay("coin", [])


def test_the_gold_way_wins(episodes: dict[str, TextEpisode]) -> None:
    gold = episodes["gold"]
    assert gold.terminated and gold.scores[-1] == 1 and gold.actions[-1] == "take coin" and gold.length == 4
    assert gold.observations[-1].startswith("You pick up the coin") and gold.observations[-1].endswith(
        "*** The End ***"
    )
    assert (gold.game, gold.split, gold.task_type, gold.seed) == ("coin-4/0", "train", "coin", -1)
    assert "The coin is in the " in gold.initial and "You are in the " in gold.initial


def test_texts_begin_with_the_task_and_have_no_title(episodes: dict[str, TextEpisode]) -> None:
    for episode in episodes.values():
        first = episode.observations[0]
        assert first.startswith(episode.description) and len(episode.description) > 20
        assert first.endswith(episode.looks[0]) and "$$" not in first
        assert not any("\n\n\n" in text or "RESTART" in text for text in episode.observations)


def test_looks_and_inventories_are_what_the_world_would_answer(world: MadeGames) -> None:
    # Over a few walks, as the coin has to be taken without ending them.
    for seed in range(4):
        walk = world.play(world.games()[0], "random", seed)
        for k, action in enumerate(walk.actions):
            asked = {"look": walk.looks, "inventory": walk.inventories}.get(action)
            if asked:
                assert walk.observations[k + 1] == asked[k + 1] == asked[k]
            elif action.startswith("go "):
                assert walk.observations[k + 1] == walk.looks[k + 1] != walk.looks[k]


def test_noise_strays_and_is_a_function_of_its_seed(world: MadeGames, episodes: dict[str, TextEpisode]) -> None:
    game = world.games()[0]
    assert world.play(game, "noisy", 3) == episodes["noisy"]
    others = [world.play(game, "noisy", seed) for seed in range(5)]
    assert len({one.actions for one in others}) > 2
    # It finds back to its way, so most walks end where the gold one does.
    assert sum(one.scores[-1] for one in others) >= 3
    assert all(one.seed == seed and one.length >= 4 for seed, one in enumerate(others))
    assert episodes["random"].actions != episodes["gold"].actions and episodes["random"].length <= 25


@pytest.mark.parametrize("kind", ["cooking", "treasure"])
def test_other_kinds_are_played_to_their_end(kind: str) -> None:
    pytest.importorskip("textworld")
    level = {"cooking": 2, "treasure": 13}[kind]
    with contextlib.closing(MadeGames(MadeGamesConfig(kind=kind, level=level, train=1, validation=0, test=0))) as world:
        [game] = world.games()
        gold = world.play(game, "gold", 0)
    assert gold.terminated and gold.scores[-1] > 0 and gold.task_type == kind
    assert "_" not in gold.initial and len(gold.initial.split(". ")) > 10


def test_made_games_are_removed(world: MadeGames) -> None:
    own = MadeGames(MadeGamesConfig(kind="coin", level=1, train=2, validation=0, test=0))
    folders = []
    for game in own.games():
        own.play(game, "gold", 0)
        assert own._folder is not None
        folders.append(Path(own._folder.name))
    # Only the last game is kept, for the next actor.
    assert [folder.exists() for folder in folders] == [False, True]
    own.close()
    own.close()
    assert not folders[1].exists()


@pytest.mark.slow
def test_a_game_is_a_function_of_its_seed_in_any_process(world: MadeGames) -> None:
    script = textwrap.dedent("""
        from loopwm.text.worlds.textworld import MadeGames, MadeGamesConfig
        for kind, level in (("coin", 105), ("cooking", 3), ("treasure", 22)):
            world = MadeGames(MadeGamesConfig(kind=kind, level=level, train=1, validation=0, test=0))
            for actor in ("gold", "noisy", "random"):
                print(repr(world.play(world.games()[0], actor, 7)))
            world.close()
    """)
    told = []
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        command = [sys.executable, "-c", script]
        told.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert told[0] == told[1] and told[0].count("TextEpisode(") == 9


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "chess"}, "no kind of game 'chess'; choose one of coin, cooking, treasure"),
        ({"kind": "cooking", "level": 6}, "level of cooking must be from 1 to 5, got 6"),
        ({"kind": "coin", "level": 180}, "level 180 of coin has 160 rooms, and TextWorld compiles at most 100"),
        ({"test": -1}, "test must not be negative"),
        ({"train": 0, "validation": 0, "test": 0}, "nothing to record"),
        ({"noise": 1.5}, "noise must be in"),
        ({"limit": 0}, "limit must be at least 1"),
    ],
)
def test_bad_configurations_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        MadeGamesConfig(**wrong)


def test_a_game_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("textworld")
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(
        LoopwmError, match=r"^TextWorld could not make the game of coin, level 1, with seed 0 \(.*\)\.$"
    ):
        made.make_game(MadeGamesConfig(kind="coin", level=1), 0, file / "folder")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "textworld":
            raise ModuleNotFoundError("No module named 'textworld'", name="textworld")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'needs the package textworld, .* pip install "loopwm\[textworld\]"'):
        MadeGames().games()
