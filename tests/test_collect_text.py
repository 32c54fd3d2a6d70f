"""Recording text worlds: nothing that was played is lost, and nothing depends on who played it."""

from __future__ import annotations

import itertools
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from sessions import session_is_empty

from loopwm.cli import main
from loopwm.commands.arguments import parse
from loopwm.commands.collect_text import chosen, form
from loopwm.errors import LoopwmError, Missing, UserError
from loopwm.text.collect import TextCollectConfig, collect_text, job_seed, journal_of
from loopwm.text.journal import Journal
from loopwm.text.recording import TextEpisode, read_recording
from loopwm.text.worlds.registry import maker
from loopwm.text.worlds.scienceworld import ScienceWorldConfig, chosen_tasks, shuffled

pytest.importorskip("pyarrow", reason="text recordings are Parquet files")

COMMAND = "loopwm collect corridor"


@dataclass
class Corridor:
    """A world small enough to be played by hand: doors left and right, and someone who wanders.

    Attributes:
        games_count: how many.
        dies: numbers of games at which the process dies, raises, or the world gives up, each time.
        trips: folder; the process dies at game 2 unless a file is there, which it leaves before.
        pause: seconds that a game takes. hangs: numbers of games that never end.
        empty: numbers of games that are over before they begin, which no episode can be.
        lacks: what cannot be played without.
    """

    games_count: int = 6
    dies: tuple[int, ...] = ()
    raises: tuple[int, ...] = ()
    gives_up: tuple[int, ...] = ()
    trips: Path | None = None
    pause: float = 0.0
    hangs: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    lacks: str = ""
    patience: float = 60.0
    name: str = "corridor"
    packages: tuple[str, ...] = ("numpy",)

    def games(self) -> list[str]:
        return [f"{'validation' if n % 3 == 2 else 'train'}/walk/{n}" for n in range(self.games_count)]

    def replay(self, game: str, actions: Sequence[str]) -> list[str]:
        places = itertools.accumulate(1 if action == "go right" else -1 for action in actions)
        return [f"You are at door {place}." for place in places]

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
        if int(number) in self.empty:
            raise UserError(f"The episode of {game} has no action.")
        if self.lacks:
            raise Missing(f"The corridor needs {self.lacks}.")
        time.sleep(3600 if int(number) in self.hangs else self.pause)
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
    calls: list[tuple[int, int]] = []
    done = recorded(out, world, lambda *call: calls.append(call), workers=workers, actors=actors, **options)
    return done, calls


def recorded(out: Path, world: Corridor | None, progress: Callable[[int, int], None], **options):
    made = partial(Corridor, **vars(world)) if world else Corridor
    return collect_text(made, TextCollectConfig(**options), out, COMMAND, progress)


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


def test_what_is_recorded_already_is_not_played_again(tmp_path: Path) -> None:
    # By "a" alone, so that all of "b" is still to be played.
    record(tmp_path / "few.parquet", Corridor(games_count=4))
    whole, _ = record(tmp_path / "whole.parquet", actors=("a", "b"))
    beyond = (tmp_path / "few.parquet",)
    rest, calls = record(tmp_path / "rest.parquet", workers=2, actors=("a", "b"), beyond=beyond)
    assert calls[-1] == (8, 8) and rest.episodes == 8
    apart = [one for name in ("few", "rest") for one in read_recording(tmp_path / f"{name}.parquet")[1]]
    together = read_recording(tmp_path / "whole.parquet")[1]
    assert whole.episodes == len(apart) == 12 and set(apart) == set(together)
    assert [(one.game, one.actor) for one in apart[4:6]] == [("walk/0", "b"), ("walk/1", "b")]
    both = (*beyond, tmp_path / "rest.parquet")
    with pytest.raises(UserError, match=r"All 12 episodes are in .*few\.parquet, .*rest\.parquet already"):
        record(tmp_path / "none.parquet", actors=("a", "b"), beyond=both)
    with pytest.raises(UserError, match=r"few\.parquet is a recording of corridor; what goes beyond it"):
        record(tmp_path / "none.parquet", Corridor(name="cellar"), beyond=beyond)
    assert sorted(os.listdir(tmp_path)) == ["few.parquet", "rest.parquet", "whole.parquet"]


def test_a_process_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    record(tmp_path / "calm.parquet")
    (tmp_path / "trips").mkdir()
    done, _ = record(tmp_path / "tripped.parquet", Corridor(trips=tmp_path / "trips"))
    assert (tmp_path / "trips" / "tripped").exists()
    assert done.left_out == ()
    assert done.manifest.digest == read_recording(tmp_path / "calm.parquet")[0].digest


def test_games_that_fail_twice_are_left_out_and_named(tmp_path: Path) -> None:
    world = Corridor(dies=(1,), raises=(3,), gives_up=(4,))
    done, calls = record(tmp_path / "out.parquet", world, workers=2)
    assert sorted((one.job.game, one.reason) for one in done.left_out) == [
        ("train/walk/1", "The process playing it died (exit code 7)."),
        ("train/walk/3", "ZeroDivisionError: the corridor has no end"),
        ("train/walk/4", "train/walk/4 has no door."),
    ]
    assert done.episodes == 3 and calls[-1] == (6, 6)
    assert [one.game for one in read_recording(tmp_path / "out.parquet")[1]] == ["walk/0", "walk/2", "walk/5"]


def test_games_that_hang_are_given_up_and_the_others_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others_done: list[float] = []

    def clock() -> float:
        """Twenty times as fast, once only the game that hangs is waited for."""
        now = time.monotonic()
        return now + 20 * (now - others_done[0]) if others_done else now

    def noticing(done: int, _: int) -> None:
        if done == 3 and not others_done:
            others_done.append(time.monotonic())

    monkeypatch.setattr("loopwm.text.crew.time", SimpleNamespace(monotonic=clock))
    begun = clock()
    # Long enough for a process to start while the other one hangs.
    world = Corridor(games_count=4, hangs=(1,), patience=10)
    done = recorded(tmp_path / "out.parquet", world, noticing, workers=2, actors=("a",))
    assert done.episodes == 3
    (left,) = done.left_out
    assert (left.job.game, left.reason) == ("train/walk/1", "It took longer than 10 seconds.")
    assert clock() - begun > 20


def test_a_game_that_makes_no_episode_costs_no_other(tmp_path: Path) -> None:
    done, _ = record(tmp_path / "out.parquet", Corridor(games_count=3, empty=(1,)))
    assert done.episodes == 2 and [one.job.game for one in done.left_out] == ["train/walk/1"]


def test_what_is_missing_for_every_game_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^The corridor needs a torch\.$"):
        record(tmp_path / "out.parquet", Corridor(lacks="a torch"))
    assert not any(tmp_path.iterdir())


def test_a_world_in_which_everything_fails_stops_the_recording(tmp_path: Path) -> None:
    with pytest.raises(
        LoopwmError, match=r"None of the 2 episodes could be recorded: train/walk/1 has no door"
    ) as all_:
        record(tmp_path / "out.parquet", Corridor(2, gives_up=(0, 1)))
    assert all_.value.exit_code == 1
    world = Corridor(40, gives_up=tuple(range(1, 40)))
    with pytest.raises(LoopwmError, match=r"12 episodes in a row .* train/walk/12 .*; the 1 finished ones are kept"):
        record(tmp_path / "more.parquet", world)
    assert journal_of(tmp_path / "more.parquet").exists() and not (tmp_path / "more.parquet").exists()


LONG_RECORDING = """
import sys
from functools import partial
from pathlib import Path
from test_collect_text import Corridor, record

if __name__ == "__main__":
    record(Path(sys.argv[1]), Corridor(games_count=40, pause=0.05), workers=int(sys.argv[2]), actors=("a", "b"))
"""


def start(folder: Path, workers: int) -> subprocess.Popen[str]:
    """A recording that takes a few seconds, in a session of its own."""
    (folder / "script.py").write_text(LONG_RECORDING)
    search = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py"), str(folder / "out.parquet"), str(workers)],
        env=os.environ | {"PYTHONPATH": search},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_lines(path: Path, count: int, patience: float = 60.0) -> None:
    """Until so many episodes are in the journal."""
    deadline = time.monotonic() + patience
    while not path.exists() or path.read_bytes().count(b"\n") <= count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_a_recording_that_is_killed_and_stopped_goes_on_to_the_same_end(tmp_path: Path) -> None:
    out, journal = tmp_path / "out.parquet", tmp_path / "out.parquet.part"
    killed = start(tmp_path, workers=2)
    wait_for_lines(journal, 3)
    killed.kill()
    killed.communicate()
    assert session_is_empty(killed.pid)
    # A kill may come in the middle of a line.
    with journal.open("ab") as file:
        file.write(b"77 eJwr")
    kept = journal.read_bytes().count(b"\n") - 1

    stopped = start(tmp_path, workers=1)
    wait_for_lines(journal, kept + 3)
    os.killpg(stopped.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in stopped.communicate(timeout=60)[1]
    assert session_is_empty(stopped.pid)
    assert not out.exists() and journal.read_bytes().endswith(b"\n")

    before = journal.read_bytes().count(b"\n") - 1
    done, calls = record(out, Corridor(games_count=40), actors=("a", "b"))
    assert calls[0] == (before, 80) and kept + 3 <= before < 80
    fresh, _ = record(tmp_path / "fresh.parquet", Corridor(games_count=40), workers=2, actors=("a", "b"))
    assert done.manifest.digest == fresh.manifest.digest
    assert not journal.exists()


def leave_journal(out: Path) -> Path:
    """What a stopped recording leaves."""
    with pytest.raises(LoopwmError):
        record(out, Corridor(40, gives_up=tuple(range(3, 40))))
    return journal_of(out)


def test_damaged_and_foreign_journals_are_refused_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    journal = leave_journal(out)
    content = journal.read_bytes()
    with pytest.raises(UserError, match=r"holds the beginning of another recording .loopwm collect corridor"):
        record(out, Corridor(games_count=3))
    lines = content.splitlines(keepends=True)
    for damaged in (lines[2][:40] + b"\n", b"nonsense\n", lines[2].replace(b" ", b" A", 1)):
        journal.write_bytes(lines[0] + lines[1] + damaged + lines[3])
        with pytest.raises(UserError, match=r"Line 3 of .*out.parquet.part is damaged; remove the file"):
            record(out, Corridor(games_count=40))
        assert journal.read_bytes() == lines[0] + lines[1] + damaged + lines[3]
    journal.write_bytes(content)
    assert record(out, Corridor(games_count=40))[0].episodes == 40


@pytest.mark.skipif(os.name != "posix", reason="file locks are POSIX")
def test_two_processes_do_not_write_one_recording(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.parquet.part", "this one")
    with pytest.raises(UserError, match="Another process is recording into"):
        Journal(tmp_path / "out.parquet.part", "this one")
    journal.remove()
    assert not list(tmp_path.iterdir())


def test_requests_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_text("precious")
    with pytest.raises(UserError, match="already exists and is not overwritten; choose another --out"):
        record(tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").read_text() == "precious"
    with pytest.raises(UserError, match="corridor has no game"):
        record(tmp_path / "none.parquet", Corridor(games_count=0))
    with pytest.raises(UserError, match="Nobody plays"):
        record(tmp_path / "none.parquet", actors=())
    for name, value in (("workers", 0), ("episodes", 0), ("seed", -1)):
        with pytest.raises(UserError, match=name):
            replace(TextCollectConfig(), **{name: value})
    with pytest.raises(UserError, match="twice: a b a"):
        TextCollectConfig(actors=("a", "b", "a"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence that bad input is answered with."""
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    return error


def test_options_of_a_text_world_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for words, shown in (
        (["scienceworld", "--help"], ("--tasks", "--noise", "Actors: gold, noisy", "--workers", "official test split")),
        (["--help"], ("loopwm collect scienceworld --help", "--policy")),
    ):
        with pytest.raises(SystemExit) as left:
            main(["collect", *words])
        assert left.value.code == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert all(word in text for word in shown)
    config = ScienceWorldConfig(tasks=("melt", "use-*"), train=3, initial=False, noise=0.5)
    assert chosen(config) == ["--tasks melt 'use-*'", "--train 3", "--noise 0.5", "--no-initial"]
    words = shlex.split(" ".join(chosen(config)))
    assert vars(parse(form("scienceworld"), words, "collect scienceworld"))["world"] == config


def test_misspelt_and_misplaced_worlds_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'scienceworld'?" in refused(capsys, "collect", "scienceword")
    assert "comes first" in refused(capsys, "collect", "--workers", "2", "scienceworld")
    assert "did you mean 'billiards'?" in refused(capsys, "collect", "biliards")
    with pytest.raises(UserError, match="choose one of: scienceworld"):
        maker("xyz", None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--actors golden", "Nobody called 'golden' plays scienceworld; choose from: gold, noisy."),
        ("--train 0 --validation 0 --test 0", "There is nothing to record"),
        ("--test -1", "test must not be negative, got -1"),
        ("--noise 1", "noise must be in [0, 1), got 1.0"),
        ("--patience 0", "patience must be positive"),
        ("--fewer boil=3", "fewer takes PATTERN=TRAIN/VALIDATION/TEST, such as '*genetics*=12/6/6', and got 'boil=3'"),
        ("--workers 0", "workers must be at least 1, got 0"),
    ],
)
def test_meaningless_options_are_refused(capsys: pytest.CaptureFixture[str], words: str, sentence: str) -> None:
    assert sentence in refused(capsys, "collect", "scienceworld", *words.split())


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "scienceworld", None)
    error = refused(capsys, "collect", "scienceworld", "--out", str(tmp_path / "a.parquet"))
    assert "needs the package scienceworld" in error and 'pip install "loopwm[scienceworld]"' in error
    assert not list(tmp_path.iterdir())


KNOWN = ["boil", "melt", "melt-more", "find-plant", "mendelian-genetics-known-plant"]


def test_tasks_are_chosen_by_names_and_patterns() -> None:
    assert chosen_tasks(KNOWN, ScienceWorldConfig()) == KNOWN
    assert chosen_tasks(KNOWN, ScienceWorldConfig(tasks=("melt*", "boil"), without=("melt",))) == ["boil", "melt-more"]
    with pytest.raises(UserError, match="no task 'boill'; did you mean 'boil'"):
        chosen_tasks(KNOWN, ScienceWorldConfig(tasks=("boill",)))
    with pytest.raises(UserError, match="no task 'qqqq'; choose from boil, melt"):
        chosen_tasks(KNOWN, ScienceWorldConfig(fewer=("qqqq=1/1/1",)))
    with pytest.raises(UserError, match="nothing is left"):
        chosen_tasks(KNOWN, ScienceWorldConfig(without=("*",)))
    config = ScienceWorldConfig(fewer=("m*=3/2/1", "*genetics*=1/0/0"))
    assert [config.counts(task)["train"] for task in KNOWN] == [30, 3, 3, 30, 1]


def test_a_shuffle_is_the_same_for_ever() -> None:
    assert shuffled([f"train/boil/{k}" for k in range(8)])[:3] == ["train/boil/2", "train/boil/0", "train/boil/3"]
    assert sorted(shuffled(KNOWN)) == sorted(KNOWN)
