"""ALFWorld (Shridhar et al. 2021): household tasks in text, in rooms of the ALFRED data set.

Its games are data that this package does not hold; see `alfred_games.py` for where they come from.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loopwm.errors import LoopwmError, UserError
from loopwm.text.benchmark.windows import is_held_out
from loopwm.text.recording import TextEpisode
from loopwm.text.worlds.alfred_engine import AlfredEngine
from loopwm.text.worlds.alfred_games import AlfredGame, AlfredGames, find_games
from loopwm.text.worlds.alfred_problem import AlfredProblem, initial_state, read_problem
from loopwm.text.worlds.chance import any_command
from loopwm.text.worlds.world import check_sample

NAME = "alfworld"
ACTORS = ("planner", "searcher", "noisy", "expert")
_TASK_TYPES = {
    "look_at_obj_in_light": "look",
    "pick_and_place_simple": "pick",
    "pick_clean_then_place_in_recep": "clean",
    "pick_cool_then_place_in_recep": "cool",
    "pick_heat_then_place_in_recep": "heat",
    "pick_two_obj_and_place": "pick",
}
_ABSURD = 0.2
"""Share of random actions that are drawn from what was possible before, and is not any more."""


@dataclass(frozen=True)
class AlfWorldConfig:
    """Which of ALFWorld's games are recorded, and how.

    A share of the official training games is the split `validation`. What `test` is, `tested` says, so figures of
    different kinds of it are never mixed: `seen`, the official `valid_seen` (rooms known from training, other objects
    and tasks in them); `unseen`, the official `valid_unseen` (other rooms); `training`, a second share of the training
    games, for the stored expert, who has played no others. The official `valid_train`, more games of the training
    rooms, is left out.

    Attributes:
        games: folder of the games, as `alfworld-download` writes it, or a JSON lines file of games; where
            `alfworld-download` puts them when left out.
        logic: with a JSON lines file, the JSON with the games' pddl_domain and grammar; alfworld_logic.json beside it
            when left out.
        train: training games, at most; a larger sample holds the smaller one.
        validation: held-out training games, at most.
        test: test games, at most. The actor `expert` has played none.
        tested: where test games are from: `seen`, `unseen` or `training`.
        hold_out: share of the official training games that is held out, in (0, 1), as much again for `tested training`;
            for validation the same games as `loopwm benchmark --hold-out` with this share takes.
        noise: how often the actor `noisy` takes a random action, in [0, 1).
        limit: actions after which an episode that does not end is cut.
        initial: record the complete initial state of every game.
        patience: seconds after which a game that is not finished is given up.
    """

    games: Path | None = None
    logic: Path | None = None
    train: int = 200
    validation: int = 50
    test: int = 50
    tested: Literal["seen", "unseen", "training"] = "seen"
    hold_out: float = 0.08
    noise: float = 0.25
    limit: int = 100
    initial: bool = True
    patience: float = 600.0

    def __post_init__(self) -> None:
        check_sample(self)
        if not 0 < self.hold_out < 1:
            raise UserError(f"hold_out must be between 0 and 1, got {self.hold_out}.")
        if self.tested not in ("seen", "unseen", "training"):
            raise UserError(f"tested must be seen, unseen or training, got '{self.tested}'.")
        if self.limit < 1:
            raise UserError(f"limit must be at least 1, got {self.limit}.")


class AlfWorld:
    """A `TextWorld` of ALFWorld's games. All actors but `expert` need the engine."""

    name = NAME
    packages: tuple[str, ...] = ("textworld", "fast-downward-textworld")

    def __init__(self, config: AlfWorldConfig | None = None) -> None:
        self.config = config or AlfWorldConfig()
        self.patience = self.config.patience
        self._found: AlfredGames | None = None
        self._engine: AlfredEngine | None = None

    def games(self) -> list[str]:
        """`SPLIT/TASK/TRIAL` of the sample: test games, then those held out, then training games.

        Raises:
            UserError: there are no games where they should be, or none of a split that is asked for.
        """
        drawn = []
        for split in ("test", "validation", "train"):
            names = [name for name in self._games.splits if self._split(name) == split]
            wanted = getattr(self.config, split)
            if wanted and not names:
                raise UserError(
                    f"There are no games of the split {split} at {self.config.games or 'the usual place'}, which has "
                    f"{', '.join(sorted(set(self._games.splits.values())))}; ask for none with --{split} 0."
                )
            drawn += [f"{split}/{name}" for name in sorted(names, key=_rank)[:wanted]]
        return drawn

    def play(self, game: str, actor: str, seed: int) -> TextEpisode:
        """One episode; see `TextWorld.play`.

        `expert` is the stored trajectory, which nobody has to play. `planner` follows a plan that the engine makes from
        all it knows. `searcher` first looks elsewhere for what the plan takes or uses, as one does who does not know
        where it is, and is most like the stored expert. `noisy` follows the plan as well, but for random actions, after
        each of which it plans again: a kind of action is drawn first, as most of the possible ones go somewhere, and
        every fifth is one that was possible before.

        Raises:
            LoopwmError: the game does not load, cannot be solved, or has no stored trajectory.
        """
        split, _, name = game.partition("/")
        if name not in self._games.splits:
            raise LoopwmError(f"There is no game {game}.")
        stored = actor == "expert"
        found = self._games.game(name, playable=not stored)
        walk = _stored(found, split) if stored else self._played(found, actor, seed)
        try:
            initial = initial_state(read_problem(found.problem)) if self.config.initial else ""
        except (ValueError, KeyError) as error:
            raise LoopwmError(f"The PDDL problem of {name} is not one of ALFWorld's ({error}).") from None
        return TextEpisode(
            observations=tuple(walk.observations),
            actions=tuple(walk.actions),
            scores=tuple(walk.scores),
            looks=tuple(walk.looks),
            inventories=tuple(walk.inventories),
            terminated=walk.scores[-1] > 0,
            game=name,
            task_type=task_type(name),
            split=split,
            actor=actor,
            description=found.task,
            initial=initial,
            seed=seed if actor in ("noisy", "searcher") else -1,
        )

    def replay(self, game: str, actions: Sequence[str]) -> list[str]:
        """What is read after each of `actions`; see `TextWorld.replay`.

        Raises:
            LoopwmError: there is no such game, or it does not load.
        """
        if game not in self._games.splits:
            raise LoopwmError(f"There is no game {game}.")
        if self._engine is None:
            self._engine = AlfredEngine()
        self._engine.start(self._games.game(game, playable=True))
        return [self._engine.act(action) for action in actions]

    def close(self) -> None:
        """Give back the engine."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    @property
    def _games(self) -> AlfredGames:
        if self._found is None:
            self._found = find_games(self.config.games, self.config.logic)
        return self._found

    def _split(self, name: str) -> str:
        official, config = self._games.splits[name], self.config
        if official != "train":
            return "test" if official == f"valid_{config.tested}" else ""
        if is_held_out(name, config.hold_out):
            return "validation"
        return "test" if config.tested == "training" and is_held_out(name, config.hold_out, seed=1) else "train"

    def _played(self, game: AlfredGame, actor: str, seed: int) -> _Walk:
        if self._engine is None:
            self._engine = AlfredEngine()
        engine, choice, walk = self._engine, random.Random(seed), _Walk()
        walk.see(engine, engine.start(game))
        actions = walk.actions
        plan, before = engine.plan(), set[str]()
        if not plan:
            raise LoopwmError(f"The planner finds no way to solve {game.name} in time.")
        if actor == "searcher":
            plan = with_search(plan, read_problem(game.problem), choice)
        while plan and len(actions) < self.config.limit and not engine.won:
            stray = actor == "noisy" and choice.random() < self.config.noise
            if actor == "noisy":
                possible = engine.admissible()
                actions.append(_at_random(possible, sorted(before.difference(possible)), choice) if stray else plan[0])
                before.update(possible)
            else:
                actions.append(plan[0])
            walk.see(engine, engine.act(actions[-1]))
            plan = engine.plan() if stray else plan[1:]
        return walk


@dataclass
class _Walk:
    """What was read, done and scored so far, and what looking would have answered."""

    observations: list[str] = field(default_factory=list)
    actions: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    inventories: list[str] = field(default_factory=list)

    def see(self, engine: AlfredEngine, answer: str) -> None:
        self.observations.append(answer)
        self.scores.append(float(engine.won))
        self.looks.append(engine.aside("look"))
        self.inventories.append(engine.aside("inventory"))


def task_type(name: str) -> str:
    """The type of `TASK/TRIAL` that tables are broken down by; two things to be placed count as one.

    Raises:
        LoopwmError: it is none of ALFWorld's six.
    """
    kind = name.partition("-")[0]
    if kind not in _TASK_TYPES:
        raise LoopwmError(f"The game {name} is none of ALFWorld's types of tasks: {', '.join(_TASK_TYPES)}.")
    return _TASK_TYPES[kind]


def with_search(plan: list[str], problem: AlfredProblem, choice: random.Random) -> list[str]:
    """The plan, going elsewhere in vain before every receptacle that it takes or uses something from.

    Kinds of receptacles come in a random order, those of a kind by number. Closed ones are opened and closed again.
    Where things are brought to is known from the start, and not searched for.
    """
    places = {problem.names[one]: place for one, place in problem.facts.get("receptacleatlocation", ())}
    closed = {problem.names[one] for (one,) in problem.facts.get("openable", ())}
    kinds = sorted({name.split()[0] for name in places})
    choice.shuffle(kinds)
    order = sorted(places, key=lambda name: (kinds.index(name.split()[0]), int(name.split()[1])))
    searched: list[str] = []
    known: set[str] = set()
    here = ""

    def visit(name: str) -> None:
        nonlocal here
        # From one receptacle to another within reach there is no way to go.
        searched.append(f"examine {name}" if places.get(name, name) == here else f"go to {name}")
        known.add(name)
        here = places.get(name, name)

    for number, command in enumerate(plan):
        if not command.startswith("go to "):
            searched.append(command)
            continue
        target = command.removeprefix("go to ")
        purposes = (word for word in (later.split()[0] for later in plan[number + 1 :]) if word not in ("go", "open"))
        if target in order and target not in known and next(purposes, "") in ("take", "use"):
            for one in order[: order.index(target)]:
                if one not in known:
                    visit(one)
                    searched += [f"open {one}", f"close {one}"] if one in closed else []
        visit(target)
    return searched


def _at_random(possible: list[str], not_any_more: list[str], choice: random.Random) -> str:
    commands = not_any_more if not_any_more and choice.random() < _ABSURD else possible
    return any_command(commands, choice)


def _stored(game: AlfredGame, split: str) -> _Walk:
    texts = [text.strip() for text in game.trajectory]
    if not texts:
        raise LoopwmError(
            f"No trajectory of an expert is stored for {game.name}; record the split {split} with the actor planner, "
            f"or leave it out with --{split} 0."
        )
    if len(texts) < 3 or len(texts) % 2 == 0:
        raise LoopwmError(
            f"The stored trajectory of {game.name} has {len(texts)} texts; an odd number, from 3, is needed."
        )
    actions = texts[1::2]
    # Each of them ends with the task done, and none is done before.
    return _Walk(texts[::2], actions, [0.0] * len(actions) + [1.0])


def _rank(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()
