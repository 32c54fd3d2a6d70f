"""ScienceWorld (Wang et al. 2022): thirty tasks of elementary science in a house of ten rooms.

The simulator is a Java program, which the package `scienceworld` brings along. Its `step` is called directly:
`ScienceWorldEnv.step` would also list every valid action, which takes ten times as long as the step itself.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from loopwm.errors import LoopwmError, UserError
from loopwm.extras import installed
from loopwm.text.recording import SPLITS, TextEpisode
from loopwm.text.worlds.world import check_sample

NAME = "scienceworld"
ACTORS = ("gold", "noisy")
_GETTERS = {"train": "getVariationsTrain", "validation": "getVariationsDev", "test": "getVariationsTest"}
_TASK_TYPES = (
    ("chemistry-*", "Chemistry"),
    ("*conductivity*", "Conductivity"),
    ("find-*", "Find"),
    ("*genetics*", "Genetics"),
    ("grow-*", "Grow"),
    ("inclined-*", "Incline"),
    ("identify-life-*", "LifeStages"),
    ("lifespan-*", "Lifespan"),
    ("measure-melting-point-*", "Melt"),
    ("melt", "Melt"),
    ("power-*", "Power"),
    ("change-the-state-*", "StateChange"),
    ("use-thermometer", "Thermometer"),
    ("boil", "Boil"),
    ("freeze", "Freeze"),
)
_NEVER_AT_RANDOM = ("reset task", "focus on ")
"""The first begins the episode anew; the second, on anything but what the task asks for, ends it."""
_GRACE = 60.0
_JAVA_OPTIONS = "JAVA_TOOL_OPTIONS"
"""Read by every Java program. Left alone, each simulator would grow to a quarter of the memory before it collects its
garbage, and then do so with a thread per core."""


@dataclass(frozen=True)
class ScienceWorldConfig:
    """Which of ScienceWorld's games are recorded, and how.

    Attributes:
        tasks: names of tasks, or patterns such as `melt*`; all thirty when left out.
        without: names or patterns of tasks to leave out.
        train: variations of each task from the official training split, at most; a larger sample holds the smaller
            one.
        validation: the same from the official development split.
        test: the same from the official test split.
        fewer: exceptions, `PATTERN=TRAIN/VALIDATION/TEST`, such as `*genetics*=12/6/6`; of several that fit a
            task, the last.
        noise: how often the actor `noisy` takes a random action, in [0, 1).
        initial: record the complete initial state of every game, which takes about half a second more.
        patience: seconds after which a game that is not finished is given up.
    """

    tasks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    train: int = 30
    validation: int = 10
    test: int = 10
    fewer: tuple[str, ...] = ()
    noise: float = 0.25
    initial: bool = True
    patience: float = 600.0

    def __post_init__(self) -> None:
        check_sample(self)
        for exception in self.fewer:
            if not re.fullmatch(r"[^=]+=\d+/\d+/\d+", exception):
                raise UserError(
                    f"fewer takes PATTERN=TRAIN/VALIDATION/TEST, such as '*genetics*=12/6/6', and got '{exception}'."
                )

    def counts(self, task: str) -> dict[str, int]:
        """How many variations of a task are asked for, by split."""
        counts = [self.train, self.validation, self.test]
        for exception in self.fewer:
            pattern, _, numbers = exception.partition("=")
            if fnmatchcase(task, pattern):
                counts = [int(number) for number in numbers.split("/")]
        return dict(zip(SPLITS, counts, strict=True))


class ScienceWorld:
    """A `TextWorld` with up to two simulators: the one played in, and one that is asked about the same variation."""

    name = NAME
    packages: tuple[str, ...] = ("scienceworld", "py4j")

    def __init__(self, config: ScienceWorldConfig | None = None) -> None:
        self.config = config or ScienceWorldConfig()
        self._played: _Simulator | None = None
        self._asked: _Simulator | None = None
        # A simulator that hangs is ended by its own clock, which knows it from a slow start.
        self.patience = self.config.patience + _GRACE

    def games(self) -> list[str]:
        """`SPLIT/TASK/VARIATION` of the sample: the first variation of every task and split, then the second ones.

        Raises:
            UserError: Java or the package is missing, or a task is unknown.
        """
        with self._simulator("_played", self.config.patience) as server:
            known = list(server.getTaskNames())
            drawn = []
            for number, task in enumerate(chosen_tasks(known, self.config)):
                server.load(task, 0, "", False)
                counts = self.config.counts(task)
                for order, (split, getter) in enumerate(_GETTERS.items()):
                    names = [f"{split}/{task}/{variation}" for variation in getattr(server, getter)()]
                    drawn += [(k, number, order, name) for k, name in enumerate(shuffled(names)[: counts[split]])]
        return [name for *_, name in sorted(drawn)]

    def play(self, game: str, actor: str, seed: int) -> TextEpisode:
        """One episode; see `TextWorld.play`.

        The gold path is computed in the second simulator, as computing it moves things. Where a name turns out to be
        ambiguous, the first of its meanings is taken.

        Raises:
            LoopwmError: there is no gold path, or the simulator died or took longer than `patience`.
        """
        split, task, number = game.split("/")
        try:
            with self._simulator("_asked", self.config.patience) as server:
                server.load(task, int(number), "", True)
                path = [str(action) for action in server.getGoldActionSequence()]
                if not path or path[0].startswith("ERROR"):
                    raise LoopwmError(f"{game} has no gold path{f': {path[0]}' if path else ''}.")
                initial = initial_state(server, task, int(number)) if self.config.initial else ""
            with self._simulator("_played", self.config.patience) as server:
                server.load(task, int(number), "", False)
                walk, noise = _Walk(server), random.Random(seed)
                while path and not walk.failed:
                    if actor == "noisy" and not walk.asked and noise.random() < self.config.noise:
                        walk.stray(noise)
                    else:
                        walk.follow(path)
                return TextEpisode(
                    **walk.rows(),
                    terminated=walk.failed or bool(server.getCompleted()),
                    game=f"{task}/{number}",
                    task_type=task_type(task),
                    split=split,
                    actor=actor,
                    description=str(server.freeActionTaskDesc()).removeprefix("Task Description:").strip(),
                    initial=initial,
                    seed=seed if actor == "noisy" else -1,
                )
        except LoopwmError:
            self.close()
            raise

    def replay(self, game: str, actions: Sequence[str]) -> list[str]:
        """What is read after each of `actions`; see `TextWorld.replay`.

        Raises:
            LoopwmError: there is no such game, or the simulator died or took longer than `patience`.
        """
        task, _, number = game.partition("/")
        with self._simulator("_played", self.config.patience) as server:
            if task not in list(server.getTaskNames()) or not number.isdecimal():
                raise LoopwmError(f"ScienceWorld has no game '{game}'.")
            server.load(task, int(number), "", False)
            walk = _Walk(server)
            for action in actions:
                walk.step(action)
        return walk.observations[1:]

    def close(self) -> None:
        """End both simulators."""
        for simulator in (self._played, self._asked):
            if simulator is not None:
                simulator.close()
        self._played = self._asked = None

    @contextlib.contextmanager
    def _simulator(self, which: str, patience: float) -> Iterator[Any]:
        """The server of one of the two simulators, killed when it takes longer than `patience` seconds."""
        simulator = getattr(self, which)
        if simulator is None:
            simulator = _Simulator()
            setattr(self, which, simulator)
        with simulator.within(patience) as server:
            yield server


class _Simulator:
    """A simulator in a Java process of its own."""

    def __init__(self) -> None:
        with installed(NAME, NAME):
            # Not a part of the development environment, which therefore does not find it.
            from scienceworld import ScienceWorldEnv  # pyright: ignore
        if shutil.which("java") is None:
            raise UserError(
                f"The world '{NAME}' is a Java program, and there is no `java` on the path; install a Java runtime, "
                "such as openjdk-17-jre-headless (apt), java-17-openjdk-headless (dnf) or openjdk (brew, conda)."
            )
        options = os.environ.get(_JAVA_OPTIONS)
        os.environ.setdefault(_JAVA_OPTIONS, "-XX:+UseSerialGC -Xmx2g")
        try:
            # Any: what stands in the JVM has no types.
            self._env: Any = ScienceWorldEnv("")
        except Exception as error:
            raise LoopwmError(f"The simulator of {NAME} did not start ({error}); does `java -version` work?") from error
        finally:
            if options is None:
                del os.environ[_JAVA_OPTIONS]
        self._process: subprocess.Popen[bytes] = self._env._gateway.java_process
        self._late = False

    @contextlib.contextmanager
    def within(self, patience: float) -> Iterator[Any]:
        """The server; a call that is still running after `patience` seconds fails.

        Raises:
            LoopwmError: the simulator died, refused, or was too slow.
        """
        timer = threading.Timer(patience, self._kill)
        timer.daemon = True
        timer.start()
        try:
            yield self._env.server
        except LoopwmError:
            raise
        # Whatever py4j raises, from refused connections to errors inside the simulator, ends this episode alone.
        except Exception as error:
            if self._late:
                raise LoopwmError(f"The simulator took longer than {patience:g} seconds.") from error
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LoopwmError(f"The simulator failed: {reason}.") from error
        finally:
            timer.cancel()

    def _kill(self) -> None:
        self._late = True
        self._process.kill()

    def close(self) -> None:
        """End the process, and wait until it is gone."""
        with contextlib.suppress(Exception):
            self._env._gateway.shutdown()
        with contextlib.suppress(OSError):
            self._env._obj_tree_tempdir.cleanup()
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        # Called once more when the wrapper is deleted, whenever that is, and noisy where nobody answers.
        self._env.close = lambda: None


def chosen_tasks(known: list[str], config: ScienceWorldConfig) -> list[str]:
    """The tasks that the configuration asks for, in the simulator's order.

    Raises:
        UserError: a name or pattern fits no task, or none is left.
    """
    for pattern in (*config.tasks, *config.without, *(one.partition("=")[0] for one in config.fewer)):
        if not any(fnmatchcase(task, pattern) for task in known):
            near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(known)}."
            raise UserError(f"ScienceWorld has no task '{pattern}'; {hint}")
    chosen = [
        task
        for task in known
        if (not config.tasks or any(fnmatchcase(task, pattern) for pattern in config.tasks))
        and not any(fnmatchcase(task, pattern) for pattern in config.without)
    ]
    if not chosen:
        raise UserError("Every task that tasks asks for is left out by without; nothing is left to record.")
    return chosen


def shuffled(names: list[str]) -> list[str]:
    """In an order that is fixed for ever and depends on nothing else."""
    return sorted(names, key=lambda name: random.Random(name).random())


def task_type(task: str) -> str:
    """Which of the fourteen types of the LoopWM report a task belongs to: `melt` -> `Melt`."""
    return next(kind for pattern, kind in _TASK_TYPES if fnmatchcase(task, pattern))


def initial_state(server: Any, task: str, variation: int) -> str:
    """What `look around` says in every room at the start, and the inventory, each a paragraph.

    The simplification that allows to teleport changes nothing else. Going about takes a dozen steps, though, in which
    an ice cube may melt a little.
    """
    server.load(task, variation, "teleportAction", False)
    here = str(server.freeActionLook())
    texts = [here, str(server.freeActionInventory())]
    verb = "teleport to "
    for action in sorted(a for a in server.getValidActionObjectCombinations() if a.startswith(verb)):
        server.step(action)
        # Whoever looks is in every room at the time, and was only in the first at the start.
        text = str(server.freeActionLook()).replace("\tthe agent\n", "")
        if _room(text) != _room(here):
            texts.append(text)
    return "\n\n".join(text.strip() for text in texts)


def _room(look: str) -> str:
    """Which room is looked at: `This room is called the hallway. In it ...` -> `hallway`."""
    return look.split(".")[0].split(" called the ")[-1]


class _Walk:
    """An episode while it is played."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.actions: list[str] = []
        self.observations = [str(server.step("look around"))]
        self.scores, self.looks, self.inventories = [_score(server)], [], []
        self._glance()

    def step(self, action: str) -> None:
        """Do it, and note the answer and what is there to see then; looking is free here."""
        self.actions.append(action)
        self.observations.append(str(self._server.step(action)))
        self.scores.append(_score(self._server))
        self._glance()

    def _glance(self) -> None:
        self.looks.append(str(self._server.freeActionLook()))
        self.inventories.append(str(self._server.freeActionInventory()))

    @property
    def failed(self) -> bool:
        """Whether the score says so; `ScienceWorldEnv` ends the episode then."""
        return self.scores[-1] < 0

    @property
    def asked(self) -> bool:
        """Whether the simulator asks which of several things is meant."""
        return self.observations[-1].startswith("Ambiguous request")

    def follow(self, path: list[str]) -> None:
        """Do the next action of the path, which is taken from its front."""
        if self.asked:
            # The path answers such questions itself, where it was asked.
            self.step(path.pop(0) if path[0].isdigit() else "0")
        elif (action := path.pop(0)) and not action.isdigit():
            self.step(action)

    def stray(self, noise: random.Random) -> None:
        """Do something at random, and undo what would keep the path from being followed."""
        before = _room(self.looks[-1])
        action = random_action(self._server, noise)
        self.step(action)
        if self.asked:
            self.step("0")
        if _room(self.looks[-1]) != before:
            self.step(f"go to {before}")
        elif action.startswith("close "):
            self.step(action.replace("close", "open", 1))

    def rows(self) -> dict[str, Any]:
        """The attributes of a `TextEpisode` that have a value per row."""
        names = ("observations", "actions", "scores", "looks", "inventories")
        return {name: tuple(getattr(self, name)) for name in names}


def random_action(server: Any, noise: random.Random) -> str:
    """A valid action: first its verb, so that the hundreds of pairs to connect do not crowd out the rest."""
    verbs: dict[str, list[str]] = {}
    for action in sorted(server.getValidActionObjectCombinations()):
        if not action.startswith(_NEVER_AT_RANDOM):
            verbs.setdefault(action.split()[0], []).append(action)
    return noise.choice(verbs[noise.choice(sorted(verbs))])


def _score(server: Any) -> float:
    """0 to 100, as `ScienceWorldEnv` says it; negative where the task has failed."""
    return float(round(100 * server.getScore()))
