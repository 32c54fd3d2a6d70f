"""Several training runs at once, one thread each unless more are asked for: on a small machine two runs side by side
finish sooner than two runs of two threads one after the other. Every run is resumable, and so is the list of them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from loopwm.errors import LoopwmError, UserError
from loopwm.interrupts import deferred_interrupt, end_with_parent, sparing_children
from loopwm.presets import RunConfig
from loopwm.progress import Progress

LONG = 60.0
"""Seconds of training after which a process makes room for a young one, so that the most memory a run needed is that
run's own. To begin takes seconds."""
MADE_ROOM = 3
"""The exit code of a process that did."""
_TUNABLES = "GLIBC_TUNABLES"


@dataclass(frozen=True)
class Job:
    """One run to be trained."""

    run: Path
    config: RunConfig


@dataclass(frozen=True)
class Message:
    """What a worker tells: how far a job is, or how it ended."""

    job: int
    done: int = 0
    loss: float = 0.0
    failure: str = ""
    exit_code: int = 0
    diverged: bool = False


class Mailbox(Protocol):
    """The side of a multiprocessing queue that is used here."""

    def put(self, obj: Any) -> None: ...
    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...


def train_all(
    jobs: Sequence[Job],
    progress: Progress,
    again: str,
    workers: int = 0,
    may_diverge: bool = False,
    threads: int = 1,
    long: float = LONG,
) -> None:
    """Train every job that is not finished, `workers` at a time (as many as fit the cores when 0); all stop when one
    fails.

    Args:
        again: the command that continues after an interruption, for the message.
        threads: of each. A run that goes on keeps those it began with, as other ones would add up in another order.
        may_diverge: a run that diverges does not stop the others.
        long: seconds of training after which a process makes room for a young one.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; every run is saved.
        UserError: a run folder holds a run of other settings or of another recording, or a run got bad input.
        LoopwmError: a run failed.
    """
    from loopwm.train.trainer import Interrupted

    digests: dict[Path, str] = {}
    pending = [(index, job) for index, job in enumerate(jobs) if not _is_done(job, digests)]
    if not pending:
        return
    context = multiprocessing.get_context("spawn")
    tasks, messages, stopping = context.Queue(), context.Queue(), context.Event()
    count = min(workers or max(1, (os.cpu_count() or 1) // threads), len(pending))
    for task in (*pending, *[None] * count):
        tasks.put(task)
    work = tasks, messages, stopping, threads, long
    crew = _Crew(lambda: context.Process(target=_work, args=work, daemon=True), count, stopping)
    try:
        with deferred_interrupt() as interrupted:
            crew.start()
            failure = _watch(jobs, pending, crew, messages, progress, interrupted, may_diverge)
    finally:
        # Tasks nobody took must not keep this process waiting at its exit.
        tasks.cancel_join_thread()
    if interrupted.is_set():
        raise Interrupted(f"Stopped; every run is saved. Go on with: {again}")
    if failure is not None:
        raise (UserError if failure.exit_code == UserError.exit_code else LoopwmError)(failure.failure)


def _is_done(job: Job, digests: dict[Path, str]) -> bool:
    """Whether the run is finished; a folder with another run in it is refused, never taken for this one.

    Args:
        digests: of the recordings opened so far, which takes a second each.
    """
    from loopwm.data.store import Store
    from loopwm.text.recording import is_recording, read_recording
    from loopwm.train.checkpoint import NAME, read_checkpoint
    from loopwm.train.journal import read_config
    from loopwm.train.runs import finished

    settings = job.run / "config.yaml"
    if settings.is_file() and read_config(settings) != job.config:
        raise UserError(f"{job.run} holds a run with other settings; remove it or choose another folder.")
    if finished(job.run) is None:
        return False
    data = job.config.data
    if data not in digests:
        if is_recording(data):
            digests[data] = read_recording(data)[0].digest
        else:
            with Store.open(data) as store:
                digests[data] = store.digest
    if read_checkpoint(job.run / NAME, ()).state["data_digest"] != digests[data]:
        raise UserError(f"{job.run} was trained on another recording than {data}; remove it or choose another folder.")
    return True


@contextmanager
def large_pages() -> Iterator[None]:
    """Processes that are started here ask the system for large pages, where their C library can (glibc 2.35).

    Training fetches and gives back gigabytes at every update, which takes the system longer in small pages. Whoever has
    set `GLIBC_TUNABLES` is left alone.
    """
    if _TUNABLES in os.environ:
        yield
        return
    # Read when a process begins, so it can be given to children alone.
    os.environ[_TUNABLES] = "glibc.malloc.hugetlb=1"
    try:
        yield
    finally:
        del os.environ[_TUNABLES]


class _Crew:
    """The worker processes, started so that Ctrl-C reaches them only through `stop`, and only once."""

    def __init__(self, hire: Callable[[], BaseProcess], count: int, stopping: Any) -> None:
        self._hire, self.stopping = hire, stopping
        self.processes = [hire() for _ in range(count)]

    def start(self) -> None:
        """Start all of them, deaf to the terminal's Ctrl-C: a mask is inherited, a handler is not."""
        with sparing_children(), large_pages():
            for process in self.processes:
                process.start()

    def renew(self) -> None:
        """Start a young process for each that has made room for one."""
        for place, process in enumerate(self.processes):
            if self._made_room(process):
                self.processes[place] = self._hire()
                with sparing_children(), large_pages():
                    self.processes[place].start()

    def alive(self) -> bool:
        """Whether any still works, or is about to be followed by one that will."""
        return any(process.is_alive() or self._made_room(process) for process in self.processes)

    def _made_room(self, process: BaseProcess) -> bool:
        return process.exitcode == MADE_ROOM and not self.stopping.is_set()

    def stop(self) -> None:
        """Ask all to save and end; a second request would interrupt the saving, so there is none."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    def died(self) -> bool:
        """Whether one ended in a way nobody asked for."""
        return not self.stopping.is_set() and any(
            process.exitcode not in (None, 0, MADE_ROOM) for process in self.processes
        )


def _watch(
    jobs: Sequence[Job],
    pending: list[tuple[int, Job]],
    crew: _Crew,
    messages: Mailbox,
    progress: Progress,
    interrupted: threading.Event,
    may_diverge: bool,
) -> Message | None:
    """Show progress until every worker is gone; the message of the run that failed, if one did."""
    from loopwm.train.runs import saved

    total = sum(job.config.train.updates for job in jobs)
    before = total - sum(job.config.train.updates for _, job in pending)
    # What was made before this process began says nothing of how fast it is.
    done = {index: saved(job.run) for index, job in pending}
    failure: Message | None = None
    while True:
        crew.renew()
        alive = crew.alive()
        message = _next(messages)
        if interrupted.is_set():
            crew.stop()
        if message is None:
            if not alive:
                return failure
            if crew.died():
                failure = Message(-1, failure="A training process died (out of memory?); free some, start again.")
                crew.stop()
        elif message.failure:
            if not (message.diverged and may_diverge):
                failure = failure or message
                crew.stop()
        else:
            done[message.job] = max(done[message.job], message.done)
            progress.advance(before + sum(done.values()), total, loss=message.loss)


def _next(messages: Mailbox) -> Message | None:
    try:
        return messages.get(timeout=0.2)
    except queue.Empty:
        return None


class _Reporter:
    """Progress of one job, sent home twice a second at most."""

    def __init__(self, job: int, messages: Mailbox) -> None:
        self.job, self.messages, self.sent_at = job, messages, 0.0

    def advance(self, done: int, total: int, **fields: float) -> None:
        if done == total or time.monotonic() - self.sent_at > 0.5:
            self.messages.put(Message(self.job, done, fields.get("loss", 0.0)))
            self.sent_at = time.monotonic()


def _work(tasks: Mailbox, messages: Mailbox, stopping: Any, threads: int, long: float) -> None:
    """A worker: one job after the other until there is none, one fails, a long one has ended, or all are asked to
    stop."""
    end_with_parent()
    begun = time.monotonic()
    if threads == 1:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    while not stopping.is_set() and (task := tasks.get()) is not None:
        import torch

        index, job = task
        # Every time: a run that went on had those it began with.
        torch.set_num_threads(threads)
        failure = _train(index, job, messages)
        if failure is not None:
            messages.put(failure)
            if not failure.diverged:
                return
        if time.monotonic() - begun > long:
            sys.exit(MADE_ROOM)


def _train(index: int, job: Job, messages: Mailbox) -> Message | None:
    """Train or continue one run; what went wrong, if anything."""
    from loopwm.train.runs import resume, train
    from loopwm.train.trainer import Diverged

    reporter = _Reporter(index, messages)
    try:
        if (job.run / "config.yaml").is_file():
            resume(job.run, reporter)
        else:
            train(job.config, job.run, reporter)
    except Diverged as error:
        return Message(index, failure=str(error), exit_code=error.exit_code, diverged=True)
    except LoopwmError as error:
        return Message(index, failure=str(error), exit_code=error.exit_code)
    except Exception as error:
        return Message(index, failure=f"Training {job.run} failed with {type(error).__name__}: {error}", exit_code=1)
    return None
