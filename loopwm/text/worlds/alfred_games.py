"""Where ALFWorld's games are: the folder that `alfworld-download` writes, or one file of JSON lines with all of them.

The folder has `SPLIT/TASK/TRIAL/game.tw-pddl`. A line of the file has `split`, `game` (`TASK/TRIAL`), `task`,
`pddl_problem` and, for training games, `gt_traj`: observation, action, observation, ...; the domain and the grammar
that all its games share are in a file of their own, the logic.
"""

from __future__ import annotations

import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loopwm.errors import LoopwmError, Missing, UserError

OFFICIAL_SPLITS = ("train", "valid_train", "valid_seen", "valid_unseen")
UNKNOWN_TASK = "Your task is to: UNKNOWN GOAL."
"""What stands in the grammar where a game has its task."""
LOGIC_NAME = "alfworld_logic.json"
_FOLDER_NAME = "json_2.1.1"
_GAME_NAME = "game.tw-pddl"
_TASK = re.compile(r'Your task is to: [^"\\\n]*')
_NOT_SUPPORTED = ("movable", "Sliced")
"""In names of tasks for which ALFWorld has no games that can be solved."""


@dataclass(frozen=True)
class AlfredGame:
    """One game.

    Attributes:
        name: `TASK/TRIAL`.
        task: what the game asks for, as it says it: `Your task is to: ...`.
        problem: the PDDL problem.
        domain, grammar: what the engine needs besides, empty where it is not; the grammar has `UNKNOWN_TASK`.
        trajectory: o_0, a_0, o_1, ... of the expert; empty where none is stored.
    """

    name: str
    task: str
    problem: str
    domain: str
    grammar: str
    trajectory: tuple[str, ...] = ()


class AlfredGames(Protocol):
    """Where games are."""

    splits: dict[str, str]
    """Name of a game -> its official split."""

    def game(self, name: str, playable: bool = True) -> AlfredGame:
        """One of them, with or without what the engine needs besides.

        Raises:
            LoopwmError: it cannot be read.
        """
        ...


def find_games(path: Path | None, logic: Path | None) -> AlfredGames:
    """The games at `path`, or where `alfworld-download` puts them.

    Args:
        path: folder or JSON lines file, xz-compressed or not.
        logic: with such a file, its JSON with `pddl_domain` and `grammar`; `LOGIC_NAME` beside it when left out.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    path = path or Path(os.environ.get("ALFWORLD_DATA", "~/.cache/alfworld")).expanduser()
    if path.is_file():
        if logic is not None and not logic.is_file():
            raise _no_logic(logic)
        return _Lines(path, logic or path.with_name(LOGIC_NAME))
    if path.is_dir():
        return _Folder(path)
    raise _no_games(path)


def _no_games(path: Path) -> UserError:
    return UserError(
        f"There are no games of ALFWorld at {path}; get them with `pip install alfworld` and `alfworld-download`, then "
        f"give the folder {_FOLDER_NAME} that it writes, or give a JSON lines file of games."
    )


class _Folder:
    """The official folder, or the one that holds it."""

    def __init__(self, path: Path) -> None:
        root = path / _FOLDER_NAME if (path / _FOLDER_NAME).is_dir() else path
        self._files: dict[str, Path] = {}
        self.splits: dict[str, str] = {}
        for split in OFFICIAL_SPLITS:
            for file in sorted((root / split).glob(f"*/*/{_GAME_NAME}")):
                name = file.parent.relative_to(root / split).as_posix()
                if not any(word in name for word in _NOT_SUPPORTED):
                    self._files[name], self.splits[name] = file, split
        if not self.splits:
            raise _no_games(path)

    def game(self, name: str, playable: bool = True) -> AlfredGame:
        """Read from its file, without its task in the grammar."""
        file = self._files[name]
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            if not found.get("solvable", True):
                raise LoopwmError(f"The game {name} cannot be solved, says {file}; leave it out.")
            grammar = found["grammar"]
            task = _TASK.search(grammar)
            return AlfredGame(
                name=name,
                task=task.group().strip() if task else "",
                problem=found["pddl_problem"],
                domain=found["pddl_domain"],
                grammar=_TASK.sub(UNKNOWN_TASK, grammar),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoopwmError(
                f"The game {name} cannot be read from {file} ({type(error).__name__}: {error}); download it again."
            ) from None


class _Lines:
    """The JSON lines file, kept compressed, as its PDDL takes 200 MB."""

    def __init__(self, path: Path, logic: Path) -> None:
        self._path = path
        self._logic_path = logic
        self._logic: tuple[str, str] | None = None
        self._packed: dict[str, bytes] = {}
        self.splits: dict[str, str] = {}
        for line in _lines(path):
            try:
                found = json.loads(line)
                name, split = found["game"], found["split"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"Line {len(self.splits) + 1} of {path} is no game: a JSON object with split, game, task and "
                    "pddl_problem is needed; the file may be truncated, get it again."
                ) from None
            self._packed[name], self.splits[name] = zlib.compress(line.encode(), 1), split
        if not self.splits:
            raise _no_games(path)

    def game(self, name: str, playable: bool = True) -> AlfredGame:
        """Read from its line; the logic, which all games share, only where it is to be played."""
        found: dict[str, Any] = json.loads(zlib.decompress(self._packed[name]))
        domain, grammar = self._logic_texts() if playable else ("", "")
        try:
            return AlfredGame(
                name, found["task"].strip(), found["pddl_problem"], domain, grammar, tuple(found.get("gt_traj", ()))
            )
        except (KeyError, AttributeError) as error:
            raise LoopwmError(f"The game {name} of {self._path} lacks {error}.") from None

    def _logic_texts(self) -> tuple[str, str]:
        if self._logic is None:
            try:
                found = json.loads(self._logic_path.read_text(encoding="utf-8"))
                self._logic = found["pddl_domain"], found["grammar"]
            except (OSError, ValueError, KeyError, TypeError):
                raise _no_logic(self._logic_path) from None
        return self._logic


def _no_logic(path: Path) -> Missing:
    return Missing(
        f"There is no logic of ALFWorld's games at {path}, a JSON object with pddl_domain and grammar, which playing "
        "games of a JSON lines file needs; give its path as --logic."
    )


def _lines(path: Path) -> Iterator[str]:
    try:
        with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as lines:
            yield from (line for line in lines if line.strip())
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path} cannot be read to its end ({error}); it may be truncated, so get it again.") from None
