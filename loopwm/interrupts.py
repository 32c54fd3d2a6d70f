"""Letting Ctrl-C wait for a moment at which stopping is safe."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

Advance = Callable[[int, int], None]
"""Called with (units done, units in total) after each unit of a long job."""

Unit = TypeVar("Unit")


@contextmanager
def deferred_interrupt(harmless: Callable[[], bool] = lambda: True) -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets instead of interrupting whatever happens to run.

    Long jobs look at it between two units of work. A second signal interrupts at once, if `harmless` says that this
    does no harm at the moment. Outside the main thread, where Python delivers no signals, the event is never set.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def ask(number: int, frame: object) -> None:
        if stopped.is_set() and harmless():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_between(units: Iterable[Unit]) -> Iterator[Iterator[Unit]]:
    """The same units, for somebody whom an interrupt would harm: KeyboardInterrupt comes between two of them, or when
    the block is left. A second signal does not wait for the next unit to be made."""
    making = threading.Event()
    with deferred_interrupt(making.is_set) as stopped:

        def remaining() -> Iterator[Unit]:
            source = iter(units)
            while True:
                making.set()
                try:
                    unit = next(source)
                except StopIteration:
                    return
                finally:
                    making.clear()
                if stopped.is_set():
                    raise KeyboardInterrupt
                yield unit

        yield remaining()
        if stopped.is_set():
            raise KeyboardInterrupt


def end_with_parent() -> None:
    """Make this worker process end when its parent is gone: a killed parent cannot tell its workers to stop.

    Call it in the worker; it returns at once and watches from a thread.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def sparing_children() -> Iterator[None]:
    """Processes started meanwhile do not get the Ctrl-C that a terminal sends to all; here it waits for the end.

    A C++ compiler that gets one leaves half a library, which torch keeps and fails to load from then on.
    """
    came = threading.Event()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    # The mask is this thread's (and what children inherit): any other thread takes the signal, and Python then runs the
    # handler here, in the midst of waiting for the compiler, which would be killed for it.
    handled_here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda number, frame: came.set()) if handled_here else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if handled_here:
            signal.signal(signal.SIGINT, before)
            if came.is_set():
                signal.raise_signal(signal.SIGINT)


@contextmanager
def stopping_between_units(advance: Advance) -> Iterator[Advance]:
    """`advance` for a job with worker processes, raising KeyboardInterrupt after the unit during which Ctrl-C came.

    Anywhere else an interrupt does harm: the HDF5 library swallows one inside a write and carries on, and a worker that
    gets one while it starts dies with a traceback. Workers started before a unit is done never see Ctrl-C.
    """
    with deferred_interrupt() as stopped:
        # Starting the tracker of multiprocessing lifts the mask set below, so that has to happen before.
        resource_tracker.ensure_running()
        # Child processes inherit the mask, so Ctrl-C does not reach them; here it is delivered once it is lifted.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

        def checked(done: int, total: int) -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            if stopped.is_set():
                raise KeyboardInterrupt
            advance(done, total)

        try:
            yield checked
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
