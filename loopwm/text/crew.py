"""Processes that play games, one world in each; a world or a process that dies takes one episode with it, not all."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from loopwm.errors import LoopwmError, Missing, UserError
from loopwm.interrupts import deferred_interrupt, end_with_parent
from loopwm.text.recording import TextEpisode
from loopwm.text.worlds.world import TextWorld

MakeWorld = Callable[[], TextWorld]
_LISTEN = 0.2
"""Seconds between two looks at whether Ctrl-C came."""
_FAREWELL = 10.0
"""Seconds that a process has for closing its world."""


@dataclass(frozen=True)
class Job:
    """One episode to be played: `game`, `actor` and `seed` are those of `TextWorld.play`."""

    number: int
    game: str
    actor: str
    seed: int


@dataclass(frozen=True)
class LeftOut:
    """An episode that could not be recorded, and why, in a sentence."""

    job: Job
    reason: str


class _Refused(Exception):
    """The world cannot be made, for a reason that is the user's to mend."""


@dataclass
class _Player:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None
    tries: int = 0
    since: float = 0.0


class Crew:
    """`workers` processes with a world each.

    Args:
        make: makes a world; has to be picklable, as it is called in the processes, which are spawned.
        patience: seconds after which an episode that is not finished is given up, with the process that plays it.
    """

    def __init__(self, make: MakeWorld, workers: int, patience: float) -> None:
        self._make, self._workers, self._patience = make, workers, patience
        # Not forked: a forked copy of a process that runs threads may deadlock.
        self._context = multiprocessing.get_context("spawn")

    def play(self, jobs: list[Job]) -> Generator[tuple[Job, TextEpisode] | LeftOut, None, None]:
        """Every job, as it gets done. One that fails is tried once more, in a new world.

        Raises:
            UserError: the worlds cannot be made, or lack what they need to be played.
            KeyboardInterrupt: Ctrl-C or SIGTERM came.
        """
        waiting = jobs[::-1]
        players: list[_Player] = []
        # Starting the tracker of multiprocessing would unblock the signal that `_start` blocks.
        resource_tracker.ensure_running()
        with deferred_interrupt() as stopped:
            try:
                players += [self._start() for _ in range(min(self._workers, len(jobs)))]
                for player in players:
                    _hand_over(player, waiting.pop())
                while busy := [player for player in players if player.job is not None]:
                    ready = connection.wait([player.pipe for player in busy], timeout=_LISTEN)
                    if stopped.is_set():
                        raise KeyboardInterrupt
                    for player in busy:
                        done = self._answer(player) if player.pipe in ready else self._overdue(player)
                        if done is not None:
                            # Before the answer is dealt with: writing takes time, in which the next can be played.
                            player.job, player.tries = None, 0
                            if waiting:
                                _hand_over(player, waiting.pop())
                            yield done
            finally:
                for player in players:
                    _end(player)

    def _answer(self, player: _Player) -> tuple[Job, TextEpisode] | LeftOut | None:
        """What a player says; None when its job is tried again."""
        job = player.job
        assert job is not None
        try:
            said = player.pipe.recv()
        except (EOFError, OSError):
            player.process.join()
            said = LoopwmError(f"The process playing it died (exit code {player.process.exitcode}).")
            self._replace(player)
        if isinstance(said, TextEpisode):
            return job, said
        if isinstance(said, _Refused):
            raise UserError(str(said))
        return self._failed(player, job, said)

    def _overdue(self, player: _Player) -> LeftOut | None:
        """What becomes of an episode that takes too long; None as long as it does not."""
        if player.job is None or time.monotonic() - player.since < self._patience:
            return None
        self._replace(player)
        return self._failed(player, player.job, LoopwmError(f"It took longer than {self._patience:g} seconds."))

    def _replace(self, player: _Player) -> None:
        _end(player)
        fresh = self._start()
        player.process, player.pipe = fresh.process, fresh.pipe

    def _failed(self, player: _Player, job: Job, said: Exception) -> LeftOut | None:
        if player.tries:
            return LeftOut(job, str(said))
        player.tries += 1
        _hand_over(player, job)
        return None

    def _start(self) -> _Player:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_perform, args=(self._make, theirs), daemon=True)
        # Inherited by the process, which dies of Ctrl-C otherwise until it has got to where it ignores it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        return _Player(process, ours)


def _hand_over(player: _Player, job: Job) -> None:
    player.job, player.since = job, time.monotonic()
    # One that has died already is noticed when its answer is read.
    with contextlib.suppress(OSError):
        player.pipe.send(job)


def _end(player: _Player) -> None:
    player.pipe.close()
    player.process.terminate()
    player.process.join(_FAREWELL)
    player.process.kill()
    player.process.join()


def _perform(make: MakeWorld, pipe: Connection) -> None:
    """What a process does: play what comes, and say what became of it."""
    # What the world starts inherits this: a simulator has to outlive the Ctrl-C that ends the recording in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As an exception, so that the world is closed on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    end_with_parent()
    world: TextWorld | None = None
    try:
        while True:
            world, said = _attempt(make, world, pipe.recv())
            pipe.send(said)
    except (EOFError, OSError):
        return
    finally:
        if world is not None:
            world.close()


def _attempt(make: MakeWorld, world: TextWorld | None, job: Job) -> tuple[TextWorld | None, TextEpisode | Exception]:
    """The world, None when it is not to be used any more, and the episode or what went wrong."""
    if world is None:
        try:
            world = make()
        except UserError as error:
            return None, _Refused(str(error))
    try:
        return world, world.play(job.game, job.actor, job.seed)
    # Not about this game: what is missing is missing for all of them.
    except Missing as error:
        with contextlib.suppress(Exception):
            world.close()
        return None, _Refused(str(error))
    # A simulator fails in any way it likes; what it says belongs into the sentence about the episode.
    except Exception as error:
        with contextlib.suppress(Exception):
            world.close()
        return None, LoopwmError(str(error) if isinstance(error, LoopwmError) else f"{type(error).__name__}: {error}")
