"""Recording text worlds: nothing that was played is lost, and nothing depends on who played it."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from loopwm.errors import LoopwmError
from loopwm.text.collect import TextCollectConfig, collect_text, job_seed
from loopwm.text.recording import TextEpisode, read_recording

pytest.importorskip("pyarrow", reason="text recordings are Parquet files")

COMMAND = "loopwm collect corridor"


@dataclass
class Corridor:
    """A world small enough to be played by hand: doors left and right, and someone who wanders.

    Attributes:
        games_count: how many.
        dies: numbers of games at which the process dies, raises, or the world gives up, each time.
        trips: folder; the process dies at game 2 unless a file is there, which it leaves before.
        pause: seconds that a game takes.
    """

    games_count: int = 6
    dies: tuple[int, ...] = ()
    raises: tuple[int, ...] = ()
    gives_up: tuple[int, ...] = ()
    trips: Path | None = None
    pause: float = 0.0
    name: str = "corridor"
    packages: tuple[str, ...] = ("numpy",)

    def games(self) -> list[str]:
        return [f"{'validation' if n % 3 == 2 else 'train'}/walk/{n}" for n in range(self.games_count)]

    def play(self, game: str, actor: str, seed: int) -> TextEpisode:
        split, kind, number = game.split("/")
        if self.trips and number == "2" and not (self.trips / "tripped").exists():
            (self.trips / "tripped").touch()
            os._exit(9)
        if int(number) in self.dies:
            os._exit(7)
        if int(number) in self.raises:
            raise ZeroDivisionError("the corridor has no end")
        if int(number) in self.gives_up:
            raise LoopwmError(f"{game} has no door.")
        time.sleep(self.pause)
        walk = random.Random(seed)
        actions = [walk.choice(("go left", "go right")) for _ in range(3 + int(number))]
        places = [0]
        for action in actions:
            places.append(places[-1] + (1 if action == "go right" else -1))
        return TextEpisode(
            tuple(f"You are at door {place}." for place in places),
            tuple(actions),
            tuple(map(float, places)),
            terminated=False,
            game=f"{kind}/{number}",
            task_type=kind,
            split=split,
            actor=actor,
            description="Wander.",
            seed=seed,
        )

    def close(self) -> None:
        pass


def record(out: Path, world: Corridor | None = None, workers: int = 1, actors: tuple[str, ...] = ("a",), **options):
    config = TextCollectConfig(actors=actors, workers=workers, **options)
    calls: list[tuple[int, int]] = []
    made = partial(Corridor, **vars(world)) if world else Corridor
    done = collect_text(made, config, out, COMMAND, lambda *call: calls.append(call))
    return done, calls


def test_the_recording_does_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    one, calls = record(tmp_path / "1.parquet", actors=("a", "b"))
    two, _ = record(tmp_path / "2.parquet", workers=2, actors=("a", "b"))
    assert one.manifest.digest == two.manifest.digest
    assert (one.episodes, one.transitions, one.left_out) == (12, 2 * sum(range(3, 9)), ())
    assert calls == [(done, 12) for done in range(13)]
    manifest, episodes = read_recording(tmp_path / "1.parquet")
    assert manifest == one.manifest
    assert (manifest.world, manifest.command, set(manifest.versions)) == (
        "corridor",
        COMMAND,
        {"python", "loopwm", "numpy"},
    )
    assert [(one.game, one.actor) for one in episodes[:3]] == [("walk/0", "a"), ("walk/0", "b"), ("walk/1", "a")]
    assert sorted(os.listdir(tmp_path)) == ["1.parquet", "2.parquet"]


def test_an_episode_does_not_depend_on_which_others_are_recorded(tmp_path: Path) -> None:
    record(tmp_path / "few.parquet", Corridor(games_count=2))
    record(tmp_path / "many.parquet", Corridor(games_count=4), episodes=2, actors=("b", "a"))
    few, many = (read_recording(tmp_path / f"{name}.parquet")[1] for name in ("few", "many"))
    assert few == [many[2], many[6]]
    assert len({one.seed for one in many}) == len(many) == 16
    assert job_seed(0, "g", "a", 0) != job_seed(1, "g", "a", 0)
