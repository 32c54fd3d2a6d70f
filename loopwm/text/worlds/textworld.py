"""TextWorld (Côté et al. 2018): games that are made on the spot from a seed, so nothing has to be downloaded.

They are the three kinds that its command `tw-make` knows: coin collector, cooking, and treasure hunter. A game is
compiled for the Z-machine in a temporary folder, and played there.
"""

from __future__ import annotations

import contextlib
import random
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loopwm.errors import LoopwmError, UserError
from loopwm.extras import installed
from loopwm.text.recording import SPLITS, TextEpisode
from loopwm.text.worlds.chance import any_command
from loopwm.text.worlds.world import check_sample

NAME = "textworld"
ACTORS = ("gold", "noisy", "random")
_KINDS = {"coin": ("tw-coin_collector", 5), "cooking": ("tw-cooking", 3), "treasure": ("tw-treasure_hunter", 15)}
"""What TextWorld calls each kind, and the level that is taken where none is given."""
_HIGHEST = {"coin": 300, "cooking": 5, "treasure": 30}
_RECIPES = (
    {"recipe": 1, "take": 1, "go": 1, "cook": False, "cut": False},
    {"recipe": 2, "take": 1, "go": 1, "cook": False, "cut": True},
    {"recipe": 2, "take": 2, "go": 6, "cook": True, "cut": True},
    {"recipe": 3, "take": 3, "go": 9, "cook": True, "cut": True},
    {"recipe": 4, "take": 4, "go": 12, "cook": True, "cut": True},
)
"""Levels of cooking: ingredients, how many of them have to be found, rooms, and what has to be done with them."""
_END = re.compile(r"(\*\*\* .* \*\*\*).*", re.DOTALL)
"""What follows on the end of a game: the number of turns, and the offer to play again."""
_UNSAID = frozenset(("free", "cuttable", "cookable", "edible", "drinkable", "sharp", "base", "out", "used"))
"""Facts that all things of a kind share, or that others imply."""


@dataclass(frozen=True)
class MadeGamesConfig:
    """Which games of TextWorld are made.

    Attributes:
        kind: `coin`, a coin at the end of a chain of rooms; `cooking`, ingredients to find and to prepare by a recipe;
            `treasure`, a thing to find behind doors and in containers.
        level: how difficult they are: coin 1 to 300 (hundreds add dead ends, 100 rooms at most), cooking 1 to 5,
            treasure 1 to 30; 5, 3 and 15 when left out.
        train: training games; a larger sample holds the smaller one.
        validation: the same of validation games, which have other seeds.
        test: the same of test games.
        noise: how often the actor `noisy` takes a random action, in [0, 1).
        limit: actions after which an episode that does not end is cut.
        initial: record where everything is at the start of every game.
        patience: seconds after which a game that is not made and played is given up.
    """

    kind: str = "cooking"
    level: int | None = None
    train: int = 100
    validation: int = 20
    test: int = 20
    noise: float = 0.25
    limit: int = 100
    initial: bool = True
    patience: float = 600.0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise UserError(f"There is no kind of game '{self.kind}'; choose one of {', '.join(_KINDS)}.")
        if self.level is not None and not 1 <= self.level <= _HIGHEST[self.kind]:
            raise UserError(f"level of {self.kind} must be from 1 to {_HIGHEST[self.kind]}, got {self.level}.")
        if self.kind == "coin" and (rooms := ((self.at - 1) // 100 + 1) * ((self.at - 1) % 100 + 1)) > 100:
            raise UserError(f"level {self.at} of coin has {rooms} rooms, and TextWorld compiles at most 100.")
        check_sample(self)
        if self.limit < 1:
            raise UserError(f"limit must be at least 1, got {self.limit}.")

    @property
    def at(self) -> int:
        """The level, given or not."""
        return self.level or _KINDS[self.kind][1]


class MadeGames:
    """A `TextWorld` of games that TextWorld makes."""

    name = NAME
    packages: tuple[str, ...] = ("textworld",)

    def __init__(self, config: MadeGamesConfig | None = None) -> None:
        self.config = config or MadeGamesConfig()
        self.patience = self.config.patience
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._made: tuple[str, Path] | None = None

    def games(self) -> list[str]:
        """`SPLIT/KIND-LEVEL/SEED`; the k-th of each split comes before any (k + 1)-th.

        Raises:
            UserError: TextWorld is missing.
        """
        _textworld()
        counts = [getattr(self.config, split) for split in SPLITS]
        family = f"{self.config.kind}-{self.config.at}"
        return [
            f"{split}/{family}/{len(SPLITS) * number + order}"
            for number in range(max(counts))
            for order, split in enumerate(SPLITS)
            if number < counts[order]
        ]

    def play(self, game: str, actor: str, seed: int) -> TextEpisode:
        """One episode; see `TextWorld.play`.

        `gold` walks as the maker of the game does; `noisy` does until its first random action, and then what TextWorld
        says is left to do, at random where nothing helps any more; `random` draws from all possible actions. Of random
        actions, a kind is drawn first. Observations come without the title at the start and the score board at the end.

        Raises:
            LoopwmError: the game cannot be made.
        """
        split, family, _ = game.split("/")
        walk = _Walk()
        with self._started(game, plans=actor == "noisy") as env:
            state = env.reset()
            objective = _tidied(state["objective"])
            walk.see(state, first=objective)
            initial = facts_in_words(state["facts"]) if self.config.initial else ""
            plan, choice, done = list(state["extra.walkthrough"] or ()), random.Random(seed), False
            while not done and len(walk.actions) < self.config.limit and (plan or actor != "gold"):
                stray = actor == "random" or (actor == "noisy" and (not plan or choice.random() < self.config.noise))
                walk.actions.append(any_command(state["admissible_commands"], choice) if stray else plan[0])
                state, _, done = env.step(walk.actions[-1])
                walk.see(state)
                plan = list(state["policy_commands"] or ()) if stray and actor == "noisy" else plan[1:]
        return TextEpisode(
            observations=tuple(walk.observations),
            actions=tuple(walk.actions),
            scores=tuple(walk.scores),
            looks=tuple(walk.looks),
            inventories=tuple(walk.inventories),
            terminated=done,
            game=game.partition("/")[2],
            task_type=family.partition("-")[0],
            split=split,
            actor=actor,
            description=objective,
            initial=initial,
            seed=-1 if actor == "gold" else seed,
        )

    def replay(self, game: str, actions: Sequence[str]) -> list[str]:
        """What is read after each of `actions`, up to the end of the game; see `TextWorld.replay`.

        Raises:
            LoopwmError: there is no such game, or it cannot be made.
        """
        kind, level = _kind_and_level(game)
        if (kind, level) != (self.config.kind, self.config.at):
            self.close()
            self.config = replace(self.config, kind=kind, level=level)
        walk = _Walk()
        with self._started(f"train/{game}", plans=False) as env:
            walk.see(env.reset())
            for action in actions:
                state, _, done = env.step(action)
                walk.see(state)
                if done:
                    break
        return walk.observations[1:]

    def close(self) -> None:
        """Remove the games that were made."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = self._made = None

    @contextlib.contextmanager
    def _started(self, game: str, plans: bool) -> Iterator[Any]:
        """The environment of a game, which is made unless it was the last one."""
        textworld = _textworld()
        if self._made is None or self._made[0] != game:
            if self._folder is not None:
                self._folder.cleanup()
            self._folder = tempfile.TemporaryDirectory(prefix="loopwm-textworld-")
            self._made = game, make_game(self.config, int(game.rpartition("/")[2]), Path(self._folder.name))
        wanted = dict.fromkeys(
            ("description", "inventory", "admissible_commands", "score", "objective", "facts", "won", "lost"), True
        )
        infos = textworld.EnvInfos(**wanted, policy_commands=plans, extras=["walkthrough"])
        with _without_warnings(), contextlib.closing(textworld.start(str(self._made[1]), infos)) as env:
            yield env


def _kind_and_level(game: str) -> tuple[Any, int]:
    """Of the name of a game, such as `coin-5/12`."""
    found = re.fullmatch(r"(coin|cooking|treasure)-(\d+)/\d+", game)
    if found is None:
        raise LoopwmError(f"There is no game '{game}'; they are called KIND-LEVEL/SEED, such as coin-5/12.")
    return found[1], int(found[2])


def make_game(config: MadeGamesConfig, seed: int, folder: Path) -> Path:
    """The compiled game of that seed, in `folder`.

    Raises:
        LoopwmError: TextWorld cannot make or compile it.
    """
    textworld = _textworld()
    from textworld.challenges import CHALLENGES  # pyright: ignore

    options = textworld.GameOptions()
    options.seeds, options.path, options.file_ext = seed, f"{folder}/", ".z8"
    settings: dict[str, Any] = {"level": config.at}
    if config.kind == "cooking":
        settings = {**_RECIPES[config.at - 1], "open": True, "drop": False, "split": None, "recipe_seed": seed + 1}
    _, make, _ = CHALLENGES[_KINDS[config.kind][0]]
    try:
        with _without_warnings():
            return Path(textworld.generator.compile_game(make(settings, options), options))
    # Makers of games raise whatever they come across.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise LoopwmError(
            f"TextWorld could not make the game of {config.kind}, level {config.at}, with seed {seed} "
            f"({type(error).__name__}: {reason})."
        ) from error


def facts_in_words(facts: Iterable[Any]) -> str:
    """Where everything is, and in which state, a sentence each; how rooms are described is not in it.

    Args:
        facts: TextWorld's propositions, whose arguments are the names of things.
    """
    said = [(fact.name, [argument.name.replace("_", " ") for argument in fact.arguments]) for fact in facts]
    return " ".join(sorted({sentence for name, things in said if (sentence := _sentence(name, things))}))


def _sentence(name: str, things: list[str]) -> str:
    if name in _UNSAID or "RECIPE" in things:
        return ""
    if things[0] == "P":
        return f"You are in the {things[1]}."
    if things[1:] == ["I"]:
        return f"You are carrying the {things[0]}."
    if len(things) == 1:
        return f"The {things[0]} is {name.replace('_', ' ')}."
    if name in ("at", "in", "on"):
        return f"The {things[0]} is {'in' if name == 'at' else name} the {things[1]}."
    if name.endswith("_of"):
        return f"The {things[0]} is {name.replace('_', ' ')} the {things[1]}."
    if name == "match":
        return f"The {things[0]} fits the {things[1]}."
    if name == "link":
        return f"The {things[1]} leads from the {things[0]} to the {things[2]}."
    return ""


class _Walk:
    """What was read and done so far."""

    def __init__(self) -> None:
        self.observations: list[str] = []
        self.actions: list[str] = []
        self.scores: list[float] = []
        self.looks: list[str] = []
        self.inventories: list[str] = []

    def see(self, state: Any, first: str = "") -> None:
        """Add what a state of the game says; `first` are the words that it begins with."""
        text = _tidied(state["feedback"])
        # The title is drawn in letters before the task.
        self.observations.append(text[text.find(first) :] if first and first in text else text)
        self.scores.append(float(state["score"] or 0))
        self.looks.append(_tidied(state["description"] or ""))
        self.inventories.append(_tidied(state["inventory"] or ""))


def _tidied(text: str) -> str:
    return re.sub(r"\n\s*\n", "\n\n", _END.sub(r"\1", text)).strip()


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Jericho warns of every game that it has no solution of."""
    from jericho import UnsupportedGameWarning  # pyright: ignore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsupportedGameWarning)
        yield


def _textworld() -> Any:
    with installed(NAME, NAME):
        import textworld  # pyright: ignore
    return textworld
