"""Several training runs at once, one thread each: on a small machine two runs side by side finish sooner than two runs
of two threads one after the other. Every run is resumable, and so is the list of them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from loopwm.errors import LoopwmError
from loopwm.presets import RunConfig
from loopwm.progress import Progress


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


Tasks = multiprocessing.Queue  # of (index, Job), then one None per worker
Messages = multiprocessing.Queue  # of Message


def train_all(jobs: Sequence[Job], progress: Progress, again: str, workers: int = 0) -> None:
    """Train every job that is not finished, `workers` at a time (one per core when 0); all stop when one fails.

    Args:
        again: the command that continues after an interruption, for the message.

    Raises:
        Interrupted: Ctrl-C; every run is saved.
        LoopwmError: a run failed.
    """
    from loopwm.train.trainer import Interrupted, finished

    pending = [(index, job) for index, job in enumerate(jobs) if finished(job.run) is None]
    if not pending:
        return
    context = multiprocessing.get_context("spawn")
    tasks, messages = context.Queue(), context.Queue()
    count = min(workers or os.cpu_count() or 1, len(pending))
    for task in (*pending, *[None] * count):
        tasks.put(task)
    processes = [context.Process(target=_work, args=(tasks, messages)) for _ in range(count)]
    interrupted = Interrupted(f"Stopped; every run is saved. Go on with: {again}")
    try:
        for process in processes:
            process.start()
        failure = _watch(jobs, pending, processes, messages, progress)
    except KeyboardInterrupt:
        # The workers got the same Ctrl-C and are saving; ending now would lose what they did since the last checkpoint.
        for process in processes:
            process.join()
        raise interrupted from None
    finally:
        # Tasks nobody took must not keep this process waiting at its exit.
        tasks.cancel_join_thread()
    if failure is not None:
        raise interrupted if failure.exit_code == Interrupted.exit_code else LoopwmError(failure.failure)


def _watch(
    jobs: Sequence[Job],
    pending: list[tuple[int, Job]],
    processes: Sequence[BaseProcess],
    messages: Messages,
    progress: Progress,
) -> Message | None:
    """Show progress until every worker is gone; the message of the job that failed, if one did."""
    total = sum(job.config.train.updates for job in jobs)
    done = {index: 0 for index, _ in pending}
    before = total - sum(job.config.train.updates for _, job in pending)
    failure: Message | None = None
    while True:
        alive = [process for process in processes if process.is_alive()]
        message = _next(messages)
        if message is None:
            if not alive:
                return failure
            died = [process for process in processes if process.exitcode not in (None, 0)]
            if died and failure is None:
                failure = Message(-1, failure="A training process died (out of memory?); free some and start again.")
                _stop(alive)
            continue
        if message.failure:
            failure = failure or message
            _stop(alive)
            continue
        done[message.job] = max(done[message.job], message.done)
        progress.advance(before + sum(done.values()), total, loss=message.loss)


def _next(messages: Messages) -> Message | None:
    try:
        return messages.get(timeout=0.2)
    except queue.Empty:
        return None


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)


class _Reporter:
    """Progress of one job, sent home twice a second at most."""

    def __init__(self, job: int, messages: Messages) -> None:
        self.job, self.messages, self.sent_at = job, messages, 0.0

    def advance(self, done: int, total: int, **fields: float) -> None:
        if done == total or time.monotonic() - self.sent_at > 0.5:
            self.messages.put(Message(self.job, done, fields.get("loss", 0.0)))
            self.sent_at = time.monotonic()


def _work(tasks: Tasks, messages: Messages) -> None:
    """A worker: one job after the other until there is none, or one fails."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from loopwm.train.trainer import resume, train

    torch.set_num_threads(1)
    while (task := tasks.get()) is not None:
        index, job = task
        reporter = _Reporter(index, messages)
        try:
            started = job.run.is_dir() and any(job.run.iterdir())
            _ = resume(job.run, reporter) if started else train(job.config, job.run, reporter)
        except LoopwmError as error:
            messages.put(Message(index, failure=str(error), exit_code=error.exit_code))
            return
        except KeyboardInterrupt:
            messages.put(Message(index, failure="Stopped.", exit_code=130))
            return
