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
    """What a worker tells: how far it is, or how it ended."""

    job: int
    done: int = 0
    loss: float = 0.0
    failure: str = ""
    exit_code: int = 0


def train_all(jobs: Sequence[Job], progress: Progress, workers: int = 0, again: str = "") -> None:
    """Train every job that is not finished, `workers` at a time (one per core when 0); stop all when one fails.

    Args:
        again: the command that continues after an interruption, for the message.

    Raises:
        LoopwmError: a run failed, or Ctrl-C (exit code 130); every run is saved.
    """
    from loopwm.train.trainer import Interrupted

    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue[Message] = context.Queue()
    waiting = list(enumerate(jobs))
    running: dict[int, BaseProcess] = {}
    done, total = [0] * len(jobs), sum(job.config.train.updates for job in jobs)
    failure: Message | None = None
    workers = workers or os.cpu_count() or 1
    try:
        while waiting or running:
            while waiting and len(running) < workers and failure is None:
                index, job = waiting.pop(0)
                running[index] = context.Process(target=_work, args=(index, job, messages))
                running[index].start()
            message = _next(messages)
            if message is not None:
                done[message.job] = max(done[message.job], message.done)
                progress.advance(sum(done), total, loss=message.loss)
                if message.failure and failure is None:
                    failure, waiting = message, []
                    _stop(running)
            for index in [index for index, process in running.items() if not process.is_alive()]:
                process = running.pop(index)
                if process.exitcode and failure is None:
                    failure = _last_words(messages, index) or Message(
                        index,
                        failure=f"The training of {jobs[index].run} died with exit code {process.exitcode} "
                        "(out of memory?); free some and give the command again.",
                        exit_code=1,
                    )
                    waiting = []
                    _stop(running)
    except KeyboardInterrupt:
        # The workers got the same Ctrl-C and are saving; killing them now would lose what they did since.
        for process in running.values():
            process.join()
        raise Interrupted(f"Stopped; every run is saved. Go on with: {again or 'the same command'}") from None
    if failure is not None:
        if failure.exit_code == Interrupted.exit_code:
            raise Interrupted(f"Stopped; every run is saved. Go on with: {again or 'the same command'}")
        raise LoopwmError(failure.failure)


def _next(messages: multiprocessing.Queue[Message]) -> Message | None:
    try:
        return messages.get(timeout=0.2)
    except queue.Empty:
        return None


def _last_words(messages: multiprocessing.Queue[Message], job: int) -> Message | None:
    while (message := _next(messages)) is not None:
        if message.job == job and message.failure:
            return message
    return None


def _stop(running: dict[int, BaseProcess]) -> None:
    for process in running.values():
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)


class _Reporter:
    """Progress of a worker, sent home twice a second at most."""

    def __init__(self, job: int, messages: multiprocessing.Queue[Message]) -> None:
        self.job, self.messages, self.sent_at = job, messages, 0.0

    def advance(self, done: int, total: int, **fields: float) -> None:
        if done == total or time.monotonic() - self.sent_at > 0.5:
            self.messages.put(Message(self.job, done, fields.get("loss", 0.0)))
            self.sent_at = time.monotonic()


def _work(index: int, job: Job, messages: multiprocessing.Queue[Message]) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from loopwm.train.trainer import finished, resume, train

    torch.set_num_threads(1)
    reporter = _Reporter(index, messages)
    try:
        if finished(job.run) is None:
            started = job.run.is_dir() and any(job.run.iterdir())
            _ = resume(job.run, reporter) if started else train(job.config, job.run, reporter)
        messages.put(Message(index, job.config.train.updates))
    except LoopwmError as error:
        messages.put(Message(index, failure=str(error), exit_code=error.exit_code))
        raise SystemExit(error.exit_code) from None
