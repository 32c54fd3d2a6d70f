"""Showing how far a long job is: a bar on a terminal, a plain line now and then everywhere else."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """What a long job needs in order to say how far it is. Recording and training know only this."""

    def advance(self, done: int, total: int, **fields: float) -> None:
        """Report that `done` of `total` units are finished; `fields` are numbers worth watching, such as a loss."""
        ...


class SilentProgress:
    """Progress that nobody watches; the default of every function that takes one."""

    def advance(self, done: int, total: int, **fields: float) -> None:
        pass


SHORTEST = 0.2
"""Seconds from which on a pace means something: two workers that are done at once say nothing of how fast they were."""


class Pace:
    """Units per second over the recent past, so that neither a slow start nor a resumed job distorts it."""

    def __init__(self, window: float = 30.0) -> None:
        self.window = window
        self._marks: deque[tuple[float, int]] = deque()

    def update(self, now: float, done: int) -> None:
        """Note that `done` units were finished at `now` (seconds on any steady clock)."""
        self._marks.append((now, done))
        # Two marks must remain, or the pace of a job with rare reports would be lost.
        while len(self._marks) > 2 and now - self._marks[0][0] > self.window:
            self._marks.popleft()

    @property
    def rate(self) -> float:
        """Units per second; 0 while unknown, as it is in the beginning."""
        if len(self._marks) < 2:
            return 0.0
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end - start >= SHORTEST and after > before else 0.0

    def remaining(self, total: int) -> float:
        """Seconds until `total`; infinite while the rate is unknown."""
        return (total - self._marks[-1][1]) / self.rate if self.rate else inf


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass(frozen=True)
class ProgressConfig:
    """How progress is shown.

    Attributes:
        every: seconds between two plain lines when the stream is not a terminal.
        redraw: seconds between two redraws of the bar on a terminal.
    """

    every: float = 10.0
    redraw: float = 0.1


class TerminalProgress:
    """A bar with rate and remaining time on a terminal; one plain line every few seconds elsewhere.

    Use it as a context manager, so that the terminal is left clean whatever happens:

        with TerminalProgress("training", unit="update") as progress:
            train(config, run, progress=progress)

    Args:
        title: what is going on, one or two words.
        unit: what is counted, in the singular.
        stream: where to write; standard error by default, so that standard output stays parseable.
        clock: a steady clock in seconds, replaceable for tests.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        config: ProgressConfig | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.unit = unit
        self.config = config or ProgressConfig()
        self._stream = stream or sys.stderr
        self._clock = clock
        self._pace = Pace()
        self._shown_at = -inf
        self._shown = 0
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._bar = self._open_bar()
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def advance(self, done: int, total: int, **fields: float) -> None:
        """Show `done` of `total`, with `fields` as `name value`. Cheap enough to call at every unit."""
        now = self._clock()
        pause = self.config.every if self._bar is None else self.config.redraw
        complete = done == total and done != self._shown
        if now - self._shown_at < pause and not complete:
            return
        self._shown_at, self._shown = now, done
        self._pace.update(now, done)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, tail=self._tail(total, fields))
            return
        self._stream.write(f"{self.title} {done}/{total} {self._tail(total, fields)}\n")
        self._stream.flush()

    def _tail(self, total: int, fields: dict[str, float]) -> str:
        words = [f"{name} {value:.4g}" for name, value in fields.items()]
        if rate := self._pace.rate:
            speed = f"{rate:.3g} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{self.unit}"
            words[:0] = [speed, f"{duration(self._pace.remaining(total))} left"]
        return ", ".join(words or [f"{self.unit}s"])

    def _open_bar(self) -> RichProgress:
        # Imported here: rich costs more than the rest of the command line together, and pipes never need it.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[tail]}"),
        )
        bar = Progress(*columns, console=Console(file=self._stream))
        self._task = bar.add_task(self.title, total=None, tail="")
        return bar
