"""What every format gives and takes: what the episodes are, and the episodes one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loopwm.data.episode import Episode
from loopwm.data.meta import StoreMeta, read_meta
from loopwm.errors import UserError
from loopwm.files import atomic_write
from loopwm.progress import Progress

SIDE_FILE = "loopwm.json"
"""Beside the data of a foreign format: what that format cannot say (spaces, names, labels, where it came from)."""


@dataclass(frozen=True)
class Part:
    """One episode that is read when it is asked for.

    Attributes:
        where: the file, and the episode within it, for messages.
        load: reads it; raises UserError when it is none.
    """

    where: str
    load: Callable[[], Episode]


@dataclass(frozen=True)
class Source:
    """A recording in some format.

    Attributes:
        meta: what its observations and actions are; guessed from the numbers where the format does not say.
        parts: its episodes, from the beginning every time it is called.
        count: how many there are, found out without reading them whole.
    """

    meta: StoreMeta
    parts: Callable[[], Iterator[Part]]
    count: Callable[[], int]

    def episodes(self, progress: Progress | None = None) -> Iterator[Episode]:
        """All episodes; `progress` is told of each that was taken.

        Raises:
            UserError: the first that is none, with its file.
        """
        total = 0 if progress is None else self.count()
        for done, part in enumerate(self.parts(), start=1):
            yield located(part)
            if progress is not None:
                progress.advance(done, total)


def located(part: Part) -> Episode:
    """The episode; what is wrong with it comes with its place.

    Raises:
        UserError: it is none.
    """
    try:
        return part.load()
    except UserError as error:
        raise UserError(f"{part.where}: {error}") from error


class Format(Protocol):
    """A way of keeping recordings."""

    @property
    def name(self) -> str:
        """As of `loopwm data convert --to`."""
        ...

    def detect(self, path: Path) -> bool:
        """Whether `path` looks like this format; nothing is read but names and first bytes."""
        ...

    def read(self, path: Path) -> Source:
        """The recording at `path`."""
        ...

    def write(self, path: Path, meta: StoreMeta, episodes: Iterable[Episode]) -> None:
        """A new recording at `path`, or nothing at all."""
        ...


def write_side_file(folder: Path, meta: StoreMeta) -> None:
    """Keep `meta` beside the data."""
    with atomic_write(folder / SIDE_FILE) as aside:
        aside.write_text(meta.to_json())


def read_side_file(folder: Path) -> StoreMeta | None:
    """What is kept beside the data; None where nothing is.

    Raises:
        UserError: it is damaged.
    """
    path = folder / SIDE_FILE
    return read_meta(path, path.read_text()) if path.is_file() else None
