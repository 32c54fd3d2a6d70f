"""Recording ScienceWorld itself: what an episode holds, and what becomes of one that cannot be played."""

from __future__ import annotations

import random
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopwm.cli import main
from loopwm.errors import LoopwmError, UserError
from loopwm.text.benchmark.aggregate import REPORT_MIX
from loopwm.text.recording import SPLITS, TextEpisode, read_recording
from loopwm.text.worlds.scienceworld import ScienceWorld, ScienceWorldConfig, random_action, task_type

pytest.importorskip("pyarrow", reason="text recordings are Parquet files")
pytest.importorskip("scienceworld", reason="needs the package scienceworld")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="ScienceWorld needs Java")

SHORT = "train/find-non-living-thing/1"
LONGER = "train/find-plant/1"
STEADY = "train/use-thermometer/1"
"""One of the games whose gold path is the same each time it is computed."""


@pytest.fixture(scope="module")
def world() -> Iterator[ScienceWorld]:
    """One pair of simulators for all tests: they take seconds to start."""
    world = ScienceWorld()
    yield world
    world.close()
    world.close()


@pytest.fixture(scope="module")
def gold(world: ScienceWorld) -> TextEpisode:
    """A gold episode."""
    return world.play(LONGER, "gold", 5)


@needs_java
def test_games_are_of_the_official_splits_and_samples_are_nested(world: ScienceWorld) -> None:
    small, large, everything = (
        set(games_of(world, tasks=("boil", "melt"), train=n, validation=n, test=n)) for n in (1, 3, 10_000)
    )
    assert len(small) == 6 and len(large) == 18 and small < large < everything
    with world._simulator("_played", 60) as server:
        server.load("boil", 0, "", False)
        official = [server.getVariationsTrain(), server.getVariationsDev(), server.getVariationsTest()]
        tasks = list(server.getTaskNames())
    assert {game for game in everything if "/boil/" in game} == {
        f"{split}/boil/{variation}"
        for split, variations in zip(SPLITS, official, strict=True)
        for variation in variations
    }
    assert len(tasks) == 30 and {task_type(task) for task in tasks} == set(REPORT_MIX["scienceworld"])


def games_of(world: ScienceWorld, **options) -> list[str]:
    """The games that other options would record."""
    before, world.config = world.config, ScienceWorldConfig(**options)
    try:
        return world.games()
    finally:
        world.config = before


@needs_java
def test_an_unknown_task_is_answered_with_near_ones(world: ScienceWorld) -> None:
    with pytest.raises(UserError, match="no task 'boill'; did you mean 'boil'"):
        games_of(world, tasks=("boill",))


@needs_java
def test_a_gold_episode_wins_and_holds_what_was_to_see(gold: TextEpisode) -> None:
    assert (gold.game, gold.split, gold.task_type, gold.actor, gold.seed) == (
        "find-plant/1",
        "train",
        "Find",
        "gold",
        -1,
    )
    assert gold.terminated and gold.scores[0] == 0 and gold.scores[-1] == 100
    assert gold.description.startswith("Your task is to find a(n) plant.")
    assert re.match(r"This (room|outside location) is called", gold.observations[0])
    assert len(gold.looks) == len(gold.inventories) == gold.length + 1
    assert all(text.startswith("In your inventory, you see:") for text in gold.inventories)
    # What `look around` answered, and what it would have: lists are in any order.
    seen = [k for k, action in enumerate(gold.actions, start=1) if action == "look around"]
    assert seen
    for k in (0, *seen):
        assert sorted(gold.observations[k].split()) == sorted(gold.looks[k].split())
    moved = [k for k, action in enumerate(gold.actions) if action.startswith("go to ")]
    assert moved
    for k in moved:
        assert f" called the {gold.actions[k].removeprefix('go to ')}." in gold.looks[k + 1]


@needs_java
def test_the_initial_state_shows_every_room_once(gold: TextEpisode) -> None:
    rooms = re.findall(r"called the ([a-z ]+)\.", gold.initial)
    assert len(rooms) == len(set(rooms)) == 10
    assert gold.initial.count("the agent") == 1 and gold.initial.count("In your inventory") == 1
    start = re.findall(r"called the ([a-z ]+)\.", gold.looks[0])
    assert rooms[0] == start[0]
    assert sorted(gold.looks[0].split()) == sorted(gold.initial.split("In your inventory")[0].split())
    assert 500 < len(gold.initial.split()) < 1500
    # Every room is a paragraph, as a model reads each on its own; and so is the inventory.
    assert gold.initial.count("\n\n") == len(rooms)


@needs_java
def test_a_recorded_game_can_be_played_another_way(world: ScienceWorld, gold: TextEpisode) -> None:
    said = world.replay(gold.game, ["dance", "look around"])
    assert said[0].startswith("No known action matches that input.")
    assert said[1].split("In it")[0] == gold.observations[0].split("In it")[0]
    with pytest.raises(LoopwmError, match="no game 'nothing/3'"):
        world.replay("nothing/3", [])


def test_looking_beside_the_actions_takes_no_time(world: ScienceWorld) -> None:
    with world._simulator("_played", 60) as server:
        server.load("boil", 0, "", False)
        server.step("look around")
        moves = [server.getNumMoves()]
        for _ in range(2):
            server.step("wait1")
            moves.append(server.getNumMoves())
            for _ in range(20):
                server.freeActionLook()
                server.freeActionInventory()
            assert server.getNumMoves() == moves[-1]
    assert moves[2] - moves[1] == moves[1] - moves[0] > 0


@needs_java
def test_a_noisy_episode_follows_its_seed_and_holds_the_gold_path(world: ScienceWorld) -> None:
    gold = world.play(STEADY, "gold", 0)
    one, again, other = (world.play(STEADY, "noisy", seed) for seed in (3, 3, 4))
    assert one.actions == again.actions != other.actions
    assert (one.actor, one.seed) == ("noisy", 3)
    for noisy in (one, other):
        left = iter(noisy.actions)
        assert all(action in left for action in gold.actions)
        assert "reset task" not in noisy.actions
        assert [action for action in noisy.actions if action.startswith("focus")] == [
            action for action in gold.actions if action.startswith("focus")
        ]
    asked = [k for k, text in enumerate(one.observations[:-1]) if text.startswith("Ambiguous request")]
    assert all(one.actions[k].isdigit() for k in asked)


@needs_java
def test_random_actions_are_of_all_kinds(world: ScienceWorld) -> None:
    with world._simulator("_played", 60) as server:
        server.load("boil", 0, "", False)
        server.step("look around")
        valid = set(server.getValidActionObjectCombinations())
        noise = random.Random(0)
        drawn = [random_action(server, noise) for _ in range(60)]
    assert set(drawn) <= valid
    # Two thirds of the valid actions connect something with something.
    assert len({action.split()[0] for action in drawn}) >= 10


@needs_java
def test_a_simulator_that_dies_or_dawdles_ends_one_episode(world: ScienceWorld) -> None:
    world.play(SHORT, "gold", 0)
    assert world._asked is not None
    killer = threading.Timer(0.02, world._asked._process.kill)
    killer.start()
    with pytest.raises(LoopwmError, match="The simulator failed: "):
        world.play("train/grow-fruit/1", "gold", 0)
    assert world._asked is None
    before, world.config = world.config, ScienceWorldConfig(patience=0.05)
    with pytest.raises(LoopwmError, match=r"took longer than 0.05 seconds"):
        world.play("train/grow-fruit/1", "gold", 0)
    world.config = before
    assert world.play(SHORT, "gold", 0).scores[-1] == 100


@needs_java
def test_the_command_records_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.parquet"
    words = ["--tasks", "find-non*", "--train", "1", "--validation", "1", "--test", "0", "--actors", "gold", "noisy"]
    assert main(["collect", "scienceworld", "--out", str(out), *words]) == 0
    said = capsys.readouterr().out
    manifest, episodes = read_recording(out)
    steps = sum(one.length for one in episodes)
    assert f"Recorded 4 episodes of scienceworld with {steps} transitions: {out}" in said
    assert f"next: loopwm train text --data {out}" in said
    assert [(one.split, one.actor) for one in episodes] == [
        ("train", "gold"),
        ("train", "noisy"),
        ("validation", "gold"),
        ("validation", "noisy"),
    ]
    assert manifest.command == (
        "loopwm collect scienceworld --out a.parquet --actors gold noisy --tasks 'find-non*' --train 1 --validation 1 "
        "--test 0"
    )
    assert manifest.versions["scienceworld"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_without_java_the_command_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["collect", "scienceworld", "--out", str(tmp_path / "a.parquet")]) == 2
    error = capsys.readouterr().err
    assert "there is no `java` on the path; install a Java runtime, such as openjdk-17-jre-headless (apt)" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())
